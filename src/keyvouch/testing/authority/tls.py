"""A throwaway certificate authority, and the TLS certificate for loopback that it signs."""

import ipaddress
import os
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# P-256: generated in a millisecond, and supported by every client.
CURVE = ec.SECP256R1()

CA_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Certificates(NamedTuple):
    """A server's key and certificate for loopback, and the certificate of the CA that signed it; all in PEM."""

    ca: bytes
    server: bytes
    server_key: bytes


def make_certificates(names: Iterable[str] = ()) -> Certificates:
    """Make certificates for loopback and these DNS names; the CA's key is discarded, so it can sign nothing else."""
    ca_key, key = ec.generate_private_key(CURVE), ec.generate_private_key(CURVE)
    ca = _certify_ca(ca_key)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Certificates(_pem(ca), _pem(_certify_server(key, ca, ca_key, names)), private)


def make_context(folder: Path, names: Iterable[str] = ()) -> tuple[ssl.SSLContext, Path]:
    """Return the server's TLS context, and the file with the CA certificate (PEM) that its clients must trust.

    `names`: additional DNS names besides `localhost`. None of the keys remains on disk.
    """
    made = make_certificates(names)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, folder / "server.pem", made.server + made.server_key)
    ca_file = folder / "ca.pem"
    _write(ca_file, made.ca)
    return context, ca_file


def _load(context: ssl.SSLContext, file: Path, pair: bytes) -> None:
    # `ssl` only reads keys from files.
    _write(file, pair)
    try:
        context.load_cert_chain(file)
    finally:
        file.unlink()


def _write(file: Path, data: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _certify_ca(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = _name("keyvouch: throwaway CA")
    builder = _builder(name, name, key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(CA_USAGE, critical=True)
    return builder.sign(key, hashes.SHA256())


def _certify_server(
    key: ec.EllipticCurvePrivateKey, ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey, names: Iterable[str]
) -> x509.Certificate:
    builder = _builder(_name("localhost"), ca.subject, key.public_key())
    # Python 3.13 verifies strictly: it also requires the authority key identifier.
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    addresses = [x509.IPAddress(ipaddress.ip_address(text)) for text in ("127.0.0.1", "::1")]
    named = x509.SubjectAlternativeName([*(x509.DNSName(each) for each in ("localhost", *names)), *addresses])
    builder = builder.add_extension(identifier, critical=False).add_extension(named, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(ca_key, hashes.SHA256())


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=30))
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
