"""Deadlines and delays: how long a call may take, and when it is repeated."""

from __future__ import annotations

import time

from keyvouch.errors import KeyvouchError, SessionLost, StoreUnavailable, Throttled

_LONGEST_DELAY = 1.0
"""Maximum seconds between attempts while a store is unavailable: callers should soon see the end of an election."""


class Deadline:
    """The end of a caller's timeout, and the share of it that one attempt may take."""

    __slots__ = ("_end", "_share")

    def __init__(self, timeout: float, started: float | None = None) -> None:
        self._end = (time.monotonic() if started is None else started) + timeout
        self._share = max(1.0, timeout / 3)

    def left(self) -> float:
        """Return the seconds left; negative once the timeout has passed."""
        return self._end - time.monotonic()

    def attempt_timeout(self) -> float:
        """Return a third of the timeout, at least a second: a stalled request leaves time for another."""
        return max(0.001, min(self._share, self.left()))

    def wait(self, seconds: float, error: KeyvouchError) -> None:
        """Sleep; raise `error` instead if the timeout ends first."""
        if seconds >= self.left():
            raise as_user_error(error)
        time.sleep(seconds)


class Backoff:
    """Delays after transient errors: as the store requests, else doubling, with jitter."""

    def __init__(self) -> None:
        self._throttled = 1.0
        self._unavailable = 0.1

    def delay_after(self, error: StoreUnavailable) -> float:
        """Return the seconds to wait before the next attempt."""
        if isinstance(error, Throttled):
            if error.retry_after is not None:
                return max(0.1, error.retry_after)  # some servers send 0, or a time in the past
            import random

            self._throttled *= 2
            return self._throttled / 2 * random.uniform(0.9, 1.1)  # noqa: S311 - only to spread callers
        delay, self._unavailable = self._unavailable, min(2 * self._unavailable, _LONGEST_DELAY)
        return delay


def as_user_error(error: KeyvouchError) -> KeyvouchError:
    """Return the error that the user sees at the end of the timeout: never `SessionLost`."""
    if not isinstance(error, SessionLost):
        return error
    visible = StoreUnavailable(error.message, hint=error.hint or "Try again later.", uri=error.uri)
    visible.__cause__ = error
    return visible
