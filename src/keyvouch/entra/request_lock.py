"""One process at a time makes a token request; those that wait for it then find its token in the cache."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from keyvouch._system.files import LockFile
from keyvouch._system.signal_handlers import is_from_signal_handler
from keyvouch.errors import KeyvouchError


@contextlib.contextmanager
def request_lock(path: Path, timeout: float) -> Iterator[bool]:
    """Wait up to `timeout` seconds for a process that makes the same request; yield False if it has not ended by then.

    Otherwise hold the lock during the block, unless a request of another process ended meanwhile: its token is in the
    cache, or it got none, and then one process after another would wait in vain. If its process died, the lock is held.
    A lock file that cannot be used never keeps a process from making its request.
    """
    with contextlib.ExitStack() as stack:
        lock, is_free = _acquire(path, timeout, stack)
        yield is_free
        if lock:  # not after an exception: if this process was interrupted, another should try
            with contextlib.suppress(OSError):
                lock.touch()


def _acquire(path: Path, timeout: float, stack: contextlib.ExitStack) -> tuple[LockFile | None, bool]:
    """Return the lock if this process is to hold it, and False if another process still holds it."""
    try:
        lock = stack.enter_context(LockFile(path))
        before = lock.stamp()
        is_free = lock.acquire(timeout)
        if is_free and lock.stamp() == before:
            return lock, True
    except (KeyvouchError, OSError) as error:
        if is_from_signal_handler(error):
            raise
        is_free = True
    stack.close()
    return None, is_free
