"""The versions of certificates and keys, as the SDK describes them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from azure.core.exceptions import ResourceNotFoundError
from azure.keyvault.certificates import CertificatePolicyAction, WellKnownIssuerNames

from keyvouch.algorithms import CRYPTOGRAPHY, key_type
from keyvouch.certificate import load_certificates, spki_sha256
from keyvouch.errors import KeyNotFound, KeyUnusable, StoreUnavailable
from keyvouch.store import KeyInfo
from keyvouch_azure_keyvault.addresses import is_version, pinned
from keyvouch_azure_keyvault.failures import Doing

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PublicKey
    from keyvouch.uri import KeyUri
    from keyvouch_azure_keyvault.addresses import Place
    from keyvouch_azure_keyvault.session import Session

_RENEWS = (
    "The vault renews the certificate {0} by itself (AutoRenew). A new version has a new thumbprint, and Entra ID"
    " refuses it (AADSTS700027) until it is registered on the app, unless the app trusts subject and issuer (send-x5c)."
    " To renew it yourself, set actionType to EmailContacts in its policy:"
    " az keyvault certificate show --vault-name {vault} --name {0} --query policy > policy.json, then"
    " az keyvault certificate set-attributes --vault-name {vault} --name {0} --policy @policy.json"
)
T = TypeVar("T")
_MOST_LISTED = 100_000
"""Maximum number of entries in one listing."""
_FIRST_YEAR, _LAST_YEAR = 1970, 2900
_UNTOLD = "unknown"
"""The type of a key in a listing, which the service does not report."""


@dataclass(frozen=True)
class Version:
    """One version of a certificate or key, as it was fetched."""

    number: str
    public_key: PublicKey
    chain: tuple[Certificate, ...]
    created: dt.datetime | None
    not_before: dt.datetime | None
    not_after: dt.datetime | None
    enabled: bool
    exportable: bool | None

    def info(self, uri: KeyUri, name: str) -> KeyInfo:
        """Return the entry for a listing; its URI is that of exactly this version."""
        leaf = self.chain[0] if self.chain else None
        return KeyInfo(
            pinned(uri, name, self.number),
            key_type(self.public_key),
            spki_sha256(self.public_key),
            leaf.subject.rfc4514_string() if leaf else None,
            self.not_before,
            self.not_after,
            self.created,
            self.exportable,
            bool(leaf),
        )


@dataclass(frozen=True)
class Properties:
    """The properties of a version, as in a listing and in each response."""

    version: str
    enabled: bool
    created: dt.datetime | None
    not_before: dt.datetime | None
    not_after: dt.datetime | None


def read_properties(found: Any) -> Properties:
    """Check the SDK's properties, whose models accept anything. Raises `StoreUnavailable`, and what the SDK raises."""
    return Properties(
        number_of(found),
        found.enabled is True,
        _moment(found.created_on),
        _moment(found.not_before),
        _moment(found.expires_on),
    )


def number_of(found: Any) -> str:
    """Return the version in the SDK's properties. Raises `StoreUnavailable` if there is none."""
    if not is_version(found.version):
        raise StoreUnavailable(
            "The vault returned an identifier without a version.",
            hint="Check that the address leads to Key Vault, and not to a proxy.",
        )
    return str(found.version)


def _moment(value: Any) -> dt.datetime | None:
    if value is None:
        return None
    if not isinstance(value, dt.datetime) or value.tzinfo is None or not _FIRST_YEAR <= value.year <= _LAST_YEAR:
        raise StoreUnavailable(
            "The vault returned an invalid time.", hint="Check that the address leads to Key Vault, and not to a proxy."
        )
    return value


@dataclass(frozen=True)
class Policy:
    """What applies to all versions of a certificate."""

    exportable: bool | None = None
    advice: tuple[str, ...] = ()


def policy(session: Session, place: Place) -> Policy:
    """Fetch a certificate's policy. Raises azure-core's errors."""
    found = session.certificates.get_certificate_policy(place.name)
    # The vault cannot renew a certificate that it has no issuer for.
    renews = found.issuer_name != WellKnownIssuerNames.unknown and any(
        each.action == CertificatePolicyAction.auto_renew for each in found.lifetime_actions or ()
    )
    exportable = found.exportable if isinstance(found.exportable, bool) else None
    return Policy(exportable, (_RENEWS.format(place.name, vault=_name_of(place.vault)),) if renews else ())


def _name_of(vault: str) -> str:
    return (urlsplit(vault).hostname or "").partition(".")[0]


def list_versions(session: Session, place: Place) -> list[Properties]:
    """Return the properties of each version, including disabled ones; an empty list if the name does not exist.

    Raises `StoreUnavailable`, and what the SDK raises.
    """
    try:
        listed: Iterable[Any] = (
            session.certificates.list_properties_of_certificate_versions(place.name)
            if place.is_certificate
            else session.keys.list_properties_of_key_versions(place.name)
        )
        return [read_properties(each) for each in at_most(listed)]
    except ResourceNotFoundError as error:
        if error.error is None:  # not the service's error format: another server responded
            raise
        return []


def at_most(listed: Iterable[T], most: int = _MOST_LISTED) -> Iterator[T]:
    """Yield the entries of a listing. Raises `StoreUnavailable` after `most`, because pages could form a loop."""
    for number, each in enumerate(listed):
        if number == most:
            raise StoreUnavailable(
                f"The vault lists more than {most:,} entries.",
                hint="Check that the address leads to Key Vault, and not to a proxy.",
            )
        yield each


def light_info(uri: KeyUri, place: Place, properties: Properties) -> KeyInfo:
    """Return what a listing says about a version, which is enough to choose the newest."""
    return KeyInfo(
        pinned(uri, place.name, properties.version),
        _UNTOLD,
        not_before=properties.not_before,
        not_after=properties.not_after,
        created=properties.created,
        has_certificate=place.is_certificate,
    )


def fetch(session: Session, place: Place, version: str) -> Version:
    """Fetch one version. Raises azure-core's errors, `KeyUnusable` if it cannot sign, `StoreUnavailable`."""
    if place.is_certificate:
        return _of_certificate(session.certificates.get_certificate_version(place.name, version))
    return of_key(session.keys.get_key(place.name, version))


@CRYPTOGRAPHY
def _of_certificate(found: Any) -> Version:
    if not found.cer:
        raise KeyUnusable(
            "The certificate is still being made: its request is pending.",
            hint="Install what the authority has issued: keyvouch install.",
        )
    leaf = load_certificates(bytes(found.cer), f"the certificate {found.name}")[0]
    public_key: Any = leaf.public_key()
    _require_signing(public_key)
    properties = read_properties(found.properties)
    return Version(
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
def of_key(found: Any) -> Version:
    """Read a key that the SDK has fetched. Raises `KeyUnusable` if it cannot sign, `StoreUnavailable`."""
    properties = read_properties(found.properties)
    if found.key_operations is not None and "sign" not in [str(getattr(x, "value", x)) for x in found.key_operations]:
        raise KeyUnusable(
            f"The key {found.name} is not for signing.", hint="Make one with the operation `sign`: keyvouch new."
        )
    return Version(
        properties.version,
        _public_key(found),
        (),
        properties.created,
        properties.not_before,
        properties.not_after,
        properties.enabled,
        bool(found.properties.exportable),
    )


def _public_key(found: Any) -> PublicKey:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    jwk = found.key
    kind = str(getattr(found.key_type, "value", found.key_type) or "")
    curves = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
    curve = curves.get(str(getattr(jwk.crv, "value", jwk.crv)))
    try:
        if kind.startswith("RSA"):
            return rsa.RSAPublicNumbers(int.from_bytes(jwk.e), int.from_bytes(jwk.n)).public_key()
        if kind.startswith("EC") and curve is not None:
            return ec.EllipticCurvePublicNumbers(int.from_bytes(jwk.x), int.from_bytes(jwk.y), curve).public_key()
    except (TypeError, ValueError) as error:
        raise KeyUnusable(f"The public key of {found.name} is invalid.", hint="Make another key.") from error
    raise KeyUnusable(
        f"The key {found.name} is of a type that does not sign: {kind[:20] or 'unknown'}.",
        hint="Make an RSA or EC key.",
    )


def _require_signing(public_key: Any) -> None:
    key_type(public_key)  # raises `KeyUnusable` for unknown types


def wanted(session: Session, uri: KeyUri, place: Place, timeout: float) -> list[Properties]:
    """Return the properties of the enabled versions that match the URI. Raises `KeyNotFound`, `KeyUnusable`."""
    permission = f"{place.kind}s/list"
    role = "Key Vault Reader"
    with session.asking(timeout, Doing(f"listing the {place.kind}'s versions", place, permission, role)):
        found = list_versions(session, place)
    if not found:
        raise KeyNotFound(
            f"There is no {place.kind} {place.name} in {place.vault}.",
            hint=f"List what is there: keyvouch keys, without {place.kind}=. One that was deleted may be recovered: "
            f"az keyvault {place.kind} recover.",
            uri=uri,
        )
    enabled = [each for each in found if each.enabled]
    if not enabled:
        raise KeyUnusable(
            f"All versions of the {place.kind} {place.name} are disabled.",
            hint=f"Enable one: az keyvault {place.kind} set-attributes --enabled true --id"
            f" {place.vault}/{place.kind}s/{place.name}/{found[-1].version}",
            uri=uri,
        )
    return enabled
