"""The certificates in the stores, and which of them a URI selects."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from keyvouch import certificate as x509_certificate
from keyvouch.algorithms import CRYPTOGRAPHY, key_type
from keyvouch.certificate import is_readable, parsing, thumbprint, to_der
from keyvouch.errors import KeyUnusable
from keyvouch.store import KeyInfo, KeyUri
from keyvouch_windows import crypt32
from keyvouch_windows.crypt32 import Container
from keyvouch_windows.error_codes import CODES
from keyvouch_windows.native import NativeError
from keyvouch_windows.uri_attributes import hash_name

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, Name

    from keyvouch.algorithms import PublicKey

_ISSUERS = ("CA", "Root")
"""The stores that contain issuers' certificates."""


@dataclass(frozen=True)
class Entry:
    """A certificate in a store."""

    location: str
    store: str
    certificate: Certificate
    container: Container | None
    """Where its private key is; None if it has none."""
    friendly_name: str | None

    @property
    def public_key(self) -> PublicKey:
        """Return the certificate's public key."""
        return self.certificate.public_key()  # type: ignore[return-value]  # `parse` rejects all other types

    def uri(self, uri: KeyUri) -> KeyUri:
        """Return the URI of exactly this certificate, based on the URI that was used to find it."""
        return pinned(uri.replace({"store": self.store, "location": self.location}), self.certificate)

    def info(self, uri: KeyUri, *, exportable: bool | None = None, readers: tuple[str, ...] | None = None) -> KeyInfo:
        """Return the key's description for the store contract."""
        info = KeyInfo.from_chain(
            self.uri(uri),
            self.public_key,
            [self.certificate],
            exportable=exportable,
            provider=self.container.provider if self.container else None,
            readers=readers,
        )
        return replace(info, friendly_name=self.friendly_name)


def pinned(uri: KeyUri, certificate: Certificate) -> KeyUri:
    """Return the URI of exactly this certificate, in the store and location of `uri`."""
    selecting = ("subject", "issuer", "friendly-name", "provider", "container", "select", "settle")
    digits = thumbprint(certificate, "sha1")  # as certmgr and PowerShell show it
    location = {name: uri.get(name) for name in ("store", "location")}  # spelled canonically, however they were typed
    return uri.replace({**dict.fromkeys(selecting), "thumbprint": digits, **location})


def remove(entry: Entry) -> None:
    """Remove an entry's certificate from its store. Raises `NativeError`: CRYPT_E_NOT_FOUND if it is gone."""
    with open_context(entry, write=True) as context:
        crypt32.delete(context)
    # Some collections (at least Wine's) do not delete it from the physical store, so delete it there as well.
    with contextlib.suppress(NativeError), open_context(entry, write=True, physical=True) as context:
        crypt32.delete(context)


@contextlib.contextmanager
def open_context(entry: Entry, *, write: bool = False, physical: bool = False) -> Iterator[int]:
    """Hold the context of an entry's certificate. Raises `NativeError`: CRYPT_E_NOT_FOUND if it is gone."""
    der = to_der(entry.certificate)
    with crypt32.open_store(entry.location, entry.store, write=write, physical=physical) as store:
        for context in crypt32.contexts(store):
            # A certificate may be listed twice, with different keys, but the physical store has each only once.
            if crypt32.to_der(context) == der and (physical or crypt32.get_container(context) == entry.container):
                with crypt32.duplicate(context) as held:
                    yield held
                return
    raise NativeError("CertEnumCertificatesInStore", CODES["CRYPT_E_NOT_FOUND"])


def store_exists(location: str, store: str) -> bool:
    """Return whether a store of this name exists."""
    try:
        with crypt32.open_store(location, store):
            return True
    except NativeError as error:
        if not crypt32.is_missing_store(error):
            raise
        return False


def list_entries(location: str, store: str) -> list[Entry]:
    """Return the certificates of a store, with and without a key; an empty list if the store does not exist."""
    found = []
    try:
        with crypt32.open_store(location, store) as opened:
            for context in crypt32.contexts(opened):
                certificate = parse(crypt32.to_der(context))
                if certificate is not None:
                    container, name = crypt32.get_container(context), crypt32.get_friendly_name(context)
                    found.append(Entry(location, store, certificate, container, name))
    except NativeError as error:
        if not crypt32.is_missing_store(error):
            raise
    return found


@CRYPTOGRAPHY
def parse(der: bytes) -> Certificate | None:
    """Return the parsed certificate; None if it cannot be read or its type of key cannot sign JWTs."""
    from cryptography import x509

    try:
        with parsing():
            certificate = x509.load_der_x509_certificate(der)
        if not is_readable(certificate):
            return None
        key_type(certificate.public_key())
    except (ValueError, x509.InvalidVersion, KeyUnusable):
        return None
    return certificate


def find_entries(uri: KeyUri) -> list[Entry]:
    """Return the certificates that match a URI, from both locations if it does not name one."""
    locations = [uri.get("location")] if "location" in uri else [*crypt32.LOCATIONS]
    found = [entry for location in locations for entry in list_entries(location, uri.get("store"))]
    return _without_duplicates([entry for entry in found if matches(uri, entry)])


def _without_duplicates(found: list[Entry]) -> list[Entry]:
    """Leave out copies: if both locations have the same certificate and key, keep the one in the key's location.

    A collection may list a certificate twice, since CurrentUser includes LocalMachine's: one URI means one entry.
    """
    best_last = sorted(found, key=_rank)
    by_uri = {(each.location, each.certificate): each for each in best_last}
    found = [each for each in found if by_uri[each.location, each.certificate] is each]
    kept = {(each.certificate, each.container): each for each in sorted(found, key=_rank)}
    return [each for each in found if not each.container or kept[each.certificate, each.container] is each]


def _rank(entry: Entry) -> int:
    """Return 0 for a certificate without a key, 1 for one with a key of the other location, and 2 otherwise."""
    if entry.container is None:
        return 0
    return 2 if entry.container.machine == (entry.location == "LocalMachine") else 1


def matches(uri: KeyUri, entry: Entry) -> bool:
    """Return whether a certificate matches the URI; its store and location are not compared."""
    certificate = entry.certificate
    if (digits := uri.get("thumbprint")) and thumbprint(certificate, hash_name(digits)) != digits:
        return False
    if (name := uri.get("subject")) and not _name_matches(name, certificate.subject):
        return False
    if (name := uri.get("issuer")) and not _name_matches(name, certificate.issuer):
        return False
    if "friendly-name" in uri and uri.get("friendly-name") != entry.friendly_name:
        return False
    container = entry.container
    return all(
        name not in uri or (container is not None and uri.get(name) == value)
        for name, value in (("provider", container and container.provider), ("container", container and container.name))
    )


def _name_matches(wanted: Name, name: Name) -> bool:
    """Return whether a name is the wanted one, in full or, if only a common name is wanted, by its common name."""
    if wanted == name:
        return True
    from cryptography.x509.oid import NameOID

    common = wanted.get_attributes_for_oid(NameOID.COMMON_NAME)
    return len([*wanted]) == len(common) == 1 and name.get_attributes_for_oid(NameOID.COMMON_NAME) == common


def find_issuers(entry: Entry) -> tuple[Certificate, ...]:
    """Return the certificates of an entry's issuers that Windows has, nearest first."""
    return x509_certificate.find_issuers(entry.certificate, lambda each: _find_by_subject(entry.location, each.issuer))


def _find_by_subject(location: str, name: Name) -> list[Certificate]:
    found = []
    for store in _ISSUERS:
        try:
            with crypt32.open_store(location, store) as opened:
                found += [parse(der) for der in crypt32.find_by_subject(opened, name.public_bytes())]
        except NativeError as error:
            if not crypt32.is_missing_store(error):
                raise
    now = dt.datetime.now(dt.UTC)
    certificates = [each for each in found if each is not None]
    return sorted(certificates, key=lambda each: each.not_valid_after_utc < now)  # prefer a valid one
