"""Authlib's authorization server with two keys of a client: RS256 and ES256 only, found by `kid`."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyvouch.entra.msal import ConfidentialClient
from keyvouch.errors import AlgorithmUnsupported, AuthorityRefused
from servers.authlib_server import AuthlibServer
from servers.oidc import identified_jwk
from signing_in import Key, make_key


@pytest.fixture(scope="module")
def server() -> Iterator[AuthlibServer]:
    with AuthlibServer() as running:
        yield running


@pytest.fixture
def client_id() -> str:
    return f"client-{uuid.uuid4()}"


def sign_in(server: AuthlibServer, client_id: str, *keys: Key, **assertion: object) -> str:
    with ConfidentialClient(
        client_id, [key.uri for key in keys], oidc_authority=server.issuer, ca_file=server.ca_file, assertion=assertion
    ) as client:
        return client.access_token()


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("key_type", ["RSA-2048", "P-256"])
def test_each_of_two_keys_signs_in(
    server: AuthlibServer, client_id: str, tmp_path: Path, key_type: str, position: int
) -> None:
    """With default options the algorithm is one that the server lists, and each key is found."""
    keys = [make_key(tmp_path, f"{number}.pem", key_type) for number in range(2)]
    server.register(client_id, [identified_jwk(key.certificate) for key in keys])

    assert sign_in(server, client_id, keys[position])


def test_kid_is_required(server: AuthlibServer, client_id: str, tmp_path: Path) -> None:
    """Without a `kid` the server refuses each of two keys, and the hint says that none was sent."""
    keys = [make_key(tmp_path, f"{number}.pem") for number in range(2)]
    server.register(client_id, [identified_jwk(key.certificate) for key in keys])

    with pytest.raises(AuthorityRefused, match="Sent: algorithm RS256, neither kid nor thumbprint"):
        sign_in(server, client_id, *keys, kid="none")


def test_standby_key(server: AuthlibServer, client_id: str, tmp_path: Path) -> None:
    """A key that is not registered is skipped, and one whose type the server does not support as well."""
    unsupported, unknown, known = (
        make_key(tmp_path, f"{kind}{number}.pem", kind)
        for number, kind in enumerate(("Ed25519", "RSA-2048", "RSA-2048"))
    )
    server.register(client_id, [identified_jwk(known.certificate)])

    assert sign_in(server, client_id, unsupported, unknown, known)
    with pytest.raises(AlgorithmUnsupported, match="RS256, ES256"):
        sign_in(server, client_id, unsupported)


def test_configured_algorithm(server: AuthlibServer, client_id: str, tmp_path: Path) -> None:
    """A configured algorithm is used even if the server does not list it; the refusal names it."""
    key = make_key(tmp_path)
    server.register(client_id, [identified_jwk(key.certificate)])

    with pytest.raises(AuthorityRefused, match="Sent: algorithm PS256"):
        sign_in(server, client_id, key, algorithm="PS256")


@pytest.mark.parametrize("key_type", ["RSA-2048", "P-256"])
def test_server_that_lists_no_algorithms(client_id: str, tmp_path: Path, key_type: str) -> None:
    """Like Okta, a server may support RS256 but not PS256, and list neither: an RSA key signs with RS256."""
    key = make_key(tmp_path, "app.pem", key_type)
    with AuthlibServer(lists_algorithms=False) as server:
        server.register(client_id, [identified_jwk(key.certificate)])

        assert sign_in(server, client_id, key)
