"""With an authority that drips, signing in ends at the caller's timeout. test_deadlines covers the response's parts."""

from __future__ import annotations

import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyvouch.entra import profile
from keyvouch.entra.msal import ConfidentialClient
from keyvouch.errors import AuthorityUnavailable
from keyvouch.testing.authority.tls import make_context
from servers.drips import DRIPS, DripServer, dripping, json_response
from signing_in import SCOPE, Key, make_key

SOON = 5.0
"""Seconds, while a drip goes on for 30."""


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return make_key(tmp_path, "app.pem", "RSA-2048")


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, str]:
    context, ca_file = make_context(tmp_path)
    return context, str(ca_file)


@pytest.fixture(params=DRIPS)
def server(request: pytest.FixtureRequest, tls: tuple[ssl.SSLContext, str]) -> Iterator[DripServer]:
    """Sends a discovery document, and drips at the token endpoint."""
    with dripping(request.param, tls[0]) as server:
        base = f"https://localhost:{server.port}/t"
        document = {"issuer": base, "token_endpoint": f"{base}/token", "authorization_endpoint": f"{base}/authorize"}
        server.responses.append(json_response(document))
        yield server


def test_token(server: DripServer, tls: tuple[ssl.SSLContext, str], key: Key) -> None:
    """No part of the response to a token request outlasts `timeout`."""
    with ConfidentialClient(
        "id", [key.uri], authority=f"https://localhost:{server.port}/t", instance_discovery=False, ca_file=tls[1]
    ) as client:
        began = time.monotonic()
        with pytest.raises(AuthorityUnavailable, match="timed out|Timed out"):
            client.access_token([SCOPE], timeout=1.0)
    assert time.monotonic() - began < SOON
    assert [line.split()[0] for line in server.asked] == [b"GET", b"POST"]


def write_profile(tmp_path: Path, key: Key, ca_file: str, port: int) -> Path:
    path = tmp_path / "keyvouch.toml"
    path.write_text(
        f"""[profiles.slow]
authority = "https://localhost:{port}"
tenant = "t"
client-id = "id"
scopes = ["{SCOPE}"]
keys = ["{key.uri}"]
ca-file = "{ca_file}"
"""
    )
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("drip", ["header", "continue", "trailers"])
def test_command(
    tls: tuple[ssl.SSLContext, str],
    key: Key,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    drip: str,
) -> None:
    """`keyvouch token` and its discovery end at the request timeout; here half a second."""
    program = (
        "from keyvouch.entra import transport as t; t.REQUEST_TIMEOUT = 0.5; from keyvouch.cli import main; main()"
    )
    with dripping(drip, tls[0]) as server:
        monkeypatch.setenv("KEYVOUCH_CONFIG", str(write_profile(tmp_path, key, tls[1], server.port)))
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", program, "token"], capture_output=True, text=True, check=False, timeout=60
        )
    assert time.monotonic() - began < SOON
    assert done.returncode
    assert "timed out" in done.stderr


def test_discovery_for_another_store(
    tls: tuple[ssl.SSLContext, str], key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a vault is opened with a profile, its discovery ends at the timeout of the vault's caller."""
    with dripping("header", tls[0]) as server:
        monkeypatch.setenv("KEYVOUCH_CONFIG", str(write_profile(tmp_path, key, tls[1], server.port)))
        began = time.monotonic()
        with pytest.raises(AuthorityUnavailable):
            profile.access_token("slow", SCOPE, 1.0)
    assert time.monotonic() - began < SOON
