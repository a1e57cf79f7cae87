"""The open stores of this process, shared by their keys.

Rules, which hold for every store:

- One `KeyStore` for each set of equal connection attributes (and equal rules for secrets), counted. One that is being
  closed is never handed out, nor a second one made beside it: an opener waits.
- `connect()` is called by one thread at a time. The first that reports the loss of generation *n* connects again, the
  others wait for it and share its failure.
- In a forked child the `KeyStore` stays, and connects anew at its first use; what the parent made is not closed there.
- Every wait ends with the caller's timeout. No other lock is held while waiting for a store.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from keyvouch import forks
from keyvouch.errors import KeyvouchError, SessionLost, StoreUnavailable, Throttled
from keyvouch.forks import process
from keyvouch.secrets import SecretResolver
from keyvouch.single_flight import FlightTimeout, SingleFlight
from keyvouch.store import KeyStore
from keyvouch.store_faults import store_code
from keyvouch.uri import KeyUri

T = TypeVar("T")
log = logging.getLogger("keyvouch")

CLOSING_TIMEOUT = 10.0
"""Seconds for which closing a store, or a key that still signs, is waited for."""
_LONGEST_PAUSE = 1.0
"""Seconds between two tries while a store is not there: who waits for an election should see its end soon."""
_OPENER_WAITS = CLOSING_TIMEOUT + 1


class Deadline:
    """The end of a caller's timeout, and how much of it one try may take."""

    __slots__ = ("_end", "_share")

    def __init__(self, timeout: float, started: float | None = None) -> None:
        self._end = (time.monotonic() if started is None else started) + timeout
        self._share = max(1.0, timeout / 3)

    def left(self) -> float:
        """Return the seconds that are left; negative when it is over."""
        return self._end - time.monotonic()

    def one_try(self) -> float:
        """Return a third of the timeout, at least a second: a request that stalls leaves room for another."""
        return max(0.001, min(self._share, self.left()))

    def wait(self, seconds: float, error: KeyvouchError) -> None:
        """Sleep; raise the error instead where the timeout ends before."""
        if seconds >= self.left():
            raise ended(error)
        time.sleep(seconds)


class Backoff:
    """How long to wait after an error that may pass: as told, else doubling, with jitter."""

    def __init__(self) -> None:
        self._throttled = 1.0
        self._unavailable = 0.1

    def after(self, error: StoreUnavailable) -> float:
        """Return the seconds to wait before the next try."""
        if isinstance(error, Throttled):
            if error.retry_after is not None:
                return max(0.1, error.retry_after)  # some servers say 0, or name a moment that has passed
            self._throttled *= 2
            return self._throttled / 2 * random.uniform(0.9, 1.1)  # noqa: S311 - only to spread callers
        pause, self._unavailable = self._unavailable, min(2 * self._unavailable, _LONGEST_PAUSE)
        return pause


def ended(error: KeyvouchError) -> KeyvouchError:
    """Return what the user sees of an error at the end of the timeout: never `SessionLost`."""
    if not isinstance(error, SessionLost):
        return error
    visible = StoreUnavailable(error.message, hint=error.hint or "Try again later.", uri=error.uri)
    visible.__cause__ = error
    return visible


class Connection:
    """One `KeyStore`, its users counted; `acquire` gives it, `release` takes it back."""

    def __init__(self, key: object, store: KeyStore, scheme: str) -> None:
        self.key = key
        self.store = store
        self.scheme = scheme
        self.users = 1
        self.closing = False
        self.generation = 0
        """Grows with every log-in; a key belongs to the generation it was opened in."""
        self._connected_in = -1  # the fork number
        self._made_in = process.fork_number
        self._log_in = SingleFlight[None]()

    @property
    def connected(self) -> bool:
        """Whether this process, and not only its parent, has connected."""
        return self._connected_in == process.fork_number

    def connect(self, deadline: Deadline, lost: int | None = None) -> int:
        """Return the number of a generation that is connected, and newer than the one that was `lost`."""

        def is_new() -> bool:
            return self.connected and (lost is None or self.generation > lost)

        def log_in() -> None:
            if is_new():  # another thread's flight ended just before this one began
                return
            backoff = Backoff()
            while True:
                try:
                    with store_code(self.scheme):
                        self.store.connect(timeout=deadline.one_try())
                    break
                except SessionLost as error:
                    raise ended(error) from error
                except Throttled as error:
                    deadline.wait(backoff.after(error), error)
            self.generation += 1
            self._connected_in = process.fork_number

        while not is_new():
            try:
                self._log_in.do("log in", log_in, timeout=deadline.left())
            except FlightTimeout:
                raise StoreUnavailable(
                    "The store's connection was not ready in time.", hint="Try again later."
                ) from None
        return self.generation

    def call(self, action: Callable[[float], T], deadline: Deadline, *, repeatable: bool = True) -> tuple[T, int]:
        """Do something with the connected store; return its result and the generation that it was done in.

        `action` takes the seconds it may last, and calls only the store. It is repeated only on `SessionLost` and
        `Throttled`, so that a wrong address fails at once; what changes something (`repeatable` false) only if it was
        surely not carried out.
        """
        backoff, lost = Backoff(), None
        while True:
            generation = self.connect(deadline, lost)
            try:
                with store_code(self.scheme):
                    return action(deadline.one_try()), generation
            except SessionLost as error:
                if deadline.left() <= 0 or (error.performed and not repeatable):
                    raise ended(error) from error
                if lost is not None:  # the new log-in was lost too: not one after the other without a pause
                    deadline.wait(backoff.after(error), error)
                lost = generation
            except Throttled as error:
                deadline.wait(backoff.after(error), error)

    def close(self, timeout: float) -> None:
        """Close the store, unless another process made it; wait for `timeout` seconds at most."""
        if self._made_in != process.fork_number or not self.generation:
            return
        closer = threading.Thread(target=self._close, name="keyvouch-close", daemon=True)
        try:
            closer.start()
        except RuntimeError:  # no thread can be started any more: the interpreter ends, or the limit is reached
            self._close()
            return
        closer.join(timeout)
        if closer.is_alive():
            log.warning("A store has not closed within %.0f seconds and is left behind.", timeout)

    def _close(self) -> None:
        try:
            self.store.close()
        except Exception as error:  # noqa: BLE001 - the contract says it raises nothing; nobody could act on it
            log.warning("A store failed to close: %s", type(error).__name__)


class _OpenConnections:
    """Those of this process, by what they were made for."""

    def __init__(self) -> None:
        self.by_key: dict[object, Connection] = {}
        self._make_lock()
        forks.watch(self)

    def _make_lock(self) -> None:
        self.lock = threading.RLock()
        """For `with`: unlike that of a condition, it is never left held by a signal handler that raises."""
        self.changed = threading.Condition(self.lock)

    def after_fork(self) -> None:
        self._make_lock()
        for key, connection in list(self.by_key.items()):
            if connection.closing:  # by a thread that is not in the child
                del self.by_key[key]


_open = _OpenConnections()


def acquire(
    uri: KeyUri, store_class: type[KeyStore], secrets: SecretResolver, *, timeout: float = _OPENER_WAITS
) -> Connection:
    """Return the connection that serves this URI, made where there is none; it must be released.

    Raises what the store's `__init__` raises, and `StoreUnavailable` where one that is being closed does not end.
    """
    names = tuple(attribute.name for attribute in store_class.attributes if attribute.connection)
    key = (store_class, uri.octets(names), secrets.rules)
    deadline = Deadline(min(timeout, _OPENER_WAITS))
    with _open.lock:
        while (connection := _open.by_key.get(key)) is not None:
            if not connection.closing:
                connection.users += 1
                return connection
            if not _open.changed.wait(max(0.0, deadline.left())) and deadline.left() <= 0:
                raise StoreUnavailable(
                    "The store is just being closed, and does not end.", hint="Start the program anew.", uri=uri
                )
        with store_code(uri.scheme):
            store = store_class(uri, secrets)
        connection = _open.by_key[key] = Connection(key, store, uri.scheme)
        return connection


def release(connection: Connection, timeout: float | None = None) -> None:
    """Give a connection back; the last one out closes the store, within `timeout` seconds (else 10)."""
    last = False
    try:
        with _open.lock:
            connection.users -= 1
            connection.closing = last = not connection.users
        if last:
            connection.close(CLOSING_TIMEOUT if timeout is None else timeout)
    finally:  # also if a signal handler raised: it must not look as if it were being closed for ever
        if last:
            with _open.lock:
                _open.by_key.pop(connection.key, None)
                _open.changed.notify_all()
