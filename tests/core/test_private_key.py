"""A signer as a `cryptography` private key, for certificates, requests and JWTs, verified by others."""

from __future__ import annotations

import copy
import datetime as dt
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from keyvouch import certificate, open_signer
from keyvouch.errors import AlgorithmUnsupported, KeyChanged, NotSupported
from scripted_store import MESSAGE, Script, certify, new_key

KINDS = ("RSA-2048", "P-256", "P-384", "P-521", "Ed25519")
HASHES: dict[str, hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None] = {
    "RSA-2048": hashes.SHA256(),
    "P-256": hashes.SHA256(),
    "P-384": hashes.SHA384(),
    "P-521": hashes.SHA512(),
    "Ed25519": None,
}
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "app")])
PSS = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)


def openssl(*arguments: object) -> str:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return (done.stdout + done.stderr).decode()


def certificate_by(key: Any, hash_algorithm: Any, **options: Any) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(NAME, NAME, key.public_key(), 1, now, now + dt.timedelta(days=1))
    return builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(
        key, hash_algorithm, **options
    )


def write_pem(path: Path, thing: x509.Certificate | x509.CertificateSigningRequest) -> Path:
    path.write_bytes(thing.public_bytes(Encoding.PEM))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_certificate_is_signed_in_the_store(kind: str, tmp_path: Path) -> None:
    """`cryptography` signs a certificate with it; `cryptography` and `openssl` verify the result."""
    with Script(kind) as script, open_signer(script.uri) as signer:
        made = certificate_by(signer.private_key(), HASHES[kind])
    made.verify_directly_issued_by(made)
    path = write_pem(tmp_path / "app.crt", made)
    assert "OK" in openssl("verify", "-check_ss_sig", "-CAfile", path, path)


@pytest.mark.parametrize("kind", KINDS)
def test_request_is_signed_in_the_store(kind: str, tmp_path: Path) -> None:
    """`cryptography` signs a certificate request with it; `cryptography` and `openssl` verify the result."""
    with Script(kind) as script, open_signer(script.uri) as signer:
        made = x509.CertificateSigningRequestBuilder(NAME).sign(signer.private_key(), HASHES[kind])
    assert made.is_signature_valid
    assert "OK" in openssl("req", "-verify", "-noout", "-in", write_pem(tmp_path / "app.csr", made))


def test_certificate_with_pss(tmp_path: Path) -> None:
    """Certificates can be signed with RSA-PSS, too."""
    with Script("RSA-2048") as script, open_signer(script.uri) as signer:
        made = certificate_by(signer.private_key(), hashes.SHA256(), rsa_padding=PSS)
    made.verify_directly_issued_by(made)
    path = write_pem(tmp_path / "app.crt", made)
    assert "rsassaPss" in openssl("x509", "-noout", "-text", "-in", path)
    assert "OK" in openssl("verify", "-check_ss_sig", "-CAfile", path, path)


@pytest.mark.parametrize(
    "kind",
    ["RSA-2048", "P-256", "P-384", "P-521", "Ed25519"],
)
def test_renewal_with_keyvouch_certificate(kind: str) -> None:
    """`keyvouch.certificate` makes a self-signed certificate and a request with it."""
    with Script(kind) as script, open_signer(script.uri) as signer:
        made = certificate.self_signed(signer.private_key(), "CN=app", 30)
        made.verify_directly_issued_by(made)
        assert certificate.request(signer.private_key(), "CN=app").is_signature_valid


def test_expired_key_signs_its_renewal() -> None:
    """The holder of an expired certificate signs the request for its successor."""
    with Script(chain=[certify(new_key(), days=(-9, -1))]) as script, open_signer(script.uri) as signer:
        assert signer.certificate_status().state == "expired"
        assert certificate.request(signer.private_key(), "CN=app").is_signature_valid


@pytest.mark.parametrize(
    ("kind", "name"),
    [("RSA-2048", "PS256"), ("RSA-2048", "RS256"), ("P-256", "ES256"), ("P-521", "ES512"), ("Ed25519", "EdDSA")],
)
def test_pyjwt_accepts_it(kind: str, name: str) -> None:
    """PyJWT signs with it, and verifies with the public key."""
    with Script(kind) as script, open_signer(script.uri) as signer:
        token = jwt.encode({"sub": "app"}, signer.private_key(), name)
        assert jwt.decode(token, script.newest.private_key.public_key(), [name]) == {"sub": "app"}


@pytest.mark.parametrize("size", [256, 384, 512])
@pytest.mark.parametrize("scheme", ["PSS", "PSS with a number", "PKCS1v15"])
def test_rsa_schemes(scheme: str, size: int) -> None:
    """RSA signs with PSS and PKCS#1, with each JOSE hash."""
    digest = getattr(hashes, f"SHA{size}")()
    salt = size // 8 if scheme == "PSS with a number" else padding.PSS.DIGEST_LENGTH
    chosen = padding.PKCS1v15() if scheme == "PKCS1v15" else padding.PSS(padding.MGF1(digest), salt)
    with Script("RSA-2048") as script, open_signer(script.uri) as signer:
        key: Any = signer.private_key()
        script.newest.private_key.public_key().verify(key.sign(MESSAGE, chosen, digest), MESSAGE, chosen, digest)


@pytest.mark.parametrize(
    ("scheme", "algorithm"),
    [
        (padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH), hashes.SHA256()),
        (padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO), hashes.SHA256()),
        (padding.PSS(padding.MGF1(hashes.SHA256()), 20), hashes.SHA256()),
        (padding.PSS(padding.MGF1(hashes.SHA256()), 0), hashes.SHA256()),
        (padding.PSS(padding.MGF1(hashes.SHA1()), 32), hashes.SHA256()),  # noqa: S303
        (padding.PSS(padding.MGF1(hashes.SHA512()), 32), hashes.SHA256()),
        (padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None), hashes.SHA256()),
        (padding.PKCS1v15(), hashes.SHA1()),  # noqa: S303
        (padding.PKCS1v15(), hashes.SHA224()),
        (padding.PKCS1v15(), hashes.SHA3_256()),
        (padding.PKCS1v15(), utils.Prehashed(hashes.SHA256())),
        (PSS, utils.Prehashed(hashes.SHA256())),
    ],
)
def test_unsupported_rsa_scheme_is_rejected(scheme: Any, algorithm: Any) -> None:
    """A salt, mask or hash not used in JOSE, or a prehashed message, never reaches the store."""
    with Script("RSA-2048") as script, open_signer(script.uri) as signer:
        key: Any = signer.private_key()
        with pytest.raises(AlgorithmUnsupported):
            key.sign(MESSAGE, scheme, algorithm)
        assert script.count("sign") == 0


@pytest.mark.parametrize(
    "algorithm",
    [
        ec.ECDSA(hashes.SHA384()),
        ec.ECDSA(hashes.SHA1()),  # noqa: S303
        ec.ECDSA(utils.Prehashed(hashes.SHA256())),
        ec.ECDSA(hashes.SHA256(), deterministic_signing=True),
    ],
)
def test_unsupported_ec_scheme_is_rejected(algorithm: Any) -> None:
    """A hash not used with the curve in JOSE, a prehashed message, or a nonce option, is refused."""
    with Script() as script, open_signer(script.uri) as signer:
        key: Any = signer.private_key()
        with pytest.raises(AlgorithmUnsupported):
            key.sign(MESSAGE, algorithm)
        assert script.count("sign") == 0


@pytest.mark.parametrize("kind", KINDS)
def test_private_operations_raise(kind: str) -> None:
    """Everything that would reveal the private key, or use it otherwise, raises."""
    with Script(kind) as script, open_signer(script.uri) as signer:
        key: Any = signer.private_key()
        acts: list[Callable[[], object]] = [
            lambda: key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            key.private_bytes_raw,
            key.private_numbers,
            lambda: key.decrypt(b"", PSS),
            lambda: key.exchange(ec.ECDH(), key.public_key()),
        ]
        for act in acts:
            with pytest.raises(NotSupported):
                act()
        with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
            pickle.dumps(key)


@pytest.mark.parametrize(
    ("kind", "of_kind"),
    [
        ("RSA-2048", rsa.RSAPrivateKey),
        ("P-256", ec.EllipticCurvePrivateKey),
        ("Ed25519", ed25519.Ed25519PrivateKey),
    ],
)
def test_it_is_a_private_key(kind: str, of_kind: type[object]) -> None:
    """It is an instance of cryptography's own type, and has the public key."""
    with Script(kind) as script, open_signer(script.uri) as signer:
        key = signer.private_key()
        assert isinstance(key, of_kind)
        assert key.public_key() == script.newest.private_key.public_key()


def test_size_and_curve() -> None:
    """A key's attributes are those of its public key."""
    with Script("P-521") as script, open_signer(script.uri) as signer:
        key: Any = signer.private_key()
        assert (key.key_size, key.curve.name) == (521, "secp521r1")
        assert "store" in repr(key)
    with Script("RSA-2048") as script, open_signer(script.uri) as signer:
        assert signer.private_key().key_size == 2048  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", KINDS)
def test_copy_is_the_same_key(kind: str) -> None:
    """A copy, even a deep one, is the same key: there is nothing to copy."""
    with Script(kind) as script, open_signer(script.uri) as signer:
        key = signer.private_key()
        assert copy.copy(key) is key
        assert copy.deepcopy({"key": key})["key"] is key


def test_any_buffer_is_signed() -> None:
    """A message may be any bytes-like object."""
    with Script("Ed25519") as script, open_signer(script.uri) as signer:
        key: Any = signer.private_key()
        for message in (bytearray(MESSAGE), memoryview(MESSAGE)):
            key.public_key().verify(key.sign(message), MESSAGE)


def test_key_does_not_follow_a_reload() -> None:
    """It never follows a reload: another key than the one it showed never signs in its name."""
    with Script() as script, open_signer(script.uri) as signer:
        key: Any = signer.private_key()
        script.rotate()
        signer.reload()
        with pytest.raises(KeyChanged):
            key.sign(MESSAGE, ec.ECDSA(hashes.SHA256()))
        assert script.count("sign") == 0
        successor: Any = signer.private_key()
        signature = successor.sign(MESSAGE, ec.ECDSA(hashes.SHA256()))
        successor.public_key().verify(signature, MESSAGE, ec.ECDSA(hashes.SHA256()))


def test_key_survives_a_reload_of_the_same_key() -> None:
    """A reload that finds the same key, or a lost session, does not affect it."""
    with Script() as script, open_signer(script.uri) as signer:
        key: Any = signer.private_key()
        signer.reload()
        script.drop()
        signature = key.sign(MESSAGE, ec.ECDSA(hashes.SHA256()))
        key.public_key().verify(signature, MESSAGE, ec.ECDSA(hashes.SHA256()))
