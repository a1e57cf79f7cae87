"""Forks: what a child must discard (its parent's locks and threads' work), and what a fork must wait for.

One hook for the whole package, since a registration with `os.register_at_fork` cannot be undone.
"""

from __future__ import annotations

import contextlib
import logging  # before the hooks below: it registers hooks of its own, and holds its lock from the first to the last
import os
import threading
import time
import weakref
from collections.abc import Iterator
from types import TracebackType
from typing import Protocol

log = logging.getLogger("keyvouch")


class _Process:
    fork_number = 0
    """Number of forks between the first process and this one; anything with another number belongs to a parent."""
    never_forks = False
    """True for a command: nothing need be imported early for the sake of its children, for it has none."""


class ForkAware(Protocol):
    """An object with locks, or with other threads' work, that a child cannot use."""

    def after_fork(self) -> None:
        """Create new locks and discard that work. Called in the child, before anything else runs there."""


process = _Process()
_watched: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def watch(item: ForkAware) -> None:
    """Call `item.after_fork()` in every forked child, for as long as the item exists."""
    _watched.add(item)


class ForkGate(contextlib.ContextDecorator):
    """Makes a fork wait while threads are in native code, whose locks a child would inherit but could never acquire.

    Make one for each native library, at the top of a module, and use it with `with`, or as a decorator, around short
    calls: a fork waits for them, for 10 seconds at most. A thread in one gate may enter another, or the same one again.
    """

    def __init__(self) -> None:
        self.inside: dict[int, int] = {}
        """How often each thread has entered. Each step is atomic and takes no lock."""
        _gates.append(self)

    def __enter__(self) -> None:
        thread = threading.get_ident()
        depth = self.inside.get(thread, 0)
        self.inside[thread] = depth + 1
        if _closed and not depth:  # checked after counting: `_close_gates` sees the count, or this sees `_closed`
            self._wait(thread)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        thread = threading.get_ident()
        depth = self.inside.get(thread, 1)
        if depth > 1:
            self.inside[thread] = depth - 1
        else:
            self.inside.pop(thread, None)

    def _wait(self, thread: int) -> None:
        """Leave until the gates are open, unless this thread is in another gate, which the fork waits for."""
        global _closed  # noqa: PLW0603 - shared by all gates
        if any(thread in gate.inside for gate in list(_gates) if gate is not self):
            return
        del self.inside[thread]
        with _fork_lock:  # the thread that closed the gates already holds it, and passes
            if _closing_thread != thread:
                _closed = False  # if an exception, such as a signal handler's, kept that thread from doing so
            self.inside[thread] = 1

    def after_fork(self) -> None:
        """Discard the parent's threads. Called in the child, before anything else runs there."""
        self.inside.clear()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Wait until no other thread is inside, and admit none in the block: for shutting down a native library.

        Raises TimeoutError if a thread stays inside for 10 seconds.
        """
        with _fork_lock:
            try:
                if not _close_gates([self]):
                    raise TimeoutError
                yield
            finally:
                _open_gates()


_MAX_WAIT = 10.0
"""Maximum seconds for which a fork waits."""
_gates: list[ForkGate] = []
_closed = False
_closing_thread: int | None = None
_fork_lock = threading.RLock()
"""Held by the thread that closed the gates. The hooks below are its own methods: no signal handler can interrupt them.
"""


def _close_gates(gates: list[ForkGate]) -> bool:
    """Admit no more threads; return True if all others have left in time."""
    global _closed, _closing_thread  # noqa: PLW0603
    _closing_thread = thread = threading.get_ident()
    _closed = True
    end = time.monotonic() + _MAX_WAIT
    while any(set(gate.inside) - {thread} for gate in gates):
        if time.monotonic() > end:
            return False
        time.sleep(0.0001)
    return True


def _open_gates() -> None:
    global _closed, _closing_thread
    _closed, _closing_thread = False, None


def _before_fork() -> None:
    if not _close_gates(_gates):
        for gate in _gates:  # an entry this old may be left from an exception: the next fork must not wait for it
            gate.inside.clear()


def _after_fork_in_child() -> None:
    _open_gates()
    process.fork_number += 1
    for item in [*_gates, *_watched]:
        try:
            item.after_fork()
        except Exception as error:  # noqa: BLE001 - a failure must not keep the others from running
            log.warning("%s is not usable in a forked child: %s", type(item).__name__, type(error).__name__)


IMPORTS = ForkGate()
"""Gate for imports inside functions: a module being imported during a fork can never be imported in the child."""


if hasattr(os, "register_at_fork"):  # not on Windows
    # Before a fork, hooks run in reverse order of registration; after it, in order of registration.
    os.register_at_fork(before=_before_fork, after_in_parent=_open_gates, after_in_child=_after_fork_in_child)
    os.register_at_fork(
        before=_fork_lock.acquire,
        after_in_parent=_fork_lock.release,
        after_in_child=getattr(_fork_lock, "_at_fork_reinit"),  # noqa: B009 - as the standard library does
    )
