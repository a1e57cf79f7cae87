"""Unmodified MSAL, our credential, and a token endpoint from another project."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import msal
import pytest

import keyvouch
from keyvouch.entra.msal import ConfidentialClient, client_credential
from servers.oidc import Client, OidcProvider
from signing_in import make_key

pytestmark = pytest.mark.server

KEY_TYPES = {"PS256": "RSA-2048", "RS256": "RSA-2048", "ES256": "P-256", "EdDSA": "Ed25519"}


@pytest.fixture
def client_id() -> str:
    return f"client-{uuid.uuid4()}"


def application(
    judge: OidcProvider, client_id: str, credential: object, where: str
) -> msal.ConfidentialClientApplication:
    options = {"authority": judge.authority} if where == "authority" else {"oidc_authority": judge.oidc_authority}
    return msal.ConfidentialClientApplication(
        client_id, client_credential=credential, instance_discovery=False, http_client=judge.session(), **options
    )


@pytest.mark.parametrize("where", ["authority", "oidc_authority"])
@pytest.mark.parametrize("file", ["app.pfx", "app.pem"])
@pytest.mark.parametrize("algorithm", KEY_TYPES)
def test_unmodified_msal_gets_token(
    oidc_provider: OidcProvider, client_id: str, tmp_path: Path, algorithm: str, file: str, where: str
) -> None:
    """Every algorithm signs in, from PFX and PEM, at an Entra-shaped authority and at an OIDC issuer."""
    key = make_key(tmp_path, file, KEY_TYPES[algorithm])
    oidc_provider.register(Client(client_id, algorithm, key.certificate))
    app = application(oidc_provider, client_id, client_credential(key.uri, algorithm=algorithm), where)

    result = app.acquire_token_for_client([oidc_provider.scope])

    assert "access_token" in result, oidc_provider.refusals(client_id)


def test_key_decides_algorithm(oidc_provider: OidcProvider, client_id: str, tmp_path: Path) -> None:
    """If no algorithm is given, an RSA key signs with PS256."""
    key = make_key(tmp_path)
    oidc_provider.register(Client(client_id, "PS256", key.certificate))
    app = application(oidc_provider, client_id, client_credential(key.uri), "authority")

    assert "access_token" in app.acquire_token_for_client([oidc_provider.scope])


@pytest.fixture
def signed_in(oidc_provider: OidcProvider, client_id: str, tmp_path: Path) -> Iterator[keyvouch.Signer]:
    """The signer of a client that the server knows."""
    key = make_key(tmp_path)
    oidc_provider.register(Client(client_id, "PS256", key.certificate))
    with keyvouch.open_signer(key.uri) as signer:
        yield signer


def test_wrong_key_refused(
    oidc_provider: OidcProvider, client_id: str, signed_in: keyvouch.Signer, tmp_path: Path
) -> None:
    """Another key's assertion is refused, so the server really verifies."""
    other = make_key(tmp_path, "other.pfx")
    app = application(oidc_provider, client_id, client_credential(other.uri), "authority")

    assert app.acquire_token_for_client([oidc_provider.scope])["error"] == "invalid_client"


def test_replayed_assertion_refused(oidc_provider: OidcProvider, client_id: str, signed_in: keyvouch.Signer) -> None:
    """A reused assertion is refused, so `reuse=` is only for servers that allow it."""
    app = application(oidc_provider, client_id, client_credential(signed_in, reuse=300), "authority")
    assert "access_token" in app.acquire_token_for_client([oidc_provider.scope])
    app.remove_tokens_for_client()

    assert app.acquire_token_for_client([oidc_provider.scope])["error"] == "invalid_client"


def test_wrong_audience_refused(oidc_provider: OidcProvider, client_id: str, signed_in: keyvouch.Signer) -> None:
    """An assertion for another server is refused."""
    credential = client_credential(signed_in, audience="https://elsewhere.example/token")
    app = application(oidc_provider, client_id, credential, "authority")

    assert app.acquire_token_for_client([oidc_provider.scope])["error"] == "invalid_client"


def test_client_signs_in(oidc_provider: OidcProvider, client_id: str, signed_in: keyvouch.Signer) -> None:
    """Our own client can sign in at an OIDC issuer."""
    with ConfidentialClient(
        client_id, [signed_in], oidc_authority=oidc_provider.oidc_authority, ca_file=oidc_provider.ca_file
    ) as client:
        assert client.access_token([oidc_provider.scope])


def test_client_uses_the_known_key(
    oidc_provider: OidcProvider, client_id: str, signed_in: keyvouch.Signer, tmp_path: Path
) -> None:
    """A server without AADSTS codes returns `invalid_client`, and the next key is tried."""
    unknown = make_key(tmp_path, "unknown.pfx")
    with ConfidentialClient(
        client_id, [unknown.uri, signed_in], oidc_authority=oidc_provider.oidc_authority, ca_file=oidc_provider.ca_file
    ) as client:
        assert client.access_token([oidc_provider.scope])
