"""What a forked child must forget: the locks and the work of threads that exist in its parent alone.

One hook for the whole package, since a registration with `os.register_at_fork` cannot be undone.
"""

from __future__ import annotations

import os
import weakref
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


def _after_fork_in_child() -> None:
    process.fork_number += 1
    for item in list(_watched):
        item.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)
