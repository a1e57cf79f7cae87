"""Rules about threads and forks: many threads sign at once, and a forked child reconnects."""

from __future__ import annotations

import functools
import os
import threading
import time
from typing import TYPE_CHECKING

from keyvouch.certificate import spki_sha256
from keyvouch.errors import KeyUnusable, NotSupported
from keyvouch.store import GeneratesKeys, KeyStore
from keyvouch.testing.conformance import verification
from keyvouch.testing.conformance.declarations import TIMEOUT, Declarations, fail, needs, require_error
from keyvouch.testing.conformance.execution import repeating_in_threads, run_concurrently, run_in_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from keyvouch.store import StoredKey

_THREADS = 8
_DELAYS = (0.0, 0.001, 0.003, 0.01, 0.03)
"""Seconds between the start of the first signature and the fork."""


class Concurrency(Declarations):
    """See the contract's table for the threads that call each method."""

    @needs()
    def test_threads_sign_with_one_key(self) -> None:
        """Eight threads sign at once with one key, and with a key for each thread (`StoredKey.sign`)."""
        with self.connected(self.uri) as store:
            keys = [store.open(self.parsed(self.uri), timeout=TIMEOUT) for _ in range(_THREADS)]
            self._sign_at_once([keys[0]] * _THREADS)
            self._sign_at_once(keys)
            for key in keys:
                key.close()

    @needs()
    def test_threads_sign_with_different_keys(self) -> None:
        """Eight threads sign at once with up to eight different keys of one store (`sign`)."""
        with self.connected(self.uri) as store:
            opened: dict[str, StoredKey] = {}
            for key in self._open_different_keys(store):
                opened.setdefault(spki_sha256(key.public_key), key)
            keys = list(opened.values())
            self._sign_at_once([keys[number % len(keys)] for number in range(_THREADS)])
            for key in keys:
                key.close()

    @needs()
    def test_keys_are_opened_and_closed_concurrently(self) -> None:
        """Threads open and close keys while another signs, without affecting each other (`open`, `close`)."""
        with self.opened(self.uri) as (store, key):

            def use_one() -> None:
                own = store.open(key.uri, timeout=TIMEOUT)
                self.require_signature(own)
                own.close()

            with repeating_in_threads(use_one):
                for number in range(50):
                    self.require_signature(key, b"%d" % number)

    @needs()
    def test_forked_child_reconnects(self) -> None:
        """A forked child reconnects the same object and signs; the parent's connection still works (`connect`).

        A store that declares `fork` refuses the child, and its parent can still sign.
        """
        if not hasattr(os, "fork"):
            return
        with self.opened(self.uri) as (store, key):
            run_in_fork(self._reconnect_and_sign(store, key), self.child_seconds)
            try:
                self.require_signature(key)
            except Exception as error:  # noqa: BLE001 - reported by the test
                fail(
                    got=f"in the parent, after its child connected: {error!r}",
                    expected="a signature",
                    fix="In a child, forget the inherited connection without closing it. See Forks in the guide.",
                )

    @needs()
    def test_fork_while_other_threads_sign(self) -> None:
        """If the process forks while other threads sign, neither child nor parent hangs (`connect`)."""
        if not hasattr(os, "fork"):
            return
        with self.opened(self.uri) as (store, key), repeating_in_threads(lambda: self.require_signature(key)):
            for _ in range(5):
                run_in_fork(self._reconnect_and_sign(store, key), self.child_seconds)

    @needs()
    def test_fork_during_the_first_signature(self) -> None:
        """If the process forks during a key's first signature, neither child nor parent hangs (`connect`)."""
        if not hasattr(os, "fork"):
            return
        for delay in _DELAYS:
            with self.opened(self.uri) as (store, key):
                failures: list[BaseException] = []

                def sign(key: StoredKey = key, failures: list[BaseException] = failures) -> None:
                    try:
                        self.require_signature(key)
                    except BaseException as error:  # noqa: BLE001 - reported by the test
                        failures.append(error)

                first = threading.Thread(target=sign, daemon=True)
                first.start()
                time.sleep(delay)
                run_in_fork(self._reconnect_and_sign(store, key), self.child_seconds)
                first.join(TIMEOUT)
                if first.is_alive() or failures:
                    fail(
                        got=f"in the parent: {failures[0]!r}" if failures else "a first signature that hangs",
                        expected="a signature",
                    )

    # Helpers.

    def _reconnect_and_sign(self, store: KeyStore, key: StoredKey) -> Callable[[], None]:
        def use() -> None:
            if "fork" in self.unsupported:
                require_error(lambda: store.connect(timeout=TIMEOUT), KeyUnusable, NotSupported)
                return
            store.connect(timeout=TIMEOUT)
            own = store.open(key.uri, timeout=TIMEOUT)
            self.require_signature(own)
            own.close()

        return use

    def _open_different_keys(self, store: KeyStore) -> list[StoredKey]:
        """Open a key of each kind on the same connection, and keys that are generated for this."""
        uris = [self.parsed(uri) for _, uri in self.kinds_with_uris() if self.shares_connection(uri)]
        if self.offers("generate"):
            assert isinstance(store, GeneratesKeys)
            new = [uri for uri in (self.new_uri() for _ in range(_THREADS)) if self.shares_connection(uri)]
            uris += [store.generate(self.parsed(uri), self.spec()) for uri in new]
        return [store.open(uri, timeout=TIMEOUT) for uri in uris]

    def _sign_at_once(self, keys: Sequence[StoredKey]) -> None:
        """Sign with each key in a thread of its own."""

        def sign(thread: int, key: StoredKey) -> bool:
            algorithm = self.algorithm_of(key)
            messages = [b"%d %d" % (thread, number) for number in range(10)]
            return all(
                verification.verifies(key.public_key, key.sign(each, algorithm, timeout=TIMEOUT), each, algorithm.name)
                for each in messages
            )

        calls = [functools.partial(sign, number, key) for number, key in enumerate(keys)]
        if not all(run_concurrently(calls, self.child_seconds)):
            fail(
                got="an invalid signature, or one of another thread's message or key",
                expected="valid signatures in every thread",
                fix="Use a session for each thread, or serialise them with a lock.",
            )
