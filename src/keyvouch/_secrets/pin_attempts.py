"""Try a wrong PIN only once across threads, processes and restarts: a token counts failed tries, and then locks.

The state folder contains one record per token, with a salted scrypt digest of each refused value. A value is recorded
as interrupted before it is tried, by a label of one byte, and as refused once the token has refused it:

- A refused value is not tried again until some value is accepted.
- An interrupted value, whose process was killed during the login, is tried again if the token shows no failed try. If
  the token has never been seen to show failed tries, the value is tried only once more. So is each other value with the
  same label.
- A record that is damaged, unreadable or not our own counts as a refusal of every value.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import structs

from keyvouch._secrets.pin_records import (
    UNSEAL,
    PinRecord,
    label_of,
    make_records_folder,
    read_record,
    record_path,
    settle_record,
    write_record,
)
from keyvouch._system import files, forks
from keyvouch.errors import KeyvouchError, SecretIncorrect, StoreLocked, StoreUnavailable

OTHER_TRY_TIMEOUT = 60.0
"""Seconds to wait for another thread or process that is logging in."""
_REFUSED = "This PIN was rejected earlier and will not be retried: another failure could lock the token."
_UNKNOWN = "A login with this PIN was interrupted. It will not be retried, since the token may have rejected it."


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
                f"Timed out after {timeout:.0f} seconds waiting for another thread to log in to the token.",
                hint="Try again later.",
            )
        try:
            yield
        finally:
            lock.release()


_locks = _Locks()


@contextlib.contextmanager
def single_try(
    target: str,
    reveal: Callable[[], str],
    *,
    timeout: float = OTHER_TRY_TIMEOUT,
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
    path = record_path(target)
    end = time.monotonic() + timeout
    make_records_folder(path.parent)
    with _locks.held(target, timeout), files.locked(path.with_suffix(".lock"), timeout=end - time.monotonic()):
        before = read_record(path)
        label = label_of(path, reveal)
        _require_untried(path, before, reveal, shows_failure)
        write_record(path, before.with_try(label))
        try:
            yield
        except SecretIncorrect:
            shows = _shows_failure_now(shows_failure, before.shows_failures)
            settle_record(path, structs.replace(before.with_refusal(reveal), shows_failures=shows))
            raise
        except StoreLocked:
            raise  # perhaps because of this try: the value stays recorded as interrupted
        except KeyvouchError:
            settle_record(path, before)
            raise
        # Any other exception also leaves the value recorded as interrupted: the token may have seen it.
        settle_record(path, PinRecord(before.salt, shows_failures=before.shows_failures))


def _require_untried(
    path: Path, record: PinRecord, reveal: Callable[[], str], shows_failure: Callable[[], bool] | None
) -> None:
    """Raise `SecretIncorrect` for a value that was refused, or whose interrupted try may have been a refusal."""
    hint = (
        "Correct the PIN at the location that the reference names: a new value is tried immediately."
        f" If this one is correct, {UNSEAL}"
    )
    if record.refuses(reveal):
        raise SecretIncorrect(_REFUSED, hint=hint)
    label = label_of(path, reveal)
    tries = record.interrupted.get(label, 0)
    if not tries:
        return
    is_known = shows_failure is not None and record.shows_failures
    if (shows_failure is not None and shows_failure()) or (tries > 1 and not is_known):
        write_record(path, record.with_refusal(reveal))
        raise SecretIncorrect(_UNKNOWN, hint=hint)


def _shows_failure_now(shows_failure: Callable[[], bool] | None, default: bool) -> bool:
    """Return whether the target shows failed tries, now that it has one."""
    with contextlib.suppress(KeyvouchError):
        return shows_failure() if shows_failure is not None else default
    return default
