"""Private JWKs in files and variables, made by `cryptography`'s numbers and by RFC 8037."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

import keyvouch
from keyvouch.errors import AmbiguousKey, CertificateMismatch, KeyUnusable, NotSupported
from stores.key_material import certify, new_key, open_key, store, uri, write

CRT = ("p", "q", "dp", "dq", "qi")


def jwk(key: Any, **more: object) -> dict[str, Any]:
    """Return the private JWK that PyJWT makes of this key."""
    kinds: dict[type, Any] = {
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
        ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
    }
    algorithm = next(each for kind, each in kinds.items() if isinstance(key, kind))
    return {**algorithm.to_jwk(key, as_dict=True), **more}


def x5c(certificate: Any) -> list[str]:
    return [base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()]


def without(members: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in members.items() if name not in names}


@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [("RSA-2048", "PS256"), ("P-256", "ES256"), ("P-384", "ES384"), ("P-521", "ES512"), ("Ed25519", "EdDSA")],
)
@pytest.mark.parametrize("place", ["file", "variable", "base64", "bytes"])
def test_every_type(folder: Path, kind: str, algorithm: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A private JWK signs, wherever it is, and PyJWT verifies the signature."""
    key = new_key(kind)
    data = json.dumps(jwk(key, kid="1", use="sig", alg=algorithm), indent=2).encode()
    monkeypatch.setenv("APP_JWK", (base64.b64encode(data) if place == "base64" else data).decode())
    if place == "bytes":
        signer = keyvouch.load_signer(data)
    else:
        signer = keyvouch.open_signer(
            f"pem:{write(folder / 'app.json', data)}" if place == "file" else "pem:env:APP_JWK"
        )
    with signer:
        signature = signer.sign(b"message", algorithm)
        keyvouch.open_signer(signer.uri).close()

    verifier = jwt.get_algorithm_by_name(algorithm)
    assert verifier.verify(b"message", key.public_key(), signature)


def test_rsa_without_its_primes(folder: Path) -> None:
    """Only `d` is required (RFC 7518, section 6.3.2): the primes are computed."""
    key = new_key("RSA-2048")
    file = write(folder / "app.json", json.dumps(without(jwk(key), *CRT)).encode())

    assert open_key(f"pem:{file}").public_key == key.public_key()


def test_certificates(folder: Path) -> None:
    """The certificates in `x5c` are the key's chain."""
    key = new_key("RSA-2048")
    file = write(folder / "app.json", json.dumps(jwk(key, x5c=x5c(certify(key)))).encode())

    assert open_key(f"pem:{file}").chain == (certify(key),)


def test_certificate_of_another_key(folder: Path) -> None:
    """A certificate for another key is refused."""
    file = write(folder / "app.json", json.dumps(jwk(new_key(), x5c=x5c(certify(new_key("P-384"))))).encode())
    with pytest.raises(CertificateMismatch):
        open_key(f"pem:{file}")


def test_set_with_several_keys(folder: Path) -> None:
    """Of a JWK Set, only private keys for signatures count; if there are several, the error lists a URI for each."""
    keys = [new_key(), new_key("P-384")]
    members = [*map(jwk, keys), jwk(new_key("P-521"), use="enc"), without(jwk(new_key("Ed25519")), "d")]
    file = write(folder / "app.json", json.dumps({"keys": members}).encode())
    with pytest.raises(AmbiguousKey) as caught:
        open_key(f"pem:{file}")
    assert [open_key(each).public_key for each in caught.value.candidates] == [key.public_key() for key in keys]


RSA, EC, OKP = jwk(new_key("RSA-2048")), jwk(new_key()), jwk(new_key("Ed25519"))
SQUARE = base64.urlsafe_b64encode((int.from_bytes(b"\xff" * 128, "big") ** 2).to_bytes(256, "big")).decode()
UNUSABLE = {
    "public": (without(EC, "d"), "only a public key"),
    "symmetric": ({"kty": "oct", "k": "AAAA"}, "a symmetric key"),
    "empty set": ({"keys": []}, "a set of JWKs"),
    "missing member": (without(RSA, "n"), 'missing "n"'),
    "missing prime": (without(RSA, "q"), 'missing "q"'),
    "number instead of text": ({**EC, "x": 1}, '"x" is not base64url'),
    "not base64url": ({**EC, "d": "!"}, '"d" is not base64url'),
    "another key's point": ({**EC, "d": jwk(new_key("P-256", 1))["d"]}, "do not form a key"),
    "another key's public key": ({**OKP, "x": jwk(new_key("Ed25519", 1))["x"]}, "do not form a key"),
    "another key's exponent": ({**without(RSA, *CRT), "d": jwk(new_key("RSA-2048", 1))["d"]}, ""),
    "a square": ({**without(RSA, *CRT), "n": SQUARE}, ""),
    "more primes": ({**RSA, "oth": []}, "more than two primes"),
    "unknown curve": ({**EC, "crv": "secp256k1"}, "curve"),
    "X25519": ({**OKP, "crv": "X25519"}, "curve"),
    "unknown type": ({**EC, "kty": "AKP"}, "unsupported type"),
    "huge": ({**without(RSA, *CRT), "n": "A" * 20_000}, "limit"),
    "certificates that are no list": ({**EC, "x5c": "MII"}, "x5c"),
}


@pytest.mark.parametrize(("members", "said"), UNUSABLE.values(), ids=UNUSABLE)
def test_unusable(folder: Path, members: dict[str, Any], said: str) -> None:
    """The error says what is wrong with a JWK, and repeats no private number."""
    file = write(folder / "app.json", json.dumps(members).encode())
    with pytest.raises(KeyUnusable) as caught:
        open_key(f"pem:{file}")
    assert said in caught.value.message
    assert str(members.get("d", "-" * 30))[:20] not in str(caught.value)


def test_certificate_is_not_installed_into_a_jwk(folder: Path) -> None:
    """A JWK file is never rewritten: its certificate belongs into a file of its own."""
    data = json.dumps(jwk(new_key())).encode()
    text = f"pem:{write(folder / 'app.json', data)}"
    with pytest.raises(NotSupported, match="certificate-file"):
        store(text).install_certificate(uri(text), [certify(new_key())])
    assert (folder / "app.json").read_bytes() == data
