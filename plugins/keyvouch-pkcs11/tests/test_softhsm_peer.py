"""The peer of a PKCS#11 key: its sessions, and the keys that have none."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor

import pytest

from keyvouch.errors import NotSupported, SessionLost
from keyvouch.testing.conformance.execution import run_concurrently, run_in_fork
from peers import compared
from pkcs11_modules import finalize_modules, loaded_module, only_token
from scripted_store import is_signed
from softhsm_keys import UriOf, generate, generate_always_authenticating
from softhsm_tokens import SOFTHSM, softhsm  # noqa: F401 - a fixture

pytestmark = pytest.mark.server


def open_sessions() -> int:
    """The number of sessions that this process has open with SoftHSM."""
    return len(loaded_module(SOFTHSM).sessions._by_handle)


def test_each_thread_has_a_session_until_the_store_is_closed(softhsm: UriOf) -> None:
    """Signatures of one thread use one session; closing the store closes those of all threads."""
    with compared(generate(softhsm()), "ES256") as (_, key, peer):
        before = open_sessions()
        run_concurrently([functools.partial(_sign_twice, peer)] * 3, 30)
        assert open_sessions() == before + 3 - 1  # one was free, from the signature that found the mechanism
        assert is_signed(key.public_key, peer(b"message"), b"message", "ES256")
    assert open_sessions() == 0
    with pytest.raises(SessionLost):
        peer(b"message")


def _sign_twice(peer: object) -> None:
    assert callable(peer)
    for _ in range(2):
        peer(b"message")


def test_forked_child_does_not_use_the_parents_sessions(softhsm: UriOf) -> None:
    """In a child, the peer does not call the module, and closing the store there leaves the parent's sessions open."""
    with compared(generate(softhsm()), "ES256") as (store, key, peer):
        peer(b"message")

        def use_in_child() -> None:
            with pytest.raises(SessionLost):
                peer(b"message")
            store.connect(timeout=10)
            store.close()

        run_in_fork(use_in_child, 30)
        assert is_signed(key.public_key, peer(b"message"), b"message", "ES256")


def test_module_that_was_initialized_again(softhsm: UriOf) -> None:
    """The peer's sessions end when the module is finalized, and it does not sign in those of others."""
    with compared(generate(softhsm()), "ES256") as (_, _, peer):
        peer(b"message")
        finalize_modules()
        with pytest.raises(SessionLost):
            peer(b"message")


def test_module_for_one_thread_at_a_time(softhsm: UriOf) -> None:
    """With `serialise=true`, the peer too calls the module from one thread at a time."""
    uri = generate(softhsm(more="&serialise=true"), "RSA-2048")
    with compared(uri, "PS256") as (_, key, peer), ThreadPoolExecutor(4) as pool:
        messages = [b"%d" % number for number in range(40)]
        signatures = list(pool.map(peer, messages))
        assert all(is_signed(key.public_key, *pair, "PS256") for pair in zip(signatures, messages, strict=True))


def test_key_that_always_authenticates(softhsm: UriOf) -> None:
    """A key that requires its PIN for each signature has no peer."""
    with compared(generate(softhsm("object=other")), "ES256"):
        generate_always_authenticating(only_token(SOFTHSM))
        with pytest.raises(NotSupported), compared(softhsm(), "ES256"):
            pass
