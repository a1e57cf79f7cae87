"""A wrong PIN is tried once, in all threads, processes and restarts: a token counts the tries, and then locks.

The refusals are kept in the state folder, by token, as salted scrypt digests of the refused values. Another value is
tried; a refused one is not, until some value is accepted.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from keyvouch import files, forks
from keyvouch.errors import ConfigurationError, SecretIncorrect

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
def single_try(target: str, reveal: Callable[[], str]) -> Iterator[None]:
    """Hold a thread's and a file's lock while a value is tried on `target`; refuse a value that was refused before.

    `reveal` returns the value, so that it stands in no frame that a traceback shows. Raises `SecretIncorrect` for a
    refused one, records the `SecretIncorrect` that the block raises, and forgets all when the block ends well.
    """
    record = _record(target)
    with _locks.of(target), files.locked(record.with_suffix(".lock"), timeout=_WAIT):
        refusals = _read(record)
        digest = refusals.digest(reveal())
        if refusals.holds(digest):
            raise SecretIncorrect(
                "This PIN was refused before, and is not tried again: another failure may lock the token.",
                hint="Correct the PIN where the reference leads: a new value is tried at once. If this one is right"
                " after all, run: keyvouch doctor --unseal",
            )
        try:
            yield
        except SecretIncorrect:
            # All of them: two jobs with different wrong values would else wear the token out in turns.
            refusals.digests.append(digest)
            _write(record, refusals)
            raise
        with contextlib.suppress(OSError):  # what stays there is refused values alone
            record.unlink()


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


def _write(record: Path, refusals: _Refusals) -> None:
    entry = {"salt": refusals.salt.hex(), "digests": [digest.hex() for digest in refusals.digests]}
    try:
        files.write_private(record, json.dumps(entry).encode(), replace=True)
    except OSError as error:
        raise files.cannot_write(record, error) from error
