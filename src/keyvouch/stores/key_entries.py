"""The private keys in one file: their URIs and descriptions, and the certificates that belong to each."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from keyvouch._core.uri_text import is_certificate_reference
from keyvouch._system import files
from keyvouch._system.files import stamp
from keyvouch.algorithms import require_usable
from keyvouch.certificate import UnreadableCertificate, no_certificate, order_chain, spki_sha256
from keyvouch.errors import AccessDenied, CertificateMismatch, KeyNotFound, KeyUnusable, KeyvouchError
from keyvouch.local_key import sign_locally
from keyvouch.store import KeyInfo, KeyUri, StoredKey
from keyvouch.stores import key_files

if TYPE_CHECKING:
    import datetime as dt

    from cryptography.x509 import Certificate

    from keyvouch.algorithms import Algorithm, PrivateKey


PASSWORD_REQUIRED = (
    f"Add ?password=file:{'C:' if sys.platform == 'win32' else ''}/path, ?password=env:NAME or ?password=prompt: to the"
    " URI."
)
"""The hint for an encrypted key without a password."""
_QUOTATION_MARKS = ('""', "''", "``", "“”", "„“", "«»")
_MOST_NAMES = 8
"""Maximum number of friendly names in an error."""


class FoundKey(NamedTuple):
    """A private key in a file."""

    names: tuple[str, ...]
    """Its friendly names."""
    key: PrivateKey | KeyUnusable
    """The key, or why it cannot be used. `cryptography` loads more kinds of keys than can sign here."""


class FileContents(msgspec.Struct, frozen=True):
    """The contents of a PFX or PEM file."""

    keys: Sequence[FoundKey]
    certificates: Sequence[Certificate]
    """All certificates that can be read, in no particular order."""
    unreadable: Sequence[UnreadableCertificate] = ()
    """The others."""


class KeyEntry(msgspec.Struct, frozen=True):
    """One private key, with its description, chain and file."""

    info: KeyInfo
    names: tuple[str, ...]
    """Its friendly names: several if the file contains the key, or a certificate for it, more than once."""
    key: PrivateKey
    chain: tuple[Certificate, ...]
    file: key_files.KeyFile
    is_only_key: bool
    """True if the file contains no other private key."""
    skipped: tuple[str, ...] = ()
    """What else the file contains that cannot be used, and why."""
    lost_certificate: UnreadableCertificate | None = None
    """A certificate that may be the key's own, and cannot be read, if the file has no other one for the key."""

    @property
    def name(self) -> str | None:
        """Its first friendly name."""
        return next(iter(self.names), None)


class UnusableEntry(msgspec.Struct, frozen=True):
    """A private key that cannot sign here."""

    names: tuple[str, ...]
    spki_sha256: str | None
    """None if the key cannot be read."""
    error: KeyvouchError
    path: Path
    """The file that contains it, or that cannot be read."""

    def advice(self) -> str:
        """Return the advice about a member of a family: the path, the reason, and the hint on a line of its own."""
        reason = self.error.message
        shown = reason if str(self.path) in reason else f"{self.path}: {reason}"
        return "\n".join(filter(None, (f"A newer key of the family is not used: {shown}", self.error.hint)))


class Findings(msgspec.Struct, frozen=True):
    """What was found in one or several files."""

    entries: list[KeyEntry]
    failures: list[UnusableEntry]
    """The files that cannot be read."""
    unusable: list[UnusableEntry]
    """The keys that cannot be used."""

    @classmethod
    def merge(cls, several: Sequence[Findings]) -> Findings:
        """Return what was found in all of these."""
        return cls(
            [entry for each in several for entry in each.entries],
            [entry for each in several for entry in each.failures],
            [entry for each in several for entry in each.unusable],
        )

    @property
    def skipped(self) -> tuple[UnusableEntry, ...]:
        """All that cannot be used."""
        return (*self.failures, *self.unusable)


class Choice(msgspec.Struct, frozen=True):
    """The key that a URI selects."""

    entry: KeyEntry
    settles_at: dt.datetime | None
    """When the URI will select another one."""
    skipped: tuple[UnusableEntry, ...] = ()
    """Other files and keys at the URI's path, which cannot be used, as far as they were read."""
    family: key_files.Family | None = None
    """The family that the key was chosen from."""

    def newer_skipped(self) -> Iterator[UnusableEntry]:
        """Yield what is skipped and newer than the key: it may be meant to replace it."""
        begins = self.entry.info.age_begins
        for each in self.skipped:
            created = key_files.created(each.path.parent, each.path.name)
            if each.path != self.entry.file.path and created and (begins is None or created > begins):
                yield each


class FileKey(StoredKey):
    """A private key that was read from a file and is in this process's memory."""

    exportable = True

    def __init__(self, choice: Choice) -> None:
        """Keep the entry's key, but not the bytes of its file."""
        entry, family = choice.entry, choice.family
        self.uri = entry.info.uri
        self.public_key = entry.key.public_key()
        self.chain = entry.chain
        self.algorithms = getattr(entry.key, "algorithms", ())
        self.settles_at = choice.settles_at
        self.advice = tuple(f"{entry.file.path}: {each}" for each in entry.skipped)
        if family:
            family.skipped = tuple(each.path for each in choice.skipped)
            self.advice += tuple(each.advice() for each in choice.newer_skipped())
        self._key = entry.key
        self._path = entry.file.path
        self._stamp = entry.file.stamp
        self._family = family
        self._reference = entry.info.uri.get("path") if entry.file.reference else None

    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:  # noqa: ARG002 - never waits
        return sign_locally(self._key, message, algorithm)

    def changed(self) -> bool:
        try:
            found = self._reference.stamp() if self._reference else stamp(self._path.stat())
            replaced = found != self._stamp
            return replaced or (self._family is not None and self._family.changed())
        except (OSError, KeyNotFound, AccessDenied):  # reopening it reports the actual error
            return True


def build_entries(
    uri: KeyUri, file: key_files.KeyFile, contents: FileContents
) -> tuple[list[KeyEntry], list[UnusableEntry]]:
    """Return an entry for each distinct key in the file that can sign here, and the other keys.

    Raises `CertificateMismatch` for certificates that are not the only key's.
    """
    usable, unusable = _sort_out(contents.keys, file.path)
    is_only_key = len(usable) + len(unusable) == 1
    skipped = (*(each.error.message for each in unusable), *map(_skipped, contents.unreadable))
    entries = []
    for digest, (key, names) in usable.items():
        lost = _lost_certificate(digest, contents.unreadable)
        chain = _chain_of(key, contents.certificates, must_match=is_only_key and not lost)
        # With several keys, the file's age says nothing about each: the age of their certificates is used instead.
        created = file.created if is_only_key else None
        pinned = pin(uri, file.reference or file.path, key, None if is_only_key else next(iter(names), None))
        info = KeyInfo.from_chain(pinned, key.public_key(), chain, created=created, exportable=True)
        lost = None if chain else lost
        entries.append(KeyEntry(info, names, key, chain, file, is_only_key, skipped, lost))
    return entries, unusable


def _sort_out(
    keys: Sequence[FoundKey], path: Path
) -> tuple[dict[str, tuple[PrivateKey, tuple[str, ...]]], list[UnusableEntry]]:
    """Return the distinct keys that can sign here by their digest, and the others."""
    usable: dict[str, tuple[PrivateKey, tuple[str, ...]]] = {}
    unusable = []
    for names, key in keys:
        if isinstance(key, KeyUnusable):
            unusable.append(UnusableEntry(names, None, key, path))
            continue
        digest = spki_sha256(key.public_key())
        try:
            require_usable(key)
        except KeyUnusable as error:
            unusable.append(UnusableEntry(names, digest, error, path))
        else:
            _, known = usable.get(digest, (key, ()))
            usable[digest] = key, (*known, *(name for name in names if name not in known))
    return usable, unusable


def _skipped(unreadable: UnreadableCertificate) -> str:
    return f"{str(unreadable)[:1].upper()}{str(unreadable)[1:]}."


def _lost_certificate(digest: str, unreadable: Sequence[UnreadableCertificate]) -> UnreadableCertificate | None:
    """Return the certificate that belongs to this key, or whose key cannot be determined."""
    return next((each for each in unreadable if each.spki_sha256 in {None, digest}), None)


def set_aside_uncertified(uri: KeyUri, found: Findings) -> Findings:
    """Count a key as unusable if its certificate is in the file, but cannot be read, and is not in another file.

    An assertion would not say which certificate belongs to its signature.
    """
    kept, others = [], list(found.unusable)
    for entry in found.entries:
        if entry.lost_certificate and "certificate-file" not in uri:
            error = no_certificate([entry.lost_certificate], entry.file.path)
            others.append(UnusableEntry(entry.names, entry.info.spki_sha256, error, entry.file.path))
        else:
            kept.append(entry)
    return Findings(kept, found.failures, others)


def incorrect_password_hint(password: str) -> str:
    """Return the hint for a password that does not open a file, without the password."""
    if password != password.strip():
        return "Remove the spaces or line ends around the password."
    if len(password) > 1 and password[0] + password[-1] in _QUOTATION_MARKS:
        return "Remove the quotation marks around the password."
    return "Correct the password. If it is correct, the file is damaged: copy it again."


def pin(uri: KeyUri, path: Path | str, key: PrivateKey, name: str | None = None) -> KeyUri:
    """Return the pinned URI of this key; `name` is its friendly name if the file has several keys."""
    changes: dict[str, str | bytes | None] = {
        "path": os.fsencode(path),
        "spki-sha256": spki_sha256(key.public_key()),
        "select": None,
        "settle": None,
    }
    if name:
        changes["friendly-name"] = name
    if "certificate-file" in uri and not is_certificate_reference(uri.get("certificate-file")):
        changes["certificate-file"] = os.fsencode(files.absolute(Path(uri.get("certificate-file"))))
    return uri.replace(changes)


def filter_by_name(uri: KeyUri, entries: Sequence[KeyEntry]) -> list[KeyEntry]:
    """Return the keys that have the URI's friendly name; a pinned URI already identifies the key exactly."""
    anonymous = "friendly-name" not in uri or "spki-sha256" in uri
    return [entry for entry in entries if anonymous or uri.get("friendly-name") in entry.names]


def require_usable_choice(uri: KeyUri, entries: Sequence[KeyEntry], unusable: Sequence[UnusableEntry]) -> None:
    """Raise `KeyUnusable` if the URI identifies one of the unusable keys, or there are no others."""
    wanted = uri.get("spki-sha256")
    name = uri.get("friendly-name") if "friendly-name" in uri else None
    for each in unusable:
        chosen = each.spki_sha256 == wanted if wanted else name in each.names
        if chosen and not any(name in entry.names for entry in entries):
            raise each.error
    if unusable and not entries:
        raise unusable[0].error


def unknown_name_error(uri: KeyUri, entries: Sequence[KeyEntry]) -> KeyNotFound:
    """Build the error for a friendly name that no key has."""
    wanted = uri.get("friendly-name")
    known = [name for entry in entries for name in entry.names]
    import difflib

    nearest = difflib.get_close_matches(wanted, known) or known[:_MOST_NAMES]
    shown = ", ".join(each if each.isprintable() else ascii(each) for each in nearest)  # whoever made the file chose it
    shown += ", ..." * (_MOST_NAMES <= len(nearest) < len(known))
    hint = f"Use one of: {shown}." if nearest else "Omit friendly-name: the keys have no names."
    return KeyNotFound(f"Key not found: no key has the friendly name {wanted!r}.", hint=hint, uri=uri)


def _chain_of(key: PrivateKey, certificates: Sequence[Certificate], *, must_match: bool) -> tuple[Certificate, ...]:
    try:
        return order_chain(certificates, key.public_key())
    except CertificateMismatch:
        if must_match:
            raise
        return ()  # they belong to other keys
