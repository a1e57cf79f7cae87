"""PEM blocks (RFC 7468): finding them, and decoding their content."""

from __future__ import annotations

import binascii
import contextlib
import re
from collections.abc import Iterator

import msgspec

from keyvouch._formats import asn1

PKCS12_LABELS = frozenset({b"PKCS12", b"PFX"})
"""Labels of a PKCS#12 file: GnuTLS's, and a common one without a standard."""
_BEGIN = re.compile(rb"-----BEGIN ([A-Za-z0-9 #]+)-----")
_HEADER = re.compile(rb"(?<![^\r\n])[A-Za-z0-9-]+:[^\r\n]*(?:(?:\r\n?|\n)[ \t]+[^\r\n]*)*")
"""A header of the older formats (RFC 1421, section 4.6), with its continuation lines."""
_ESCAPED = re.compile(rb"-----(?:\\r)?\\n")
_VERSION_3 = b"\x03"
_CIPHER = re.compile(rb"DEK-Info: *([A-Za-z0-9-]+),([0-9A-Fa-f]+)")


class Block(msgspec.Struct, frozen=True):
    """A block of a PEM file."""

    label: bytes
    text: bytes
    """The whole block, with its first and last line."""

    @property
    def is_encrypted(self) -> bool:
        """True if headers say that the content is encrypted, as in the formats before PKCS#8."""
        return b"Proc-Type: 4,ENCRYPTED" in self.text

    @property
    def encryption(self) -> tuple[str, bytes]:
        """The name of the cipher and the initialization vector, from the headers. Raises ValueError without them."""
        found = _CIPHER.search(self.text)
        if not found:
            raise ValueError("missing header DEK-Info")
        return found[1].decode(), bytes.fromhex(found[2].decode())

    def decode(self) -> bytes:
        """Return the content. Raises ValueError if it is not base64."""
        begin, end = self.text.index(b"-----", len(b"-----BEGIN")), self.text.rindex(b"-----END ")
        return binascii.a2b_base64(_HEADER.sub(b"", self.text[begin + len(b"-----") : end]))


def has_block(data: bytes) -> bool:
    """Return True if a block begins in the data."""
    return _BEGIN.search(data) is not None


def has_escaped_line_ends(data: bytes) -> bool:
    """Return True if line ends are two characters each, as in JSON and in badly quoted environment variables."""
    return has_block(data) and _ESCAPED.search(data) is not None


def find_pfx(data: bytes) -> bytes | None:
    """Return the content of the first block with a PFX, whatever its label: for `certutil`, all are certificates."""
    with contextlib.suppress(ValueError):
        for block in iter_blocks(data):
            content = block.decode()
            if block.label in PKCS12_LABELS or _is_pfx(content):
                return content
    return None


def _is_pfx(data: bytes) -> bool:
    with contextlib.suppress(ValueError):
        version = asn1.parse(data).child(0)
        return (version.tag, version.content) == (asn1.INTEGER, _VERSION_3)
    return False


def iter_blocks(data: bytes) -> Iterator[Block]:
    """Yield the blocks. Raises ValueError for a block without an end."""
    end = 0
    while begun := _BEGIN.search(data, end):
        last_line = b"-----END %s-----" % begun[1]
        end = data.find(last_line, begun.end()) + len(last_line)
        if end < begun.end():
            raise ValueError(f"a PEM block has no line {last_line.decode()}")
        yield Block(begun[1], data[begun.start() : end])
