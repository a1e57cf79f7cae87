"""The key that a signer uses: opened again after a lost connection or a fork, replaced by its successor on a rotation.

Former keys are kept for as long as they may still be signing.
"""

from __future__ import annotations

import threading

from keyvouch._core.connections import Connection
from keyvouch._core.opened_key import OpenedKey, open_key
from keyvouch._core.retries import Deadline
from keyvouch._system import forks, safe_lock
from keyvouch.errors import KeyUnusable, StoreUnavailable


class CurrentKey:
    """A key and its connection, shared by the threads of one signer."""

    def __init__(self, connection: Connection, opened: OpenedKey) -> None:
        self.connection = connection
        self.opened = opened
        self.closed = False
        """True once the signer is being closed: no further key is opened for it."""
        self._retired: list[OpenedKey] = []
        """Former keys, as long as they may still be signing."""
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        """Discard, in a child, what the parent's other threads were doing."""
        self.lock = threading.Lock()

    @property
    def idle(self) -> bool:
        """True if the key and its predecessors are retired, and none is signing."""
        return all(key.idle for key in (self.opened, *self._retired))

    def reopen_same_key(self, lost: OpenedKey, deadline: Deadline) -> tuple[OpenedKey, object]:
        """Return the same key, opened in a newer generation, and the token of its use."""
        while True:
            current = self.opened
            if current.spki != lost.spki or self.closed:
                # Either the key was rotated in the meantime; since the message may already name the old certificate,
                # the old key signs it. Or the signer is being closed, which waits for this signature.
                self.connection.connect(deadline, lost.generation)
                single = open_key(self.connection, lost.stored.uri, lost.chain, deadline, expected=lost)
                held = [single.use.token]  # a list, so that nothing stays in this frame, which an exception may keep
                single.retire()  # closed after this one signature
                return single, held.pop()
            held = [current.use.token]
            if current.generation > lost.generation and held[0] is not None:
                return current, held.pop()
            held.clear()
            self.reopen(current, deadline, lost=lost.generation)

    def reopen(self, old: OpenedKey, deadline: Deadline, lost: int | None) -> None:
        """Open the pinned URI once in a newer generation, or in this child; other threads wait for the first one."""
        self.connection.connect(deadline, lost)  # outside the lock: never hold it while waiting for a store
        held = list[bool]()
        try:
            if not safe_lock.acquire(self.lock, held, deadline.left()):
                raise reopening_timed_out()
            if self.opened is old and not self.closed:
                found = open_key(self.connection, old.stored.uri, old.chain, deadline, expected=old)
                self._set_current(found)
                if self.closed:  # in the meantime, by a thread that stopped waiting for this one
                    found.retire()
        finally:
            if True in held:
                self.lock.release()

    def replace(self, found: OpenedKey, deadline: Deadline) -> OpenedKey:
        """Use `found` from now on and return the former key; if that fails, `found` is closed."""
        held = list[bool]()
        try:
            if not safe_lock.acquire(self.lock, held, deadline.left()):
                raise reopening_timed_out()
            old = self.opened
            if self.closed:
                raise signer_closed()
            self._set_current(found)
        finally:
            if True in held:
                self.lock.release()
            if self.opened is not found:
                found.retire()
        return old

    def _set_current(self, opened: OpenedKey) -> None:
        old, self.opened = self.opened, opened
        old.retire()
        self.close_unused()
        self._retired = [key for key in (*self._retired, old) if not key.idle]

    def close_unused(self) -> None:
        """Close retired keys whose last signature was interrupted before it closed its key."""
        for key in (self.opened, *self._retired):
            key.close_if_unused()


def reopening_timed_out() -> StoreUnavailable:
    """Return the error for a key that another thread is still opening when the timeout ends."""
    return StoreUnavailable("Timed out reopening the key.", hint="Try again later.")


def signer_closed() -> KeyUnusable:
    """Return the error for using a signer after `close`; a client goes on to its next key."""
    return KeyUnusable("The signer is closed.", hint="Open a new one, or close this one after its last use.")
