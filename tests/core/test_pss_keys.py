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
from signing_in import run
from stores.key_material import make_pss_key, openssl, write

MESSAGE = b"message"


@pytest.mark.parametrize(("digest", "salt", "algorithm"), [("sha256", 32, "PS256"), ("sha512", 20, "PS512")])
@pytest.mark.parametrize("scheme", ["pem", "pfx"])
def test_restricted_key_signs_with_its_algorithm(
    tmp_path: Path, digest: str, salt: int, algorithm: str, scheme: str
) -> None:
    """A key that is restricted to one hash makes PS signatures with that hash, and no others."""
    path = make_pss_key(tmp_path, digest, salt)
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
    with keyvouch.open_signer(f"pem:{make_pss_key(tmp_path, digest, salt)}") as signer:
        text = keyvouch.ClientAssertion(signer)(
            {"client_id": "00000000-0000-4000-8000-000000000001", "token_endpoint": "https://as.example/token"}
        )
    assert jwt.get_unverified_header(text)["alg"] == name


def test_key_without_parameters_is_only_for_pss(tmp_path: Path) -> None:
    """Without parameters every hash is allowed, but only with PSS."""
    with keyvouch.open_signer(f"pem:{make_pss_key(tmp_path)}") as signer:
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
        keyvouch.open_signer(f"pem:{make_pss_key(tmp_path, digest, salt)}")


def test_digest_is_that_of_the_certificate(tmp_path: Path) -> None:
    """`spki-sha256` is the digest that OpenSSL computes from the certificate."""
    path = make_pss_key(tmp_path, "sha512", 64)
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    public = openssl("x509", "-pubkey", "-noout", stdin=certificate.public_bytes(Encoding.PEM))
    expected = hashlib.sha256(openssl("pkey", "-pubin", "-pubout", "-outform", "DER", stdin=public)).hexdigest()
    with keyvouch.open_signer(f"pem:{path}") as signer:
        assert f"spki-sha256={expected}" in signer.uri


@pytest.mark.parametrize(
    "target", ["pem:{}/new.pem", "pem:{}/new.pem?password=env:PW", "pfx:{}/new.pfx?password=env:PW"]
)
@pytest.mark.parametrize("source", ["pem", "pfx"])
def test_imported_key_keeps_its_restrictions(
    tmp_path: Path, source: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy in a file has the same parameters, as OpenSSL reads them, and makes the same signatures."""
    monkeypatch.setenv("PW", "correct horse")
    path = make_pss_key(tmp_path, "sha512", 64)
    if source == "pfx":
        path = write(tmp_path / "pss.pfx", openssl("pkcs12", "-export", "-in", path, "-passout", "pass:correct horse"))
    uri = target.format(tmp_path)

    done = run("import", "--from", f"{source}:{path}?password=env:PW", "--key", uri)
    assert done.status == 0, done.errors
    with keyvouch.open_signer(uri) as signer:
        assert signer.sign(MESSAGE, "PS512")
        assert signer.chain
        with pytest.raises(AlgorithmUnsupported, match="Use PS512"):
            signer.sign(MESSAGE, "PS256")
    new = tmp_path / uri.partition("?")[0].rpartition("/")[2]
    command = ["pkcs12", "-nocerts", "-nodes"] if new.suffix == ".pfx" else ["pkey"]
    key = openssl(*command, "-in", new, "-passin", "pass:correct horse")
    assert b"Hash Algorithm: SHA2-512" in openssl("pkey", "-noout", "-text", stdin=key)
    assert (b"ENCRYPTED" in new.read_bytes()) == ("new.pem?" in uri)


def test_exported_key_keeps_its_restrictions(tmp_path: Path) -> None:
    """A PFX that is made from such a key contains its parameters."""
    with keyvouch.open_store(f"pem:{make_pss_key(tmp_path, 'sha512', 64)}") as store:
        exported = write(tmp_path / "new.pfx", store.export_pfx(Secret("pw")))
    key = openssl("pkcs12", "-in", exported, "-passin", "pass:pw", "-nocerts", "-nodes")
    assert b"Hash Algorithm: SHA2-512" in openssl("pkey", "-noout", "-text", stdin=key)
