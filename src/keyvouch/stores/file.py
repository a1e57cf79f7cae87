"""The stores included in keyvouch: keys in PFX and PEM files, or in the same form elsewhere, by reference."""

from __future__ import annotations

import contextlib
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from keyvouch import certificate as certificates
from keyvouch._core.certificate_file import CertificateFile
from keyvouch._core.uri_text import is_certificate_reference
from keyvouch._system import files
from keyvouch._system.forks import IMPORTS
from keyvouch.algorithms import require_usable
from keyvouch.errors import AmbiguousKey, ConfigurationError, KeyExists, KeyNotFound, KeyvouchError, NotSupported
from keyvouch.local_key import make_key
from keyvouch.store import (
    Attribute,
    DeletesKeys,
    ExportsKeys,
    GeneratesKeys,
    HoldsCertificates,
    ImportsKeys,
    KeyInfo,
    KeySpec,
    KeyStore,
    KeyUri,
    ListsKeys,
    ListsUnusableKeys,
    OffersPeer,
    UnusableKey,
    choose_one,
    is_decided,
)
from keyvouch.stores import jwk, key_files, pem, pfx
from keyvouch.stores.key_entries import (
    Choice,
    FileContents,
    FileKey,
    Findings,
    KeyEntry,
    UnusableEntry,
    build_entries,
    filter_by_name,
    pin,
    require_usable_choice,
    set_aside_uncertified,
    unknown_name_error,
)
from keyvouch.stores.references import KeyReference, fit_hints, parse_location, require_file

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import Algorithm, PrivateKey
    from keyvouch.secrets import Secret, SecretResolver

_PATH = Attribute(
    "path",
    "the file; with one * in its name, a family of files; or a reference, such as env:NAME",
    positional=True,
    required_for=frozenset({"open", "generate"}),
    parse=parse_location,
)
_FRIENDLY_NAME = Attribute("friendly-name", "the friendly name of one of several keys")
_PASSWORD = Attribute("password", "the password that the file is encrypted with", query=True, secret=True)
_MOST_SKIPPED = 10
"""Maximum number of files and keys that an error lists as skipped."""


class FileStore(
    KeyStore,
    ListsKeys,
    ListsUnusableKeys,
    GeneratesKeys,
    ImportsKeys,
    HoldsCertificates,
    DeletesKeys,
    ExportsKeys,
    OffersPeer,
):
    """Base class of the PFX and PEM stores: reads files, chooses among their keys, and writes them.

    If a URI has `certificate-file`, the certificate is written to that file and not to the key's own.
    """

    suffixes: ClassVar[tuple[str, ...]]
    """Suffixes of the files that are read to list a folder."""

    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:  # noqa: ARG002 - all files share one connection
        self._secrets = secrets

    def connect(self, *, timeout: float) -> None:
        """Do nothing: a file is read when its key is opened."""

    def close(self) -> None:
        """Do nothing: no file is kept open."""

    def open(
        self,
        uri: KeyUri,
        certificate: Certificate | None = None,
        *,
        timeout: float,  # noqa: ARG002 - reading a file never waits
    ) -> FileKey:
        """Read the file, or the family's from the newest on, and return the one key that the URI selects."""
        return FileKey(self._choose(uri, certificate, signs=True))

    def keys(self, uri: KeyUri) -> list[KeyInfo]:
        """Return the keys in the file, family or folder at the URI's path."""
        path = _location(uri)
        found = Findings.merge(list(self._read(uri, self._listed(path))))
        if found.skipped and not found.entries and not (isinstance(path, Path) and key_files.is_folder(path)):
            raise _mentioning_folder(uri, found.skipped[0].error)
        pinned = uri.get("spki-sha256")
        return [entry.info for entry in filter_by_name(uri, found.entries) if pinned in (None, entry.info.spki_sha256)]

    def unusable_keys(self, uri: KeyUri) -> list[UnusableKey]:
        """Return the files and keys at the URI's path that `keys` skips."""
        paths = self._listed(_location(uri))
        return [
            UnusableKey(str(path), entry.error.message)
            for path, found in zip(paths, self._read(uri, paths), strict=True)
            for entry in found.skipped
        ]

    def _listed(self, path: Path | KeyReference) -> Sequence[Path | KeyReference]:
        """Return what a listing reads: the files of a folder, the members of a family, or the one file."""
        if isinstance(path, Path) and key_files.is_folder(path):
            return [*key_files.with_suffix(path, self.suffixes)]
        return _members(path)

    def generate(self, uri: KeyUri, spec: KeySpec) -> KeyUri:
        """Make a key and its self-signed certificate. Raises `KeyExists`, `ConfigurationError`."""
        # Check everything before the key is made: RSA-4096 takes seconds.
        path = self._new_path(uri, further=spec.further)
        if spec.further and path == _location(uri):
            raise ConfigurationError(
                f"{path} is a single file: it cannot have a further key.", hint=key_files.family_hint(path), uri=uri
            )
        password = self._password(uri)
        certificates.parse_subject(spec.subject)
        key = make_key(spec.key_type)
        return self._write_new(uri, path, key, [certificates.self_signed(key, spec.subject, spec.days)], password)

    def import_key(
        self,
        uri: KeyUri,
        key: PrivateKey,
        chain: Sequence[Certificate],
        *,
        exportable: bool = False,  # noqa: ARG002 - a file cannot prevent export
    ) -> KeyUri:
        """Write the key and its chain; in a family, add a member. Raises `KeyExists`, `ConfigurationError`."""
        require_usable(key)
        certificates.check_chain(chain, key.public_key())
        path = self._new_path(uri, further=True)
        return self._write_new(uri, path, key, chain, self._password(uri))

    def install_certificate(self, uri: KeyUri, chain: Sequence[Certificate]) -> KeyUri:
        """Replace the existing chain with this one."""
        entry = self._choose(uri, chain[0]).entry
        certificates.check_chain(chain, entry.key.public_key())
        if certificate_file := _certificate_file(uri, entry.file.path):
            existing, stamp = key_files.read_certificate_file(certificate_file)
            # If that file contains another key, the key is kept.
            key_files.replace(certificate_file, pem.replace_chain(existing, chain), replaces=stamp)
        else:
            require_file(entry.file, uri)
            _require_only_key(entry)
            data = self._with_chain(entry, chain, self._password(uri))
            # Do not replace a file put there in the meantime: its owner, maybe another account, would get this key.
            key_files.replace(entry.file.path, data, replaces=entry.file.stamp)
        return entry.info.uri

    def delete(self, uri: KeyUri) -> None:
        """Delete the file, and `certificate-file` if that contains the key's own certificate."""
        entry = self._choose(uri).entry
        require_file(entry.file, uri)
        _require_only_key(entry)
        is_reference = is_certificate_reference(uri.get("certificate-file") or "")
        certificate_file = None if is_reference else _certificate_file(uri, entry.file.path)
        if (
            certificate_file
            and (data := key_files.read_certificate_file(certificate_file)[0])
            and _has_certificate_for(data, certificate_file, entry)
        ):
            key_files.remove(certificate_file)
        key_files.remove(entry.file.path)

    def export_pfx(self, uri: KeyUri, password: Secret) -> bytes:
        entry = self._choose(uri).entry
        chain = certificates.order_chain(CertificateFile(uri).read(), entry.key.public_key()) or entry.chain
        return pfx.write(entry.key, chain, password, entry.name or _friendly_name(chain, entry.file.path))

    def peer(self, uri: KeyUri, algorithm: Algorithm) -> Callable[[bytes], bytes]:
        """Return a function that signs with `cryptography`."""
        with IMPORTS:
            from keyvouch.stores.peer import make_peer
        return make_peer(self._choose(uri).entry.key, algorithm)

    @staticmethod
    @abstractmethod
    def _decode(data: bytes, password: Secret | None, path: Path) -> FileContents:
        """Return the contents of a file; the path is for error messages."""

    @staticmethod
    @abstractmethod
    def _encode(key: PrivateKey, chain: Sequence[Certificate], password: Secret | None, name: str) -> bytes:
        """Return the bytes of a file with this key and chain."""

    @abstractmethod
    def _with_chain(self, entry: KeyEntry, chain: Sequence[Certificate], password: Secret | None) -> bytes:
        """Return the bytes of the entry's file with another chain."""

    def _password(self, uri: KeyUri) -> Secret | None:
        if "password" not in uri:
            return None
        # One connection serves all files: an answer to `prompt:` is remembered only for this path.
        return self._secrets.resolve(str(uri.get("password")), f"password of {_location(uri)}")

    def _choose(self, uri: KeyUri, certificate: Certificate | None = None, *, signs: bool = False) -> Choice:
        """Return the one key that the URI selects.

        If it `signs`, a key whose certificate is in the file and cannot be read is not selected.
        """
        path = _location(uri)
        family = _family(path)  # first: a file that appears in the meantime counts as new
        if family and family.is_empty:
            raise _mentioning_folder(uri, key_files.missing_file_error(family.path, self.suffixes))
        paths = family.to_read(newest_first=uri.get("select") == "newest") if family else _members(path)
        found = self._read_until_decided(uri, paths, certificate, signs=signs)
        require_usable_choice(uri, found.entries, found.unusable)
        if not found.entries:
            raise _mentioning_folder(uri, found.failures[0].error)
        try:
            named = filter_by_name(uri, found.entries)
            if not named:
                raise unknown_name_error(uri, found.entries)
            info, settles_at = choose_one(uri, [entry.info for entry in named], certificate)
        except KeyvouchError as error:
            if isinstance(error, AmbiguousKey) and family:
                error.hint += "\nTo follow the family, add select=newest to the URI, after the `?`."
            error.hint += "".join(f"\nSkipped: {each.error.message}" for each in found.skipped[:_MOST_SKIPPED])
            error.hint += "\n..." * (len(found.skipped) > _MOST_SKIPPED)
            raise
        entry = next(entry for entry in named if entry.info is info)
        is_pinned = certificate is not None or "spki-sha256" in uri  # then no newer key would be used
        return Choice(entry, settles_at, () if is_pinned else found.skipped, family)

    def _read_until_decided(
        self, uri: KeyUri, paths: Iterable[Path | KeyReference], certificate: Certificate | None, *, signs: bool
    ) -> Findings:
        """Read these files, newest first, until no other one would change the choice: each may take a second."""
        read: list[Findings] = []
        infos: list[KeyInfo] = []
        is_final = False
        for found in self._read(uri, paths):
            read.append(set_aside_uncertified(uri, found) if signs and certificate is None else found)
            for entry in filter_by_name(uri, read[-1].entries):
                infos.append(entry.info)
                is_final = is_final or is_decided(uri, infos, certificate, newest_first=True)
            if is_final:
                break
        return Findings.merge(read)

    def _read(self, uri: KeyUri, paths: Iterable[Path | KeyReference]) -> Iterator[Findings]:
        """Yield what is found in each of these files."""
        password: Secret | None = None
        for path in paths:
            entries: list[KeyEntry] = []
            failures: list[UnusableEntry] = []
            unusable: list[UnusableEntry] = []
            try:
                file, given = self._read_one(path)
                password = password or given or self._password(uri)
                entries, unusable = build_entries(uri, file, self._decode(file.data, password, file.path))
            except KeyvouchError as error:
                error.uri = str(uri)
                label = path.label if isinstance(path, KeyReference) else path
                failures.append(UnusableEntry((), None, error, label))
            if isinstance(path, KeyReference):
                fit_hints([each.error for each in (*failures, *unusable)], path)
            yield Findings(entries, failures, unusable)

    def _read_one(self, path: Path | KeyReference) -> tuple[key_files.KeyFile, Secret | None]:
        """Return the file, and its password if that was passed in together with it."""
        if isinstance(path, KeyReference):
            return path.read(self._secrets), path.password()
        return key_files.read_key_file(path, self._secrets, self.suffixes), None

    def _new_path(self, uri: KeyUri, *, further: bool) -> Path:
        """Return the path of a file to be created: its folder exists, and the file does not."""
        given = _location(uri)
        if isinstance(given, KeyReference):
            raise given.is_read_only(uri)
        if not key_files.is_family(given):
            path = given
        elif "certificate-file" in uri:
            raise ConfigurationError(
                "The keys of a family cannot share one certificate-file.",
                hint="Omit certificate-file: each certificate is then written to the file of its key.",
                uri=uri,
            )
        else:
            path = key_files.new_member_path(given)
        try:
            key_files.require_no_file(path)
        except KeyExists as error:
            error.hint += f"\n{key_files.family_hint(path)}"
            raise
        if certificate_file := _certificate_file(uri, path):
            key_files.require_no_file(certificate_file)
        if path != given and not further and (existing := key_files.members(given)):
            raise KeyExists(
                f"{given} already has a member: {existing[-1].name}.",
                hint="To add another one, run `keyvouch new --further`.",
                uri=uri,
            )
        return path

    def _write_new(
        self, uri: KeyUri, path: Path, key: PrivateKey, chain: Sequence[Certificate], password: Secret | None
    ) -> KeyUri:
        name = uri.get("friendly-name") if "friendly-name" in uri else _friendly_name(chain, path)
        certificate_file = _certificate_file(uri, path)
        with contextlib.ExitStack() as undo:
            data = self._encode(key, () if certificate_file else chain, password, name)
            key_files.write_new(path, data, key_files.siblings(_location(uri)))
            undo.callback(key_files.remove, path)
            if certificate_file and chain:
                key_files.write_new(certificate_file, pem.write_chain(chain))
            undo.pop_all()
        return pin(uri, path, key)


class PfxStore(FileStore):
    """PFX (PKCS#12) files: `pfx:/etc/keyvouch/app.pfx?password=env:APP_PFX_PASSWORD`.

    `pfx:path=/etc/keyvouch/app.pfx;friendly-name=app` selects one of several keys. Files are written with AES-256 and
    HMAC-SHA-256; older algorithms can be read.
    """

    attributes: ClassVar[tuple[Attribute, ...]] = (_PATH, _FRIENDLY_NAME, _PASSWORD)
    suffixes: ClassVar[tuple[str, ...]] = (".pfx", ".p12")
    _decode = staticmethod(pfx.read)
    _encode = staticmethod(pfx.write)

    def _with_chain(self, entry: KeyEntry, chain: Sequence[Certificate], password: Secret | None) -> bytes:
        return pfx.write(entry.key, chain, password, entry.name or _friendly_name(chain, entry.file.path))


class PemStore(FileStore):
    """PEM files: `pem:/etc/keyvouch/app.key?certificate-file=/etc/keyvouch/app.crt`, or both in one file.

    The key is written as PKCS#8; older formats, encrypted keys and private JWKs can be read as well.
    """

    attributes: ClassVar[tuple[Attribute, ...]] = (_PATH, _PASSWORD)
    suffixes: ClassVar[tuple[str, ...]] = (".pem", ".key")
    _encode = staticmethod(pem.write)

    @staticmethod
    def _decode(data: bytes, password: Secret | None, path: Path) -> FileContents:
        return jwk.read(data, path) if jwk.is_jwk(data) else pem.read(data, password, path)

    def _with_chain(
        self,
        entry: KeyEntry,
        chain: Sequence[Certificate],
        password: Secret | None,  # noqa: ARG002 - the key's block is kept as it is
    ) -> bytes:
        if jwk.is_jwk(entry.file.data):
            raise NotSupported(
                f"{entry.file.path} is a JWK, to which no certificate can be added.",
                hint="Put the certificate into a file of its own: add ?certificate-file=/path/to/app.crt to the URI.",
            )
        return pem.replace_chain(entry.file.data, chain)


def _location(uri: KeyUri) -> Path | KeyReference:
    path: Path | KeyReference | None = uri.get("path")
    if path is None:
        raise ConfigurationError(
            f"Missing path: {uri}.", hint=f"Write {uri.scheme}:/path/to/file, or a folder to list.", uri=uri
        )
    return files.absolute(path) if isinstance(path, Path) else path


def _members(path: Path | KeyReference) -> Sequence[Path | KeyReference]:
    return key_files.members(path) if isinstance(path, Path) else [path]


def _mentioning_folder(uri: KeyUri, error: KeyvouchError) -> KeyvouchError:
    """Add to the error for a missing file that its path is relative, and to which folder."""
    path = uri.get("path")
    if isinstance(error, KeyNotFound) and isinstance(path, Path) and not path.is_absolute():
        error.hint += f"\nThe path {path} is relative to the working directory, {Path.cwd()}."
    return error


def _family(path: Path | KeyReference) -> key_files.Family | None:
    if isinstance(path, Path) and key_files.is_family(path) and key_files.is_folder(path.parent):
        return key_files.Family(path)
    return None


def _certificate_file(uri: KeyUri, path: Path) -> Path | None:
    """Return the certificate's file if it is different from the key's. Raises `NotSupported` for a reference."""
    if "certificate-file" not in uri:
        return None
    source = uri.get("certificate-file")
    if is_certificate_reference(source):
        raise NotSupported(
            f"Cannot write the certificate to {source}: only files can be created and changed.",
            hint="Write certificate-file=/path/to/file, or replace the certificate where it is stored.",
            uri=uri,
        )
    certificate_file = files.absolute(Path(source))
    return None if os.path.realpath(certificate_file) == os.path.realpath(path) else certificate_file


def _has_certificate_for(data: bytes, path: Path, entry: KeyEntry) -> bool:
    found = certificates.load_certificates(data, path)
    return any(certificates.belongs_to(each, str(entry.info.spki_sha256)) for each in found)


def _require_only_key(entry: KeyEntry) -> None:
    if not entry.is_only_key:
        raise NotSupported(
            f"{entry.file.path} contains several keys: changing one would rewrite all of them.",
            hint="Export each key to a separate file: `keyvouch export`.",
            uri=entry.info.uri,
        )


def _friendly_name(chain: Sequence[Certificate], path: Path) -> str:
    """Return a friendly name: the certificate's common name, or else the file's name."""
    from cryptography.x509.oid import NameOID

    names = chain[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME) if chain else []
    return str(names[0].value) if names else path.stem
