"""The peer of a Vault key: bare requests, with the login of the store."""

from __future__ import annotations

import pytest
from hvac.exceptions import Forbidden
from urllib3.exceptions import ClosedPoolError

from keyvouch.algorithms import ALGORITHMS
from keyvouch.errors import SessionLost, Throttled
from keyvouch.testing.conformance.execution import run_in_fork
from openbao import Server
from peers import compared
from scripted_store import is_signed
from vault_keys import make_key

pytestmark = pytest.mark.server


@pytest.fixture
def uri(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A key, and a token that may do anything with it."""
    monkeypatch.setenv("VAULT_TEST_TOKEN", server.token("keys"))
    return make_key(server)


def test_one_signature_is_one_request(server: Server, uri: str) -> None:
    """Neither getting a peer nor signing with it sends any other request."""
    with compared(uri, "ES256") as (_, key, peer):
        path = f"transit/sign/{key.uri.get('key')}"
        for number in range(3):
            assert len(server.requests(path)) == number
            assert is_signed(key.public_key, peer(b"message"), b"message", "ES256")


def test_pinned_version_signs(server: Server, uri: str) -> None:
    """The peer signs with the version in the URI, although there is a newer one."""
    with compared(uri, "ES256") as (_, key, peer):
        server.write(f"transit/keys/{key.uri.get('key')}/rotate")
        assert is_signed(key.public_key, peer(b"message"), b"message", "ES256")


def test_refusal_is_not_repeated(server: Server, uri: str) -> None:
    """If the server refuses a signature, the peer raises hvac's error after one request, without the token."""
    token = server.token("keys")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAULT_TEST_TOKEN", token)
        with compared(uri, "ES256") as (_, key, peer):
            server.write("auth/token/revoke", token=token)
            with pytest.raises(Forbidden) as caught:
                peer(b"message")
    assert len(server.requests(f"transit/sign/{key.uri.get('key')}")) == 1
    assert token not in str(caught.value)


def test_rate_limit(server: Server, uri: str) -> None:
    """A quota of the server is reported as such, and not waited for."""
    with compared(uri, "ES256") as (_, key, peer):
        name, admin = key.uri.get("key"), server.admin.adapter
        quota = f"/v1/sys/quotas/rate-limit/{name}"
        admin.post(quota, json={"path": f"transit/sign/{name}", "rate": 1, "interval": "1h"})
        try:
            peer(b"message")
            with pytest.raises(Throttled):
                peer(b"message")
        finally:
            admin.delete(quota)


def test_closing_the_store_closes_the_connections(uri: str) -> None:
    """A peer does not sign after its store is closed."""
    with compared(uri, "ES256") as (_, _, peer):
        peer(b"message")
    with pytest.raises(ClosedPoolError):
        peer(b"message")


def test_child_gets_no_peer_before_it_connects(uri: str) -> None:
    """In a forked child a peer needs a login of its own, and closing the store there does not affect the parent's."""
    with compared(uri, "ES256") as (store, key, peer):
        peer(b"message")

        def use_in_child() -> None:
            with pytest.raises(SessionLost):
                store.peer(key.uri, ALGORITHMS["ES256"])
            store.close()

        run_in_fork(use_in_child, 30)
        assert is_signed(key.public_key, peer(b"message"), b"message", "ES256")
