"""Find the certificate that signed an assertion, and validate it by its thumbprint or its chain."""

import base64
import binascii
import itertools
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

from keyvouch.testing.authority.aadsts import AadstsError
from keyvouch.testing.authority.directory import App
from keyvouch.testing.authority.jose import from_base64url

THUMBPRINTS: dict[str, hashes.HashAlgorithm] = {
    "x5t#S256": hashes.SHA256(),
    "x5t": hashes.SHA1(),  # noqa: S303 - as RFC 7515 defines it; it only finds a certificate, the signature proves it
}


def find_certificate(header: dict[str, object], app: App) -> x509.Certificate:
    """Return the certificate of the header, if it is currently valid for the application. Raises AadstsError."""
    chain = _read_chain(header)
    by_chain = bool(chain and app.trusts)
    # Entra ID does not fall back to the registered certificates if there is a chain.
    certificate = _find_by_chain(chain, app) if by_chain else _find_by_thumbprint(header, app)
    if chain and not (chain[0] == certificate and _matches(header, certificate)):
        # Entra ID's code for this is not known. RFC 7515, section 4.1.6: the first one is the signer's.
        raise AadstsError(50027, reason="The thumbprint does not match the first certificate in x5c.")
    if not by_chain:
        _check_registered(certificate, header, app)
    return certificate


def signature_error(header: dict[str, object], certificate: x509.Certificate) -> AadstsError:
    """Return the error for a signature that does not match the certificate."""
    return _key_error(
        "Client assertion failed signature validation.",
        "The provided signature value did not match the expected signature value.",
        _sent_thumbprint(header),
        certificate,
    )


def _read_chain(header: dict[str, object]) -> list[x509.Certificate]:
    texts = header.get("x5c", [])
    if not isinstance(texts, list):
        texts = [texts]
    try:
        return [_read_certificate(text) for text in texts]
    except (ValueError, x509.DuplicateExtension, UnsupportedAlgorithm):
        raise AadstsError(50027, reason="The x5c header is not a list of certificates.") from None


def _read_certificate(text: object) -> x509.Certificate:
    if not isinstance(text, str):
        raise ValueError("not a string")  # noqa: TRY004 - an invalid value, whatever its source
    # MSAL keeps the line breaks of a PEM file; apart from those it must be valid base64.
    certificate = x509.load_der_x509_certificate(base64.b64decode("".join(text.split()), validate=True))
    # Otherwise these are parsed later, and would fail then.
    _ = certificate.extensions, certificate.public_key()
    return certificate


# --- by thumbprint ------------------------------------------------------------------------------------------------


def _find_by_thumbprint(header: dict[str, object], app: App) -> x509.Certificate:
    given = any(name in header for name in THUMBPRINTS)
    if not given and "kid" not in header:
        raise AadstsError(5002723)
    for certificate in app.certificates:
        if given and _matches(header, certificate):
            return certificate
    raise _key_error(
        "The certificate with identifier used to sign the client assertion is not registered on application.",
        "The key was not found.",
        _sent_thumbprint(header),
        app_id=app.client_id,
    )


def _matches(header: dict[str, object], certificate: x509.Certificate) -> bool:
    """Return True if every thumbprint in the header matches this certificate."""
    return all(
        _read_thumbprint(header[name]) == certificate.fingerprint(used)
        for name, used in THUMBPRINTS.items()
        if name in header
    )


def _read_thumbprint(text: object) -> bytes | None:
    # MSAL pads its thumbprints, which Entra ID accepts. It does not accept plain base64.
    try:
        return from_base64url(text.rstrip("=")) if isinstance(text, str) else None
    except ValueError:
        return None


def _sent_thumbprint(header: dict[str, object]) -> str | None:
    """Return the header's thumbprint as Entra ID shows it, in hexadecimal; None if it cannot be read."""
    value = next((_read_thumbprint(header[name]) for name in THUMBPRINTS if name in header), None)
    return binascii.hexlify(value).decode("ascii").upper() if value else None


def _check_registered(certificate: x509.Certificate, header: dict[str, object], app: App) -> None:
    if app.revoked(certificate):
        raise AadstsError(7000214)
    if not _valid_now(certificate):
        expired = certificate.not_valid_after_utc < datetime.now(UTC)
        raise _key_error(
            "Client assertion contains an invalid signature.",
            "The key used is expired." if expired else "The key used is not yet valid.",
            _sent_thumbprint(header),
            certificate,
        )


def _key_error(
    text: str,
    reason: str,
    thumbprint: str | None,
    certificate: x509.Certificate | None = None,
    app_id: str | None = None,
) -> AadstsError:
    details = f", Thumbprint of key used by client: '{thumbprint}'" if thumbprint else ""
    if certificate:
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        details += f", Found key 'Start={start:%m/%d/%Y %H:%M:%S}, End={end:%m/%d/%Y %H:%M:%S}'"
    if app_id:
        details += (
            ", Please visit the Azure Portal, Graph Explorer or directly use MS Graph to see configured keys for "
            f"app Id '{app_id}'."
        )
    return AadstsError(700027, text=text, reason=reason, details=details)


def _valid_now(certificate: x509.Certificate) -> bool:
    return certificate.not_valid_before_utc <= datetime.now(UTC) <= certificate.not_valid_after_utc


# --- by subject and issuer ----------------------------------------------------------------------------------------


def _find_by_chain(chain: list[x509.Certificate], app: App) -> x509.Certificate:
    leaf = chain[0]
    issuers = [issuer for subject, issuer in app.trusts if subject == leaf.subject]
    if not issuers:
        raise AadstsError(700030, subjects=leaf.subject.rfc4514_string())
    path = next((path for issuer in issuers if (path := _path(chain, issuer))), None)
    if path is None:
        raise AadstsError(7000213)
    if any(app.revoked(certificate) for certificate in path):
        raise AadstsError(7000214)
    if not all(_valid_now(certificate) for certificate in path):
        raise AadstsError(1000502)
    return leaf


def _path(chain: list[x509.Certificate], issuer: x509.Certificate) -> list[x509.Certificate] | None:
    """Return the certificates from the leaf to the trusted issuer, or None if the chain does not lead to it.

    The issuer itself may be omitted, and certificates above it may follow.
    """
    whole = chain if issuer in chain else [*chain, issuer]
    pairs = itertools.pairwise(whole)
    if whole[0] == issuer or _is_ca(whole[0], 0) or not all(_issued(child, parent) for child, parent in pairs):
        return None
    path = whole[: whole.index(issuer) + 1]
    return path if all(_is_ca(parent, below) for below, parent in enumerate(path[1:])) else None


def _issued(child: x509.Certificate, parent: x509.Certificate) -> bool:
    try:
        child.verify_directly_issued_by(parent)
    except (InvalidSignature, TypeError, ValueError):
        return False
    return True


def _is_ca(certificate: x509.Certificate, below: int) -> bool:
    """Return True if it may sign certificates, with `below` CA certificates between it and the leaf."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound as missing:
        if missing.oid == x509.BasicConstraints.oid:
            return False
        usage = True
    return constraints.ca and usage and (constraints.path_length is None or constraints.path_length >= below)
