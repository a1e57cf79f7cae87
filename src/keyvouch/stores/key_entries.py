"""The private keys in one file: their URIs and descriptions, and the certificates that belong to each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from keyvouch._system.files import stamp
from keyvouch.algorithms import require_usable
from keyvouch.certificate import order_chain, spki_sha256
from keyvouch.errors import AccessDenied, CertificateMismatch, KeyNotFound
from keyvouch.local_key import sign_locally
from keyvouch.store import KeyInfo, KeyUri, StoredKey
from keyvouch.stores import key_files

if TYPE_CHECKING:
    import datetime as dt

    from cryptography.x509 import Certificate

    from keyvouch.algorithms import Algorithm, PrivateKey


@dataclass(frozen=True)
class FileContents:
    """The contents of a PFX or PEM file."""

    keys: Sequence[tuple[PrivateKey, str | None]]
    """Each private key with its friendly name. `cryptography` loads more kinds of keys than can sign here."""
    certificates: Sequence[Certificate]
    """All certificates, in no particular order."""


@dataclass(frozen=True)
class KeyEntry:
    """One private key, with its description, chain and file."""

    info: KeyInfo
    name: str | None
    key: PrivateKey = field(repr=False)
    chain: tuple[Certificate, ...]
    file: key_files.KeyFile
    is_only_key: bool
    """True if the file contains no other private key."""


class FileKey(StoredKey):
    """A private key that was read from a file and is in this process's memory."""

    exportable = True

    def __init__(self, entry: KeyEntry, settles_at: dt.datetime | None, family: key_files.Family | None = None) -> None:
        """Keep the entry's key, but not the bytes of its file; `family` is the one it was chosen from."""
        self.uri = entry.info.uri
        self.public_key = entry.key.public_key()
        self.chain = entry.chain
        self.settles_at = settles_at
        self._key = entry.key
        self._path = entry.file.path
        self._stamp = entry.file.stamp
        self._family = family

    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:  # noqa: ARG002 - never waits
        return sign_locally(self._key, message, algorithm)

    def changed(self) -> bool:
        try:
            replaced = stamp(self._path.stat()) != self._stamp
            return replaced or (self._family is not None and self._family.changed())
        except (OSError, KeyNotFound, AccessDenied):  # reopening it reports the actual error
            return True


def build_entries(uri: KeyUri, file: key_files.KeyFile, contents: FileContents) -> list[KeyEntry]:
    """Return an entry for each distinct key in the file.

    Raises `KeyUnusable` for a key that cannot sign here, `CertificateMismatch` for certificates that are not the key's.
    """
    for key, _ in contents.keys:
        require_usable(key)
    unique = {spki_sha256(key.public_key()): (key, name) for key, name in contents.keys}
    is_only_key = len(unique) == 1
    entries = []
    for key, name in unique.values():
        chain = _chain_of(key, contents.certificates, is_only_key=is_only_key)
        # With several keys, the file's age says nothing about each: the age of their certificates is used instead.
        created = file.created if is_only_key else None
        pinned = pin(uri, file.path, key, None if is_only_key else name)
        info = KeyInfo.from_chain(pinned, key.public_key(), chain, created=created, exportable=True)
        entries.append(KeyEntry(info, name, key, chain, file, is_only_key))
    return entries


def pin(uri: KeyUri, path: Path, key: PrivateKey, name: str | None = None) -> KeyUri:
    """Return the pinned URI of this key; `name` is its friendly name if the file has several keys."""
    changes: dict[str, str | bytes | None] = {
        "path": os.fsencode(path),
        "spki-sha256": spki_sha256(key.public_key()),
        "select": None,
        "settle": None,
    }
    if name:
        changes["friendly-name"] = name
    if "certificate-file" in uri:
        changes["certificate-file"] = os.fsencode(Path(uri.get("certificate-file")).absolute())
    return uri.replace(changes)


def filter_by_name(uri: KeyUri, entries: Sequence[KeyEntry]) -> list[KeyEntry]:
    """Return the keys that have the URI's friendly name; a pinned URI already identifies the key exactly."""
    anonymous = "friendly-name" not in uri or "spki-sha256" in uri
    return [entry for entry in entries if anonymous or entry.name == uri.get("friendly-name")]


def unknown_name_error(uri: KeyUri, entries: Sequence[KeyEntry]) -> KeyNotFound:
    """Build the error for a friendly name that no key has."""
    wanted = uri.get("friendly-name")
    known = [entry.name for entry in entries if entry.name]
    import difflib

    nearest = difflib.get_close_matches(wanted, known) or known
    hint = f"Use one of: {', '.join(nearest)}." if nearest else "Omit friendly-name: the keys have no names."
    return KeyNotFound(f"Key not found: no key has the friendly name {wanted!r}.", hint=hint, uri=uri)


def _chain_of(key: PrivateKey, certificates: Sequence[Certificate], *, is_only_key: bool) -> tuple[Certificate, ...]:
    try:
        return order_chain(certificates, key.public_key())
    except CertificateMismatch:
        if is_only_key:
            raise
        return ()  # they belong to the other keys
