"""The peer of a vault's key: the SDK with its own pipeline and transport."""

from __future__ import annotations

import pytest
from azure.core.exceptions import HttpResponseError

from azure_fixtures import vault  # noqa: F401 - a fixture
from azure_simulator import Vault
from keyvouch.errors import NotSupported, Throttled
from keyvouch_azure_keyvault.testing import Refusal, refusals
from peers import compared
from scripted_store import is_signed

REDIRECT = Refusal(307, "Moved", "elsewhere", headers={"Location": "https://example.invalid/"})


def test_one_signature_is_one_request(vault: Vault) -> None:
    """The peer uses the login of the store, and does not fetch the key."""
    with compared(vault.make("one-request"), "PS256") as (_, key, peer):
        before = len(vault.calls)
        for _ in range(3):
            assert is_signed(key.public_key, peer(b"message"), b"message", "PS256")
        assert vault.calls[before:] == ["POST keys/sign"] * 3


def test_pinned_version_signs(vault: Vault) -> None:
    """The peer signs with the version in the URI, although there is a newer one."""
    with compared(vault.make("versions", "P-256"), "ES256") as (_, key, peer):
        vault.make("versions", "P-256")
        assert is_signed(key.public_key, peer(b"message"), b"message", "ES256")


@pytest.mark.parametrize("fault", [refusals.failing(), REDIRECT])
def test_nothing_is_repeated_or_redirected(vault: Vault, fault: Refusal) -> None:
    """A signature that the vault refuses or redirects is one request, and raises azure-core's error."""
    with compared(vault.make("refused"), "PS256") as (_, _, peer):
        before = len(vault.calls)
        vault.fail("keys/sign", fault)
        with pytest.raises(HttpResponseError) as caught:
            peer(b"message")
        assert caught.value.status_code == fault.status
        assert vault.calls[before:] == ["POST keys/sign"]


def test_throttling_is_not_waited_for(vault: Vault) -> None:
    """A vault that limits the rate is reported after one request."""
    with compared(vault.make("throttled"), "PS256") as (_, _, peer):
        before = len(vault.calls)
        vault.fail("keys/sign", refusals.throttled(1))
        with pytest.raises(Throttled):
            peer(b"message")
        assert vault.calls[before:] == ["POST keys/sign"]


def test_proxy_is_not_used_for_loopback(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy, in the URI or in the environment, is not used for a server on this machine."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    for query in ("", "&proxy=http://127.0.0.1:1"):
        with compared(vault.make("near") + query, "PS256") as (_, key, peer):
            assert is_signed(key.public_key, peer(b"message"), b"message", "PS256")


def test_proxy_credentials_are_not_put_into_an_address(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK's transport accepts a proxy's password only in an address, which it may log: there is no peer."""
    monkeypatch.setenv("PROXY_LOGIN", "me:secret")
    with pytest.raises(NotSupported), compared(vault.make("far") + "&proxy-credentials=env:PROXY_LOGIN", "PS256"):
        pass


def test_closing_the_store_closes_the_connections(vault: Vault) -> None:
    """A peer does not sign after its store is closed."""
    with compared(vault.make("closed"), "PS256") as (_, _, peer):
        peer(b"message")
    with pytest.raises(ValueError, match="closed"):
        peer(b"message")
