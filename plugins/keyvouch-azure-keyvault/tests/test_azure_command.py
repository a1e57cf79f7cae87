"""This store as seen by a user of the command."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from azure_fixtures import vault  # noqa: F401 - a fixture
from azure_simulator import Vault
from bare_azure_store import connected_store, parse_uri
from keyvouch.store import KeySpec
from scripted_store import certify, new_key
from signing_in import run


@pytest.mark.parametrize(
    ("auth", "hint"),
    [
        ("default", "Check which of these should work here"),
        ("environment", "Set AZURE_CLIENT_ID"),
        ("cli", "Install the Azure CLI"),
        ("workload", "Check that the pod has the label"),
    ],
)
def test_missing_credential_is_one_error(vault: Vault, tmp_path: Path, auth: str, hint: str) -> None:
    """The many lines that azure-identity logs and raises become one line and a hint."""
    uri = vault.make("command", "P-256").replace("auth=environment", f"auth={auth}")
    nothing = {
        "PATH": str(tmp_path),
        "AZURE_CLIENT_CERTIFICATE_PATH": "",
        "AZURE_TOKEN_CREDENTIALS": "",
        # Nothing listens on the managed identity's endpoint.
        "IDENTITY_ENDPOINT": "http://127.0.0.1:9",
        "IDENTITY_HEADER": "header",
    }
    done = run("sign", "--key", uri, stdin=b"message", environment=nothing)
    assert done.status == 4, done.errors
    first, second, *more = done.errors.splitlines()
    assert not more
    assert first.startswith(f"error[secret-required]: Cannot sign in with auth={auth}: ")
    assert "aka.ms" not in first
    assert second.startswith(hint)


def test_install_merges_the_pending_request(vault: Vault, tmp_path: Path) -> None:
    """The certificate has no version yet, and hence no key to open; one for another request is refused."""
    uri = vault.uri("certificate=pending")
    with connected_store(uri) as store:
        request = x509.load_der_x509_csr(store.request_certificate(parse_uri(uri), KeySpec("P-256", "CN=pending")))
    for name, key in (("other", new_key()), ("issued", SimpleNamespace(public_key=request.public_key))):
        issued = certify(key, "pending", new_key("P-256", 1))
        (tmp_path / f"{name}.cer").write_bytes(issued.public_bytes(Encoding.PEM))

    refused = run("install", str(tmp_path / "other.cer"), "--key", uri)
    assert refused.status != 0
    assert "Certificate not found: pending" in refused.errors
    done = run("install", str(tmp_path / "issued.cer"), "--key", uri)
    assert done.status == 0, done.errors
    assert "CN=pending" in done.output
    assert run("sign", "--key", uri, stdin=b"message").status == 0
