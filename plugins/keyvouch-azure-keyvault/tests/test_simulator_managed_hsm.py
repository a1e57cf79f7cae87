"""The Key Vault simulator as a Managed HSM, and a vault under its own name, with the unmodified SDK."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator

import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.keyvault.keys.crypto import SignatureAlgorithm

from keyvouch.testing.authority import Authority
from keyvouch.testing.relay import Proxy
from keyvouch_azure_keyvault.testing import KeyVault
from scripted_store import is_signed
from simulator_clients import Raw, Sdk, sdk_of

_numbers = itertools.count()


@pytest.fixture
def host() -> str:
    """A name unique to the test: the SDK caches the tenant that each host requires."""
    return f"contoso-{next(_numbers)}.managedhsm.azure.net"


@pytest.fixture
def hsm(authority: Authority, host: str) -> Iterator[KeyVault]:
    with KeyVault(authority, managed_hsm=True, names=[host]) as running:
        yield running


@pytest.fixture
def sdk(hsm: KeyVault, host: str) -> Iterator[Sdk]:
    """The SDK's clients for the HSM by its name, verifying that the token is for it."""
    with (
        Proxy(("127.0.0.1", hsm.port)) as proxy,
        sdk_of(hsm, f"https://{host}", f"http://127.0.0.1:{proxy.port}") as clients,
    ):
        yield clients


def test_challenge_is_for_managed_hsm(hsm: KeyVault) -> None:
    """The challenge names the Managed HSM resource, and has no body."""
    with Raw(hsm) as raw:
        answer = raw.ask("GET", "keys", token="")
    assert (answer.status_code, answer.content) == (401, b"")
    assert answer.headers["WWW-Authenticate"].endswith('resource="https://managedhsm.azure.net"')


def test_vaults_token_is_not_for_an_hsm(hsm: KeyVault) -> None:
    """A vault's token has another audience, and is refused."""
    with Raw(hsm) as raw:
        token = raw.token
        hsm.resource = "https://vault.azure.net"
        assert raw.ask("GET", "keys", token=token).status_code == 401


def test_keys_have_hsm_types(sdk: Sdk, host: str) -> None:
    """Only RSA-HSM and EC-HSM keys can be created; identifiers begin with the HSM's own name."""
    created = sdk.keys.create_rsa_key("rsa", hardware_protected=True)
    assert created.key_type == "RSA-HSM"
    assert created.id.startswith(f"https://{host}/keys/rsa/")
    assert sdk.keys.create_ec_key("ec", hardware_protected=True).key_type == "EC-HSM"
    with pytest.raises(HttpResponseError, match="Invalid kty value: RSA"):
        sdk.keys.create_rsa_key("soft")


def test_key_signs(sdk: Sdk, hsm: KeyVault) -> None:
    """A key in an HSM signs like one in a vault."""
    created = hsm.make_key("app", "P-384")
    digest = hashlib.sha384(b"message").digest()
    signature = sdk.keys.get_cryptography_client("app").sign(SignatureAlgorithm.es384, digest).signature
    assert is_signed(created.private_key.public_key(), signature, b"message", "ES384")


def test_no_certificates_or_secrets(sdk: Sdk, hsm: KeyVault) -> None:
    """A Managed HSM has no certificates or secrets."""
    with pytest.raises(ResourceNotFoundError):
        sdk.certificates.get_certificate("app")
    with pytest.raises(ResourceNotFoundError):
        sdk.secrets.get_secret("app")
    with pytest.raises(ValueError, match="no certificates"):
        hsm.make_certificate("app")


def test_vault_under_its_own_name(authority: Authority) -> None:
    """With its own name the SDK's check that the token is for this vault's cloud runs too."""
    host = "contoso.vault.azure.cn"
    with (
        KeyVault(authority, names=[host]) as vault,
        Proxy(("127.0.0.1", vault.port)) as proxy,
        sdk_of(vault, f"https://{host}", f"http://127.0.0.1:{proxy.port}") as sdk,
    ):
        with pytest.raises(ValueError, match="does not match the requested domain"):
            list(sdk.keys.list_properties_of_keys())
        vault.resource = "https://vault.azure.cn"
        vault.make_certificate("app", "P-256")
        assert sdk.certificates.get_certificate("app").key_id.startswith(f"https://{host}/keys/app/")
