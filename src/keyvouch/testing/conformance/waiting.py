"""Rules of timeouts: a server that does not answer holds up nobody for longer than was agreed, nor mixes up answers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keyvouch.errors import SessionLost, StoreUnavailable
from keyvouch.store import KeyStore, StoredKey
from keyvouch.testing.conformance import judge
from keyvouch.testing.conformance.declarations import TIMEOUT, Declarations, broken, needs
from keyvouch.testing.conformance.meanwhile import ended
from keyvouch.testing.relay import Proxy

_SHORT = 1.0
_HAND_IT_ON = "Hand `timeout` to the transport: connecting and reading both."


class Waiting(Declarations):
    """See `timeout` in `KeyStore.connect`, `KeyStore.open` and `StoredKey.sign`."""

    @needs("stalled")
    def test_timeout_is_kept(self) -> None:
        """`connect` ends soon after `timeout`, as StoreUnavailable, though nobody answers (`KeyStore.connect`)."""
        made = self.the_class()(self.parsed(self.uri), self.secrets())
        self._node.addfinalizer(made.close)
        with self._stalled():
            self._require_unavailable(made)

    @needs("stalled")
    def test_timeout_of_open_and_sign_is_kept(self) -> None:
        """`open` and `sign` end soon after `timeout` too; then the store works again (`KeyStore.open`, `sign`)."""
        self._require_end("sign", lambda _, key: self.require_signature(key, timeout=_SHORT))
        self._require_end("open", lambda made, key: made.open(key.uri, timeout=_SHORT).close())

    @needs("stalled")
    def test_late_answer_is_nobody_elses(self) -> None:
        """What comes after its `timeout` is not taken for the answer to the next request (`StoredKey.sign`)."""
        with self.opened(self.uri) as (made, key):
            algorithm = self.algorithm_of(key)
            with self._stalled():
                late = ended(
                    lambda: key.sign(b"late", algorithm, timeout=_SHORT),
                    self.patience_seconds,
                    f"sign, with timeout={_SHORT}",
                    _HAND_IT_ON,
                )
            if late is None:  # signed without the server: there is no answer to come
                return
            for message in (b"second", b"third"):
                try:
                    signature = key.sign(message, algorithm, timeout=TIMEOUT)
                except SessionLost:
                    self.connect_again(made)
                    with contextlib.closing(made.open(key.uri, timeout=TIMEOUT)) as again:
                        signature = again.sign(message, algorithm, timeout=TIMEOUT)
                if not judge.is_good(key.public_key, signature, message, algorithm.name):
                    broken(
                        seen="another answer than that to the request, after one had run into its timeout",
                        wanted="a signature over the message that was given",
                        change="End the session whose answer was not waited for, and raise SessionLost.",
                    )

    @needs("stalled")
    def test_close_does_not_wait_for_the_server(self) -> None:
        """`close` ends within 10 seconds and raises nothing, though nobody answers (`KeyStore.close`)."""
        with self.connected(self.uri) as made:
            key = made.open(self.parsed(self.uri), timeout=TIMEOUT)
            with self._stalled():
                for name, close in (("a key", key.close), ("the store", made.close)):
                    error = ended(
                        close, self.closing_seconds, f"close() of {name}", "Leave behind what does not answer."
                    )
                    if error:
                        broken(seen=f"close() of {name} raises {error!r}", wanted="nothing")

    @needs("stalled", "proxy")
    def test_proxy_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A proxy that HTTPS_PROXY names is used, and not for loopback (`KeyStore.connect`)."""
        with self._proxy(monkeypatch) as proxy:
            with self.opened(str(self.proxied_uri)) as (_, key):
                self.require_signature(key)
            if not proxy.asked:
                broken(seen="a connection past the proxy", wanted="one through it", change="Heed HTTPS_PROXY.")
            with self.opened(self.uri) as (_, key):
                self.require_signature(key)
            local = [each for each in proxy.asked if each.startswith(("127.", "localhost", "[::1]"))]
            if local:
                broken(seen=f"the proxy was asked for {local[0]}", wanted="loopback past the proxy")

    @needs("stalled", "proxy")
    def test_timeout_is_kept_through_a_proxy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """`connect` ends soon after `timeout` though the proxy does not answer (`KeyStore.connect`)."""
        made = self.the_class()(self.parsed(str(self.proxied_uri)), self.secrets())
        self._node.addfinalizer(made.close)
        with self._proxy(monkeypatch) as proxy:
            proxy.stall()
            self._require_unavailable(made)

    # What the tests above have in common.

    def _require_end(self, name: str, act: Callable[[KeyStore, StoredKey], object]) -> None:
        """Do it while nobody answers: it ends in time, leaves no process, and afterwards the store works again."""
        with self.opened(self.uri) as (made, key):
            before = _children()
            with self._stalled():
                error = ended(
                    lambda: act(made, key), self.patience_seconds, f"{name}, with timeout={_SHORT}", _HAND_IT_ON
                )
                if error and not isinstance(error, StoreUnavailable):
                    broken(
                        seen=f"{error!r} from {name}",
                        wanted="StoreUnavailable, or SessionLost where the session is given up",
                        change="Map the library's time-out to it.",
                    )
                if left := _children() - before:
                    broken(
                        seen=f"processes that go on after their time: {', '.join(sorted(left))}",
                        wanted="none",
                        change="Kill a process whose answer was not waited for, and wait for its end.",
                    )
            self.connect_again(made)
            again = made.open(key.uri, timeout=TIMEOUT)
            self.require_signature(again)
            again.close()

    def _require_unavailable(self, made: KeyStore) -> None:
        error = ended(
            lambda: made.connect(timeout=_SHORT), self.patience_seconds, f"connect, with timeout={_SHORT}", _HAND_IT_ON
        )
        if not isinstance(error, StoreUnavailable):
            broken(
                seen=repr(error) if error else "a log-in, and nobody answers",
                wanted="StoreUnavailable",
                change="Prove the log-in by one call, and map the library's time-out to StoreUnavailable.",
            )

    @contextlib.contextmanager
    def _stalled(self) -> Iterator[None]:
        self.stall_connection()
        try:
            yield
        finally:
            self.resume_connection()

    @contextlib.contextmanager
    def _proxy(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
        assert self.proxied_server is not None
        with Proxy(self.proxied_server) as proxy:
            for name in ("HTTPS_PROXY", "https_proxy"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
                monkeypatch.delenv(name, raising=False)
            yield proxy


def _children() -> set[str]:
    """Return the ids of this process's children, where the system tells."""
    with contextlib.suppress(OSError):
        tasks = Path("/proc/self/task").iterdir()
        return {child for task in tasks for child in (task / "children").read_text().split()}
    return set()
