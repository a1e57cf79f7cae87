"""Reading and writing PEM (RFC 7468) with a private key and its certificates."""

from __future__ import annotations

import binascii
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keyvouch._system import text
from keyvouch.algorithms import CRYPTOGRAPHY
from keyvouch.certificate import load_certificates, parsing
from keyvouch.errors import ConfigurationError, KeyUnusable, SecretIncorrect, SecretRequired
from keyvouch.stores import asn1, limits
from keyvouch.stores.key_entries import FileContents

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PrivateKey
    from keyvouch.secrets import Secret

_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")
_MAX_PASSWORD_BYTES = 1023
"""Maximum number of bytes; OpenSSL accepts no more."""
_OPENSSH = b"OPENSSH PRIVATE KEY"
_ENCRYPTED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
"""PKCS#8; older formats encrypt the base64 data and say so in headers."""
_UNKNOWN_CIPHER = "Unknown key encryption algorithm"
"""The beginning of the message that `cryptography` gives for an unsupported cipher."""


@CRYPTOGRAPHY
def read(data: bytes, password: Secret | None, path: Path) -> FileContents:
    """Return the contents of a PEM file; `path` is for error messages. Keys in PEM have no names.

    Raises `KeyUnusable` if it is not PEM or contains no readable private key, `SecretRequired`, `SecretIncorrect`.
    """
    blocks = _blocks(data, path)
    if _OPENSSH in (label for label, _ in blocks):
        raise KeyUnusable(
            f"{path} contains a key in OpenSSH format.", hint=f"Convert it to PKCS#8: ssh-keygen -p -m PKCS8 -f {path}"
        )
    _check_limits(_key_blocks(blocks), path)
    keys = [(_load_key(block, password, path), None) for block in _key_blocks(blocks)]
    if not keys:
        raise KeyUnusable(f"No private key found in {path}.", hint=_no_key_hint({label for label, _ in blocks}))
    certificates = [block for label, block in blocks if label == b"CERTIFICATE"]
    return FileContents(keys, load_certificates(b"\n".join(certificates), path) if certificates else [])


@CRYPTOGRAPHY
def write(
    key: PrivateKey,
    chain: Sequence[Certificate],
    password: Secret | None,
    name: str,  # noqa: ARG001 - PEM has no field for it
) -> bytes:
    """Return the key as PKCS#8, encrypted if there is a password, followed by the chain."""
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    data = password.reveal().encode() if password else b""
    if len(data) > _MAX_PASSWORD_BYTES:
        raise ConfigurationError(
            f"The password is longer than {_MAX_PASSWORD_BYTES} bytes, the limit for PEM.",
            hint="Use a shorter password.",
        )
    encryption = BestAvailableEncryption(data) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption) + write_chain(chain)


def write_chain(chain: Sequence[Certificate]) -> bytes:
    """Return the certificates, leaf first."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)


def replace_chain(data: bytes, chain: Sequence[Certificate]) -> bytes:
    """Return the unchanged private keys of a file, followed by this chain."""
    keys = _key_blocks(list(_iter_blocks(data)))
    return b"\n".join((*keys, write_chain(chain)))


def _blocks(data: bytes, path: Path) -> list[tuple[bytes, bytes]]:
    """Return each block with its label."""
    if not _BEGIN.search(data):
        der = data.startswith(b"\x30")
        hint = (
            f"If it is PKCS#12, write pfx:{path}." if der else "Specify a file with a line -----BEGIN PRIVATE KEY-----."
        )
        hint = text.advice(data, path, hint)
        raise KeyUnusable(f"{path} is not a PEM file.", hint=hint)
    try:
        return list(_iter_blocks(data))
    except ValueError:
        raise KeyUnusable(f"{path} is truncated: a PEM block has no end.", hint="Copy the file again.") from None


def _iter_blocks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield each block with its label. Raises ValueError for a block without an end."""
    end = 0
    while begun := _BEGIN.search(data, end):
        last_line = b"-----END %s-----" % begun[1]
        end = data.index(last_line, begun.end()) + len(last_line)
        yield begun[1], data[begun.start() : end]


def _key_blocks(blocks: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    return [block for label, block in blocks if label.endswith(b"PRIVATE KEY")]


def _no_key_hint(labels: set[bytes]) -> str:
    if b"CERTIFICATE" in labels:
        return "It contains only a certificate: add the private key, or write pem:KEY-FILE?certificate-file=THIS-FILE."
    if any(label.endswith(b"PUBLIC KEY") for label in labels):
        return "It contains a public key: specify the file with the private key."
    return "Specify a file with a PRIVATE KEY block."


def _check_limits(blocks: Sequence[bytes], path: Path) -> None:
    """Raise `KeyUnusable` if opening these keys would take too long."""
    hint = f"Convert it: {_rewrite_command(path)}"
    limits.require_small_keys(path, (len(block) * 3 // 4 for block in blocks))  # base64
    encrypted = [_decode_block(block) for block in blocks if block.startswith(_ENCRYPTED)]
    try:
        rounds = [each for der in encrypted for each in limits.rounds_of(asn1.parse(der), path, hint)]
    except ValueError as error:
        raise _unreadable_key(path) from error
    limits.require_few_rounds(path, rounds, hint)


def _decode_block(block: bytes) -> bytes:
    """Return the content of a block that has no headers. Raises ValueError if it is not base64."""
    return binascii.a2b_base64(block[len(_ENCRYPTED) : block.rindex(b"-----END ")])


def _load_key(block: bytes, password: Secret | None, path: Path) -> PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key

    pkcs8 = block.startswith(_ENCRYPTED)
    encrypted = pkcs8 or b"Proc-Type: 4,ENCRYPTED" in block
    if encrypted and password is None:
        raise SecretRequired(
            f"The key in {path} is encrypted and requires a password.", hint="Add ?password=env:NAME to the URI."
        )
    # Pass a password only if needed: `cryptography` refuses an unnecessary one.
    data = password.reveal().encode() if encrypted and password else None
    try:
        with parsing():
            if pkcs8:  # exactly the bytes that were checked
                return load_der_private_key(_decode_block(block), data)  # type: ignore[return-value]  # as below
            return load_pem_private_key(block, data)  # type: ignore[return-value]  # the caller refuses other kinds
    except (ValueError, UnsupportedAlgorithm) as error:
        if not encrypted:
            raise _unreadable_key(path) from error
        if isinstance(error, UnsupportedAlgorithm) or str(error).startswith(_UNKNOWN_CIPHER):
            raise KeyUnusable(
                f"The key in {path} is encrypted with an unsupported algorithm: {error}.",
                hint=f"Convert it to AES-256: {_rewrite_command(path)}",
            ) from error
        raise SecretIncorrect(
            f"Incorrect password for the key in {path}.",
            hint="Correct the password. If it is correct, the file is damaged: copy it again.",
        ) from error


def _rewrite_command(path: Path) -> str:
    """Return the command that rewrites a key with OpenSSL's default settings."""
    return f"openssl pkey -aes256 -in {shlex.quote(str(path))} -out NEW.pem"


def _unreadable_key(path: Path) -> KeyUnusable:
    return KeyUnusable(f"The key in {path} cannot be read.", hint="Inspect it: `openssl pkey -noout -text -in FILE`.")
