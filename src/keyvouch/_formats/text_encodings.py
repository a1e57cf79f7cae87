"""base64url, and keys and certificates in variables and credentials: base64, and PEM that has lost its line breaks."""

from __future__ import annotations

import base64
import binascii
import re

_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]+={0,2}")
_MOST_LAYERS = 2
"""How often base64 is removed: Kubernetes encodes what the user may already have encoded."""
_ESCAPED_LINE_END = re.compile(rb"(?:\\r)?\\n")
"""A line end as two characters, from JSON or a badly quoted variable."""
_ARMOUR = re.compile(rb"(-----BEGIN [A-Z0-9 ]+-----)([^-]*+)(-----END [A-Z0-9 ]+-----)")
"""A block without headers, which contain hyphens. The search ends at the next hyphen, so that one pass finds all."""


def base64url(data: bytes) -> bytes:
    """Encode without padding (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def decode(data: bytes) -> bytes:
    """Return a PFX, PEM or JWK from its encoded form; anything else as it is."""
    for _ in range(_MOST_LAYERS):
        joined = b"".join(data.removeprefix(b"\xef\xbb\xbf").split()).strip(b"'\"")
        if b"-----BEGIN" in joined or not _BASE64.fullmatch(joined):  # base64url has hyphens too
            break
        padded = joined.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
        try:
            data = binascii.a2b_base64(padded + b"=" * (-len(padded) % 4))
        except binascii.Error:
            break
    if b"-----BEGIN" not in data or data.lstrip().startswith(b"{"):  # a PFX, or JSON, whose line ends are escaped
        return data
    return _ARMOUR.sub(_restore_lines, _ESCAPED_LINE_END.sub(b"\n", data))


def _restore_lines(block: re.Match[bytes]) -> bytes:
    """Return a PEM block with line breaks, if it has only spaces."""
    begin, body, end = block.groups()
    if b"\n" in body.strip():
        return block[0]
    lines = body.split()
    if any(b":" in line for line in lines):  # headers, whose spaces are not line breaks
        return block[0]
    return b"\n".join((begin, *lines, end))
