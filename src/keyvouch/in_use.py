"""Whether calls that have begun still use a thing, told by the lifetime of their local variables."""

from __future__ import annotations

import weakref


class _Token:
    __slots__ = ("__weakref__",)


class InUse:
    """A token that every call keeps in a local variable while it uses the thing.

    Where a count would have to be decremented, an exception that a signal handler raises between two instructions can
    prevent that, and the count stays too high forever. A local variable goes when its frame goes; set it to None in a
    `finally` nevertheless, since an exception that is kept keeps the frames that it passed. It takes no lock.
    """

    __slots__ = ("_alive", "token")

    def __init__(self) -> None:
        self.token: object | None = _Token()
        """None after `end`: the thing is no longer available. Keep it in the frame that outlives the use."""
        self._alive = weakref.ref(self.token)

    def end(self) -> None:
        """Let no further call begin."""
        self.token = None

    @property
    def over(self) -> bool:
        """Whether `end` was called and every call that had begun before has ended."""
        return self._alive() is None
