"""Reading and writing PKCS#12 (RFC 7292), which Windows calls PFX."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keyvouch._formats import asn1
from keyvouch._formats.asn1 import Element
from keyvouch._formats.certificate_data import key_digest
from keyvouch._formats.identify import identify
from keyvouch._formats.pem_blocks import find_pfx
from keyvouch._system.text import shell_quoted
from keyvouch.algorithms import CRYPTOGRAPHY
from keyvouch.certificate import (
    certificate_spki,
    parsing,
    read_certificates,
    require_few,
    spki_sha256,
    to_der,
)
from keyvouch.errors import KeyUnusable, SecretIncorrect, SecretRequired
from keyvouch.stores import limits, pbe, pkcs12, private_keys
from keyvouch.stores.key_entries import PASSWORD_REQUIRED, FileContents, FoundKey, incorrect_password_hint
from keyvouch.stores.pbe import DamagedError, UnsupportedAlgorithmError, WrongPasswordError
from keyvouch.stores.pkcs12 import CertificateBag, KeyBag, Safes, UnsupportedContentError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PrivateKey
    from keyvouch.secrets import Secret

_MAX_BYTES = 1024 * 1024
"""Maximum number of bytes; Java's file of all public CAs has a quarter of that."""

_SEQUENCE, _INDEFINITE = 0x30, 0x80
_ARIA = "1.2.410.200046.1.1."
"""The arc of ARIA, which OpenSSL supports."""
_VERSION_3 = b"\x02\x01\x03"
"""The bytes at the start of every PKCS#12, but not of a certificate or bare key."""


@CRYPTOGRAPHY
def read(data: bytes, password: Secret | None, path: Path) -> FileContents:
    """Return the contents of a PKCS#12; `path` is for error messages.

    A key or certificate in it that cannot be used does not affect the others. Raises `KeyUnusable` if it is not
    PKCS#12, contains no private key, or would take too long to open, `SecretRequired`, `SecretIncorrect`.
    """
    pfx = _parse(data, path)
    rounds = _check_limits(pfx, path)
    lock = _Lock(pfx, path, rounds)
    try:
        working, safes = lock.unlock(password)
        contents = _contents(pkcs12.bags(safes), working, path)
    except UnsupportedAlgorithmError as error:
        contents = _read_with_openssl(pfx, password, path, error, is_verified=lock.is_verified)
    except UnsupportedContentError as error:
        raise KeyUnusable(f"{path} cannot be opened: {error}.", hint="Export it again, with a password.") from error
    except ValueError as error:
        raise _damaged(path, error) from error
    if not contents.keys:
        raise KeyUnusable(f"{path} contains no private key.", hint="Export it again, with the private key.")
    return contents


@CRYPTOGRAPHY
def write(key: PrivateKey, chain: Sequence[Certificate], password: Secret | None, name: str) -> bytes:
    """Return a PKCS#12, written by `private_key.to_pfx`."""
    from keyvouch.private_key import to_pfx

    return to_pfx(key, chain, password, name)


def _parse(data: bytes, path: Path) -> Element:
    """Return the file's outer layer, which may be BER."""
    data = find_pfx(data) or data
    begin = _content_offset(data)
    if data[begin : begin + len(_VERSION_3)] != _VERSION_3:
        raise _not_pfx(data, path)
    if len(data) > _MAX_BYTES:
        raise KeyUnusable(
            f"{path} has {len(data):,} bytes; the limit for a PFX file is {_MAX_BYTES:,}.",
            hint="Export only the key and its own certificates.",
        )
    _require_binary(data, path)
    try:
        return asn1.parse(data)
    except asn1.TruncatedError as error:
        raise KeyUnusable(f"{path} is truncated.", hint="Copy it again, in binary mode.") from error
    except ValueError as error:
        raise _damaged(path, error) from error


def _not_pfx(data: bytes, path: Path) -> KeyUnusable:
    found = identify(data, path)
    if found and found.what == "a PFX":
        return KeyUnusable(f"{path} has another version than PFX 3, or is damaged.", hint="Export it again.")
    if found:
        return KeyUnusable(f"{path} is not a PFX file: it is {found.what}.", hint=found.hint)
    return KeyUnusable(f"{path} is not a PFX file.", hint="Inspect it: `openssl pkcs12 -info -in FILE`.")


def _require_binary(data: bytes, path: Path) -> None:
    """Raise `KeyUnusable` if a copy in text mode has inserted a carriage return before each line feed."""
    before = data.replace(b"\r\n", b"\n")
    if before != data and _is_whole(before) and not _is_whole(data):
        raise KeyUnusable(
            f"{path} is damaged: it was copied as text, which changed its line ends.",
            hint="Copy it again, in binary mode.",
        )


def _is_whole(data: bytes) -> bool:
    """Return True if the data are one element, and nothing else than line ends follows."""
    begin = _content_offset(data)
    if not begin or data[1] == _INDEFINITE:
        return _is_ber(data)
    length = int.from_bytes(data[2:begin], "big") if begin > 2 else data[1]  # noqa: PLR2004 - tag and length
    return len(data) >= begin + length and not data[begin + length :].strip(b"\r\n")


def _is_ber(data: bytes) -> bool:
    try:
        asn1.parse(data)
    except ValueError:
        return False
    return True


def _check_limits(pfx: Element, path: Path) -> list[int]:
    """Return the rounds of key derivation for the MAC and the safes; what is in them is checked after decryption.

    Raises `KeyUnusable` if opening the file would take too long.
    """
    try:
        trees = [pfx, *pkcs12.plain_safes(pfx)]
        outer = [*_rounds(trees[:2], path), pkcs12.mac_rounds(pfx)]
        limits.require_few_rounds(path, [*outer, *_rounds(trees[2:], path)], _rewrite_hint(path))
        _require_small_keys(pkcs12.bags(trees[2:]), path)
    except UnsupportedContentError:
        return []  # reported when it is opened
    except ValueError as error:
        raise _damaged(path, error) from error
    return outer


def _rounds(trees: Iterable[Element], path: Path) -> list[int]:
    return [each for tree in trees for each in limits.rounds_of(tree, path, _rewrite_hint(path))]


def _require_small_keys(safes: Safes, path: Path) -> None:
    limits.require_small_keys(path, (len(asn1.encode(bag.value)) for bag in safes.keys))


def _rewrite_hint(path: Path) -> str:
    return f"Convert it: {_rewrite_command(path)}"


def _rewrite_command(path: Path) -> str:
    """Return the commands that rewrite a file with OpenSSL's default settings."""
    file = shell_quoted(path)
    return f"openssl pkcs12 -in {file} -out key.pem && openssl pkcs12 -export -in key.pem -out NEW.pfx"


def _damaged(path: Path, error: ValueError) -> KeyUnusable:
    return KeyUnusable(f"{path} is damaged: {error}.", hint="Copy it again, in binary mode.")


def _content_offset(data: bytes) -> int:
    """Return the offset of the outermost SEQUENCE's content (X.690, section 8.1); 0 if it is not a SEQUENCE."""
    if len(data) < 2 or data[0] != _SEQUENCE:  # noqa: PLR2004 - tag and length
        return 0
    return 2 + max(0, data[1] - _INDEFINITE)


class _Lock:
    """The protection of a file by its password; it raises ValueError as `pkcs12.open_safes` does."""

    def __init__(self, pfx: Element, path: Path, rounds: list[int]) -> None:
        self._pfx, self._path, self._rounds = pfx, path, rounds
        self.is_verified = False
        """True if the password matches the MAC."""

    def unlock(self, password: Secret | None) -> tuple[str | None, list[Element]]:
        """Return the password that worked, and the safes: some programs distinguish no password from an empty one.

        Raises `SecretRequired`, `SecretIncorrect`, `KeyUnusable`.
        """
        given = password.reveal() if password else ""
        candidates = (given, *_older_form(given)) if given else (None, "")
        for candidate in candidates:
            if self._opens(candidate):
                return candidate, self._open(candidate)
        if password is None:
            raise SecretRequired(f"{self._path} requires a password.", hint=PASSWORD_REQUIRED)
        raise self._refusal(given)

    def _open(self, password: str | None) -> list[Element]:
        try:
            return self._open_safes(password)
        except WrongPasswordError as error:
            raise KeyUnusable(
                f"{self._path} is damaged, or its parts are encrypted with different passwords.",
                hint="Copy it again, in binary mode, or export it again with one password.",
            ) from error

    def _open_safes(self, password: str | None) -> list[Element]:
        """Return the safes. Raises `KeyUnusable` if decrypting the keys in them would take too long."""
        safes = pkcs12.open_safes(self._pfx, password)
        limits.require_few_rounds(self._path, [*self._rounds, *_rounds(safes, self._path)], _rewrite_hint(self._path))
        return safes

    def _opens(self, password: str | None) -> bool:
        """Return True if this is the password, by the file's MAC; without a MAC, if it decrypts anything."""
        if pkcs12.has_mac(self._pfx):
            with contextlib.suppress(UnsupportedAlgorithmError):
                self.is_verified = pkcs12.mac_matches(self._pfx, password)
                return self.is_verified
        return self._decrypts(password) or not any(pkcs12.encrypted_parts(self._pfx))

    def _decrypts(self, password: str | None) -> bool:
        """Return True if the password decrypts anything. Raises `UnsupportedAlgorithmError` if nothing can be tried."""
        tried, unsupported = False, None
        for part in pkcs12.encrypted_parts(self._pfx):
            try:
                pbe.decrypt(*part, password)
            except UnsupportedAlgorithmError as error:
                unsupported = error
            except WrongPasswordError:
                tried = True
            except DamagedError:
                return True
            else:
                return True
        if unsupported and not tried:
            raise unsupported
        return False

    def _refusal(self, given: str) -> KeyUnusable | SecretIncorrect:
        """Return the error for a password that does not open the file, which may also have been changed."""
        if given and any(self._opens(other) for other in (None, "")):
            return SecretIncorrect(
                f"Incorrect password for {self._path}: its password is empty.", hint="Remove password= from the URI."
            )
        with contextlib.suppress(UnsupportedAlgorithmError):
            if pkcs12.has_mac(self._pfx) and self._decrypts(given):
                return KeyUnusable(
                    f"{self._path} is damaged: the password decrypts it, but its MAC does not match.",
                    hint="Copy it again, in binary mode.",
                )
        return SecretIncorrect(f"Incorrect password for {self._path}.", hint=incorrect_password_hint(given))


def _older_form(password: str) -> Iterator[str]:
    """Yield the password as OpenSSL before 1.1 used it: each byte of its UTF-8 is a character."""
    if not password.isascii():
        yield password.encode().decode("latin-1")


def _contents(safes: Safes, password: str | None, path: Path) -> FileContents:
    _require_small_keys(safes, path)
    require_few(len(safes.certificates), path)
    certificates, unreadable = read_certificates(bag.der for bag in safes.certificates)
    keys = [_load(bag, safes.certificates, password, path) for bag in safes.keys]
    return FileContents(keys, certificates, unreadable)


def _load(bag: KeyBag, certificates: Sequence[CertificateBag], password: str | None, path: Path) -> FoundKey:
    """Return a key and its names. Windows puts its container's name on the key, and the user's on the certificate."""
    source = f"The key {bag.name!r} in {path}" if bag.name else f"The key in {path}"
    try:
        key = private_keys.load(_decrypt(bag, password, source, path), source, _rewrite_command(path))
    except KeyUnusable as error:
        own = [each for each in certificates if each.local_id and each.local_id == bag.local_id]
        return FoundKey(_names(own) or _names([bag]), error)
    digest = spki_sha256(key.public_key())
    own = [each for each in certificates if key_digest(each.der) == digest]
    return FoundKey(_names(own) or _names([bag]), key)


def _decrypt(bag: KeyBag, password: str | None, source: str, path: Path) -> bytes:
    try:
        return bag.decrypt(password)
    except UnsupportedAlgorithmError:
        raise
    except ValueError as error:
        raise KeyUnusable(
            f"{source} cannot be decrypted: it is damaged, or has another password than {path}.",
            hint="Export each key to a separate file.",
        ) from error


def _names(bags: Iterable[KeyBag | CertificateBag]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(bag.name for bag in bags if bag.name))


def _read_with_openssl(
    pfx: Element, password: Secret | None, path: Path, unsupported: UnsupportedAlgorithmError, *, is_verified: bool
) -> FileContents:
    """Return the contents of a file with an algorithm that only OpenSSL supports, such as ARIA."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import pkcs12 as openssl
    from cryptography.x509 import InvalidVersion

    _require_one_key(pfx, path, unsupported)
    secret = password.reveal().encode() if password else None
    try:
        with parsing(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # BER in it
            bundle = openssl.load_pkcs12(asn1.encode(pfx), secret)
    except (ValueError, InvalidVersion, UnsupportedAlgorithm) as error:
        if str(unsupported).startswith(_ARIA) and not is_verified:
            hint = incorrect_password_hint(password.reveal() if password else "")
            raise SecretIncorrect(f"Incorrect password for {path}.", hint=hint) from error
        raise _unsupported(path, unsupported, "and a key or certificate in it cannot be read") from error
    bags = [each for each in (bundle.cert, *bundle.additional_certs) if each]
    key = bundle.key
    digest = spki_sha256(key.public_key()) if key else ""  # type: ignore[arg-type]  # other kinds are refused later
    names = (bag.friendly_name for bag in bags if certificate_spki(bag.certificate) == digest)
    shown = tuple(name.decode(errors="replace") for name in names if name)
    found = [FoundKey(shown, key)] if key else []  # type: ignore[arg-type]
    return FileContents(found, *read_certificates(to_der(bag.certificate) for bag in bags))


def _require_one_key(pfx: Element, path: Path, unsupported: UnsupportedAlgorithmError) -> None:
    """Raise `KeyUnusable` if there are several keys, of which OpenSSL would return only one."""
    _, *safes = pkcs12.plain_safes(pfx)
    if len(pkcs12.bags(safes).keys) > 1:
        raise _unsupported(path, unsupported, "and contains several keys")


def _unsupported(path: Path, unsupported: UnsupportedAlgorithmError, problem: str) -> KeyUnusable:
    is_aria = str(unsupported).startswith(_ARIA)
    algorithm = f"ARIA ({unsupported}), {problem}" if is_aria else f"an unsupported algorithm, {unsupported}"
    return KeyUnusable(
        f"{path} is encrypted with {algorithm}.", hint=f"Convert it to AES-256: {_rewrite_command(path)}"
    )
