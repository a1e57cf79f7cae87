"""What the test vault holds: keys and certificates in versions, by the rules of the service's documentation."""

from __future__ import annotations

import base64
import calendar
import datetime as dt
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from azure_http import Refusal

CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
ES_CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
RECOVERY = {"recoveryLevel": "Recoverable+Purgeable", "recoverableDays": 90}
USAGES = {"digitalSignature": "digital_signature", "keyEncipherment": "key_encipherment"}


def encode(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass
class Version:
    """One version of a key, and of the certificate of the same name where there is one."""

    private_key: Any
    kind: str
    operations: tuple[str, ...]
    version: str = field(default_factory=lambda: uuid.uuid4().hex)
    certificate: x509.Certificate | None = None
    enabled: bool = True
    not_before: int | None = None
    expires: int | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    def attributes(self) -> dict[str, Any]:
        told = {"enabled": self.enabled, "created": self.created, "updated": self.created, **RECOVERY}
        begin, end = self.not_before, self.expires
        if self.certificate:
            begin = int(self.certificate.not_valid_before_utc.timestamp())
            end = int(self.certificate.not_valid_after_utc.timestamp())
        return told | {name: value for name, value in (("nbf", begin), ("exp", end)) if value is not None}

    def sign(self, algorithm: str, digest: bytes) -> bytes:
        self._require_usable()
        size = HASHES.get(algorithm[2:])
        if size is None or len(digest) != size.digest_size:
            raise bad("The digest has a wrong length for the algorithm")
        chosen = utils.Prehashed(size)
        key = self.private_key
        if isinstance(key, ec.EllipticCurvePrivateKey):
            if ES_CURVES.get(algorithm) != key.curve.name:
                raise bad(f"Key and signing algorithm are incompatible. Key {self.kind}, and algorithm {algorithm}")
            r, s = utils.decode_dss_signature(key.sign(digest, ec.ECDSA(chosen)))
            width = (key.key_size + 7) // 8
            return r.to_bytes(width) + s.to_bytes(width)
        if algorithm.startswith("PS"):
            octets: bytes = key.sign(digest, padding.PSS(padding.MGF1(size), size.digest_size), chosen)
        elif algorithm.startswith("RS"):
            octets = key.sign(digest, padding.PKCS1v15(), chosen)
        else:
            raise bad(f"Key and signing algorithm are incompatible. Key {self.kind}, and algorithm {algorithm}")
        return octets

    def _require_usable(self) -> None:
        now = time.time()
        attributes = self.attributes()
        if not self.enabled:
            raise Refusal(403, "Forbidden", "Operation sign is not allowed on a disabled key.", "KeyDisabled")
        if now > attributes.get("exp", now):
            raise Refusal(403, "Forbidden", "Operation sign is not allowed on an expired key.", "KeyExpired")
        if now < attributes.get("nbf", now):
            raise Refusal(403, "Forbidden", "Operation sign is not allowed on a not yet valid key.", "KeyNotYetValid")
        if "sign" not in self.operations:
            raise Refusal(403, "Forbidden", "Operation sign is not permitted on this key.", "KeyOperationForbidden")


@dataclass
class Item:
    """All versions of one name, and of a certificate its policy and pending operation."""

    name: str
    versions: list[Version] = field(default_factory=list)
    policy: dict[str, Any] | None = None
    pending: dict[str, Any] | None = None
    pending_key: Version | None = None

    @property
    def newest(self) -> Version:
        return self.versions[-1]


def make_version(properties: dict[str, Any], former: Version | None, operations: Any = ("sign", "verify")) -> Version:
    """Make a key as `key_props` or the parameters of a key say; with `reuse_key` that of the former version."""
    kind = properties.get("kty", "RSA")
    if properties.get("reuse_key") and former:
        return Version(former.private_key, former.kind, former.operations)
    if kind in ("RSA", "RSA-HSM"):
        size = properties.get("key_size", 2048)
        if size not in (2048, 3072, 4096):
            raise bad("key_size")
        return Version(rsa.generate_private_key(65537, size), kind, tuple(operations))
    if kind in ("EC", "EC-HSM"):
        curve = CURVES.get(properties.get("crv", "P-256"))
        if curve is None:
            raise bad("crv")
        return Version(ec.generate_private_key(curve), kind, tuple(operations))
    raise bad("kty")


def public_jwk(version: Version) -> dict[str, Any]:
    numbers = version.private_key.public_key().public_numbers()
    told: dict[str, Any] = {"kty": version.kind, "key_ops": list(version.operations)}
    if isinstance(numbers, rsa.RSAPublicNumbers):
        return told | {"n": encode(octets_of(numbers.n)), "e": encode(octets_of(numbers.e))}
    size = (version.private_key.key_size + 7) // 8
    point = {"x": encode(numbers.x.to_bytes(size)), "y": encode(numbers.y.to_bytes(size))}
    return told | {"crv": f"P-{version.private_key.key_size}", **point}


def private_key_of(jwk: dict[str, Any]) -> Any:
    """Read the private key of an imported JWK."""
    try:
        values = {
            name: int.from_bytes(decode(jwk[name])) for name in jwk if name not in ("kty", "crv", "key_ops", "kid")
        }
        if jwk["kty"].startswith("RSA"):
            public = rsa.RSAPublicNumbers(values["e"], values["n"])
            p, q, d, dp, dq, qi = (values[name] for name in ("p", "q", "d", "dp", "dq", "qi"))
            return rsa.RSAPrivateNumbers(p, q, d, dp, dq, qi, public).private_key()
        key = ec.derive_private_key(values["d"], CURVES[jwk["crv"]])
    except (KeyError, ValueError, AttributeError, TypeError):
        raise bad("key") from None
    numbers = key.public_key().public_numbers()
    if (numbers.x, numbers.y) != (values["x"], values["y"]):
        raise bad("key")
    return key


def make_request(version: Version, policy: dict[str, Any]) -> bytes:
    subject = _subject(policy)
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(version.private_key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def self_sign(version: Version, policy: dict[str, Any]) -> x509.Certificate:
    """Make the certificate that the service makes for the issuer Self: for months, and begun ten minutes ago."""
    subject, now = _subject(policy), dt.datetime.now(dt.UTC).replace(microsecond=0)
    properties = policy["x509_props"]
    builder = x509.CertificateBuilder(subject, subject, version.private_key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - dt.timedelta(minutes=10))
    builder = builder.not_valid_after(_months_later(now, properties.get("validity_months", 12)))
    if ekus := properties.get("ekus"):
        usage = x509.ExtendedKeyUsage([x509.ObjectIdentifier(each) for each in ekus])
        builder = builder.add_extension(usage, critical=False)
    return builder.sign(version.private_key, hashes.SHA256())


def _subject(policy: dict[str, Any]) -> x509.Name:
    try:
        return x509.Name.from_rfc4514_string(policy["x509_props"]["subject"])
    except (KeyError, ValueError):
        raise bad("policy.x509_props.subject") from None


def _months_later(moment: dt.datetime, months: int) -> dt.datetime:
    if not isinstance(months, int) or months < 1:
        raise bad("policy.x509_props.validity_months")
    years, month = divmod(moment.month - 1 + months, 12)
    year, month = moment.year + years, month + 1
    return moment.replace(year=year, month=month, day=min(moment.day, calendar.monthrange(year, month)[1]))


def octets_of(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8)


def bad(what: str) -> Refusal:
    return Refusal(400, "BadParameter", f"Property {what} has invalid value\r\n")
