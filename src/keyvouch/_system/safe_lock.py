"""Acquire a lock so that an exception raised by a signal handler cannot leave it held."""

from __future__ import annotations

import threading


def acquire(lock: threading.Lock, held: list[bool], seconds: float) -> bool:
    """Try for `seconds` to acquire the lock, and add the result to `held`; release it in a `finally` if that has True.

    A signal handler may raise between any two calls, but not within one: so a single call both acquires and records.
    """
    held.extend(map(lock.acquire, (True,), (max(0.0, seconds),)))
    return True in held
