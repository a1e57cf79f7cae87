"""fosite, the library of Ory Hydra, with two keys of a client: found by `kid`, and one algorithm for each client."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import keyvouch
from keyvouch.entra.msal import ConfidentialClient
from keyvouch.errors import AlgorithmUnsupported, AuthorityRefused
from servers.fosite_server import FositeServer
from signing_in import NO_CACHE, Key, make_key, run

pytestmark = pytest.mark.server

Profile = Callable[..., str]
Export = Callable[..., list[dict[str, str]]]


@pytest.fixture(scope="module")
def server() -> Iterator[FositeServer]:
    with FositeServer() as running:
        yield running


@pytest.fixture
def client_id() -> str:
    return f"client-{uuid.uuid4()}"


@pytest.fixture
def keys(tmp_path: Path) -> list[Key]:
    return [make_key(tmp_path, "first.pem"), make_key(tmp_path, "second.pem")]


@pytest.fixture
def profile(server: FositeServer, client_id: str, tmp_path: Path) -> Profile:
    """Write a configuration with the client's profile, `partner`, and these keys; return its path."""

    def write(*keys: Key) -> str:
        values = {
            "authority": server.issuer,
            "ca-file": server.ca_file,
            "client-id": client_id,
            "keys": [key.uri for key in keys],
        }
        path = tmp_path / f"{uuid.uuid4()}.toml"
        lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
        path.write_text("\n".join(["[profiles.partner]", *lines]) + "\n")
        return str(path)

    return write


@pytest.fixture
def export(profile: Profile) -> Export:
    """Return what `keyvouch export --jwks` prints for a profile with these keys."""

    def run_command(*keys: Key) -> list[dict[str, str]]:
        done = run("--config", profile(*keys), "export", "--jwks")
        assert done.status == 0, done.errors
        jwks: list[dict[str, str]] = json.loads(done.output)["keys"]
        return jwks

    return run_command


def sign_in(server: FositeServer, client_id: str, *keys: Key, **assertion: Any) -> str:
    with ConfidentialClient(
        client_id, [key.uri for key in keys], oidc_authority=server.issuer, ca_file=server.ca_file, assertion=assertion
    ) as client:
        return client.access_token()


@pytest.mark.parametrize("position", [0, 1])
def test_each_of_two_exported_keys_signs_in(
    server: FositeServer, client_id: str, keys: list[Key], profile: Profile, export: Export, position: int
) -> None:
    """The command and `connect` get tokens with each key of the JWKS that `keyvouch export --jwks` prints."""
    server.register(client_id, export(*keys), "PS256")
    config = profile(keys[position])

    done = run("--config", config, "token")

    assert done.status == 0, done.errors
    with keyvouch.connect("partner", config=config) as client:
        assert client.access_token(claims_challenge=NO_CACHE)


@pytest.mark.parametrize(
    ("key_type", "algorithm"), [("RSA-2048", "PS256"), ("P-256", "ES256"), ("P-384", "ES384"), ("P-521", "ES512")]
)
def test_default_algorithm(
    server: FositeServer, client_id: str, tmp_path: Path, export: Export, key_type: str, algorithm: str
) -> None:
    """Each type of key that fosite supports signs with its preferred algorithm."""
    key = make_key(tmp_path, "app.pem", key_type)
    server.register(client_id, export(key), algorithm)

    assert sign_in(server, client_id, key)


def test_unsupported_key_type(server: FositeServer, client_id: str, tmp_path: Path) -> None:
    """The discovery document lists no EdDSA, which fosite does not support: no assertion is sent."""
    with pytest.raises(AlgorithmUnsupported, match="PS256"):
        sign_in(server, client_id, make_key(tmp_path, "app.pem", "Ed25519"))


def test_client_without_algorithm(server: FositeServer, client_id: str, keys: list[Key], export: Export) -> None:
    """A client that is registered without an algorithm may only use RS256; a refusal says what was sent."""
    server.register(client_id, export(*keys))

    assert sign_in(server, client_id, keys[0], algorithm="RS256")
    with pytest.raises(AuthorityRefused, match="enforces signing algorithm 'RS256'") as caught:
        sign_in(server, client_id, keys[0])
    assert "Sent: algorithm PS256" in caught.value.hint


def test_unknown_key(server: FositeServer, client_id: str, keys: list[Key], profile: Profile, export: Export) -> None:
    """fosite calls an unknown `kid` an invalid request; the hint says what was sent, and how to register the key."""
    known, unknown = keys
    server.register(client_id, export(known), "PS256")

    done = run("--config", profile(unknown), "token")

    assert f"Sent: algorithm PS256, kid {export(unknown)[0]['kid']}, audience https://" in done.errors
    assert " --jwks`" in done.errors


def test_standby_key(server: FositeServer, client_id: str, keys: list[Key], export: Export) -> None:
    """If the preferred key is not registered, the standby key is tried."""
    preferred, standby = keys
    server.register(client_id, export(standby), "PS256")

    assert sign_in(server, client_id, preferred, standby)


def test_wrong_key(server: FositeServer, client_id: str, keys: list[Key], export: Export) -> None:
    """A signature by another key than the one with its `kid` is refused, so the server really verifies."""
    known, other = keys
    jwks = export(known)
    server.register(client_id, jwks, "PS256")

    with pytest.raises(AuthorityRefused, match="integrity") as caught:
        sign_in(server, client_id, other, kid=jwks[0]["kid"])
    assert caught.value.error == "invalid_client"
    assert f"Sent: algorithm PS256, kid {jwks[0]['kid']}, audience https://" in caught.value.hint


def test_replay(server: FositeServer, client_id: str, keys: list[Key], export: Export) -> None:
    """A reused assertion is refused."""
    server.register(client_id, export(*keys), "PS256")
    with ConfidentialClient(
        client_id, [keys[0].uri], oidc_authority=server.issuer, ca_file=server.ca_file, assertion={"reuse": 300}
    ) as client:
        assert client.access_token()
        with pytest.raises(AuthorityRefused, match="MUST only be used once") as caught:
            client.access_token(claims_challenge=NO_CACHE)
    assert caught.value.error == "jti_known"
