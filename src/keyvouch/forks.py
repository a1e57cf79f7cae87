"""Forks: what a child must forget, the locks and work of its parent's threads; and what a fork must wait for.

One hook for the whole package, since a registration with `os.register_at_fork` cannot be undone.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from types import TracebackType
from typing import Protocol


class _Process:
    def __init__(self) -> None:
        self.fork_number = 0
        """Counts the forks between the first process and this one: what bears another number is a parent's."""


class Forgetful(Protocol):
    """An object with locks, or with work of other threads, that is no use in a child."""

    def after_fork(self) -> None:
        """Make the locks anew and forget that work. Called in the child, before anything else runs there."""


process = _Process()
_watched: weakref.WeakSet[Forgetful] = weakref.WeakSet()


def watch(item: Forgetful) -> None:
    """Have `item.after_fork()` called in every forked child, for as long as the item lives."""
    _watched.add(item)


class ForkGate:
    """Lets a fork wait while threads are in native code: what that code has locked then stays locked in the child.

    Make one for each native module, and use it with `with` around short calls, for which a fork waits 10 seconds at
    most. Not to be entered twice by one thread.
    """

    def __init__(self) -> None:
        self._inside: list[None] = []  # one entry a thread; appending and removing are atomic, and take no lock
        self._forking = False
        self._forked = threading.Condition()
        _gates.add(self)

    def __enter__(self) -> None:
        self._inside.append(None)
        while self._forking:  # asked after counting in: `before_fork` sees the count, or this sees `_forking`
            self._inside.pop()
            with self._forked:
                self._forked.wait_for(lambda: not self._forking)
            self._inside.append(None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._inside.pop()

    def before_fork(self) -> None:
        """Let no thread in any more, and wait until those inside are out."""
        self._forking = True
        end = time.monotonic() + _FORK_WAITS
        while self._inside and time.monotonic() < end:
            time.sleep(0.0001)

    def after_fork_in_parent(self) -> None:
        """Let threads in again."""
        with self._forked:
            self._forking = False
            self._forked.notify_all()

    def after_fork_in_child(self) -> None:
        """Forget the parent's threads."""
        self._inside, self._forking, self._forked = [], False, threading.Condition()


_FORK_WAITS = 10.0
_gates: weakref.WeakSet[ForkGate] = weakref.WeakSet()
_one_fork = threading.Lock()
"""Held from before a fork until after it: of two forks at once neither opens the gates for the other."""


def _before_fork() -> None:
    _one_fork.acquire()
    for gate in list(_gates):
        gate.before_fork()


def _after_fork_in_parent() -> None:
    for gate in list(_gates):
        gate.after_fork_in_parent()
    _one_fork.release()


def _after_fork_in_child() -> None:
    global _one_fork  # noqa: PLW0603 - the parent's is held
    _one_fork = threading.Lock()
    for gate in list(_gates):
        gate.after_fork_in_child()
    process.fork_number += 1
    for item in list(_watched):
        item.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
