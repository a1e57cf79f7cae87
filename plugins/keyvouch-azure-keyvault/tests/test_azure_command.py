"""What a user of the command sees of this store."""

from __future__ import annotations

from pathlib import Path

import pytest

from azure_fixtures import vault  # noqa: F401 - a fixture
from azure_vault import Vault
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
    """What azure-identity logs and says in many lines is one line and a hint."""
    uri = vault.make("command", "P-256").replace("auth=environment", f"auth={auth}")
    nothing = {
        "PATH": str(tmp_path),
        "AZURE_CLIENT_CERTIFICATE_PATH": "",
        "AZURE_TOKEN_CREDENTIALS": "",
        # Where a managed identity would be asked for: nobody listens.
        "IDENTITY_ENDPOINT": "http://127.0.0.1:9",
        "IDENTITY_HEADER": "header",
    }
    done = run("sign", "--key", uri, stdin=b"message", environment=nothing)
    assert done.status == 4, done.errors
    first, second, *more = done.errors.splitlines()
    assert not more
    assert first.startswith(f"Error: Signing in with auth={auth} is not possible: ")
    assert "aka.ms" not in first
    assert second.startswith(hint)
