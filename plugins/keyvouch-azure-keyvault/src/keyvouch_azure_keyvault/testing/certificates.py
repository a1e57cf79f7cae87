"""Certificates as the vault makes them: policies, requests, self-signed certificates, and PKCS#12."""

import calendar
import datetime as dt
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import pkcs12

from keyvouch_azure_keyvault.testing.objects import PrivateKey, Version
from keyvouch_azure_keyvault.testing.refusals import bad, invalid

PKCS12 = "application/x-pkcs12"
ISSUERS = ("Self", "Unknown")
"""Self-signing, and signing of requests elsewhere. Other issuers have to be set up in the service."""
BACKDATED = dt.timedelta(minutes=10)
SERVER_AND_CLIENT = ["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"]
# The key usage bits: from the service's names to those of `cryptography`.
USAGES = {
    "digitalSignature": "digital_signature",
    "nonRepudiation": "content_commitment",
    "keyEncipherment": "key_encipherment",
    "dataEncipherment": "data_encipherment",
    "keyAgreement": "key_agreement",
    "keyCertSign": "key_cert_sign",
    "cRLSign": "crl_sign",
    "encipherOnly": "encipher_only",
    "decipherOnly": "decipher_only",
}


def complete_policy(policy: dict[str, Any]) -> dict[str, Any]:
    """Return the policy with the service's defaults for missing members. Raises `Refusal`."""
    given = {name: value for name, value in policy.items() if value is not None and name not in ("id", "attributes")}
    issuer = (given.get("issuer") or {}).get("name")
    if issuer not in ISSUERS:
        raise invalid("policy.issuer.name")
    key = {"exportable": True, "kty": "RSA", "reuse_key": False} | (given.get("key_props") or {})
    key |= (
        {"crv": key.get("crv", "P-256")}
        if str(key["kty"]).startswith("EC")
        else {"key_size": key.get("key_size", 2048)}
    )
    x509_properties = {
        "ekus": SERVER_AND_CLIENT,
        "key_usage": ["digitalSignature", "keyEncipherment"],
        "validity_months": 12,
        "basic_constraints": {"ca": False},
    } | (given.get("x509_props") or {})
    _subject(x509_properties)
    _extensions(x509_properties)
    if not isinstance(x509_properties["validity_months"], int) or x509_properties["validity_months"] < 1:
        raise invalid("policy.x509_props.validity_months")
    renewal = {"trigger": {"lifetime_percentage": 80}, "action": {"action_type": "AutoRenew"}}
    return {
        "key_props": key,
        "secret_props": given.get("secret_props") or {"contentType": PKCS12},
        "x509_props": x509_properties,
        "lifetime_actions": given.get("lifetime_actions") or [renewal],
        "issuer": {"name": issuer},
    }


def make_request(key: PrivateKey, policy: dict[str, Any]) -> bytes:
    """Return a certificate request in DER for this policy."""
    properties = policy["x509_props"]
    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(properties))
    for extension, critical in _extensions(properties):
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def self_sign(key: PrivateKey, policy: dict[str, Any]) -> x509.Certificate:
    """Return a self-signed certificate for this policy: valid from ten minutes ago, for the policy's months."""
    properties = policy["x509_props"]
    subject, now = _subject(properties), dt.datetime.now(dt.UTC).replace(microsecond=0)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - BACKDATED)
    builder = builder.not_valid_after(_months_later(now, properties["validity_months"]))
    for extension, critical in _extensions(properties):
        builder = builder.add_extension(extension, critical=critical)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return builder.add_extension(identifier, critical=False).sign(key, hashes.SHA256())


def read_pfx(data: bytes, password: str | None) -> tuple[PrivateKey, x509.Certificate, list[x509.Certificate]]:
    """Return the key, its certificate and the other certificates. Raises `Refusal`."""
    try:
        key, leaf, others = pkcs12.load_key_and_certificates(data, password.encode() if password else None)
    except ValueError:
        raise bad("The specified PKCS#12 X.509 certificate content can not be read.") from None
    if not isinstance(key, PrivateKey) or leaf is None:
        raise bad("The specified PKCS#12 X.509 certificate content has no RSA or EC key with its certificate.")
    return key, leaf, others


def write_pfx(name: str, version: Version) -> bytes:
    """Return the value of the certificate's secret: PKCS#12, with the key only if it is exportable."""
    key = version.private_key if version.exportable else None
    none = serialization.NoEncryption()
    return pkcs12.serialize_key_and_certificates(name.encode(), key, version.certificate, version.issuers, none)


def _subject(properties: dict[str, Any]) -> x509.Name:
    try:
        text = properties["subject"] if properties.get("subject") else ""
        named = x509.Name.from_rfc4514_string(text.replace("cn=", "CN="))
    except (ValueError, AttributeError):
        raise invalid("policy.x509_props.subject") from None
    if not text and not properties.get("sans"):
        raise invalid("policy.x509_props.subject", "A subject or subject alternative names are needed.")
    return named


def _extensions(properties: dict[str, Any]) -> list[tuple[x509.ExtensionType, bool]]:
    usage = properties["key_usage"]
    if not isinstance(usage, list) or not set(usage) <= USAGES.keys():
        raise invalid("policy.x509_props.key_usage")
    bits = {bit: name in usage for name, bit in USAGES.items()}
    try:
        ekus = [x509.ObjectIdentifier(each) for each in properties["ekus"]]
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.KeyUsage(**bits), True),
            (x509.BasicConstraints(ca=bool(properties["basic_constraints"].get("ca")), path_length=None), False),
        ]
    except (ValueError, TypeError, AttributeError):
        raise invalid("policy.x509_props") from None
    if ekus:
        extensions.append((x509.ExtendedKeyUsage(ekus), False))
    sans = properties.get("sans") or {}
    names = [*map(x509.DNSName, sans.get("dns_names") or []), *map(x509.RFC822Name, sans.get("emails") or [])]
    if names:
        extensions.append((x509.SubjectAlternativeName(names), False))
    return extensions


def _months_later(moment: dt.datetime, months: int) -> dt.datetime:
    years, month = divmod(moment.month - 1 + months, 12)
    year, month = moment.year + years, month + 1
    return moment.replace(year=year, month=month, day=min(moment.day, calendar.monthrange(year, month)[1]))
