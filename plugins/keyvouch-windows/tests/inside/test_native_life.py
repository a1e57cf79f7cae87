"""Tests of features that Wine lacks, on real Windows: persistent CNG keys, EC, PFX files of Windows' tools, export.

Verified with `cryptography`, certutil and PowerShell. They require an administrator; PowerShell 5.1 and certutil are
part of every Windows.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import pkcs12

import keyvouch
from keyvouch.errors import KeyNotFound, KeyUnusable
from keyvouch.secrets import Secret
from keyvouch.store import KeySpec

pytestmark = pytest.mark.usefixtures("cleaned_up")
MESSAGE = b"what is signed"
CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
SOFTWARE = "Microsoft Software Key Storage Provider"
LEGACY = "Microsoft Enhanced Cryptographic Provider v1.0"


def make(uri: str, key_type: str = "RSA-2048", *, exportable: bool = False) -> str:
    with keyvouch.open_store(uri) as store:
        return str(store.generate(KeySpec(key_type, "CN=native", exportable=exportable)))


def verify(public_key: object, signature: bytes, algorithm: str) -> None:
    """Verify a signature in JOSE form with `cryptography`. Raises `InvalidSignature`."""
    digest = HASHES[algorithm[2:]]
    if isinstance(public_key, rsa.RSAPublicKey):
        scheme = padding.PSS(padding.MGF1(digest), digest.digest_size) if algorithm[:2] == "PS" else padding.PKCS1v15()
        public_key.verify(signature, MESSAGE, scheme, digest)
        return
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    half = len(signature) // 2
    der = utils.encode_dss_signature(int.from_bytes(signature[:half]), int.from_bytes(signature[half:]))
    public_key.verify(der, MESSAGE, ec.ECDSA(digest))


def output_of(*arguments: str | Path) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def thumbprint(uri: str) -> str:
    return uri.partition("thumbprint=")[2].partition(";")[0]


@pytest.mark.parametrize("location", ["CurrentUser", "LocalMachine"])
@pytest.mark.parametrize("key_type", ["RSA-2048", "RSA-3072", *CURVES])
def test_key_persists(location: str, key_type: str) -> None:
    """A new key signs in another process, with every algorithm of its type."""
    uri = make(f"windows:location={location};friendly-name=native", key_type)
    with keyvouch.open_signer(uri) as signer:
        public_key = signer.chain[0].public_key()

    for algorithm in (CURVES[key_type],) if key_type in CURVES else ("RS256", "RS512", "PS256", "PS384", "PS512"):
        done = subprocess.run(
            [sys.executable, "-m", "keyvouch", "sign", "--key", uri, "--algorithm", algorithm, "--output", "json"],
            input=MESSAGE,
            capture_output=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        verify(public_key, base64.urlsafe_b64decode(json.loads(done.stdout)["signature"] + "=="), algorithm)


def test_certutil_finds_the_new_key() -> None:
    """certutil finds the key in its provider and tests it."""
    uri = make("windows:location=LocalMachine;friendly-name=native")

    output = output_of("certutil", "-store", "My", thumbprint(uri))

    assert SOFTWARE in output
    assert "NOT exportable" in output


def test_wrong_location_is_reported() -> None:
    """For a wrong location the error gives the right one; without a location both are searched."""
    uri = make("windows:location=LocalMachine;friendly-name=native")

    with pytest.raises(KeyNotFound) as caught:
        keyvouch.open_signer(uri.replace("LocalMachine", "CurrentUser"))
    assert "location=LocalMachine" in caught.value.hint
    with keyvouch.open_signer(f"windows:thumbprint={thumbprint(uri)}") as signer:
        assert str(signer.uri) == uri


def test_key_of_new_self_signed_certificate_signs() -> None:
    """A key created by PowerShell together with a self-signed certificate signs with PSS."""
    digits = output_of(
        *("powershell", "-NoProfile", "-Command"),
        r"(New-SelfSignedCertificate -Subject CN=native -CertStoreLocation Cert:\LocalMachine\My).Thumbprint",
    ).strip()

    with keyvouch.open_signer(f"windows:thumbprint={digits}") as signer:
        assert "location=LocalMachine" in str(signer.uri)
        verify(signer.chain[0].public_key(), signer.sign(MESSAGE, "PS256"), "PS256")


@pytest.mark.parametrize("provider", [SOFTWARE, LEGACY])
def test_pfx_that_certutil_imported_signs(tmp_path: Path, provider: str) -> None:
    """A key that certutil imported from a PFX signs, with SHA-2 even in a legacy provider."""
    exported = tmp_path / "key.pfx"
    with keyvouch.open_store(make("windows:location=CurrentUser;friendly-name=native", exportable=True)) as store:
        exported.write_bytes(store.export_pfx(Secret("correct horse")))
        uri = str(store.keys()[0].uri)
        store.delete()
    output_of("certutil", "-user", "-csp", provider, "-p", "correct horse", "-importpfx", "My", exported, "NoRoot")

    with keyvouch.open_signer(uri) as signer:
        verify(signer.chain[0].public_key(), signer.sign(MESSAGE, "RS256"), "RS256")


@pytest.mark.parametrize("key_type", ["RSA-2048", "P-256"])
def test_exported_pfx_is_imported_again(tmp_path: Path, key_type: str) -> None:
    """A key is exported as a PFX that OpenSSL reads; imported again, it is not exportable by default."""
    uri = make("windows:location=LocalMachine;friendly-name=native", key_type, exportable=True)
    with keyvouch.open_signer(uri) as signer:
        leaf = signer.chain[0]
    with keyvouch.open_store(uri) as store:
        data = store.export_pfx(Secret("correct horse"))
        store.delete()

    key, certificate, _ = pkcs12.load_key_and_certificates(data, b"correct horse")
    assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
    assert (key.public_key(), certificate) == (leaf.public_key(), leaf)
    pfx = tmp_path / "key.pfx"
    pfx.write_bytes(data)
    output_of("openssl", "pkcs12", "-in", pfx, "-noout", "-passin", "pass:correct horse")

    with keyvouch.open_store("windows:location=LocalMachine;friendly-name=native") as store:
        imported = str(store.import_key(key, [leaf]))
    with keyvouch.open_signer(imported) as signer:
        algorithm = CURVES.get(key_type, "PS256")
        verify(leaf.public_key(), signer.sign(MESSAGE, algorithm), algorithm)
    with keyvouch.open_store(imported) as store, pytest.raises(KeyUnusable, match="not exportable"):
        store.export_pfx(Secret("correct horse"))


def test_deleted_key_is_gone() -> None:
    """Certificate and key are deleted, and certutil finds neither."""
    uri = make("windows:location=LocalMachine;friendly-name=native")
    with keyvouch.open_store(uri) as store:
        store.delete()

    done = subprocess.run(["certutil", "-store", "My", thumbprint(uri)], capture_output=True, check=False)
    assert done.returncode != 0
