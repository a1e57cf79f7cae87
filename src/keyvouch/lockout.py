"""A wrong PIN is tried once, in all threads, processes and restarts: a token counts the tries, and then locks.

The refusal is kept in the state folder, by token, as a salted scrypt digest of the refused value. Another value is
tried; the refused one is not.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from keyvouch import files, forks
from keyvouch.errors import SecretIncorrect

_WAIT = 60.0
"""Seconds to wait for another process that is just trying."""


class _Locks:
    """One for each target: threads wait here, processes at the file."""

    def __init__(self) -> None:
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        self._by_target: dict[str, threading.Lock] = {}

    def of(self, target: str) -> threading.Lock:
        return self._by_target.setdefault(target, threading.Lock())


_locks = _Locks()


@contextlib.contextmanager
def single_try(target: str, value: str) -> Iterator[None]:
    """Hold a thread's and a file's lock while `value` is tried on `target`; refuse a value that was refused before.

    Raises `SecretIncorrect` for such a value, and records the `SecretIncorrect` that the block raises.
    """
    record = _record(target)
    with _locks.of(target), files.locked(record.with_suffix(".lock"), timeout=_WAIT):
        if _was_refused(record, value):
            raise SecretIncorrect(
                "This PIN was refused before, and is not tried again: another failure may lock the token.",
                hint="Correct the PIN where the reference leads; a new value is tried at once.",
            )
        try:
            yield
        except SecretIncorrect:
            salt = os.urandom(16)
            entry = {"salt": salt.hex(), "digest": _digest(value, salt).hex()}
            files.write_private(record, json.dumps(entry).encode(), replace=True)
            raise
        record.unlink(missing_ok=True)


def _record(target: str) -> Path:
    # A token's label may hold anything: its digest is a safe name.
    return files.state_folder() / "refused" / f"{hashlib.sha256(target.encode()).hexdigest()[:32]}.json"


def _was_refused(record: Path, value: str) -> bool:
    try:
        entry = json.loads(record.read_bytes())
        salt, digest = bytes.fromhex(entry["salt"]), bytes.fromhex(entry["digest"])
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError):  # damaged: it tells nothing, and is written anew at the next refusal
        return False
    return hmac.compare_digest(_digest(value, salt), digest)


def _digest(value: str, salt: bytes) -> bytes:
    return hashlib.scrypt(value.encode(), salt=salt, n=2**14, r=8, p=1)
