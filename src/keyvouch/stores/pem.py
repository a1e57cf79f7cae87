"""Reading and writing PEM (RFC 7468) with a private key and its certificates."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keyvouch._formats import asn1
from keyvouch._formats.certificate_data import CERTIFICATE_LABELS, PKCS7_LABELS, find_certificates
from keyvouch._formats.identify import certificate_hint, identify
from keyvouch._formats.pem_blocks import Block, find_pfx, has_block, has_escaped_line_ends, iter_blocks
from keyvouch._system.text import shell_quoted
from keyvouch.algorithms import CRYPTOGRAPHY
from keyvouch.certificate import parsing, read_certificates, require_few
from keyvouch.errors import ConfigurationError, KeyUnusable, SecretIncorrect, SecretRequired
from keyvouch.stores import limits, pbe, private_keys
from keyvouch.stores.key_entries import PASSWORD_REQUIRED, FileContents, FoundKey, incorrect_password_hint

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PrivateKey
    from keyvouch.secrets import Secret

_MAX_PASSWORD_BYTES = 1023
"""Maximum number of bytes; OpenSSL accepts no more."""
_OPENSSH = b"OPENSSH PRIVATE KEY"
_OPENSSH_UNENCRYPTED, _OPENSSH_HEADER = b"openssh-key-v1\0\0\0\0\x04none", 24
"""The beginning of a key that is not encrypted (OpenSSH's PROTOCOL.key), and where it ends."""
_ENCRYPTED = b"ENCRYPTED PRIVATE KEY"
"""The label of PKCS#8; older formats encrypt the base64 data and say so in headers."""


@CRYPTOGRAPHY
def read(data: bytes, password: Secret | None, path: Path) -> FileContents:
    """Return the contents of a PEM file; `path` is for error messages. Keys in PEM have no names.

    Raises `KeyUnusable` if it is not PEM or contains no readable private key, `SecretRequired`, `SecretIncorrect`.
    """
    blocks = _blocks(data, path)
    _check_limits(_key_blocks(blocks), path)
    keys = _load_keys(_key_blocks(blocks), password, path)
    if not keys:
        hint = f"It is a PFX in PEM: write pfx:{path}." if find_pfx(data) else _no_key_hint(blocks, path)
        raise KeyUnusable(f"No private key found in {path}.", hint=hint)
    ders = list(find_certificates(b"\n".join(block.text for block in blocks)))
    require_few(len(ders), path)
    return FileContents([FoundKey((), key) for key in keys], *read_certificates(ders))


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
    keys = _key_blocks(list(iter_blocks(data)))
    return b"\n".join((*(block.text for block in keys), write_chain(chain)))


def _blocks(data: bytes, path: Path) -> list[Block]:
    if not has_block(data) or has_escaped_line_ends(data):
        if found := identify(data, path):
            raise KeyUnusable(f"{path} is not a PEM file: it is {found.what}.", hint=found.hint)
        hint = "Specify a file with a line -----BEGIN PRIVATE KEY-----."
        raise KeyUnusable(f"{path} is not a PEM file.", hint=hint)
    try:
        return list(iter_blocks(data))
    except ValueError as error:
        raise KeyUnusable(f"{path} is truncated or damaged: {error}.", hint="Copy the file again.") from None


def _key_blocks(blocks: Sequence[Block]) -> list[Block]:
    return [block for block in blocks if block.label.endswith(b"PRIVATE KEY")]


def _load_openssh(block: Block, path: Path) -> PrivateKey | KeyUnusable:
    """Return a key in OpenSSH's format, which is encrypted with a derivation of its own."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    try:
        if _OPENSSH_UNENCRYPTED not in block.decode()[:_OPENSSH_HEADER]:
            new = "NEW.pem"
            return KeyUnusable(
                f"The key in {path} is encrypted, and in OpenSSH's format.",
                hint="Make a copy without a passphrase, which only you can read:"
                f" cp {shell_quoted(path)} {new} && chmod 600 {new} && ssh-keygen -p -N '' -f {new}",
            )
        with parsing(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of DSA, which the caller refuses
            return load_ssh_private_key(block.text, None)  # type: ignore[return-value]  # the caller refuses other kinds
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        return KeyUnusable(f"The OpenSSH key in {path} cannot be read: {error}.", hint="Use RSA, P-256 or Ed25519.")


def _no_key_hint(blocks: Sequence[Block], path: Path) -> str:
    labels = {block.label for block in blocks}
    if labels & (CERTIFICATE_LABELS | PKCS7_LABELS):
        return certificate_hint(path)
    if any(label.endswith(b"PUBLIC KEY") for label in labels):
        return "It contains a public key: specify the file with the private key."
    return "Specify a file with a PRIVATE KEY block."


def _check_limits(blocks: Sequence[Block], path: Path) -> None:
    """Raise `KeyUnusable` if opening these keys would take too long."""
    hint = f"Convert it: {_rewrite_command(path)}"
    limits.require_small_keys(path, (len(block.text) * 3 // 4 for block in blocks))  # base64
    rounds: list[int] = []
    for block in (block for block in blocks if block.label == _ENCRYPTED):
        with contextlib.suppress(ValueError):  # reported when it is loaded
            rounds += limits.rounds_of(asn1.parse(block.decode()), path, hint)
    limits.require_few_rounds(path, rounds, hint)


def _load_keys(blocks: Sequence[Block], password: Secret | None, path: Path) -> list[PrivateKey | KeyUnusable]:
    """Return each key, or why it cannot be used.

    Raises `SecretRequired`, and `SecretIncorrect` if there are encrypted keys, and the password decrypts none of them.
    """
    keys: list[PrivateKey | KeyUnusable] = []
    decrypts, refusal = False, None
    for block in blocks:
        try:
            key = _load_key(block, password, path)
            decrypts = decrypts or (_is_encrypted(block) and not isinstance(key, KeyUnusable))
        except SecretIncorrect as error:
            refusal = error
            key = KeyUnusable(
                f"A key in {path} cannot be decrypted: it has another password, or is damaged.",
                hint="Put each key into a separate file.",
            )
        keys.append(key)
    if refusal and not decrypts:
        raise refusal
    return keys


def _is_encrypted(block: Block) -> bool:
    return block.label == _ENCRYPTED or block.is_encrypted


def _load_key(block: Block, password: Secret | None, path: Path) -> PrivateKey | KeyUnusable:
    """Return the key, or why it cannot be used. Raises `SecretRequired`, `SecretIncorrect`."""
    if block.label == _OPENSSH:
        return _load_openssh(block, path)
    try:
        der = _decrypt(block, password, path) if _is_encrypted(block) else block.decode()
        return private_keys.load(der, f"The key in {path}", f"openssl pkey -in {shell_quoted(path)} -out NEW.pem")
    except KeyUnusable as error:
        return error
    except ValueError:
        return _unreadable_key(path)


def _decrypt(block: Block, password: Secret | None, path: Path) -> bytes:
    """Return the content of an EncryptedPrivateKeyInfo (RFC 5958, section 3), or of a block encrypted as a whole.

    Raises `KeyUnusable`, `SecretRequired`, `SecretIncorrect`, and ValueError if the encryption or the data are invalid.
    """
    if block.label == _ENCRYPTED:
        algorithm, data, *_ = asn1.parse(block.decode()).children
        decrypt = functools.partial(pbe.decrypt, algorithm, data.content)
    else:
        cipher, vector = block.encryption
        decrypt = functools.partial(pbe.decrypt_pem, cipher, vector, block.decode())
    if password is None:
        raise SecretRequired(
            f"The key in {path} is encrypted and requires a password.",
            hint=PASSWORD_REQUIRED,
        )
    try:
        return decrypt(password.reveal())
    except pbe.UnsupportedAlgorithmError as error:
        raise KeyUnusable(
            f"The key in {path} is encrypted with an unsupported algorithm: {error}.",
            hint=f"Convert it to AES-256: {_rewrite_command(path)}",
        ) from error
    except pbe.WrongPasswordError as error:
        raise _incorrect_password(password, path) from error


def _incorrect_password(password: Secret, path: Path) -> SecretIncorrect:
    hint = incorrect_password_hint(password.reveal())
    return SecretIncorrect(f"Incorrect password for the key in {path}.", hint=hint)


def _rewrite_command(path: Path) -> str:
    """Return the command that rewrites a key with OpenSSL's default settings."""
    return f"openssl pkey -aes256 -in {shell_quoted(path)} -out NEW.pem"


def _unreadable_key(path: Path) -> KeyUnusable:
    return KeyUnusable(f"The key in {path} cannot be read.", hint="Inspect it: `openssl pkey -noout -text -in FILE`.")
