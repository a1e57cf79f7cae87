"""Try a wrong PIN only once across threads, processes and restarts: a token counts failed tries, and then locks.

The state folder contains one record per token, with a salted scrypt digest of each value whose try did not succeed. A
value is recorded as interrupted before it is tried, and as refused once the token has refused it:

- A refused value is not tried again until some value is accepted.
- An interrupted value, whose process was killed during the log-in, is tried again if the token shows no failed try. If
  the token has never been seen to show failed tries, the value is tried only once more.
- A record that is damaged, unreadable or not our own counts as a refusal of every value.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from keyvouch._system import files, forks
from keyvouch.errors import KeyvouchError, SecretIncorrect, StoreLocked, StoreUnavailable

T = TypeVar("T")

WAIT = 60.0
"""Seconds to wait for another thread or process that is logging in."""
_LARGEST = 1024 * 1024
"""Maximum size of a record in bytes; thousands of refused values fit."""
_UNSEAL = "run: keyvouch doctor --unseal"
_REFUSED = "This PIN was refused before and is not tried again: another failure may lock the token."
_UNKNOWN = "A log-in with this PIN was interrupted, and it is not tried again: the token may have refused it."


class _Locks:
    """One lock per target: threads wait here, processes at the file."""

    def __init__(self) -> None:
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        self._by_target: dict[str, threading.Lock] = {}

    @contextlib.contextmanager
    def held(self, target: str, timeout: float) -> Iterator[None]:
        lock = self._by_target.setdefault(target, threading.Lock())
        timeout = max(0.0, timeout)
        if not lock.acquire(timeout=timeout):
            raise StoreUnavailable(
                f"Another thread has been logging in to the token for {timeout:.0f} seconds.", hint="Try again later."
            )
        try:
            yield
        finally:
            lock.release()


_locks = _Locks()


class _DamagedError(Exception):
    """The record is unreliable; the text says why."""


@dataclass(frozen=True)
class _Record:
    """Known facts about one token."""

    salt: bytes
    refused: frozenset[bytes] = frozenset()
    """Digests of the values that the token refused."""
    interrupted: dict[bytes, int] = field(default_factory=dict)
    """Number of tries that ended without an answer, by the value's digest."""
    shows_failures: bool = False
    """True if the token has been seen to show a failed try, so that showing none is meaningful."""

    @property
    def is_empty(self) -> bool:
        return not (self.refused or self.interrupted)

    def digest(self, reveal: Callable[[], str]) -> bytes:
        return hashlib.scrypt(reveal().encode(errors="surrogatepass"), salt=self.salt, n=2**14, r=8, p=1)

    def refuses(self, digest: bytes) -> bool:
        return any(hmac.compare_digest(digest, each) for each in self.refused)

    def trying(self, digest: bytes) -> _Record:
        tries = self.interrupted.get(digest, 0) + 1
        return replace(self, interrupted={**self.interrupted, digest: tries})

    def refusing(self, digest: bytes) -> _Record:
        others = {each: tries for each, tries in self.interrupted.items() if each != digest}
        return replace(self, refused=self.refused | {digest}, interrupted=others)


@contextlib.contextmanager
def single_try(
    target: str,
    reveal: Callable[[], str],
    *,
    timeout: float = WAIT,
    shows_failure: Callable[[], bool] | None = None,
) -> Iterator[None]:
    """Hold a thread lock and a file lock while a value is tried on `target`; reject a value that was refused before.

    `reveal` returns the value, which keeps it out of the frames of a traceback. `shows_failure` returns whether the
    target shows a failed try since the last successful one; it is called for a value whose try was interrupted, and
    after a refusal. Raises `SecretIncorrect` for a value that must not be tried, `StoreUnavailable` if another try
    lasts longer than `timeout` seconds, and `ConfigurationError` if other accounts could delete the records.

    A `SecretIncorrect` from the block means that the value was refused; `StoreLocked`, or anything but a
    `KeyvouchError`, that the try was interrupted; any other error that nothing was tried. All refusals are forgotten if
    the block succeeds.
    """
    path = _path(target)
    end = time.monotonic() + timeout
    _require_own_folder(path.parent)
    with _locks.held(target, timeout), files.locked(path.with_suffix(".lock"), timeout=end - time.monotonic()):
        before = _readable(path)
        digest = before.digest(reveal)
        _require_untried(path, before, digest, shows_failure)
        _write(path, before.trying(digest))
        try:
            yield
        except SecretIncorrect:
            shows = _asked_after_refusal(shows_failure, before.shows_failures)
            _settle(path, replace(before.refusing(digest), shows_failures=shows))
            raise
        except StoreLocked:
            raise  # perhaps because of this try: the value stays recorded as interrupted
        except KeyvouchError:
            _settle(path, before)
            raise
        # Any other exception also leaves the value recorded as interrupted: the token may have seen it.
        _settle(path, _Record(before.salt, shows_failures=before.shows_failures))


def _require_untried(path: Path, record: _Record, digest: bytes, shows_failure: Callable[[], bool] | None) -> None:
    """Raise `SecretIncorrect` for a value that was refused, or whose interrupted try may have been a refusal."""
    hint = (
        "Correct the PIN where the reference leads: a new value is tried at once. If this one is right after all,"
        f" {_UNSEAL}"
    )
    if record.refuses(digest):
        raise SecretIncorrect(_REFUSED, hint=hint)
    tries = record.interrupted.get(digest, 0)
    if not tries:
        return
    is_known = shows_failure is not None and record.shows_failures
    if (shows_failure is not None and shows_failure()) or (tries > 1 and not is_known):
        _write(path, record.refusing(digest))
        raise SecretIncorrect(_UNKNOWN, hint=hint)


def _asked_after_refusal(shows_failure: Callable[[], bool] | None, otherwise: bool) -> bool:
    """Return whether the target shows failed tries, now that it has one."""
    with contextlib.suppress(KeyvouchError):
        return shows_failure() if shows_failure is not None else otherwise
    return otherwise


def forget() -> int:
    """Forget every refusal, so that each value may be tried once more; return the number of tokens affected.

    Also removes damaged records. Raises `ConfigurationError` if a record cannot be removed.
    """
    place = _folder()
    try:
        with files.open_folder(place) as folder:
            return sum(_remove(folder, name) for name in folder.names() if name.endswith(".json"))
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise files.cannot_write(place, error) from error


def _remove(folder: files.Folder, name: str) -> bool:
    """Remove a record; return True if it kept any value from being tried. Raises OSError."""
    try:
        counts = not _read(folder, name).is_empty
    except _DamagedError:
        counts = True
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        folder.remove_any(name)
    return counts


def _folder() -> Path:
    return files.state_folder() / "refused"


def _require_own_folder(folder: Path) -> None:
    """Create the folder of the records. Raises `ConfigurationError` if other accounts could delete a refusal there."""
    files.make_folder(folder)
    try:
        files.require_own_folder(folder, of_any_account=True)  # what root does there is the owner's concern
    except OSError as error:
        raise files.cannot_write(folder, error) from error


def _path(target: str) -> Path:
    # A token's label may contain anything; its digest is a safe file name.
    return _folder() / f"{hashlib.sha256(target.encode(errors='surrogatepass')).hexdigest()[:32]}.json"


def _readable(path: Path) -> _Record:
    """Return the record. Raises `SecretIncorrect` if it is damaged: it may have listed this very value as refused."""
    try:
        with files.open_folder(path.parent) as folder:
            return _read(folder, path.name)
    except OSError as error:
        raise files.cannot_write(path, error) from error
    except _DamagedError as damage:
        raise SecretIncorrect(
            f"No PIN is tried: the record of refused PINs {path} {damage}.",
            hint=f"If the PIN is right and the token is not about to lock, {_UNSEAL}",
        ) from damage


def _read(folder: files.Folder, name: str) -> _Record:
    """Return the record; an empty one if the file does not exist. Raises `_DamagedError`."""
    try:
        entry = json.loads(_contents(folder, name))
        return _Record(
            _digest(entry["salt"]),
            frozenset(map(_digest, _typed(entry["digests"], list))),
            # Records of earlier versions have only digests: all of them count as refused.
            {_digest(each): _typed(tries, int) for each, tries in _typed(entry.get("interrupted", {}), dict).items()},
            _typed(entry.get("shows-failures", False), bool),
        )
    except FileNotFoundError:
        return _Record(os.urandom(16))
    except OSError as error:
        raise _DamagedError(f"cannot be read ({error.strerror})") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise _DamagedError("is damaged") from None


def _digest(text: str) -> bytes:
    digest = bytes.fromhex(_typed(text, str))
    if not digest:
        raise ValueError("empty")
    return digest


def _typed(value: object, kind: type[T]) -> T:
    if type(value) is not kind:
        raise TypeError(kind.__name__)
    return value


def _contents(folder: files.Folder, name: str) -> bytes:
    """Read the opened file. Raises OSError, and `_DamagedError` if somebody else could have written it."""
    handle = folder.open(name, os.O_RDONLY)
    try:
        _require_own(os.fstat(handle), folder)
        return os.read(handle, _LARGEST)
    finally:
        os.close(handle)


def _require_own(status: os.stat_result, folder: files.Folder) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _DamagedError("is not a regular file")
    if status.st_size > _LARGEST:
        raise _DamagedError("is too large")
    if os.name != "posix":
        return
    # The folder's owner could replace the file anyway.
    if status.st_uid not in (0, os.geteuid(), folder.owner()):
        raise _DamagedError(f"belongs to another account (uid {status.st_uid})")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _DamagedError("can be written by other accounts")


def _settle(path: Path, record: _Record) -> None:
    """Record the result of a try. If that fails, the value stays interrupted; a refusal empties the file instead."""
    try:
        if record.is_empty and not record.shows_failures:
            with contextlib.suppress(FileNotFoundError):
                files.remove(path)
        else:
            _write(path, record)
    except (OSError, KeyvouchError):
        if record.refused:
            with contextlib.suppress(OSError, KeyvouchError):
                files.truncate(path)  # a damaged record refuses every value


def _write(path: Path, record: _Record) -> None:
    entry = {
        "salt": record.salt.hex(),
        "digests": sorted(each.hex() for each in record.refused),
        "interrupted": {each.hex(): tries for each, tries in record.interrupted.items()},
        "shows-failures": record.shows_failures,
    }
    try:
        files.write_private(path, json.dumps(entry).encode(), replace=True)
    except OSError as error:
        raise files.cannot_write(path, error) from error
