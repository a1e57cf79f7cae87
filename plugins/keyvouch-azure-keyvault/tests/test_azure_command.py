"""This store as seen by a user of the command."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from azure_fixtures import vault  # noqa: F401 - a fixture
from azure_opened import connected, parsed
from azure_vault import Vault
from keyvouch.store import KeySpec
from scripted_store import certify, new_key
from signing_in import run


@pytest.mark.parametrize(
    ("auth", "hint"),
    [
        ("default", "See which of them should work here"),
        ("environment", "Set AZURE_CLIENT_ID"),
        ("cli", "Run: az login"),
        ("workload", "See that the pod has the label"),
    ],
)
def test_log_in_that_is_not_there_is_one_error(vault: Vault, tmp_path: Path, auth: str, hint: str) -> None:
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
    assert first.startswith(f"error[access-denied]: Signing in with auth={auth} is not possible: ")
    assert "aka.ms" not in first
    assert second.startswith(hint)


def test_install_takes_what_was_issued_for_a_pending_request(vault: Vault, tmp_path: Path) -> None:
    """The certificate has no version yet, and hence no key to open; one for another request is refused."""
    uri = vault.uri("certificate=pending")
    with connected(uri) as store:
        request = x509.load_der_x509_csr(store.request_certificate(parsed(uri), KeySpec("P-256", "CN=pending")))
    for name, key in (("other", new_key()), ("issued", SimpleNamespace(public_key=request.public_key))):
        issued = certify(key, "pending", new_key("P-256", 1))
        (tmp_path / f"{name}.cer").write_bytes(issued.public_bytes(Encoding.PEM))

    refused = run("install", str(tmp_path / "other.cer"), "--key", uri)
    assert refused.status != 0
    assert "There is no certificate pending" in refused.errors
    done = run("install", str(tmp_path / "issued.cer"), "--key", uri)
    assert done.status == 0, done.errors
    assert "CN=pending" in done.output
    assert run("sign", "--key", uri, stdin=b"message").status == 0
