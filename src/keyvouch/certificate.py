"""X.509 certificates: thumbprints, chain order, validity, and new certificates signed with any key."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import itertools
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from keyvouch._formats import certificate_data
from keyvouch._formats.identify import Identified, identify
from keyvouch._system.text import shell_quoted
from keyvouch.algorithms import CRYPTOGRAPHY, is_too_large
from keyvouch.errors import (
    CertificateExpired,
    CertificateMismatch,
    CertificateMissing,
    CertificateNotYetValid,
    ConfigurationError,
    KeyUnusable,
)

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PrivateKey, PublicKey

    AllowedHash = hashes.SHA256 | hashes.SHA384 | hashes.SHA512

log = logging.getLogger("keyvouch")

HashName = Literal["sha256", "sha1"]

_MOST_CERTIFICATES = 500
"""Maximum number in one file; a bundle of all public authorities has 150."""
_LONGEST_CHAIN = 10
_RSASSA_PSS = "1.2.840.113549.1.1.10"
"""The type of an RSA key that is restricted to PSS (RFC 4055)."""
_BEGIN = b"-----BEGIN CERTIFICATE-----"
_MOST_SHOWN = 3
"""Maximum number of unreadable certificates that an error lists."""


class CertificateStatus(msgspec.Struct, frozen=True):
    """State of a certificate at one time, and its validity period."""

    state: Literal["valid", "expired", "not-yet-valid", "missing"]
    not_before: dt.datetime | None = None
    not_after: dt.datetime | None = None


def thumbprint(certificate: Certificate, hash_name: HashName = "sha256") -> str:
    """Return the hash of the certificate's DER in upper-case hexadecimal, as Entra ID and Windows show it."""
    return fingerprint(certificate, hash_name).hex().upper()


@CRYPTOGRAPHY
def to_der(certificate: Certificate) -> bytes:
    """Return the certificate in DER."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


def fingerprint(certificate: Certificate, hash_name: HashName = "sha256") -> bytes:
    """Return the hash of the certificate's DER."""
    return hashlib.new(hash_name, to_der(certificate), usedforsecurity=False).digest()


@CRYPTOGRAPHY
def spki_sha256(public_key: PublicKey) -> str:
    """Return the SHA-256 of the key's DER SubjectPublicKeyInfo in lower-case hexadecimal (RFC 7469, section 2.4)."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


@CRYPTOGRAPHY
def certificate_spki(certificate: Certificate) -> str:
    """Return `spki_sha256` of a certificate's key; empty if `cryptography` cannot read the key, or it is too large."""
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        key = certificate.public_key()
        if is_too_large(key):
            return ""
        if certificate.public_key_algorithm_oid.dotted_string == _RSASSA_PSS:  # `cryptography` loads it as plain RSA
            return certificate_data.key_digest(to_der(certificate)) or ""
        return spki_sha256(key)  # type: ignore[arg-type]
    except (UnsupportedAlgorithm, ValueError):  # in a bundle, one certificate must not make the others fail
        return ""


def belongs_to(certificate: Certificate, key_digest: str) -> bool:
    """Return True for the certificate of the key with this `spki_sha256`.

    A store may describe an RSASSA-PSS key, by which its certificate's digest differs, as a plain RSA key.
    """
    if certificate_spki(certificate) == key_digest:
        return True
    restricted = certificate.public_key_algorithm_oid.dotted_string == _RSASSA_PSS
    return restricted and spki_sha256(certificate.public_key()) == key_digest  # type: ignore[arg-type]  # RSA


def require_few(count: int, source: object) -> None:
    """Raise `KeyUnusable` if a file has so many certificates that finding a chain among them takes too long."""
    if count > _MOST_CERTIFICATES:
        raise KeyUnusable(
            f"Too many certificates in {source}: {count:,}; the limit is {_MOST_CERTIFICATES}.",
            hint="Keep only the key's own certificate and those of its issuers.",
        )


@contextlib.contextmanager
def parsing() -> Iterator[None]:
    """Turn what `cryptography` raises for malformed data (Rust panics, OpenSSL errors) into a ValueError."""
    try:
        yield
    except BaseException as error:  # a panic is not an `Exception`
        if type(error).__name__ in {"PanicException", "InternalError"}:
            raise ValueError(str(error)) from error
        raise


class UnreadableCertificate(msgspec.Struct, frozen=True):
    """A certificate that `cryptography` refuses; others in the same file can be used."""

    name: str
    """Its subject, as far as it can be read; empty if it cannot."""
    reason: str
    spki_sha256: str | None
    """As `spki_sha256` of its key; None if it cannot be determined."""

    def __str__(self) -> str:
        which = f"the certificate of {self.name}" if self.name else "a certificate"
        return f"{which} cannot be read: {self.reason}"


@CRYPTOGRAPHY
def read_certificates(ders: Iterable[bytes]) -> tuple[list[Certificate], list[UnreadableCertificate]]:
    """Return the certificates that can be read, and the others."""
    found: list[Certificate] = []
    unreadable = []
    for der in ders:
        try:
            found.append(_read_one(der))
        except ValueError as error:
            name, digest = certificate_data.describe(der), certificate_data.key_digest(der)
            unreadable.append(UnreadableCertificate(name, str(error).rstrip("."), digest))
    return found, unreadable


def load_certificates(data: bytes, source: object) -> list[Certificate]:
    """Read certificates from PEM (other blocks are skipped), one DER certificate or PKCS#7; errors name `source`.

    A certificate that cannot be read is skipped with a warning. Raises `CertificateMissing` if none can be read, and
    `KeyUnusable` if there are too many.
    """
    ders = list(itertools.islice(certificate_data.find_certificates(data), _MOST_CERTIFICATES + 1))
    require_few(max(len(ders), data.count(_BEGIN)), source)
    readable, unreadable = read_certificates(ders)
    if not readable:
        raise no_certificate(unreadable, source, data)
    for each in unreadable:
        log.warning("Skipped in %s: %s.", source, each)
    return readable


def no_certificate(
    unreadable: Sequence[UnreadableCertificate], source: object, data: bytes = b""
) -> CertificateMissing:
    """Return the error for a file without a certificate that can be read."""
    reasons = "; ".join(map(str, unreadable[:_MOST_SHOWN]))
    hint = "Provide PEM or DER with RSA keys of at most 8192 bits; check it with `openssl x509 -in FILE`."
    found = identify(data, source) if data else None
    if found and found.what != "a certificate":
        what = "a private key" if found.what == "PEM" else found.what.removesuffix(_WITHOUT_KEY)
        reasons, hint = f"it is {what}", _hint_instead_of(found, source)
    return CertificateMissing(f"No valid certificate found in {source}{': ' if reasons else ''}{reasons}.", hint=hint)


_KEYS = ("PEM", "a private key in DER", "an encrypted private key in DER", "a public key", "an SSH public key")
_WITHOUT_KEY = ", but without a private key"


def _hint_instead_of(found: Identified, source: object) -> str:
    """Return what to do about a file that was expected to contain a certificate."""
    if found.what == "a PFX":
        return f"Extract its certificates: openssl pkcs12 -in {shell_quoted(source)} -nokeys -out NEW.pem"
    if "request" in found.what.lower():
        return "Specify the certificate that the certificate authority issued for this request."
    if found.what in _KEYS or found.what.endswith(_WITHOUT_KEY):
        return "Specify the file with the certificate."
    return found.hint


def _read_one(der: bytes) -> Certificate:
    """Return the certificate. Raises ValueError with the reason if it, or a field used here, cannot be read."""
    from cryptography import x509

    try:
        with parsing(), _quiet(der):
            found = x509.load_der_x509_certificate(der)
            # `cryptography` parses most fields only on access.
            _ = found.subject, found.issuer, found.not_valid_before_utc, found.not_valid_after_utc
    except (TypeError, x509.InvalidVersion) as error:
        raise ValueError(str(error)) from error
    if not certificate_spki(found):
        raise ValueError("unsupported key")
    return found


@contextlib.contextmanager
def _quiet(der: bytes) -> Iterator[None]:
    """Hide the warning of `cryptography` about a serial number; only then, since filters belong to all threads."""
    if certificate_data.has_positive_serial(der):
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def is_readable(certificate: Certificate) -> bool:
    """Return True if all fields used here can be read: `cryptography` parses most of them only on access."""
    try:
        _read_one(to_der(certificate))
    except ValueError:
        return False
    return True


@CRYPTOGRAPHY
def order_chain(certificates: Iterable[Certificate], public_key: PublicKey) -> tuple[Certificate, ...]:
    """Return the key's certificate, its issuer, and so on, leaving out certificates that are not in the chain.

    If several certificates belong to the key, the one that expires last is used; of those that are valid now, if there
    are any. Returns an empty tuple if there are no certificates. Raises `CertificateMismatch` if there are
    certificates, but none for this key.
    """
    pool = list(certificates)
    if not pool:
        return ()
    wanted = spki_sha256(public_key)
    leaves = [certificate for certificate in pool if belongs_to(certificate, wanted)]
    if not leaves:
        name = find_leaves(pool)[0].subject.rfc4514_string() or "an empty subject"
        others = ", and neither does any other one given" if len(pool) > 1 else ""
        raise CertificateMismatch(
            f"The certificate of {name} does not belong to the key{others}.",
            hint="Use the certificate that was issued for this key.",
        )
    leaf = max(leaves, key=lambda each: (_is_valid(each), each.not_valid_after_utc))
    return (leaf, *find_issuers(leaf, lambda _: pool))


def find_leaves(certificates: Sequence[Certificate]) -> list[Certificate]:
    """Return the certificates, beginning with those that are most likely not an authority's, else in this order."""
    issuers = {each.issuer for each in certificates if each.issuer != each.subject}
    return sorted(certificates, key=lambda each: (each.subject in issuers, _is_authority(each)))


def missing_issuer(chain: Sequence[Certificate]) -> str | None:
    """Return the name of the issuer that a chain ends without; None if it ends with a root, or is empty."""
    if not chain or chain[-1].issuer == chain[-1].subject:
        return None
    return chain[-1].issuer.rfc4514_string()


@CRYPTOGRAPHY  # which parses the extensions of a certificate on first access, under a lock
def _is_authority(certificate: Certificate) -> bool:
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, TypeError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return False


def find_issuers(
    certificate: Certificate, candidates: Callable[[Certificate], Iterable[Certificate]]
) -> tuple[Certificate, ...]:
    """Return a certificate's issuer, its issuer, and so on, as far as they are found.

    `candidates` returns certificates among which the issuer of its argument may be.
    """
    chain = [certificate]
    while chain[-1].subject != chain[-1].issuer and len(chain) < _LONGEST_CHAIN:
        known = list(candidates(chain[-1]))
        issuers = [each for each in known if each not in chain and is_issued_by(chain[-1], each)]
        if not issuers:
            break
        subjects = {each.subject for each in known}
        # Of a cross-signed authority's certificates, one that is valid, and whose own issuer is there.
        chain.append(max(issuers, key=lambda each: (_is_valid(each), each.issuer in subjects)))
    return tuple(chain[1:])


def _is_valid(certificate: Certificate) -> bool:
    return status([certificate]).state == "valid"


def is_issued_by(certificate: Certificate, issuer: Certificate) -> bool:
    """Return True if the issuer's key signed the certificate and the issuer's subject matches its issuer field."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


@CRYPTOGRAPHY
def check_chain(chain: Sequence[Certificate], public_key: PublicKey) -> None:
    """Raise `CertificateMismatch` if the first certificate is not the key's, or one is not issued by the next."""
    if not chain:
        return
    if not belongs_to(chain[0], spki_sha256(public_key)):
        raise CertificateMismatch(
            f"The certificate of {chain[0].subject.rfc4514_string()} does not belong to the key.",
            hint="Use the certificate that was issued for this key.",
        )
    for certificate, issuer in itertools.pairwise(chain):
        if not is_issued_by(certificate, issuer):
            raise CertificateMismatch(
                f"Invalid certificate chain: {certificate.subject.rfc4514_string()} was not issued by"
                f" {issuer.subject.rfc4514_string()}.",
                hint="Put the key's own certificate first, then the issuer of each, up to the root.",
            )


def status(chain: Sequence[Certificate], now: dt.datetime | None = None) -> CertificateStatus:
    """Return the validity of the chain's first certificate, now or at `now`."""
    if not chain:
        return CertificateStatus("missing")
    begin, end = chain[0].not_valid_before_utc, chain[0].not_valid_after_utc
    now = now or dt.datetime.now(dt.UTC)
    state: Literal["valid", "expired", "not-yet-valid"] = (
        "expired" if now > end else "not-yet-valid" if now < begin else "valid"
    )
    return CertificateStatus(state, begin, end)


def check_validity(certificate: Certificate, uri: object = None) -> None:
    """Raise `CertificateExpired` or `CertificateNotYetValid` if the certificate is not valid now."""
    found = status([certificate])
    name = certificate.subject.rfc4514_string()
    if found.state == "expired":
        raise CertificateExpired(
            f"The certificate of {name} expired at {found.not_after:%Y-%m-%d %H:%M} UTC.",
            hint="Make a new one (`keyvouch new`) and register it, or correct this machine's clock.",
            uri=uri,
        )
    if found.state == "not-yet-valid":
        raise CertificateNotYetValid(
            f"The certificate of {name} is not valid before {found.not_before:%Y-%m-%d %H:%M} UTC.",
            hint="Wait until then, or correct this machine's clock.",
            uri=uri,
        )


def parse_subject(text: str) -> x509.Name:
    """Parse a distinguished name (RFC 4514, `CN=app,O=Contoso`); a bare word is a common name.

    Raises `ConfigurationError` if it is invalid.
    """
    from cryptography import x509

    try:
        return x509.Name.from_rfc4514_string(text if "=" in text else f"CN={text}")
    except ValueError:
        raise ConfigurationError(
            f"Invalid subject {text!r}.",
            hint="Write CN=app or CN=app,O=Contoso (RFC 4514), with a CN of at most 64 characters.",
        ) from None


def self_signed(private_key: PrivateKey, subject: str, days: int) -> Certificate:
    """Make a certificate for signing in, valid from now, for digital signatures and client authentication.

    It is not back-dated, since the age of a key in a family is derived from it. Raises `ConfigurationError` if the
    subject or the number of days is invalid.
    """
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    name = parse_subject(subject)
    begin = dt.datetime.now(dt.UTC).replace(microsecond=0)
    try:
        end = begin + dt.timedelta(days=days)
    except OverflowError:
        end = begin - dt.timedelta.resolution
    if end < begin:
        raise ConfigurationError(f"Invalid validity period: {days} days.", hint="Specify 1 to 3650 days.")
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private_key.public_key()), critical=False)
    )
    return builder.sign(private_key, _signing_hash(private_key))


def request(private_key: PrivateKey, subject: str) -> x509.CertificateSigningRequest:
    """Make a certificate request (PKCS#10, RFC 2986) signed with the key. Raises like `parse_subject`."""
    from cryptography import x509

    builder = x509.CertificateSigningRequestBuilder().subject_name(parse_subject(subject))
    return builder.sign(private_key, _signing_hash(private_key))


def _signing_hash(private_key: PrivateKey) -> AllowedHash | None:
    """Return the hash that JOSE specifies for the key type, since a key in a store signs with no other."""
    from keyvouch.algorithms import algorithms_for, key_type

    algorithm = algorithms_for(key_type(private_key))[0]
    return algorithm.hash if algorithm.hash_name else None  # type: ignore[return-value]  # SHA-2, all of them
