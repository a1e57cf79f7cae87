"""`keyvouch sign` and `keyvouch verify`, checked with OpenSSL."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jws
from joserfc.jwk import JWKRegistry

from keyvouch import open_signer
from signing_in import Key, make_key, run

MESSAGE = b"a message\n"


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return make_key(tmp_path)


@pytest.fixture
def message(tmp_path: Path) -> str:
    path = tmp_path / "message"
    path.write_bytes(MESSAGE)
    return str(path)


def test_openssl_verifies_raw_signature(key: Key, message: str, tmp_path: Path) -> None:
    """OpenSSL verifies the raw form."""
    public = tmp_path / "public.pem"
    certificate = tmp_path / "app.pem"
    certificate.write_bytes(key.certificate.public_bytes(Encoding.PEM))
    public.write_bytes(subprocess.check_output(["openssl", "x509", "-in", certificate, "-noout", "-pubkey"]))
    signed = run("sign", "--key", key.uri, "--algorithm", "RS256", message)
    signature = tmp_path / "signature"
    signature.write_bytes(base64.urlsafe_b64decode(signed.output.strip() + "=="))

    verdict = subprocess.run(
        ["openssl", "dgst", "-sha256", "-verify", public, "-signature", signature, message],
        capture_output=True,
        text=True,
        check=False,
    )
    assert verdict.stdout == "Verified OK\n"


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # by RFC 9864; servers still expect that name
@pytest.mark.parametrize(("key_type", "algorithm"), [("RSA-2048", "PS256"), ("P-521", "ES512"), ("Ed25519", "EdDSA")])
def test_other_libraries_verify_jws(tmp_path: Path, message: str, key_type: str, algorithm: str) -> None:
    """joserfc verifies the JWS form."""
    key = make_key(tmp_path, "app.pem", key_type)
    signed = run("sign", "--key", key.uri, "--form", "jws", message)
    public = key.certificate.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    kind = {"PS256": "RSA", "ES512": "EC", "EdDSA": "OKP"}[algorithm]
    judge = JWKRegistry.import_key(public, kind)

    assert jws.deserialize_compact(signed.output.strip(), judge, algorithms=[algorithm]).payload == MESSAGE


@pytest.mark.parametrize("form", ["raw", "base64url"])
@pytest.mark.parametrize("judge", ["key", "certificate"])
def test_own_signature_is_verified(key: Key, message: str, tmp_path: Path, form: str, judge: str) -> None:
    """A signature is verified with the key, or with only its certificate."""
    signature = tmp_path / "signature"
    with signature.open("wb") as file:
        subprocess.run(
            [sys.executable, "-P", "-m", "keyvouch", "sign", "--key", key.uri, "--form", form, message],
            stdout=file,
            check=True,
        )
    certificate = tmp_path / "app.cer"
    certificate.write_bytes(key.certificate.public_bytes(Encoding.DER))
    by = ("--key", key.uri) if judge == "key" else ("--certificate", str(certificate))

    assert run("verify", "--signature", str(signature), *by, message).status == 0


def test_changed_message_is_not_verified(key: Key, message: str, tmp_path: Path) -> None:
    """With another message the exit status is 6."""
    signature = tmp_path / "signature"
    signature.write_text(run("sign", "--key", key.uri, message).output)

    done = run("verify", "--key", key.uri, "--signature", str(signature), stdin=b"another message")
    assert done.status == 6
    assert "PS256 signature is not valid for this key" in done.errors


@pytest.mark.parametrize("content", [b"", b"abc", b"a.b.c", b"\xff\x00.e30.", b'{"alg": "none"}', b"bnVsbA.e30.e30"])
def test_invalid_jws_is_not_verified(key: Key, content: bytes) -> None:
    """Text that is not a JWS is an invalid signature, not a defect."""
    assert run("verify", "--key", key.uri, stdin=content).status == 6


@pytest.mark.parametrize("critical", [["https://example.com/must"], ["b64"], [], "exp", None])
def test_unknown_extension_is_not_verified(key: Key, tmp_path: Path, critical: object) -> None:
    """A JWS whose header has `crit` is refused, since no extension is understood (RFC 7515, section 4.1.11)."""
    header = {"alg": "PS256", "crit": critical, "https://example.com/must": 1, "b64": True}
    text = b".".join(_encode(each) for each in (json.dumps(header).encode(), MESSAGE))
    with open_signer(key.uri) as signer:
        signature = signer.sign(text, "PS256")
    (tmp_path / "jws").write_bytes(text + b"." + _encode(signature))
    done = run("verify", "--key", key.uri, str(tmp_path / "jws"))
    assert done.status == 6
    assert "extension" in done.errors


def _encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def test_jws_needs_no_signature_option(key: Key, message: str, tmp_path: Path) -> None:
    """A JWS contains its message: if it is given as a detached signature, the hint says what to do."""
    jws = tmp_path / "message.jws"
    jws.write_text(run("sign", "--key", key.uri, "--form", "jws", message).output)

    done = run("verify", "--key", key.uri, "--signature", str(jws), message)
    assert done.status == 2
    assert "without --signature" in done.errors


def test_raw_signature_cannot_be_json(key: Key, message: str) -> None:
    """A raw signature cannot be part of JSON, and is not converted."""
    assert run("sign", "--key", key.uri, "--form", "raw", "--output", "json", message).status == 2


def test_algorithm_must_fit_the_key(key: Key, message: str) -> None:
    """An RSA key does not support ES256; the error lists the algorithms that it supports."""
    done = run("sign", "--key", key.uri, "--algorithm", "ES256", message)

    assert done.status == 6
    assert "PS256" in done.errors


def test_missing_file(key: Key) -> None:
    """A missing file is a usage error."""
    assert run("sign", "--key", key.uri, "/nonexistent").status == 2


def test_json_contains_the_algorithm(key: Key, message: str) -> None:
    """The JSON output has the algorithm beside the signature."""
    done = run("sign", "--key", key.uri, "--output", "json", message)

    assert json.loads(done.output)["algorithm"] == "PS256"
