"""Rules about timeouts: calls return in time although the server does not respond, and responses are not mixed up."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keyvouch.errors import SessionLost, StoreUnavailable
from keyvouch.store import KeyStore, StoredKey
from keyvouch.testing.conformance import verification
from keyvouch.testing.conformance.declarations import TIMEOUT, Declarations, fail, needs
from keyvouch.testing.conformance.execution import run_with_deadline
from keyvouch.testing.relay import Proxy

_SHORT = 1.0
_FORWARD_TIMEOUT = "Pass `timeout` to the transport, for both connecting and reading."


class Timeouts(Declarations):
    """See `timeout` in `KeyStore.connect`, `KeyStore.open` and `StoredKey.sign`."""

    @needs("stalled")
    def test_timeout_is_respected(self) -> None:
        """`connect` raises StoreUnavailable soon after `timeout` if the server is stalled (`KeyStore.connect`)."""
        store = self.the_class()(self.parsed(self.uri), self.secrets())
        self._node.addfinalizer(store.close)
        with self._stalled():
            self._require_unavailable(store)

    @needs("stalled")
    def test_timeout_of_open_and_sign_is_respected(self) -> None:
        """`open` and `sign` also return soon after `timeout`; then the store works again (`KeyStore.open`, `sign`)."""
        self._require_return("sign", lambda _, key: self.require_signature(key, timeout=_SHORT))
        self._require_return("open", lambda store, key: store.open(key.uri, timeout=_SHORT).close())

    @needs("stalled")
    def test_late_response_is_discarded(self) -> None:
        """A response that arrives after `timeout` is not taken for that of the next request (`StoredKey.sign`)."""
        with self.opened(self.uri) as (store, key):
            algorithm = self.algorithm_of(key)
            with self._stalled():
                error = run_with_deadline(
                    lambda: key.sign(b"late", algorithm, timeout=_SHORT),
                    self.patience_seconds,
                    f"sign, with timeout={_SHORT}",
                    _FORWARD_TIMEOUT,
                )
            if error is None:  # signed without the server, so there is no late response
                return
            for message in (b"second", b"third"):
                try:
                    signature = key.sign(message, algorithm, timeout=TIMEOUT)
                except SessionLost:
                    self.connect_again(store)
                    with contextlib.closing(store.open(key.uri, timeout=TIMEOUT)) as again:
                        signature = again.sign(message, algorithm, timeout=TIMEOUT)
                if not verification.verifies(key.public_key, signature, message, algorithm.name):
                    fail(
                        got="the response to an earlier request that timed out",
                        expected="a signature over the given message",
                        fix="End the session of a request that timed out, and raise SessionLost.",
                    )

    @needs("stalled")
    def test_close_does_not_wait_for_the_server(self) -> None:
        """`close` returns within 10 seconds without an error if the server does not respond (`KeyStore.close`)."""
        with self.connected(self.uri) as store:
            key = store.open(self.parsed(self.uri), timeout=TIMEOUT)
            with self._stalled():
                for name, close in (("a key", key.close), ("the store", store.close)):
                    error = run_with_deadline(
                        close,
                        self.closing_seconds,
                        f"close() of {name}",
                        "Do not wait for a server that does not respond.",
                    )
                    if error:
                        fail(got=f"close() of {name} raises {error!r}", expected="no error")

    @needs("stalled", "proxy")
    def test_proxy_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The proxy in HTTPS_PROXY is used, except for loopback (`KeyStore.connect`)."""
        with self._proxy(monkeypatch) as proxy:
            with self.opened(str(self.proxied_uri)) as (_, key):
                self.require_signature(key)
            if not proxy.asked:
                fail(got="a connection that bypasses the proxy", expected="one through it", fix="Use HTTPS_PROXY.")
            with self.opened(self.uri) as (_, key):
                self.require_signature(key)
            local = [each for each in proxy.asked if each.startswith(("127.", "localhost", "[::1]"))]
            if local:
                fail(got=f"a connection to {local[0]} through the proxy", expected="loopback without the proxy")

    @needs("stalled", "proxy")
    def test_timeout_is_respected_through_a_proxy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """`connect` raises StoreUnavailable soon after `timeout` if the proxy does not respond (`KeyStore.connect`)."""
        store = self.the_class()(self.parsed(str(self.proxied_uri)), self.secrets())
        self._node.addfinalizer(store.close)
        with self._proxy(monkeypatch) as proxy:
            proxy.stall()
            self._require_unavailable(store)

    # Helpers.

    def _require_return(self, name: str, call: Callable[[KeyStore, StoredKey], object]) -> None:
        """Run `call` with a stalled server: it returns in time, leaves no process, and the store works afterwards."""
        with self.opened(self.uri) as (store, key):
            before = _children()
            with self._stalled():
                error = run_with_deadline(
                    lambda: call(store, key), self.patience_seconds, f"{name}, with timeout={_SHORT}", _FORWARD_TIMEOUT
                )
                if error and not isinstance(error, StoreUnavailable):
                    fail(
                        got=f"{error!r} from {name}",
                        expected="StoreUnavailable, or SessionLost if the session is ended",
                        fix="Translate the library's timeout error to it.",
                    )
                if left := _children() - before:
                    fail(
                        got=f"processes that still run after the timeout: {', '.join(sorted(left))}",
                        expected="none",
                        fix="Kill a process that timed out, and wait for it to end.",
                    )
            self.connect_again(store)
            again = store.open(key.uri, timeout=TIMEOUT)
            self.require_signature(again)
            again.close()

    def _require_unavailable(self, store: KeyStore) -> None:
        error = run_with_deadline(
            lambda: store.connect(timeout=_SHORT),
            self.patience_seconds,
            f"connect, with timeout={_SHORT}",
            _FORWARD_TIMEOUT,
        )
        if not isinstance(error, StoreUnavailable):
            fail(
                got=repr(error) if error else "a login although the server does not respond",
                expected="StoreUnavailable",
                fix="Check the login with one request, and translate the library's timeout error to StoreUnavailable.",
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
    """Return the IDs of this process's children, if the system reports them."""
    with contextlib.suppress(OSError):
        tasks = Path("/proc/self/task").iterdir()
        return {child for task in tasks for child in (task / "children").read_text().split()}
    return set()
