"""Rules of threads and forks: many sign at once, and a child of a fork goes its own way."""

from __future__ import annotations

import functools
import os
import threading
import time
from typing import TYPE_CHECKING

from keyvouch.certificate import spki_sha256
from keyvouch.errors import KeyUnusable, NotSupported
from keyvouch.store import GeneratesKeys, KeyStore
from keyvouch.testing.conformance import judge
from keyvouch.testing.conformance.declarations import TIMEOUT, Declarations, broken, needs, refused
from keyvouch.testing.conformance.meanwhile import at_once, in_child, meanwhile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from keyvouch.store import StoredKey

_THREADS = 8
_DELAYS = (0.0, 0.001, 0.003, 0.01, 0.03)
"""Seconds after the begin of a first signature, at which there is a fork."""


class Concurrency(Declarations):
    """See by whom each method is called, in the contract's table."""

    @needs()
    def test_threads_sign_with_one_key(self) -> None:
        """Eight threads sign at once with one key, and each with one that it opened (`StoredKey.sign`)."""
        with self.connected(self.uri) as made:
            keys = [made.open(self.parsed(self.uri), timeout=TIMEOUT) for _ in range(_THREADS)]
            self._sign_at_once([keys[0]] * _THREADS)
            self._sign_at_once(keys)
            for key in keys:
                key.close()

    @needs()
    def test_threads_sign_with_different_keys(self) -> None:
        """Eight threads sign at once with eight different keys of one store, as far as it has them (`sign`)."""
        with self.connected(self.uri) as made:
            opened: dict[str, StoredKey] = {}
            for key in self._different(made):
                opened.setdefault(spki_sha256(key.public_key), key)
            keys = list(opened.values())
            self._sign_at_once([keys[number % len(keys)] for number in range(_THREADS)])
            for key in keys:
                key.close()

    @needs()
    def test_keys_are_opened_and_closed_meanwhile(self) -> None:
        """Other threads open and close keys while one signs, and neither disturbs the other (`open`, `close`)."""
        with self.opened(self.uri) as (made, key):

            def use_one() -> None:
                own = made.open(key.uri, timeout=TIMEOUT)
                self.require_signature(own)
                own.close()

            with meanwhile(use_one):
                for number in range(50):
                    self.require_signature(key, b"%d" % number)

    @needs()
    def test_child_of_a_fork_connects_anew(self) -> None:
        """A child connects the same object again and signs; the parent's own connection lives on (`connect`).

        A store that declares `fork` refuses the child, and does its parent no harm by it.
        """
        if not hasattr(os, "fork"):
            return
        with self.opened(self.uri) as (made, key):
            in_child(self._use_anew(made, key), self.child_seconds)
            try:
                self.require_signature(key)
            except Exception as error:  # noqa: BLE001 - whatever it is, the test tells
                broken(
                    seen=f"in the parent, after its child has connected: {error!r}",
                    wanted="a signature",
                    change="In a child forget the inherited connection, and close nothing of it: the guide, Forks.",
                )

    @needs()
    def test_fork_while_others_sign(self) -> None:
        """A fork in the middle of other threads' signatures hangs neither child nor parent (`connect`)."""
        if not hasattr(os, "fork"):
            return
        with self.opened(self.uri) as (made, key), meanwhile(lambda: self.require_signature(key)):
            for _ in range(5):
                in_child(self._use_anew(made, key), self.child_seconds)

    @needs()
    def test_fork_during_the_first_signature(self) -> None:
        """A fork while a key signs for the first time, and a store may still prepare it, hangs nobody (`connect`)."""
        if not hasattr(os, "fork"):
            return
        for delay in _DELAYS:
            with self.opened(self.uri) as (made, key):
                failures: list[BaseException] = []

                def sign(key: StoredKey = key, failures: list[BaseException] = failures) -> None:
                    try:
                        self.require_signature(key)
                    except BaseException as error:  # noqa: BLE001 - whatever it is, the test tells
                        failures.append(error)

                first = threading.Thread(target=sign, daemon=True)
                first.start()
                time.sleep(delay)
                in_child(self._use_anew(made, key), self.child_seconds)
                first.join(TIMEOUT)
                if first.is_alive() or failures:
                    broken(
                        seen=f"in the parent: {failures[0]!r}" if failures else "a first signature that hangs",
                        wanted="a signature",
                    )

    # What the tests above have in common.

    def _use_anew(self, made: KeyStore, key: StoredKey) -> Callable[[], None]:
        def use() -> None:
            if "fork" in self.unsupported:
                refused(lambda: made.connect(timeout=TIMEOUT), KeyUnusable, NotSupported)
                return
            made.connect(timeout=TIMEOUT)
            own = made.open(key.uri, timeout=TIMEOUT)
            self.require_signature(own)
            own.close()

        return use

    def _different(self, made: KeyStore) -> list[StoredKey]:
        """Return open keys: of each kind that is reached by the same connection, and such as are made for it."""
        uris = [self.parsed(uri) for _, uri in self.kinds_with_uris() if self.shares_connection(uri)]
        if self.offers("generate"):
            assert isinstance(made, GeneratesKeys)
            new = [uri for uri in (self.new_uri() for _ in range(_THREADS)) if self.shares_connection(uri)]
            uris += [made.generate(self.parsed(uri), self.spec()) for uri in new]
        return [made.open(uri, timeout=TIMEOUT) for uri in uris]

    def _sign_at_once(self, keys: Sequence[StoredKey]) -> None:
        """Let each key sign in a thread of its own."""

        def sign(thread: int, key: StoredKey) -> bool:
            algorithm = self.algorithm_of(key)
            messages = [b"%d %d" % (thread, number) for number in range(10)]
            return all(
                judge.is_good(key.public_key, key.sign(each, algorithm, timeout=TIMEOUT), each, algorithm.name)
                for each in messages
            )

        acts = [functools.partial(sign, number, key) for number, key in enumerate(keys)]
        if not all(at_once(acts, self.child_seconds)):
            broken(
                seen="a signature that is wrong, or of another thread's message or key",
                wanted="good signatures in every thread",
                change="Give each thread a session of its own, or serialise them with a lock.",
            )
