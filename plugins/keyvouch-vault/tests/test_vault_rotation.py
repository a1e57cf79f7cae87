"""A key that is rotated while its programs run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

import keyvouch
from keyvouch.certificate import self_signed
from keyvouch.entra.msal import ConfidentialClient
from keyvouch.errors import CertificateMismatch
from keyvouch.local_key import make_key
from keyvouch.testing.authority import App, Authority
from openbao import Server
from scripted_store import until
from signing_in import authority_name, busy
from vault_keys import key_uri, signing

pytestmark = pytest.mark.server


@pytest.fixture(autouse=True)
def _token(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_TEST_TOKEN", server.token("keys"))
    monkeypatch.setattr("keyvouch._core.reloading._RELOAD_INTERVAL", 1.0)  # instead of an hour


def generate(uri: str, *, further: bool = False) -> x509.Certificate:
    """Create a key, or its next version; return the certificate stored with it."""
    with keyvouch.open_store(uri) as store:
        pinned = store.generate(keyvouch.KeySpec("RSA-2048", further=further))
    with keyvouch.open_signer(pinned) as signer:
        return signer.chain[0]


@contextmanager
def running_client(authority: Authority, app: App, uri: str) -> Iterator[Callable[[], None]]:
    """Run a client of the app that keeps requesting tokens; yield a function that waits for some more."""
    options: dict[str, Any] = {"authority": authority.authority, "instance_discovery": False}
    with (
        ConfidentialClient(app.client_id, [uri], ca_file=authority.ca_file, **options) as client,
        busy(client) as wait_for_more,
    ):
        wait_for_more()
        yield wait_for_more
    assert {exchange.status for exchange in authority.exchanges} == {200}


def signs_with(authority: Authority, certificate: x509.Certificate) -> bool:
    """Return whether the client now signs with this certificate's key."""
    header = authority.exchanges[-1].header or {}
    return header["x5t#S256"] == authority_name(certificate)


def test_pinned_version_keeps_signing(server: Server) -> None:
    """However often the key is rotated, each signature can be verified with the first version's key."""
    name = "rotated"
    server.write(f"transit/keys/{name}", type="ecdsa-p256")
    with keyvouch.open_signer(key_uri(server, name)) as signer, signing(signer) as work:
        for _ in range(5):
            server.write(f"transit/keys/{name}/rotate")
            work.wait_for_more()
    assert work.failures == []
    assert signer.uri.count(";version=1;") == 1


def test_running_client_switches_to_new_version(server: Server, authority: Authority) -> None:
    """A new version is registered, settles and signs, and the old one is removed, without any refused request."""
    uri = key_uri(server, "followed") + "&settle=3"
    old = generate(uri)
    app = authority.register(certificates=[old])
    with running_client(authority, app, uri) as wait_for_more:
        new = generate(uri, further=True)
        app.add_certificate(new)
        until(lambda: signs_with(authority, new))
        wait_for_more()  # until requests signed with the old key have their responses
        app.remove_certificate(old)
        wait_for_more()


@pytest.mark.parametrize("kept", ["in the server", "in a file"])
def test_running_client_switches_to_new_certificate(
    server: Server, authority: Authority, tmp_path: Path, kept: str
) -> None:
    """A version created by transit is certified and registered; the client finds the certificate in either location."""
    name, file = f"rotated-{kept[-4:]}", tmp_path / "app.crt"
    uri = key_uri(server, name) + "&settle=0"
    server.write(f"transit/keys/{name}", type="rsa-2048")
    if kept == "in a file":
        uri += f"&certificate-file={file}"

    def put(certificate: x509.Certificate) -> None:
        if kept == "in a file":
            file.with_suffix(".new").write_bytes(certificate.public_bytes(Encoding.PEM))
            file.with_suffix(".new").replace(file)
        else:
            with keyvouch.open_store(uri) as store:
                store.install_certificate([certificate])

    put(old := certify(server, name, 1))
    app = authority.register(certificates=[old])
    with running_client(authority, app, uri) as wait_for_more:
        server.write(f"transit/keys/{name}/rotate")
        wait_for_more()  # with the old version, because the new one has no certificate
        app.add_certificate(new := certify(server, name, 2))
        put(new)
        until(lambda: signs_with(authority, new))
        wait_for_more()
        app.remove_certificate(old)
        wait_for_more()


def certify(server: Server, name: str, version: int) -> x509.Certificate:
    with keyvouch.open_signer(key_uri(server, name).replace("?", f";version={version}?")) as signer:
        return self_signed(signer.private_key(), "CN=app", 30)


def test_new_certificate_matches_no_version(server: Server, tmp_path: Path) -> None:
    """If a new certificate belongs to another key, a running signer keeps its key and reports what to do."""
    server.write("transit/keys/unfitting", type="rsa-2048")
    file = tmp_path / "app.crt"
    file.write_bytes(certify(server, "unfitting", 1).public_bytes(Encoding.PEM))
    with keyvouch.open_signer(f"{key_uri(server, 'unfitting')}&certificate-file={file}") as signer:
        server.write("transit/keys/unfitting/rotate")
        foreign = self_signed(make_key("RSA-2048"), "CN=another and longer", 30)
        file.write_bytes(foreign.public_bytes(Encoding.PEM))
        until(lambda: signer.sign_negotiated(lambda *_: b"message") and signer.reload_error)
        with pytest.raises(CertificateMismatch) as caught:
            signer.reload()
        for error in (signer.reload_error, caught.value):
            assert isinstance(error, CertificateMismatch)
            assert "Use the certificate of an existing version (1, 2)" in error.hint
        assert ";version=1;" in signer.uri
