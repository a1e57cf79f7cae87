"""RSASSA-PSS keys (RFC 4055), made by OpenSSL: their restrictions are honoured."""

import hashlib
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

import keyvouch
from keyvouch.errors import AlgorithmUnsupported, KeyUnusable
from keyvouch.secrets import Secret
from stores.key_material import openssl, write

MESSAGE = b"message"


def make(folder: Path, digest: str = "", salt: int = 0) -> Path:
    """Make a key, restricted to a hash if one is given, with its certificate behind it."""
    options = [f"rsa_pss_keygen_md:{digest}", f"rsa_pss_keygen_mgf1_md:{digest}", f"rsa_pss_keygen_saltlen:{salt}"]
    key = folder / "pss.key"
    given = [each for option in options for each in ("-pkeyopt", option)] if digest else []
    openssl("genpkey", "-quiet", "-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048", *given, "-out", key)
    certificate = openssl("req", "-x509", "-key", key, "-subj", "/CN=pss")
    return write(folder / "pss.pem", key.read_bytes() + certificate)


@pytest.mark.parametrize(("digest", "salt", "algorithm"), [("sha256", 32, "PS256"), ("sha512", 20, "PS512")])
@pytest.mark.parametrize("scheme", ["pem", "pfx"])
def test_restricted_key_signs_with_its_algorithm(
    tmp_path: Path, digest: str, salt: int, algorithm: str, scheme: str
) -> None:
    """A key that is restricted to one hash makes PS signatures with that hash, and no others."""
    path = make(tmp_path, digest, salt)
    if scheme == "pfx":
        data = openssl(
            "pkcs12", "-export", "-in", path, "-passout", "pass:", "-nomac", "-keypbe", "NONE", "-certpbe", "NONE"
        )
        path = write(tmp_path / "pss.pfx", data)
    with keyvouch.open_signer(f"{scheme}:{path}") as signer:
        signature = signer.sign(MESSAGE, algorithm)
        for other in {"PS256", "PS384", "PS512", "RS256", "RS512"} - {algorithm}:
            with pytest.raises(AlgorithmUnsupported, match=f"Use {algorithm}"):
                signer.sign(MESSAGE, other)
        assert signer.certificate_status().state == "valid"
        public = signer.chain[0].public_bytes(Encoding.PEM)
    key = write(tmp_path / "public.pem", openssl("x509", "-pubkey", "-noout", stdin=public))
    signed = write(tmp_path / "signature", signature)
    size = hashlib.new(digest).digest_size
    openssl(
        *("dgst", f"-{digest}", "-verify", key, "-signature", signed, "-sigopt", "rsa_padding_mode:pss"),
        *("-sigopt", f"rsa_pss_saltlen:{size}"),
        stdin=MESSAGE,
    )


@pytest.mark.parametrize(("digest", "salt", "name"), [("sha512", 64, "PS512"), ("", 0, "PS256")])
def test_assertion_uses_the_allowed_algorithm(tmp_path: Path, digest: str, salt: int, name: str) -> None:
    """An assertion for which no algorithm was requested uses the one that the key allows."""
    with keyvouch.open_signer(f"pem:{make(tmp_path, digest, salt)}") as signer:
        text = keyvouch.ClientAssertion(signer)(
            {"client_id": "00000000-0000-4000-8000-000000000001", "token_endpoint": "https://as.example/token"}
        )
    assert jwt.get_unverified_header(text)["alg"] == name


def test_key_without_parameters_is_only_for_pss(tmp_path: Path) -> None:
    """Without parameters every hash is allowed, but only with PSS."""
    with keyvouch.open_signer(f"pem:{make(tmp_path)}") as signer:
        for name in ("PS256", "PS384", "PS512"):
            assert signer.sign(MESSAGE, name)
        with pytest.raises(AlgorithmUnsupported, match="Use PS256, PS384, PS512") as caught:
            signer.sign(MESSAGE, "RS256")
    message = "An RSASSA-PSS key (RSA-2048), which is restricted to PSS, cannot sign with RS256."
    assert caught.value.message == message


@pytest.mark.parametrize("salt", [64, 200])
def test_useless_restrictions_are_refused(tmp_path: Path, salt: int) -> None:
    """A key whose salt must be longer than its digest, or whose hash JOSE does not have, cannot be used."""
    digest = "sha256" if salt == 64 else "sha1"
    with pytest.raises(KeyUnusable, match="allow no algorithm"):
        keyvouch.open_signer(f"pem:{make(tmp_path, digest, salt)}")


def test_digest_is_that_of_the_certificate(tmp_path: Path) -> None:
    """`spki-sha256` is the digest that OpenSSL computes from the certificate."""
    path = make(tmp_path, "sha512", 64)
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    public = openssl("x509", "-pubkey", "-noout", stdin=certificate.public_bytes(Encoding.PEM))
    expected = hashlib.sha256(openssl("pkey", "-pubin", "-pubout", "-outform", "DER", stdin=public)).hexdigest()
    with keyvouch.open_signer(f"pem:{path}") as signer:
        assert f"spki-sha256={expected}" in signer.uri


def test_exported_key_keeps_its_restrictions(tmp_path: Path) -> None:
    """A PFX that is made from such a key contains its parameters."""
    with keyvouch.open_store(f"pem:{make(tmp_path, 'sha512', 64)}") as store:
        exported = write(tmp_path / "new.pfx", store.export_pfx(Secret("pw")))
    key = openssl("pkcs12", "-in", exported, "-passin", "pass:pw", "-nocerts", "-nodes")
    assert b"Hash Algorithm: SHA2-512" in openssl("pkey", "-noout", "-text", stdin=key)
