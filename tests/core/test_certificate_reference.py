"""Certificates that `certificate-file` finds in a variable or a credential."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import pkcs12

import keyvouch
from keyvouch._core.certificate_file import CertificateFile
from keyvouch.errors import (
    CertificateMissing,
    ConfigurationError,
    KeyNotFound,
    KeyvouchError,
    NotSupported,
)
from keyvouch.secrets import Secret
from scripted_store import Script, new_key
from signing_in import run
from stores.key_material import certify, openssl_pfx, pem_of, uri, write

KEY = new_key("RSA-2048")
LEAF, RENEWED = certify(KEY), certify(KEY, "renewed")
PEM = pem_of(LEAF)
URI = "pem:env:TLS_KEY?certificate-file=env:TLS_CERT"

ENCODINGS: dict[str, Callable[[bytes], str]] = {
    "PEM": bytes.decode,
    "base64": lambda data: base64.b64encode(data).decode(),
    "base64 twice": lambda data: base64.b64encode(base64.b64encode(data)).decode(),
    "backslash n": lambda data: data.decode().replace("\n", "\\n"),
    "spaces": lambda data: data.decode().replace("\n", " "),
}


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Key and certificate are in two variables, as containers often have them."""
    monkeypatch.setenv("TLS_KEY", pem_of(KEY).decode())
    monkeypatch.setenv("TLS_CERT", PEM.decode())


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
def test_certificate_in_a_variable(encode: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate may be encoded like a key; the pinned URI opens key and certificate again."""
    monkeypatch.setenv("TLS_CERT", encode(PEM))
    with keyvouch.open_signer(URI) as signer:
        assert signer.chain == (LEAF,)
        with keyvouch.open_signer(signer.uri) as again:
            assert again.chain == (LEAF,)


def test_binary_certificate_in_a_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential of systemd may be a certificate in DER."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    write(tmp_path / "app-crt", keyvouch.certificate.to_der(LEAF))
    with keyvouch.open_signer("pem:env:TLS_KEY?certificate-file=credential:app-crt") as signer:
        assert signer.chain == (LEAF,)


def test_any_store_may_have_its_certificate_in_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """`certificate-file` belongs to every scheme, and so do its references."""
    monkeypatch.setenv("TLS_CERT", pem_of(certify(new_key())).decode())
    with Script() as script, keyvouch.open_signer(f"{script.uri}?certificate-file=env:TLS_CERT") as signer:
        assert signer.chain == (certify(new_key()),)


@pytest.mark.parametrize("source", ["env:TLS_CERT", "credential:app-crt"])
def test_renewed_certificate_is_noticed(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates count as changed once the variable or credential has another value, which a signer then uses."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    write(tmp_path / "app-crt", PEM)
    text = f"pem:env:TLS_KEY?certificate-file={source}"
    beside = CertificateFile(uri(text))
    beside.read()
    beside.mark_used()
    assert not beside.changed()
    with keyvouch.open_signer(text) as signer:
        monkeypatch.setenv("TLS_CERT", pem_of(RENEWED).decode())
        write(tmp_path / "app-crt", pem_of(RENEWED))
        assert beside.changed()
        assert signer.reload()
        assert signer.chain == (RENEWED,)


def test_listing_and_export_use_the_reference() -> None:
    """`keys` shows the certificate, and a PFX contains it."""
    with keyvouch.open_store(URI) as store:
        assert store.keys()[0].subject == "CN=app"
        found = pkcs12.load_pkcs12(store.export_pfx(Secret("x")), b"x").cert
    assert found is not None
    assert found.certificate == LEAF


@pytest.mark.parametrize("operation", ["new", "import", "install"])
def test_certificate_is_not_written_to_a_reference(operation: str, tmp_path: Path) -> None:
    """Writing is refused before anything is written."""
    path = tmp_path / "app.key"
    if operation == "install":
        write(path, pem_of(KEY))
    calls: dict[str, Callable[[keyvouch.Store], object]] = {
        "new": lambda store: store.generate(keyvouch.KeySpec()),
        "import": lambda store: store.import_key(KEY, [LEAF]),
        "install": lambda store: store.install_certificate([RENEWED]),
    }
    with (
        keyvouch.open_store(f"pem:{path}?certificate-file=env:TLS_CERT") as store,
        pytest.raises(NotSupported, match="Cannot write the certificate to env:TLS_CERT") as caught,
    ):
        calls[operation](store)
    assert "certificate-file=/path" in caught.value.hint
    assert path.exists() == (operation == "install")
    assert os.environ["TLS_CERT"] == PEM.decode()


def test_key_with_its_certificate_in_a_variable_is_deleted(tmp_path: Path) -> None:
    """Only the file is deleted: the variable belongs to somebody else."""
    path = write(tmp_path / "app.key", pem_of(KEY))
    with keyvouch.open_signer(f"pem:{path}?certificate-file=env:TLS_CERT") as signer:
        pinned = signer.uri
    with keyvouch.open_store(pinned) as store:
        store.delete()
    assert not path.exists()


@pytest.mark.parametrize(
    ("source", "kind", "expected"),
    [
        ("env:UNSET", KeyNotFound, "variable UNSET is not set"),
        ("credential:app", KeyNotFound, "LoadCredential=app:/path"),
        ("env:TLS_KEY", CertificateMissing, "No valid certificate found in env:TLS_KEY"),
        ("env:A B", ConfigurationError, "expected a path, env:NAME or credential:name"),
        ("credential:../app", ConfigurationError, "expected a path, env:NAME or credential:name"),
        ("command:/bin/cat", ConfigurationError, "expected a path, env:NAME or credential:name"),
        ("prompt:", ConfigurationError, "expected a path, env:NAME or credential:name"),
        ("stdin:", ConfigurationError, "expected a path, env:NAME or credential:name"),
        ("file:/etc/app.crt", ConfigurationError, "write the path without file:"),
    ],
)
def test_unusable_reference(
    source: str, kind: type[KeyvouchError], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what is missing, or what may be written."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(kind) as caught:
        keyvouch.open_signer(f"pem:env:TLS_KEY?certificate-file={source}")
    assert expected in f"{caught.value.message} {caught.value.hint}"


def test_hint_does_not_pass_a_reference_to_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No program knows references: the hint contains no command with one."""
    pfx = openssl_pfx(tmp_path / "app.pfx", key=KEY).read_bytes()
    monkeypatch.setenv("TLS_CERT", base64.b64encode(pfx).decode())
    with pytest.raises(CertificateMissing, match="it is a PFX") as caught:
        keyvouch.open_signer(URI)
    assert "env:" not in caught.value.hint


def test_command() -> None:
    """The command accepts the same URI."""
    assert run("export", "--key", URI, "--jwk").status == 0
