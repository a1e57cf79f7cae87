"""The process's open stores, shared by their keys.

Rules for every store:

- One `KeyStore`, reference-counted, for each set of equal connection attributes (and equal rules for secrets). While it
  is being closed it is not handed out, and no second one is created: an opener waits.
- `connect()` is called by one thread at a time. The first thread that reports the loss of generation *n* reconnects;
  the others wait for it and share its failure.
- In a forked child the `KeyStore` stays and reconnects on first use; what the parent opened is not closed there.
- Every wait ends with the caller's timeout. No other lock is held while waiting for a store.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from keyvouch._core.retries import Backoff, Deadline, as_user_error
from keyvouch._core.store_faults import store_code
from keyvouch._system import forks
from keyvouch._system.forks import process
from keyvouch._system.single_flight import FlightTimeout, SingleFlight
from keyvouch.errors import SessionLost, StoreUnavailable, Throttled
from keyvouch.secrets import SecretResolver
from keyvouch.store import KeyStore
from keyvouch.uri import KeyUri

T = TypeVar("T")
log = logging.getLogger("keyvouch")

CLOSING_TIMEOUT = 10.0
"""Seconds to wait while a store, or a key that is still signing, closes."""
_OPENER_WAITS = CLOSING_TIMEOUT + 1


class Connection:
    """A `KeyStore` and the number of its users; `acquire` hands it out, `release` takes it back."""

    def __init__(self, key: object, store: KeyStore, scheme: str) -> None:
        self.key = key
        self.store = store
        self.scheme = scheme
        self.users = 1
        self.closing = False
        self.generation = 0
        """Incremented at each login; a key belongs to the generation it was opened in."""
        self._connected_in = -1  # the fork number
        self._made_in = process.fork_number
        self._log_in = SingleFlight[None]()

    @property
    def connected(self) -> bool:
        """True if this process has connected, and not only its parent."""
        return self._connected_in == process.fork_number

    def connect(self, deadline: Deadline, lost: int | None = None) -> int:
        """Return the number of a connected generation that is newer than the `lost` one."""

        def is_new() -> bool:
            return self.connected and (lost is None or self.generation > lost)

        def log_in() -> None:
            if is_new():  # another thread's flight ended just before this one began
                return
            backoff = Backoff()
            while True:
                try:
                    with store_code(self.scheme):
                        self.store.connect(timeout=deadline.attempt_timeout())
                    break
                except SessionLost as error:
                    raise as_user_error(error) from error
                except Throttled as error:
                    deadline.wait(backoff.delay_after(error), error)
            self.generation += 1
            self._connected_in = process.fork_number

        while not is_new():
            try:
                self._log_in.do("log in", log_in, timeout=deadline.left())
            except FlightTimeout:
                raise StoreUnavailable(
                    "Timed out waiting for the connection to the store.", hint="Try again later."
                ) from None
        return self.generation

    def call(self, action: Callable[[float], T], deadline: Deadline, *, repeatable: bool = True) -> tuple[T, int]:
        """Call `action` with the store connected; return its result and the generation it ran in.

        `action` takes its timeout in seconds, and calls only the store. It is repeated only on `SessionLost` and
        `Throttled`, so that a wrong address fails at once; a change (`repeatable` false) only if it was certainly not
        carried out.
        """
        backoff, lost = Backoff(), None
        while True:
            generation = self.connect(deadline, lost)
            try:
                with store_code(self.scheme):
                    return action(deadline.attempt_timeout()), generation
            except SessionLost as error:
                if deadline.left() <= 0 or (error.performed and not repeatable):
                    raise as_user_error(error) from error
                if lost is not None:  # the new session was lost too: pause before the next login
                    deadline.wait(backoff.delay_after(error), error)
                lost = generation
            except Throttled as error:
                deadline.wait(backoff.delay_after(error), error)

    def close(self, timeout: float) -> None:
        """Close the store, unless another process made it; wait for at most `timeout` seconds."""
        if self._made_in != process.fork_number or not self.generation:
            return
        closer = threading.Thread(target=self._close, name="keyvouch-close", daemon=True)
        try:
            closer.start()
        except RuntimeError:  # no more threads: the interpreter is shutting down, or the limit is reached
            self._close()
            return
        closer.join(timeout)
        if closer.is_alive():
            log.warning("A store did not close within %.0f seconds; its connection is abandoned.", timeout)

    def _close(self) -> None:
        try:
            self.store.close()
        except Exception as error:  # noqa: BLE001 - the contract forbids raising, and no caller could handle it
            log.warning("Failed to close a store: %s", type(error).__name__)


class _OpenConnections:
    """The open connections of this process, by store class, connection attributes and rules for secrets."""

    def __init__(self) -> None:
        self.by_key: dict[object, Connection] = {}
        self._make_lock()
        forks.watch(self)

    def _make_lock(self) -> None:
        self.lock = threading.RLock()
        """For `with`: unlike a condition's own lock, it is never left held by a signal handler that raises."""
        self.changed = threading.Condition(self.lock)

    def after_fork(self) -> None:
        self._make_lock()
        for key, connection in list(self.by_key.items()):
            if connection.closing:  # by a thread that does not exist in the child
                del self.by_key[key]


_open = _OpenConnections()


def acquire(uri: KeyUri, secrets: SecretResolver, *, timeout: float = _OPENER_WAITS) -> Connection:
    """Return the connection for this URI, created if there is none; the caller must release it.

    Raises what the store's `__init__` raises, and `StoreUnavailable` if a store that is being closed does not close in
    time.
    """
    store_class: type[KeyStore] = uri.store_class
    names = tuple(attribute.name for attribute in store_class.attributes if attribute.connection)
    key = (store_class, uri.raw_values(names), secrets.rules)
    deadline = Deadline(min(timeout, _OPENER_WAITS))
    with _open.lock:
        while (connection := _open.by_key.get(key)) is not None:
            if not connection.closing:
                connection.users += 1
                return connection
            if not _open.changed.wait(max(0.0, deadline.left())) and deadline.left() <= 0:
                raise StoreUnavailable(
                    "Timed out waiting for the store to close.", hint="Restart the program.", uri=uri
                )
        with store_code(uri.scheme):
            store = store_class(uri, secrets)
        connection = _open.by_key[key] = Connection(key, store, uri.scheme)
        return connection


def release(connection: Connection, timeout: float | None = None) -> None:
    """Release a connection; the last user closes the store, within `timeout` seconds (default 10)."""
    last = False
    try:
        with _open.lock:
            connection.users -= 1
            connection.closing = last = not connection.users
        if last:
            connection.close(CLOSING_TIMEOUT if timeout is None else timeout)
    finally:  # also if a signal handler raised: the connection must not look as if it were closing forever
        if last:
            with _open.lock:
                _open.by_key.pop(connection.key, None)
                _open.changed.notify_all()
