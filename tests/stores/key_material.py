"""Make the files that the tests open, with the `openssl` command and `cryptography`, and verify signatures."""

import datetime as dt
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from keyvouch.secrets import SecretResolver
from keyvouch.store import KeyUri
from keyvouch.stores.file import FileStore, PemStore, PfxStore
from keyvouch.stores.key_entries import FileKey
from keyvouch.uri import parse_uri

PASSWORD = "correct horse"


def openssl(*arguments: object, stdin: bytes = b"", from_stderr: bool = False, folder: Path | None = None) -> bytes:
    """Return the command's output, run in this folder; with `from_stderr`, its standard error."""
    command = ["openssl", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    return done.stderr if from_stderr else done.stdout


@cache
def new_key(kind: str = "P-256", which: int = 0) -> Any:
    """Return the same key for the same arguments; `which` distinguishes keys of one type."""
    match kind.split("-"):
        case ["RSA", bits]:
            return rsa.generate_private_key(65537, int(bits))
        case ["P", bits]:
            return ec.generate_private_key(getattr(ec, f"SECP{bits}R1")())
        case ["Ed25519"]:
            return ed25519.Ed25519PrivateKey.generate()
        case ["Ed448"]:
            return ed448.Ed448PrivateKey.generate()
        case ["DSA"]:
            return dsa.generate_private_key(2048)
    return ec.generate_private_key(getattr(ec, kind)())


@cache
def certify(key: Any, name: str = "app", issuer: Any = None, issuer_name: str = "authority") -> x509.Certificate:
    """Return a certificate for the key, self-signed or signed by the issuer's key."""
    begin = dt.datetime.now(dt.UTC).replace(microsecond=0)
    signer = issuer or key
    builder = x509.CertificateBuilder(
        subject_name=_distinguished_name(name),
        issuer_name=_distinguished_name(issuer_name if issuer else name),
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=begin,
        not_valid_after=begin + dt.timedelta(days=30),
    )
    edwards = isinstance(signer, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    return builder.sign(signer, None if edwards else hashes.SHA256())


def _distinguished_name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def pem_of(*things: Any) -> bytes:
    """Return private keys as unencrypted PKCS#8, and certificates."""
    return b"".join(
        thing.public_bytes(Encoding.PEM)
        if isinstance(thing, x509.Certificate)
        else thing.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        for thing in things
    )


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def openssl_pfx(path: Path, *options: object, key: Any = None, password: str = PASSWORD, chain: Any = None) -> Path:
    """Make a PFX with `openssl pkcs12 -export` and these options."""
    key = key or new_key()
    source = write(path.with_suffix(".source"), pem_of(key, *(chain or [certify(key)])))
    openssl("pkcs12", "-export", "-in", source, "-out", path, "-passout", f"pass:{password}", *options)
    source.unlink()
    return path


def make_pss_key(folder: Path, digest: str = "", salt: int = 0) -> Path:
    """Make an RSASSA-PSS key, restricted to a hash if one is given, with its certificate behind it."""
    options = [f"rsa_pss_keygen_md:{digest}", f"rsa_pss_keygen_mgf1_md:{digest}", f"rsa_pss_keygen_saltlen:{salt}"]
    key = folder / "pss.key"
    given = [each for option in options for each in ("-pkeyopt", option)] if digest else []
    openssl("genpkey", "-quiet", "-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048", *given, "-out", key)
    certificate = openssl("req", "-x509", "-key", key, "-subj", "/CN=pss")
    return write(folder / "pss.pem", key.read_bytes() + certificate)


def der(tag: int, *contents: bytes) -> bytes:
    """Encode one value in DER."""
    content = b"".join(contents)
    if len(content) < 0x80:
        return bytes((tag, len(content))) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def integer(value: int) -> bytes:
    """Encode an INTEGER in DER."""
    return der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def to_ber(data: bytes) -> bytes:
    """Encode every constructed value with indefinite length, and long octet strings in two pieces."""
    ber = b""
    while data:
        tag, length, begin = data[0], data[1], 2
        if length > 0x80:
            begin += length - 0x80
            length = int.from_bytes(data[2:begin], "big")
        content, whole, data = data[begin : begin + length], data[: begin + length], data[begin + length :]
        if tag & 0x20:
            ber += bytes((tag, 0x80)) + to_ber(content) + b"\0\0"
        elif tag == 0x04 and length > 1000:
            ber += b"\x24\x80" + _octet_string(content[:500]) + _octet_string(content[500:]) + b"\0\0"
        else:
            ber += whole
    return ber


def _octet_string(content: bytes) -> bytes:
    return b"\x04\x82" + len(content).to_bytes(2, "big") + content


def uri(text: str) -> KeyUri:
    return parse_uri(text, _class(text).attributes)


def store(text: str, secrets: SecretResolver | None = None) -> FileStore:
    return _class(text)(uri(text), secrets or SecretResolver())


def _class(text: str) -> type[FileStore]:
    return PfxStore if text.startswith("pfx:") else PemStore


def open_key(text: object, certificate: x509.Certificate | None = None) -> FileKey:
    return store(str(text)).open(uri(str(text)), certificate, timeout=1)


def load_with_openssl(path: Path, password: str = PASSWORD) -> Any:
    """Return the private key of a PFX, read by the `openssl` command."""
    return load_pem_private_key(
        openssl("pkcs12", "-in", path, "-passin", f"pass:{password}", "-nocerts", "-nodes"), None
    )
