"""Create, import, certify and delete keys and certificates through the SDK's clients, one change at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from azure.core.exceptions import ResourceNotFoundError
from azure.keyvault.certificates import (
    CertificateContentType,
    CertificatePolicy,
    CertificatePolicyAction,
    KeyUsageType,
    LifetimeAction,
    WellKnownIssuerNames,
)
from azure.keyvault.keys import JsonWebKey

from keyvouch.algorithms import CRYPTOGRAPHY, key_type
from keyvouch.certificate import parse_subject, spki_sha256, to_der
from keyvouch.errors import CertificateMismatch, NotSupported, StoreUnavailable
from keyvouch.https import OWN_TIMEOUT
from keyvouch_azure_keyvault.key_versions import limit_listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PrivateKey, PublicKey
    from keyvouch.store import KeySpec
    from keyvouch_azure_keyvault.session import Session
    from keyvouch_azure_keyvault.uri_attributes import KeyLocation

KEY_TYPES: dict[str, dict[str, Any]] = {
    "RSA-2048": {"key_type": "RSA", "key_size": 2048},
    "RSA-3072": {"key_type": "RSA", "key_size": 3072},
    "RSA-4096": {"key_type": "RSA", "key_size": 4096},
    "P-256": {"key_type": "EC", "key_curve_name": "P-256"},
    "P-384": {"key_type": "EC", "key_curve_name": "P-384"},
    "P-521": {"key_type": "EC", "key_curve_name": "P-521"},
}
"""The service's names for the key types."""
_CLIENT_AUTHENTICATION = "1.3.6.1.5.5.7.3.2"
_DAYS_PER_MONTH = 30.44
"""Days per month: certificates created by the service are valid for a whole number of months."""
_CONTACTS_NOTIFIED_AT = 80
"""Percentage of a certificate's lifetime after which its contacts are notified: the only action besides renewal."""
_COMPLETED = "completed"
"""The status of an operation that succeeded."""
_MAX_POLLS = 60
"""Maximum number of polls until a purge has finished, with a pause between them."""


def _certificate_policy(kind: str, issuer: str, subject: str, days: int, **options: Any) -> CertificatePolicy:
    properties = dict(KEY_TYPES[kind])
    if options.pop("hsm", False):
        properties["key_type"] += "-HSM"
    return CertificatePolicy(
        issuer_name=issuer,
        subject=parse_subject(subject).rfc4514_string(),
        validity_in_months=max(1, round(days / _DAYS_PER_MONTH)),
        key_usage=[KeyUsageType.digital_signature],
        enhanced_key_usage=[_CLIENT_AUTHENTICATION],
        content_type=CertificateContentType.pkcs12,
        # Set because the service's default is to renew, and then no application knows the newest version.
        lifetime_actions=[
            LifetimeAction(CertificatePolicyAction.email_contacts, lifetime_percentage=_CONTACTS_NOTIFIED_AT)
        ],
        **{"exportable": False, "reuse_key": False, **properties, **options},
    )


def create_certificate(session: Session, location: KeyLocation, spec: KeySpec, former: set[str], *, hsm: bool) -> Any:
    """Create a key and its self-signed certificate; return the SDK's certificate.

    `former`: the versions that existed before.
    """
    policy = _certificate_policy(
        spec.key_type, WellKnownIssuerNames.self, spec.subject, spec.days, exportable=spec.exportable, hsm=hsm
    )
    poller = session.certificates.begin_create_certificate(location.name, policy)
    poller.wait(OWN_TIMEOUT)
    if not poller.done():
        raise StoreUnavailable(
            "Timed out waiting for the vault to create the certificate.",
            hint="Run: keyvouch keys --key URI, after a few minutes.",
        )
    operation = _find_operation(session, location)
    # Not the poller's result: it is None if the operation was completed when it began.
    if poller.status() != _COMPLETED:
        raise _creation_failed(operation, poller.status())
    return _find_created(session, location, former, _requested_key_digest(operation))


def _find_operation(session: Session, location: KeyLocation) -> Any:
    """Return the certificate's pending operation, or None if there is none: the service keeps completed ones."""
    try:
        return session.certificates.get_certificate_operation(location.name)
    except ResourceNotFoundError:
        return None


def _creation_failed(operation: Any, status: str) -> NotSupported:
    details = (getattr(operation.error, "message", None) or operation.status_details) if operation is not None else None
    return NotSupported(
        f"The vault did not create the certificate: {details or status}.",
        hint="Correct the setting that the message mentions.",
    )


def _requested_key_digest(operation: Any) -> str | None:
    """Return the digest of the key in the operation's request, or None if the server does not return the request."""
    try:
        return _csr_key_digest(operation.csr) if operation is not None and operation.csr else None
    except ValueError:  # Key Vault emulators return placeholders
        return None


def _find_created(session: Session, location: KeyLocation, former: set[str], digest: str | None) -> Any:
    """Return the certificate of the requested key, since another program may have created a newer one by now.

    If no certificate has the key of the request, which some Key Vault emulators make up, the only new version is meant.
    """
    newest = session.certificates.get_certificate(location.name)
    if digest is not None and _has_key(newest, digest):
        return newest
    listed = limit_listing(session.certificates.list_properties_of_certificate_versions(location.name))
    created = [each.version for each in listed if each.version not in former]
    found = [session.certificates.get_certificate_version(location.name, str(version)) for version in created]
    matching = [each for each in found if digest is not None and _has_key(each, digest)] or found
    if len(matching) == 1:
        return matching[0]
    raise StoreUnavailable(
        f"The vault created the certificate {location.name}, but its version was not found.",
        hint="Run: keyvouch keys --key URI, and use the new version's URI. Do not create another.",
    )


def create_key(session: Session, location: KeyLocation, spec: KeySpec, *, hsm: bool) -> Any:
    """Create a key without a certificate; return the SDK's key."""
    options: dict[str, Any] = {"hardware_protected": hsm, "key_operations": ["sign", "verify"]}
    if spec.exportable:
        raise NotSupported(
            "A key without a certificate cannot be exportable.", hint="Omit exportable, or write certificate=."
        )
    properties = KEY_TYPES[spec.key_type]
    if "key_size" in properties:
        return session.keys.create_rsa_key(location.name, size=properties["key_size"], **options)
    return session.keys.create_ec_key(location.name, curve=properties["key_curve_name"], **options)


def request_certificate(
    session: Session, location: KeyLocation, spec: KeySpec, public_key: PublicKey | None, *, hsm: bool
) -> bytes:
    """Create a certificate request in the service, for the existing key if one is given; return it in DER.

    Raises `CertificateMismatch` if the service uses another key: it always uses that of the newest version.
    """
    kind = key_type(public_key) if public_key is not None else spec.key_type
    policy = _certificate_policy(
        kind, WellKnownIssuerNames.unknown, spec.subject, spec.days, reuse_key=public_key is not None, hsm=hsm
    )
    session.certificates.begin_create_certificate(location.name, policy)
    csr = bytes(session.certificates.get_certificate_operation(location.name).csr or b"")
    if not csr:
        raise StoreUnavailable(
            "The vault's response does not contain a certificate request.",
            hint="Check that vault= leads to Key Vault, and not to a proxy.",
        )
    if public_key is not None and _csr_key_digest(csr) != spki_sha256(public_key):
        session.certificates.delete_certificate_operation(location.name)
        raise CertificateMismatch(
            "The vault creates certificate requests only for the newest version's key, and this is another key.",
            hint="Omit version=, or name the newest version.",
        )
    return csr


def pending_key_digest(session: Session, location: KeyLocation) -> str | None:
    """Return the digest of the key whose request is pending, or None if no request is pending."""
    operation = _find_operation(session, location)
    if operation is None:
        return None
    waits = (operation.status or "").lower() == "inprogress" and operation.csr
    return _csr_key_digest(operation.csr) if waits else None


def merge_certificate(session: Session, location: KeyLocation, chain: Sequence[Certificate]) -> Any:
    """Merge the chain that was issued for the service's request; return the SDK's certificate."""
    return session.certificates.merge_certificate(location.name, [to_der(each) for each in chain])


def import_certificate(
    session: Session, location: KeyLocation, key: PrivateKey, chain: Sequence[Certificate], *, exportable: bool
) -> Any:
    """Import a key with its certificate; return the SDK's certificate."""
    policy = CertificatePolicy(
        issuer_name=WellKnownIssuerNames.unknown,
        content_type=CertificateContentType.pkcs12,
        lifetime_actions=[
            LifetimeAction(CertificatePolicyAction.email_contacts, lifetime_percentage=_CONTACTS_NOTIFIED_AT)
        ],
        **{"exportable": exportable, "reuse_key": False, **KEY_TYPES[key_type(key)]},
    )
    return session.certificates.import_certificate(location.name, _pfx(key, chain), policy=policy)


def import_key(session: Session, location: KeyLocation, key: Any, *, hsm: bool) -> Any:
    """Import a key without a certificate; return the SDK's key."""
    return session.keys.import_key(location.name, _private_jwk(key), hardware_protected=hsm)


def disable(session: Session, location: KeyLocation) -> None:
    """Disable a version, which cannot sign until it is enabled again."""
    client: Any = session.certificates if location.is_certificate else session.keys
    getattr(client, f"update_{location.kind}_properties")(location.name, location.version, enabled=False)


def delete(session: Session, location: KeyLocation, *, purge: bool) -> None:
    """Delete a certificate with its key, or a key, and purge it if `purge` is true."""
    client: Any = session.certificates if location.is_certificate else session.keys
    kind = location.kind
    getattr(client, f"begin_delete_{kind}")(location.name).wait(OWN_TIMEOUT)
    if purge:
        getattr(client, f"purge_deleted_{kind}")(location.name)
        _wait_until_purged(session, getattr(client, f"get_deleted_{kind}"), location.name)


def _wait_until_purged(session: Session, find: Any, name: str) -> None:
    for _ in range(_MAX_POLLS):
        try:
            find(name)
        except ResourceNotFoundError:
            return
        session.pause()
    raise StoreUnavailable("Timed out waiting for the purge to finish.", hint="Try again later.")


@CRYPTOGRAPHY
def _csr_key_digest(csr: Any) -> str:
    from cryptography.x509 import load_der_x509_csr

    public_key: Any = load_der_x509_csr(bytes(csr)).public_key()
    return spki_sha256(public_key)


@CRYPTOGRAPHY
def _has_key(certificate: Any, digest: str) -> bool:
    from cryptography.x509 import load_der_x509_certificate

    if not certificate.cer:  # pending
        return False
    public_key: Any = load_der_x509_certificate(bytes(certificate.cer)).public_key()
    return spki_sha256(public_key) == digest


@CRYPTOGRAPHY
def _pfx(key: Any, chain: Sequence[Certificate]) -> bytes:
    """Return PKCS#12 without a password: TLS protects it in transit, and a password sent with it would add nothing."""
    from cryptography.hazmat.primitives.serialization import NoEncryption, pkcs12

    return pkcs12.serialize_key_and_certificates(b"keyvouch", key, chain[0], list(chain[1:]), NoEncryption())


@CRYPTOGRAPHY
def _private_jwk(key: Any) -> JsonWebKey:
    numbers = key.private_numbers()
    if key_type(key).startswith("RSA"):
        values = {
            "n": numbers.public_numbers.n,
            "e": numbers.public_numbers.e,
            "d": numbers.d,
            "p": numbers.p,
            "q": numbers.q,
            "dp": numbers.dmp1,
            "dq": numbers.dmq1,
            "qi": numbers.iqmp,
        }
        members = {name: value.to_bytes((value.bit_length() + 7) // 8) for name, value in values.items()}
        return JsonWebKey(kty="RSA", key_ops=["sign", "verify"], **members)
    size = (key.curve.key_size + 7) // 8
    point = {"x": numbers.public_numbers.x, "y": numbers.public_numbers.y, "d": numbers.private_value}
    members = {name: value.to_bytes(size) for name, value in point.items()}
    return JsonWebKey(kty="EC", crv=f"P-{key.curve.key_size}", key_ops=["sign", "verify"], **members)
