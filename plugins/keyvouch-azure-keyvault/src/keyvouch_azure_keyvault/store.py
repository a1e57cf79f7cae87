"""Keys in Azure Key Vault: `azure-keyvault:vault=https://contoso.vault.azure.net;certificate=app?auth=managed-identity`."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
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
    ListsUnusableKeys,
    OffersPeer,
    ProcessLocal,
    PublishesLimits,
    RateLimit,
    RequestsCertificates,
    StoredKey,
    UnusableKey,
    choose_one,
    is_decided,
)
from keyvouch_azure_keyvault import azure_internals, key_management, key_versions
from keyvouch_azure_keyvault.error_translation import READER_ROLE, Operation, enabling_hint, key_not_found
from keyvouch_azure_keyvault.key import KeyVaultKey
from keyvouch_azure_keyvault.key_versions import KeyVersion, PolicySettings
from keyvouch_azure_keyvault.rate_limits import published_limit
from keyvouch_azure_keyvault.session import Session
from keyvouch_azure_keyvault.uri_attributes import (
    ATTRIBUTES,
    AUTH_METHODS,
    KeyLocation,
    is_managed_hsm,
    location_of,
    pin_version,
    split_identifier,
    vault_url,
)

if TYPE_CHECKING:
    import datetime as dt

    from cryptography.x509 import Certificate

    from keyvouch.algorithms import Algorithm, PrivateKey
    from keyvouch.secrets import SecretResolver

_LISTING_TIMEOUT = 100.0
"""Timeout in seconds for a listing, which sends a request for each version."""
_LISTING = Operation("listing", None, "certificates/list", READER_ROLE)


_KEY_TYPES_HINT = f"Use one of: {', '.join(key_management.KEY_TYPES)}."


class KeyVaultStore(
    KeyStore,
    ListsKeys,
    ListsUnusableKeys,
    GeneratesKeys,
    ImportsKeys,
    RequestsCertificates,
    HoldsCertificates,
    DeletesKeys,
    OffersPeer,
    PublishesLimits,
):
    """Certificates and keys in Azure Key Vault or Managed HSM. keyvouch never fetches a private key.

    Example: `azure-keyvault:vault=https://contoso.vault.azure.net;certificate=app?auth=managed-identity`.

    Without `version=`, the newest version that is enabled, valid and settled is used. Signing requires the permission
    keys/sign (role Key Vault Crypto User), and finding the certificate certificates/get and certificates/list (role Key
    Vault Reader).

    Each signature is one request, which is billed. A vault allows 250 to 4,000 of them in 10 seconds, for all programs
    together; set `reuse` in the profile to use an assertion more than once.
    """

    attributes: ClassVar[tuple[Attribute, ...]] = ATTRIBUTES

    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:
        vault_url(uri)
        if not uri.get("auth"):
            raise ConfigurationError(
                "Missing attribute auth: how to sign in to the vault.",
                hint=f"Write auth=METHOD after the `?`, one of: {', '.join(AUTH_METHODS)}.",
            )
        if uri.get("auth") == "profile" and "profile" not in uri:
            raise ConfigurationError(
                "auth=profile requires the name of a profile.", hint="Add profile=NAME after the `?`."
            )
        if uri.get("auth") != "profile" and "profile" in uri:
            raise ConfigurationError(
                f"profile= is not used with auth={uri.get('auth')}.", hint="Write auth=profile, or remove profile=."
            )
        self._uri = uri
        self._secrets = secrets
        self._session = ProcessLocal[Session]()

    def connect(self, *, timeout: float) -> None:
        """Log in; keys that are already open keep their own login."""
        azure_internals.replace_inherited_locks()
        session = Session(self._uri, self._secrets)
        session.log_in(timeout)
        self._session.set(session)
        self._change_lock = threading.Lock()

    def close(self) -> None:
        """Close the connections."""
        if session := self._session.take():
            session.close()

    def open(self, uri: KeyUri, certificate: Certificate | None = None, *, timeout: float) -> KeyVaultKey:
        """Open the version that the URI selects, with its certificate."""
        session, location = self._session.get(), _require_supported_location(uri)
        found, settles_at = self._choose(uri, location, certificate, timeout)
        exact = found.info(uri, location.name)
        choose_one(uri, [exact], certificate)
        key = KeyVaultKey(session, exact.uri, location, found)
        if location.is_certificate:
            policy = found.policy or self._policy(location, timeout)
            key.exportable, key.hsm = policy.exportable, policy.hsm
            # Only a URI without version= can select a version that the service creates.
            key.advice = () if location.version else policy.advice
        key.settles_at = settles_at
        return key

    def keys(self, uri: KeyUri) -> list[KeyInfo]:
        """Return the enabled versions of the certificate or key, or of all in the vault if the URI names neither."""
        uri = split_identifier(uri)
        session = self._session.get()
        listed: list[KeyInfo] = []
        with session.performing(_LISTING, _LISTING_TIMEOUT):
            if "certificate" in uri or "key" in uri:
                listed = self._list_versions_of(uri)
            else:
                for each in self._uris_of_all(uri):
                    with contextlib.suppress(KeyNotFound, KeyUnusable):  # disabled, or cannot sign
                        listed += self._list_versions_of(each)
        digest = uri.get("spki-sha256")
        return [info for info in listed if digest in (None, info.spki_sha256)]

    def unusable_keys(self, uri: KeyUri) -> list[UnusableKey]:
        """Return the disabled versions of the certificate or key, or of all in the vault."""
        uri = split_identifier(uri)
        session = self._session.get()
        with session.performing(_LISTING, _LISTING_TIMEOUT):
            named = "certificate" in uri or "key" in uri
            return [each for one in ([uri] if named else self._uris_of_all(uri)) for each in _disabled(session, one)]

    def generate(self, uri: KeyUri, spec: KeySpec) -> KeyUri:
        """Create a certificate with its key, or a key; with `further`, the next version of an existing one."""
        parse_subject(spec.subject)
        location = _require_supported_location(uri)
        if spec.key_type not in key_management.KEY_TYPES:
            raise NotSupported(
                f"Key Vault does not support keys of type {spec.key_type}.", hint=_KEY_TYPES_HINT, uri=uri
            )
        hsm = uri.get("hsm") or is_managed_hsm(location.vault)
        with self._changing(location, f"creating a {location.kind}", "create") as session:
            former = {each.version for each in key_versions.list_versions(session, location)}
            if former and (not spec.further or location.version):
                raise _already_exists(uri, location)
            if location.is_certificate:
                created = key_management.create_certificate(session, location, spec, former, hsm=hsm)
            else:
                created = key_management.create_key(session, location, spec, hsm=hsm)
        return pin_version(uri, location.name, key_versions.version_of(created.properties))

    def import_key(
        self, uri: KeyUri, key: PrivateKey, chain: Sequence[Certificate], *, exportable: bool = False
    ) -> KeyUri:
        """Import a key, for `certificate=` with its certificate; later versions are created in the vault."""
        check_chain(chain, key.public_key())
        location = _require_supported_location(uri)
        if key_type(key) not in key_management.KEY_TYPES:
            raise NotSupported(f"Key Vault does not support keys of type {key_type(key)}.", hint=_KEY_TYPES_HINT)
        hsm = uri.get("hsm") or is_managed_hsm(location.vault)
        with self._changing(location, "importing", "import") as session:
            if self._has_versions(session, location):
                raise _already_exists(uri, location)
            if not location.is_certificate:
                imported = key_management.import_key(session, location, key, hsm=hsm)
            elif not chain:
                raise CertificateMissing(
                    "Importing a certificate in Key Vault requires both the certificate and its key.",
                    hint="Add the certificate, or write key= to import only the key.",
                )
            else:
                imported = key_management.import_certificate(session, location, key, chain, exportable=exportable)
        return pin_version(uri, location.name, key_versions.version_of(imported.properties))

    def request_certificate(self, uri: KeyUri, spec: KeySpec) -> bytes:
        """Create a request that stays pending in the vault; for a key without a certificate, build it locally.

        If the certificate does not exist yet, the vault creates its key; the certificate exists once it is installed.
        """
        location = _require_supported_location(uri)
        if not location.is_certificate:
            key = self.open(uri, timeout=OWN_TIMEOUT)
            return _signed_request(key, spec.subject)
        with self._changing(location, "requesting", "create") as session:
            exists = self._has_versions(session, location)
            public_key = self.open(uri, timeout=OWN_TIMEOUT).public_key if exists and not spec.further else None
            return key_management.request_certificate(session, location, spec, public_key, hsm=uri.get("hsm"))

    def install_certificate(self, uri: KeyUri, chain: Sequence[Certificate]) -> KeyUri:
        """Merge the chain with the vault's pending request or, if none is pending, with a new one for the same key."""
        location = _require_supported_location(uri)
        if not location.is_certificate:
            raise NotSupported(
                "The vault does not store a certificate for key=.",
                hint="Save the certificate to a file, and name it with certificate-file=.",
                uri=uri,
            )
        public_key: Any = chain[0].public_key()
        check_chain(chain, public_key)
        with self._changing(location, "merging", "create") as session:
            if key_management.pending_key_digest(session, location) != spki_sha256(public_key):
                check_chain(chain, self.open(uri, chain[0], timeout=OWN_TIMEOUT).public_key)
                spec = KeySpec(subject=chain[0].subject.rfc4514_string())
                key_management.request_certificate(session, location, spec, public_key, hsm=uri.get("hsm"))
            merged = key_management.merge_certificate(session, location, chain)
        return pin_version(uri, location.name, key_versions.version_of(merged.properties))

    def delete(self, uri: KeyUri) -> None:
        """Delete the certificate or key, if this is its only version; it can be recovered until it is purged.

        With `disable=true` the version is disabled instead, whether there are others or not.
        """
        location = _require_supported_location(uri)
        with self._changing(location, "deleting", "delete") as session:
            found = [each.version for each in key_versions.list_versions(session, location)]
            if not found or (location.version and location.version not in found):
                raise key_not_found(location, uri)
            if uri.get("disable"):
                key_management.disable(session, location)
                return
            if len(found) > 1:
                raise NotSupported(
                    f"Key Vault cannot delete one of several versions: the {location.kind} has {len(found)}.",
                    hint="Disable the version: write disable=true after the `?`, and delete it again. To delete all"
                    f" versions, run: az keyvault {location.kind} delete --id {location.identifier()}",
                    uri=uri,
                )
            key_management.delete(session, location, purge=uri.get("purge"))

    def peer(self, uri: KeyUri, algorithm: Algorithm) -> Callable[[bytes], bytes]:
        """Return a function that signs with the SDK's own pipeline and transport, without retries."""
        return self.open(uri, timeout=OWN_TIMEOUT).make_peer(algorithm)

    def rate_limit(self, key: StoredKey) -> RateLimit | None:
        """Return the vault's limit for keys of this type; Microsoft publishes none for Managed HSM."""
        assert isinstance(key, KeyVaultKey)  # noqa: S101 - `open` returned it
        if is_managed_hsm(vault_url(key.uri)):
            return None
        return published_limit(key_type(key.public_key), hsm=key.hsm)

    # Shared helpers.

    @contextlib.contextmanager
    def _changing(self, location: KeyLocation, description: str, verb: str) -> Iterator[Session]:
        """Yield the session for one change at a time: the service refuses another while one is in progress.

        `verb` is the last part of the required permission: `create` for `keys/create`.
        """
        session = self._session.get()
        role = "Key Vault Certificates Officer" if location.is_certificate else "Key Vault Crypto Officer"
        operation = Operation(description, location, f"{location.kind}s/{verb}", role)
        with self._change_lock, session.performing(operation, 3 * OWN_TIMEOUT):
            yield session

    def _choose(
        self, uri: KeyUri, location: KeyLocation, certificate: Certificate | None, timeout: float
    ) -> tuple[KeyVersion, dt.datetime | None]:
        """Fetch the version that the URI selects; for a digest or a certificate, each until it is found."""
        if location.version:
            return self._fetch(location, location.version, timeout), None
        family = split_identifier(uri).replace({"select": "newest"})
        listed = key_versions.find_versions(self._session.get(), uri, location, timeout)
        enabled = [each for each in listed if each.enabled]
        if certificate is None and "spki-sha256" not in uri:
            infos = [key_versions.listing_info(uri, location, each) for each in enabled]
            info, settles_at = choose_one(family, infos)
            version = info.uri.get("version")
            return self._fetch(location, version, timeout, is_newest=version == listed[0].version), settles_at
        fetched: list[KeyVersion] = []
        infos = []
        for each in enabled:
            fetched.append(self._fetch(location, each.version, timeout, is_newest=each is listed[0]))
            infos.append(fetched[-1].info(uri, location.name))
            if is_decided(family, infos, certificate):
                break
        info, settles_at = choose_one(family, infos, certificate)
        return fetched[infos.index(info)], settles_at

    def _version_infos(self, uri: KeyUri, location: KeyLocation, timeout: float) -> list[KeyInfo]:
        if location.version:
            return [self._fetch(location, location.version, timeout).info(uri, location.name)]
        found = key_versions.find_versions(self._session.get(), uri, location, timeout)
        enabled = [each.version for each in found if each.enabled]
        return [self._fetch(location, version, timeout).info(uri, location.name) for version in enabled]

    def _fetch(self, location: KeyLocation, version: str, timeout: float, *, is_newest: bool = False) -> KeyVersion:
        session = self._session.get()
        exact = location._replace(version=version)
        operation = Operation(f"reading the {location.kind}", exact, f"{location.kind}s/get", READER_ROLE)
        with session.performing(operation, timeout):
            found = key_versions.fetch_version(session, location, version, is_newest=is_newest)
        if not found.enabled:
            raise KeyUnusable(
                f"This version of the {location.kind} {location.name} is disabled.",
                hint=enabling_hint(location, version),
            )
        return found

    def _list_versions_of(self, uri: KeyUri) -> list[KeyInfo]:
        location = _require_supported_location(uri)
        infos = self._version_infos(uri, location, _LISTING_TIMEOUT)
        if not location.is_certificate:
            return infos
        policy = self._policy(location, _LISTING_TIMEOUT)
        return [dataclasses.replace(each, exportable=policy.exportable, advice=policy.advice) for each in infos]

    def _policy(self, location: KeyLocation, timeout: float) -> PolicySettings:
        """Read what applies to all versions of a certificate; return an empty policy if reading it is denied."""
        session = self._session.get()
        operation = Operation("reading the certificate policy", location, "certificates/get", READER_ROLE)
        with contextlib.suppress(AccessDenied), session.performing(operation, timeout):
            return key_versions.fetch_policy(session, location)
        return PolicySettings()

    @staticmethod
    def _has_versions(session: Session, location: KeyLocation) -> bool:
        return bool(key_versions.list_versions(session, location))

    def _uris_of_all(self, uri: KeyUri) -> Iterator[KeyUri]:
        """Yield a URI for each certificate, and for each key that is not a certificate's."""
        session, certificates = self._session.get(), set()
        if not is_managed_hsm(vault_url(uri)):
            for each in key_versions.limit_listing(session.certificates.list_properties_of_certificates()):
                certificates.add(each.name)
                yield uri.replace({"certificate": each.name})
        for key in key_versions.limit_listing(session.keys.list_properties_of_keys()):
            if not key.managed and key.name not in certificates:
                yield uri.replace({"key": key.name})


def _disabled(session: Session, uri: KeyUri) -> list[UnusableKey]:
    location = _require_supported_location(uri)
    found = [each for each in key_versions.list_versions(session, location) if not each.enabled]
    wanted = [each for each in found if location.version in (None, each.version)]
    return [
        UnusableKey(str(pin_version(uri, location.name, each.version)), "The version is disabled.") for each in wanted
    ]


def _require_supported_location(uri: KeyUri) -> KeyLocation:
    location = location_of(uri)
    if location.is_certificate and is_managed_hsm(location.vault):
        raise ConfigurationError(
            "A Managed HSM cannot store certificates.", hint="Write key=, and certificate-file=.", uri=uri
        )
    return location


def _already_exists(uri: KeyUri, location: KeyLocation) -> KeyExists:
    return KeyExists(
        f"{location.kind.capitalize()} already exists: {location.name} in {location.vault}.",
        hint="Choose another name, or add a version: --further.",
        uri=uri,
    )


def _signed_request(key: StoredKey, subject: str) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    signing = wrap(key.public_key, lambda *what: key.sign(*what, timeout=OWN_TIMEOUT))
    return request(signing, subject).public_bytes(Encoding.DER)
