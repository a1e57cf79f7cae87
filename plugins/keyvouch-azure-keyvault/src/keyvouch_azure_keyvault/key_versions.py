"""The versions of certificates and keys, as the SDK returns them."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from azure.core.exceptions import ResourceNotFoundError
from azure.keyvault.certificates import CertificatePolicyAction, WellKnownIssuerNames

from keyvouch.algorithms import CRYPTOGRAPHY, ELLIPTIC_CURVES, elliptic_curve, key_type
from keyvouch.certificate import load_certificates
from keyvouch.errors import KeyUnusable, StoreUnavailable
from keyvouch.store import KeyInfo
from keyvouch_azure_keyvault.error_translation import READER_ROLE, Operation, enabling_hint, key_not_found
from keyvouch_azure_keyvault.uri_attributes import is_version, pin_version

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PublicKey
    from keyvouch.uri import KeyUri
    from keyvouch_azure_keyvault.session import Session
    from keyvouch_azure_keyvault.uri_attributes import KeyLocation

_AUTO_RENEW_ADVICE = (
    "The vault renews the certificate {0} automatically (AutoRenew). Entra ID refuses the new version"
    " (AADSTS700027) until it is registered on the app, unless the app trusts subject and issuer (send-x5c)."
    " To renew it yourself, set actionType to EmailContacts in its policy:"
    " az keyvault certificate show --vault-name {vault} --name {0} --query policy > policy.json, then"
    " az keyvault certificate set-attributes --vault-name {vault} --name {0} --policy @policy.json"
)
T = TypeVar("T")
_LONGEST_LISTING = 100_000
"""Maximum number of entries in one listing."""
_FIRST_YEAR, _LAST_YEAR = 1970, 2900
_EARLIEST = dt.datetime.min.replace(tzinfo=dt.UTC)
_UNKNOWN_KEY_TYPE = "unknown"
"""The type of a key in a listing, which the service does not report."""


@dataclass(frozen=True)
class KeyVersion:
    """One version of a certificate or key, as it was fetched."""

    version: str
    public_key: PublicKey
    chain: tuple[Certificate, ...]
    created: dt.datetime | None
    not_before: dt.datetime | None
    not_after: dt.datetime | None
    enabled: bool
    exportable: bool | None
    hsm: bool | None = None
    """Whether an HSM protects the key; None for a certificate, whose policy says it."""
    policy: PolicySettings | None = None
    """The certificate's policy, if it was fetched too."""

    def info(self, uri: KeyUri, name: str) -> KeyInfo:
        """Return the entry for a listing; its URI is that of exactly this version."""
        exact = pin_version(uri, name, self.version)
        found = KeyInfo.from_chain(exact, self.public_key, self.chain, created=self.created, exportable=self.exportable)
        return dataclasses.replace(found, not_before=self.not_before, not_after=self.not_after)  # as the vault decides


@dataclass(frozen=True)
class VersionProperties:
    """The properties of a version, as in a listing and in each response."""

    version: str
    enabled: bool
    created: dt.datetime | None
    not_before: dt.datetime | None
    not_after: dt.datetime | None


def read_properties(found: Any) -> VersionProperties:
    """Check the SDK's properties, whose models accept anything. Raises `StoreUnavailable`, and what the SDK raises."""
    return VersionProperties(
        version_of(found),
        found.enabled is True,
        _read_time(found.created_on),
        _read_time(found.not_before),
        _read_time(found.expires_on),
    )


def version_of(found: Any) -> str:
    """Return the version in the SDK's properties. Raises `StoreUnavailable` if there is none."""
    if not is_version(found.version):
        raise StoreUnavailable(
            "The vault returned an identifier without a version.",
            hint="Check that vault= leads to Key Vault, and not to a proxy.",
        )
    return str(found.version)


def _read_time(value: Any) -> dt.datetime | None:
    if value is None:
        return None
    if not isinstance(value, dt.datetime) or value.tzinfo is None or not _FIRST_YEAR <= value.year <= _LAST_YEAR:
        raise StoreUnavailable(
            "The vault returned an invalid time.", hint="Check that vault= leads to Key Vault, and not to a proxy."
        )
    return value


@dataclass(frozen=True)
class PolicySettings:
    """What a certificate's policy says about all its versions."""

    exportable: bool | None = None
    advice: tuple[str, ...] = ()
    hsm: bool | None = None
    """Whether an HSM protects the keys."""


def fetch_policy(session: Session, location: KeyLocation) -> PolicySettings:
    """Fetch a certificate's policy. Raises azure-core's errors."""
    return _read_policy(session.certificates.get_certificate_policy(location.name), location)


def _read_policy(found: Any, location: KeyLocation) -> PolicySettings:
    # The vault cannot renew a certificate without an issuer.
    renews = found.issuer_name != WellKnownIssuerNames.unknown and any(
        each.action == CertificatePolicyAction.auto_renew for each in found.lifetime_actions or ()
    )
    exportable = found.exportable if isinstance(found.exportable, bool) else None
    advice = (_AUTO_RENEW_ADVICE.format(location.name, vault=_vault_name(location.vault)),) if renews else ()
    kind = _key_type(found)
    return PolicySettings(exportable, advice, _is_hsm(kind) if kind else None)


def _vault_name(vault: str) -> str:
    return (urlsplit(vault).hostname or "").partition(".")[0]


def list_versions(session: Session, location: KeyLocation) -> list[VersionProperties]:
    """Return the properties of each version, including disabled ones; an empty list if the name does not exist.

    Raises `StoreUnavailable`, and what the SDK raises.
    """
    try:
        listed: Iterable[Any] = (
            session.certificates.list_properties_of_certificate_versions(location.name)
            if location.is_certificate
            else session.keys.list_properties_of_key_versions(location.name)
        )
        return [read_properties(each) for each in limit_listing(listed)]
    except ResourceNotFoundError as error:
        if error.error is None:  # not the service's error format: another server responded
            raise
        return []


def limit_listing(listed: Iterable[T], maximum: int = _LONGEST_LISTING) -> Iterator[T]:
    """Yield the entries of a listing. Raises `StoreUnavailable` after `maximum`, because pages could form a loop."""
    for number, each in enumerate(listed):
        if number == maximum:
            raise StoreUnavailable(
                f"The vault lists more than {maximum:,} entries.",
                hint="Check that vault= leads to Key Vault, and not to a proxy.",
            )
        yield each


def listing_info(uri: KeyUri, location: KeyLocation, properties: VersionProperties) -> KeyInfo:
    """Return what a listing says about a version, which is enough to choose the newest."""
    return KeyInfo(
        pin_version(uri, location.name, properties.version),
        _UNKNOWN_KEY_TYPE,
        not_before=properties.not_before,
        not_after=properties.not_after,
        created=properties.created,
        has_certificate=location.is_certificate,
    )


def fetch_version(session: Session, location: KeyLocation, version: str, *, is_newest: bool = False) -> KeyVersion:
    """Fetch one version; if `is_newest` and it still is, with the policy, which saves a request for that.

    Raises azure-core's errors, `KeyUnusable` if it cannot sign, `StoreUnavailable`.
    """
    if not location.is_certificate:
        return read_key(session.keys.get_key(location.name, version))
    if is_newest:
        newest: Any = session.certificates.get_certificate(location.name)
        if newest.properties.version == version:
            return dataclasses.replace(_read_certificate(newest), policy=_read_policy(newest.policy, location))
    return _read_certificate(session.certificates.get_certificate_version(location.name, version))


@CRYPTOGRAPHY
def _read_certificate(found: Any) -> KeyVersion:
    if not found.cer:
        raise KeyUnusable(
            "The certificate has not been issued yet: its request is pending.",
            hint="Run: keyvouch install FILE --key URI, with the certificate that the CA issues.",
        )
    leaf = load_certificates(bytes(found.cer), f"the certificate {found.name}")[0]
    public_key: Any = leaf.public_key()
    _require_signing_key(public_key)
    properties = read_properties(found.properties)
    return KeyVersion(
        properties.version,
        public_key,
        (leaf,),
        properties.created,
        leaf.not_valid_before_utc,
        leaf.not_valid_after_utc,
        properties.enabled,
        None,
    )


@CRYPTOGRAPHY
def read_key(found: Any) -> KeyVersion:
    """Read a key that the SDK has fetched. Raises `KeyUnusable` if it cannot sign, `StoreUnavailable`."""
    properties = read_properties(found.properties)
    if found.key_operations is not None and "sign" not in [str(getattr(x, "value", x)) for x in found.key_operations]:
        raise KeyUnusable(
            f"The key {found.name} does not permit signing.",
            hint="Run: keyvouch new --key URI, which creates a key with the operation `sign`.",
        )
    return KeyVersion(
        properties.version,
        _public_key(found),
        (),
        properties.created,
        properties.not_before,
        properties.not_after,
        properties.enabled,
        bool(found.properties.exportable),
        _is_hsm(_key_type(found)),
    )


def _key_type(found: Any) -> str:
    """Return the `kty` of a key or of a certificate policy; empty if there is none."""
    return str(getattr(found.key_type, "value", found.key_type) or "")


def _is_hsm(kind: str) -> bool:
    return kind.endswith("-HSM")


def _public_key(found: Any) -> PublicKey:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    jwk = found.key
    kind = _key_type(found)
    name = str(getattr(jwk.crv, "value", jwk.crv))
    curve = elliptic_curve(name) if name in ELLIPTIC_CURVES else None
    try:
        if kind.startswith("RSA"):
            return rsa.RSAPublicNumbers(int.from_bytes(jwk.e), int.from_bytes(jwk.n)).public_key()
        if kind.startswith("EC") and curve is not None:
            return ec.EllipticCurvePublicNumbers(int.from_bytes(jwk.x), int.from_bytes(jwk.y), curve).public_key()
    except (TypeError, ValueError) as error:
        raise KeyUnusable(
            f"The public key of {found.name} is invalid.",
            hint="Run: keyvouch new --key URI, which creates another key.",
        ) from error
    raise KeyUnusable(
        f"Unsupported key type: {found.name} is {kind[:20] or 'of an unknown type'}.",
        hint="Run: keyvouch new --key URI, which creates an RSA key.",
    )


def _require_signing_key(public_key: Any) -> None:
    key_type(public_key)  # raises `KeyUnusable` for unknown types


def find_versions(session: Session, uri: KeyUri, location: KeyLocation, timeout: float) -> list[VersionProperties]:
    """Return the properties of all versions, newest first. Raises `KeyNotFound`; `KeyUnusable` if none is enabled."""
    description = f"listing the {location.kind}'s versions"
    with session.performing(Operation(description, location, f"{location.kind}s/list", READER_ROLE), timeout):
        found = list_versions(session, location)
    if not found:
        raise key_not_found(location, uri)
    if not any(each.enabled for each in found):
        raise KeyUnusable(
            f"All versions of the {location.kind} {location.name} are disabled.",
            hint=enabling_hint(location, found[-1].version),
            uri=uri,
        )
    return sorted(found, key=lambda each: each.created or _EARLIEST, reverse=True)
