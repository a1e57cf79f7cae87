"""Keys in Azure Key Vault: `azure-keyvault:vault=https://contoso.vault.azure.net;certificate=app?auth=managed-identity`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from keyvouch.algorithms import key_type
from keyvouch.certificate import check_chain, parse_subject, request, spki_sha256
from keyvouch.errors import (
    AccessDenied,
    CertificateMissing,
    ConfigurationError,
    KeyExists,
    KeyNotFound,
    KeyUnusable,
    NotSupported,
    SessionLost,
)
from keyvouch.https import OWN_TIMEOUT
from keyvouch.private_key import wrap
from keyvouch.store import (
    Attribute,
    DeletesKeys,
    GeneratesKeys,
    HoldsCertificates,
    ImportsKeys,
    KeyInfo,
    KeySpec,
    KeyStore,
    KeyUri,
    ListsKeys,
    RequestsCertificates,
    StoredKey,
    choose_one,
)
from keyvouch_azure_keyvault import making, versions
from keyvouch_azure_keyvault.addresses import ATTRIBUTES, Place, named, pinned, place_of, vault_of
from keyvouch_azure_keyvault.failures import Doing
from keyvouch_azure_keyvault.key import VaultedKey
from keyvouch_azure_keyvault.session import Session
from keyvouch_azure_keyvault.versions import Policy, Version

if TYPE_CHECKING:
    import datetime as dt

    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PrivateKey
    from keyvouch.secrets import SecretResolver

_LISTING_TIMEOUT = 100.0
"""Timeout in seconds for a listing, which sends a request for each version."""
_HSM = ".managedhsm."
"""Part of the host name of a Managed HSM, which has only keys."""


class KeyVaultStore(
    KeyStore, ListsKeys, GeneratesKeys, ImportsKeys, RequestsCertificates, HoldsCertificates, DeletesKeys
):
    """Certificates and keys: `azure-keyvault:vault=https://contoso.vault.azure.net;certificate=app?auth=workload`.

    A certificate or key without version is a family: the newest enabled, valid and settled version. To sign, a log-in
    needs the permission keys/sign (role Key Vault Crypto User), and to find version and certificate, certificates/get
    and certificates/list (role Key Vault Reader). The key itself is never fetched.

    A signature is one request, which is billed; a vault takes 2,000 to 4,000 RSA operations in 10 seconds, all programs
    together. `reuse` lets an assertion be used again.
    """

    attributes: ClassVar[tuple[Attribute, ...]] = ATTRIBUTES

    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:
        vault_of(uri)
        if not uri.get("auth"):
            raise ConfigurationError(
                "The URI does not say how to sign in.", hint="Write auth=managed-identity after the `?`, or another."
            )
        if (uri.get("auth") == "profile") != ("profile" in uri):
            raise ConfigurationError(
                "Signing in with another profile takes both auth=profile and profile=NAME.", hint="Write both, or none."
            )
        self._uri = uri
        self._secrets = secrets
        self._session: Session | None = None
        self._process = 0

    def connect(self, *, timeout: float) -> None:
        """Log in; keys that are already open keep their own log-in."""
        session = Session(self._uri, self._secrets)
        session.begin(timeout)
        self._session, self._process = session, os.getpid()
        self._changing = threading.Lock()

    def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None and self._process == os.getpid():
            session.end()

    def open(self, uri: KeyUri, certificate: Certificate | None = None, *, timeout: float) -> StoredKey:
        """Open the version that the URI selects, with its certificate."""
        session, place = self._connected(), _place(uri)
        info, settles_at = self._choose(uri, place, certificate, timeout)
        found = self._fetch(place, info.uri.get("version"), timeout)
        exact = found.info(uri, place.name)
        choose_one(uri, [exact], certificate)
        key = VaultedKey(session, exact.uri, place, found)
        if place.is_certificate:
            policy = self._policy(place, timeout)
            key.exportable = policy.exportable
            # Only a URI without version= can select a version that the service creates.
            key.advice = () if place.version else policy.advice
        key.settles_at = settles_at
        return key

    def keys(self, uri: KeyUri) -> list[KeyInfo]:
        """Return the enabled versions of the certificate or key, or of all in the vault if the URI names neither."""
        uri = named(uri)
        session = self._connected()
        listed: list[KeyInfo] = []
        with session.asking(_LISTING_TIMEOUT, Doing("listing", None, "certificates/list", "Key Vault Reader")):
            if "certificate" in uri or "key" in uri:
                listed = self._listed(uri)
            else:
                for each in self._all(uri):
                    with contextlib.suppress(KeyNotFound, KeyUnusable):  # disabled, or cannot sign
                        listed += self._listed(each)
        digest = uri.get("spki-sha256")
        return [info for info in listed if digest in (None, info.spki_sha256)]

    def generate(self, uri: KeyUri, spec: KeySpec) -> KeyUri:
        """Create a certificate with its key, or a key; with `further`, the next version of an existing one."""
        parse_subject(spec.subject)
        place = _place(uri)
        if spec.key_type not in making.TYPES:
            raise NotSupported(
                f"Key Vault makes no {spec.key_type}.", hint=f"It makes {', '.join(making.TYPES)}.", uri=uri
            )
        hsm = uri.get("hsm") or _HSM in place.vault
        with self._change(Doing(f"making a {place.kind}", place, f"{place.kind}s/create", _officer(place))) as session:
            if self._is_there(session, place) and (not spec.further or place.version):
                raise _exists(uri, place)
            make = making.make_certificate if place.is_certificate else making.make_key
            made = make(session, place, spec, hsm=hsm)
        return pinned(uri, place.name, versions.number_of(made.properties))

    def import_key(
        self, uri: KeyUri, key: PrivateKey, chain: Sequence[Certificate], *, exportable: bool = False
    ) -> KeyUri:
        """Import a key, for `certificate=` with its certificate; later versions are created in the vault."""
        check_chain(chain, key.public_key())
        place = _place(uri)
        if key_type(key) not in making.TYPES:
            raise NotSupported(f"Key Vault takes no {key_type(key)}.", hint=f"It takes {', '.join(making.TYPES)}.")
        with self._change(Doing("importing", place, f"{place.kind}s/import", _officer(place))) as session:
            if self._is_there(session, place):
                raise _exists(uri, place)
            if not place.is_certificate:
                made = making.import_key(session, place, key, hsm=uri.get("hsm") or _HSM in place.vault)
            elif not chain:
                raise CertificateMissing(
                    "A certificate in Key Vault is imported with its key.", hint="Write key= for a key by itself."
                )
            else:
                made = making.import_certificate(session, place, key, chain, exportable=exportable)
        return pinned(uri, place.name, versions.number_of(made.properties))

    def request_certificate(self, uri: KeyUri, spec: KeySpec) -> bytes:
        """Create a request that stays pending in the vault; for a key without a certificate, build it locally.

        If the certificate does not exist yet, the vault creates its key; the certificate exists once it is installed.
        """
        place = _place(uri)
        if not place.is_certificate:
            key = self.open(uri, timeout=OWN_TIMEOUT)
            return _signed_request(key, spec.subject)
        with self._change(Doing("requesting", place, "certificates/create", _officer(place))) as session:
            there = self._is_there(session, place)
            public_key = self.open(uri, timeout=OWN_TIMEOUT).public_key if there and not spec.further else None
            return making.begin_request(session, place, spec, public_key, hsm=uri.get("hsm"))

    def install_certificate(self, uri: KeyUri, chain: Sequence[Certificate]) -> KeyUri:
        """Merge the chain with the vault's pending request or, if none is pending, with a new one for the same key."""
        place = _place(uri)
        if not place.is_certificate:
            raise NotSupported(
                "A key by itself has no certificate in the vault.", hint="Name the file: certificate-file=.", uri=uri
            )
        public_key: Any = chain[0].public_key()
        check_chain(chain, public_key)
        with self._change(Doing("merging", place, "certificates/create", _officer(place))) as session:
            if making.pending_key(session, place) != spki_sha256(public_key):
                check_chain(chain, self.open(uri, chain[0], timeout=OWN_TIMEOUT).public_key)
                spec = KeySpec(subject=chain[0].subject.rfc4514_string())
                making.begin_request(session, place, spec, public_key, hsm=uri.get("hsm"))
            made = making.merge(session, place, chain)
        return pinned(uri, place.name, versions.number_of(made.properties))

    def delete(self, uri: KeyUri) -> None:
        """Delete the certificate or key, if this is its only version; it can be recovered until it is purged.

        With `disable=true` the version is disabled instead, whether there are others or not.
        """
        place = _place(uri)
        with self._change(Doing("deleting", place, f"{place.kind}s/delete", _officer(place))) as session:
            found = [each.version for each in versions.list_versions(session, place)]
            if not found or (place.version and place.version not in found):
                raise KeyNotFound(
                    f"There is no such version of the {place.kind} {place.name}.",
                    hint="See them: keyvouch keys.",
                    uri=uri,
                )
            if uri.get("disable"):
                making.disable(session, place)
                return
            if len(found) > 1:
                raise NotSupported(
                    f"Key Vault deletes no single version of a {place.kind}, and this one has {len(found)}.",
                    hint="Disable it: write disable=true behind the `?`, and delete it again."
                    f" All of them: az keyvault {place.kind} delete --id {place.vault}/{place.kind}s/{place.name}",
                    uri=uri,
                )
            making.delete(session, place, purge=uri.get("purge"))

    # Shared helpers.

    def _connected(self) -> Session:
        if self._session is None or self._process != os.getpid():
            raise SessionLost("There is no log-in.", hint="Try again.", performed=False)
        return self._session

    @contextlib.contextmanager
    def _change(self, doing: Doing) -> Iterator[Session]:
        """Yield the session for one change at a time: the service refuses another while one is in progress."""
        session = self._connected()
        with self._changing, session.asking(3 * OWN_TIMEOUT, doing):
            yield session

    def _choose(
        self, uri: KeyUri, place: Place, certificate: Certificate | None, timeout: float
    ) -> tuple[KeyInfo, dt.datetime | None]:
        """Return the version that the URI selects. Every version is fetched only for a digest or a certificate."""
        session, family = self._connected(), named(uri).replace({"select": "newest"})
        if place.version:
            return KeyInfo(pinned(uri, place.name, place.version), ""), None
        if certificate is not None or "spki-sha256" in uri:
            return choose_one(family, self._infos(uri, place, timeout), certificate)
        found = versions.wanted(session, uri, place, timeout)
        return choose_one(family, [versions.light_info(uri, place, each) for each in found])

    def _infos(self, uri: KeyUri, place: Place, timeout: float) -> list[KeyInfo]:
        if place.version:
            return [self._fetch(place, place.version, timeout).info(uri, place.name)]
        found = versions.wanted(self._connected(), uri, place, timeout)
        return [self._fetch(place, each.version, timeout).info(uri, place.name) for each in found]

    def _fetch(self, place: Place, version: str, timeout: float) -> Version:
        session = self._connected()
        exact = place._replace(version=version)
        doing = Doing(f"reading the {place.kind}", exact, f"{place.kind}s/get", "Key Vault Reader")
        with session.asking(timeout, doing):
            found = versions.fetch(session, place, version)
        if not found.enabled:
            raise KeyUnusable(
                f"This version of the {place.kind} {place.name} is disabled.",
                hint=f"Enable it: az keyvault {place.kind} set-attributes --enabled true --id"
                f" {place.vault}/{place.kind}s/{place.name}/{version}",
            )
        return found

    def _listed(self, uri: KeyUri) -> list[KeyInfo]:
        place = _place(uri)
        infos = self._infos(uri, place, _LISTING_TIMEOUT)
        if not place.is_certificate:
            return infos
        policy = self._policy(place, _LISTING_TIMEOUT)
        return [dataclasses.replace(each, exportable=policy.exportable, advice=policy.advice) for each in infos]

    def _policy(self, place: Place, timeout: float) -> Policy:
        """Read what applies to all versions of a certificate; return an empty policy if reading it is denied."""
        session = self._connected()
        with (
            contextlib.suppress(AccessDenied),
            session.asking(timeout, Doing("reading the policy", place, "certificates/get", "Key Vault Reader")),
        ):
            return versions.policy(session, place)
        return Policy()

    @staticmethod
    def _is_there(session: Session, place: Place) -> bool:
        return bool(versions.list_versions(session, place))

    def _all(self, uri: KeyUri) -> Iterator[KeyUri]:
        """Yield a URI for each certificate, and for each key that is not a certificate's."""
        session, certificates = self._connected(), set()
        if _HSM not in vault_of(uri):
            for each in versions.at_most(session.certificates.list_properties_of_certificates()):
                certificates.add(each.name)
                yield uri.replace({"certificate": each.name})
        for key in versions.at_most(session.keys.list_properties_of_keys()):
            if not key.managed and key.name not in certificates:
                yield uri.replace({"key": key.name})


def _place(uri: KeyUri) -> Place:
    place = place_of(uri)
    if place.is_certificate and _HSM in place.vault:
        raise ConfigurationError(
            "A Managed HSM has no certificates.", hint="Write key=, and certificate-file=.", uri=uri
        )
    return place


def _officer(place: Place) -> str:
    return "Key Vault Certificates Officer" if place.is_certificate else "Key Vault Crypto Officer"


def _exists(uri: KeyUri, place: Place) -> KeyExists:
    return KeyExists(
        f"There is a {place.kind} {place.name} already.",
        hint="Take another name, or add a version: --further.",
        uri=uri,
    )


def _signed_request(key: StoredKey, subject: str) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    signing = wrap(key.public_key, lambda *what: key.sign(*what, timeout=OWN_TIMEOUT))
    return request(signing, subject).public_bytes(Encoding.DER)
