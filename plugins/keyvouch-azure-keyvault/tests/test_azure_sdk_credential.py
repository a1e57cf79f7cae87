"""Unmodified clients of the Azure SDK use keyvouch's credential with the Key Vault simulator."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import SupportsTokenInfo, TokenCredential
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import ChainedTokenCredential, CredentialUnavailableError
from azure.keyvault.secrets import SecretClient
from azure.keyvault.secrets.aio import SecretClient as AsyncSecretClient

from azure_fixtures import vault  # noqa: F401 - a fixture
from azure_simulator import RESOURCE, Vault
from keyvouch.certificate import self_signed
from keyvouch.entra.azure import KeyvouchCredential, aio
from keyvouch.entra.msal import ConfidentialClient
from keyvouch.testing.authority import App
from keyvouch.testing.throwaway import throwaway_signer

SCOPE = f"{RESOURCE}/.default"


class Clients:
    """A client of the vault's authority with its own key, and the app registration that it signs in as."""

    def __init__(self, vault: Vault) -> None:
        self.signer = throwaway_signer()
        self.app: App = vault.authority.register(certificates=[self.signer.chain[0]])
        self.client = ConfidentialClient(
            self.app.client_id,
            [self.signer],
            authority=vault.authority.authority,
            ca_file=vault.authority.ca_file,
            instance_discovery=False,
        )


@pytest.fixture
def clients(vault: Vault) -> Iterator[Clients]:
    created = Clients(vault)
    yield created
    created.client.close()
    created.signer.close()


def at_vault(vault: Vault) -> dict[str, Any]:
    vault.set_secret("greeting", "hello")
    return {"verify_challenge_resource": False, "connection_verify": str(vault.ca_file), "retry_total": 0}


def test_secret_client_accepts_the_credential(vault: Vault, clients: Clients) -> None:
    """The SDK's own client, with its challenge, tenant and CAE, reads a secret; the token is cached."""
    credential = KeyvouchCredential(clients.client)
    assert isinstance(credential, TokenCredential)
    assert isinstance(credential, SupportsTokenInfo)
    before = len(vault.authority.exchanges)
    for _ in range(2):
        with SecretClient(vault.address, credential, **at_vault(vault)) as client:
            assert client.get_secret("greeting").value == "hello"
    assert len(vault.authority.exchanges) == before + 1
    claims = vault.authority.exchanges[-1].claims
    assert claims is not None
    assert claims["iss"] == clients.app.client_id


def test_async_client_does_not_block_the_loop(vault: Vault, clients: Clients) -> None:
    """Other tasks run while a key signs and the authority responds."""

    async def read() -> tuple[str | None, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        other = asyncio.create_task(tick())
        async with (
            aio.KeyvouchCredential(clients.client) as credential,
            AsyncSecretClient(vault.address, credential, **at_vault(vault)) as client,
        ):
            secret = await client.get_secret("greeting")
        other.cancel()
        return secret.value, ticks

    value, ticks = asyncio.run(read())
    assert value == "hello"
    assert ticks > 3


def test_profile_is_a_credential(vault: Vault, own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile's name is enough, and the profile is read when a token is requested."""
    from cryptography.hazmat.primitives import serialization

    from keyvouch.local_key import make_key

    key = make_key("RSA-2048")
    certificate = self_signed(key, "CN=nightly", 10)
    app = vault.authority.register(certificates=[certificate])
    pem = own_folders / "nightly.pem"
    pem.touch(mode=0o600)
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    configuration = own_folders / "config.toml"
    configuration.touch(mode=0o600)
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(configuration))
    credential = KeyvouchCredential("nightly")
    configuration.write_text(
        f"""
[profiles.nightly]
authority = "{vault.authority.url}"
tenant = "{vault.authority.tenant}"
client-id = "{app.client_id}"
scopes = ["https://graph.microsoft.com/.default"]
keys = ["pem:{pem}"]
token-cache = "memory"
ca-file = "{vault.authority.ca_file}"
"""
    )
    with SecretClient(vault.address, credential, **at_vault(vault)) as client:
        assert client.get_secret("greeting").value == "hello"
    # The same profile also opens a key in the vault.
    import keyvouch

    uri = vault.make("by-profile", "P-256").replace("auth=environment", "auth=profile&profile=nightly")
    with keyvouch.open_signer(uri) as signer:
        assert signer.sign(b"x", "ES256")


def test_lifetime_is_reported(clients: Clients) -> None:
    """The SDK gets a token's expiry."""
    info = KeyvouchCredential(clients.client).get_token_info(SCOPE)
    assert 3500 < info.expires_on - time.time() <= 3600
    assert info.token_type == "Bearer"
    assert dt.datetime.fromtimestamp(info.expires_on, dt.UTC).tzinfo


def test_claims_fetch_another_token(vault: Vault, clients: Clients) -> None:
    """A service's claims bypass the cache and reach the authority."""
    credential = KeyvouchCredential(clients.client)
    first = credential.get_token(SCOPE)
    assert credential.get_token(SCOPE).token == first.token
    claims = json.dumps({"access_token": {"nbf": {"essential": True, "value": "1"}}})
    assert credential.get_token(SCOPE, claims=claims).token != first.token


def test_another_tenant_must_be_allowed(vault: Vault, clients: Clients) -> None:
    """A request for a token from another tenant is refused unless that tenant is allowed explicitly."""
    other = vault.authority.register(clients.app.client_id, "fabrikam.example", certificates=[clients.signer.chain[0]])
    with pytest.raises(ClientAuthenticationError, match="additionally_allowed_tenants"):
        KeyvouchCredential(clients.client).get_token(SCOPE, tenant_id=other.tenant)
    with KeyvouchCredential(clients.client, additionally_allowed_tenants=[other.tenant]) as credential:
        mine = credential.get_token(SCOPE, tenant_id=vault.authority.tenant)
        theirs = credential.get_token(SCOPE, tenant_id=other.tenant)
        assert theirs.token != mine.token
        assert credential.get_token(SCOPE, tenant_id=other.tenant).token == theirs.token


def test_refusal_is_azures_error(vault: Vault, clients: Clients) -> None:
    """If the authority refuses, its code is in the error, and a credential chain stops there."""
    clients.app.remove_certificate(clients.signer.chain[0])
    with pytest.raises(ClientAuthenticationError, match="AADSTS700027") as caught:
        KeyvouchCredential(clients.client).get_token(SCOPE)
    assert not isinstance(caught.value, CredentialUnavailableError)


def test_chain_continues_without_the_profile(vault: Vault, clients: Clients) -> None:
    """In azure-identity's chain, the next credential is tried if there is nothing to sign in with."""
    chain = ChainedTokenCredential(KeyvouchCredential("nowhere"), KeyvouchCredential(clients.client))
    assert chain.get_token(SCOPE).token


def test_threads_share_one_request(vault: Vault, clients: Clients) -> None:
    """Several threads that need a first token share one request."""
    credential = KeyvouchCredential(clients.client)
    before = len(vault.authority.exchanges)
    tokens: list[str] = []
    threads = [threading.Thread(target=lambda: tokens.append(credential.get_token(SCOPE).token)) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len({*tokens}) == 1
    assert len(tokens) == 8
    assert len(vault.authority.exchanges) == before + 1
