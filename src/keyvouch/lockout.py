"""A wrong PIN is tried once, in all threads, processes and restarts: a token counts the tries, and then locks.

The refusals are kept in the state folder, by token, as salted scrypt digests of the refused values. Another value is
tried; a refused one is not, until some value is accepted. A value is written down before it is tried and struck out
after a try that was no refusal: a process that dies in the try, or a full disk, costs no further one.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from keyvouch import files, forks
from keyvouch.errors import ConfigurationError, SecretIncorrect, StoreUnavailable

WAIT = 60.0
"""Seconds to wait for another thread or process that is just trying."""


class _Locks:
    """One for each target: threads wait here, processes at the file."""

    def __init__(self) -> None:
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        self._by_target: dict[str, threading.Lock] = {}

    @contextlib.contextmanager
    def held(self, target: str, timeout: float) -> Iterator[None]:
        lock = self._by_target.setdefault(target, threading.Lock())
        if not lock.acquire(timeout=max(0.0, timeout)):
            raise StoreUnavailable(
                f"Another thread has been logging in to the token for {timeout:.0f} seconds.", hint="Try again later."
            )
        try:
            yield
        finally:
            lock.release()


_locks = _Locks()


@dataclass
class _Refusals:
    """Of one token: the salt, and the digest of each value that it refused."""

    salt: bytes
    digests: list[bytes]

    def digest(self, value: str) -> bytes:
        return hashlib.scrypt(value.encode(), salt=self.salt, n=2**14, r=8, p=1)

    def holds(self, digest: bytes) -> bool:
        return any(hmac.compare_digest(digest, refused) for refused in self.digests)


@contextlib.contextmanager
def single_try(target: str, reveal: Callable[[], str], *, timeout: float = WAIT) -> Iterator[None]:
    """Hold a thread's and a file's lock while a value is tried on `target`; refuse a value that was refused before.

    `reveal` returns the value, so that it stands in no frame that a traceback shows. Raises `SecretIncorrect` for a
    refused one, keeps the `SecretIncorrect` that the block raises, and forgets all when the block ends well. Raises
    `StoreUnavailable` where another's try lasts longer than `timeout` seconds.
    """
    record = _record(target)
    end = time.monotonic() + timeout
    with _locks.held(target, timeout), files.locked(record.with_suffix(".lock"), timeout=end - time.monotonic()):
        before = _read(record)
        digest = before.digest(reveal())
        if before.holds(digest):
            raise SecretIncorrect(
                "This PIN was refused before, or its try did not end, and it is not tried again: another failure may"
                " lock the token.",
                hint="Correct the PIN where the reference leads: a new value is tried at once. If this one is right"
                " after all, run: keyvouch doctor --unseal",
            )
        # All that were refused: two jobs with different wrong values would else wear the token out in turns.
        _write(record, _Refusals(before.salt, [*before.digests, digest]))
        try:
            yield
        except SecretIncorrect:
            raise
        except BaseException:  # no answer to whether it is right
            _restore(record, before)
            raise
        _restore(record, _Refusals(before.salt, []))


def forget() -> int:
    """Forget every refusal, so that each value may be tried once more; return how many tokens that concerns."""
    records = list(_folder().glob("*.json"))
    try:
        for record in records:
            record.unlink()
    except OSError as error:
        raise files.cannot_write(record, error) from error
    return len(records)


def _folder() -> Path:
    return files.state_folder() / "refused"


def _record(target: str) -> Path:
    # A token's label may hold anything: its digest is a safe name.
    return _folder() / f"{hashlib.sha256(target.encode()).hexdigest()[:32]}.json"


def _read(record: Path) -> _Refusals:
    try:
        entry = json.loads(record.read_bytes())
        return _Refusals(bytes.fromhex(entry["salt"]), [bytes.fromhex(digest) for digest in entry["digests"]])
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ConfigurationError(
            f"{record} cannot be read: {error.strerror}.", hint="Let this account read it, or set STATE_DIRECTORY."
        ) from error
    except (ValueError, KeyError, TypeError):  # damaged: it tells nothing, and is written anew at the next refusal
        pass
    return _Refusals(os.urandom(16), [])


def _restore(record: Path, refusals: _Refusals) -> None:
    """Leave the record as it was; where that cannot be, a value is not tried again that might have been."""
    if refusals.digests:
        _write(record, refusals)
    else:
        with contextlib.suppress(OSError):
            record.unlink()


def _write(record: Path, refusals: _Refusals) -> None:
    entry = {"salt": refusals.salt.hex(), "digests": [digest.hex() for digest in refusals.digests]}
    try:
        files.write_private(record, json.dumps(entry).encode(), replace=True)
    except OSError as error:
        raise files.cannot_write(record, error) from error
