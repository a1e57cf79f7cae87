"""A program signs in with a key of the Windows certificate store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msal
import pytest
import requests

import keyvouch
from keyvouch.entra.msal import client_credential
from keyvouch.testing.authority import App, Authority

SCOPE = "https://graph.microsoft.com/.default"
PROVIDER = "Microsoft Enhanced RSA and AES Cryptographic Provider"


@pytest.fixture(scope="module")
def key() -> Iterator[str]:
    """Create a key for the current user, in a provider whose keys outlive the process even under Wine."""
    with keyvouch.open_store(f"windows:location=CurrentUser;friendly-name=signing-in;provider={PROVIDER}") as store:
        uri = str(store.generate(keyvouch.KeySpec("RSA-2048", "CN=signing in")))
    yield uri
    with keyvouch.open_store(uri) as store:
        store.delete()


@pytest.fixture
def authority() -> Iterator[Authority]:
    """Run an authority that has none of keyvouch's keys: `cryptography` verifies the signature."""
    with Authority() as running:
        yield running


@pytest.fixture
def app(authority: Authority, key: str) -> App:
    """Register an application with the key's certificate."""
    with keyvouch.open_signer(key) as signer:
        return authority.register(certificates=[signer.chain[0]])


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authority: Authority, app: App, key: str) -> str:
    """Return the name of the only profile, whose token cache is private to the test."""
    fields = {
        "authority": authority.url,
        "tenant": app.tenant,
        "client-id": app.client_id,
        "scopes": [SCOPE],
        "ca-file": str(authority.ca_file),
        "keys": [key],
    }
    configuration = tmp_path / "config.toml"
    lines = [f"{name} = {json.dumps(value)}" for name, value in fields.items()]
    configuration.write_text("\n".join(["[profiles.nightly]", *lines]))
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(configuration))
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    return "nightly"


def test_second_run_uses_the_cache(authority: Authority, profile: str) -> None:
    """A program such as a scheduled task signs in on the first run only."""
    program = f"import keyvouch; print(keyvouch.connect({profile!r}).access_token())"
    tokens = [run("-c", program) for _ in range(2)]

    assert tokens[0] == tokens[1]
    (exchange,) = authority.exchanges
    assert (exchange.header or {})["alg"] == "RS256"


def test_command_shares_the_cache(authority: Authority, profile: str) -> None:
    """`keyvouch token`, in another process, uses the token that the program has cached."""
    with keyvouch.connect(profile) as client:
        token = client.access_token()

    assert run("-m", "keyvouch", "token") == token
    assert len(authority.exchanges) == 1


def test_unmodified_msal(authority: Authority, app: App, key: str) -> None:
    """MSAL's own client accepts the credential and gets a token."""
    session = requests.Session()
    session.trust_env, session.verify = False, str(authority.ca_file)
    client = msal.ConfidentialClientApplication(
        app.client_id,
        authority=authority.authority,
        client_credential=client_credential(key),
        http_client=session,
        instance_discovery=False,
    )
    result = client.acquire_token_for_client([SCOPE])
    session.close()

    assert result["token_type"] == "Bearer", result
    assert (authority.exchanges[-1].claims or {})["iss"] == app.client_id


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
