"""Track whether calls still use an object, through the lifetime of their local variables."""

from __future__ import annotations

import weakref


class _Token:
    __slots__ = ("__weakref__",)


class InUse:
    """A token that each call keeps in a local variable while it uses the object.

    A counter would have to be decremented; an exception that a signal handler raises between two instructions can
    prevent that and leave the count too high forever. A local variable disappears with its frame; set it to None in a
    `finally` nevertheless, since a stored exception keeps its frames alive. It takes no lock.
    """

    __slots__ = ("_alive", "token")

    def __init__(self) -> None:
        self.token: object | None = _Token()
        """None after `end`: the object is no longer available. Keep it in the frame that outlives the use."""
        self._alive = weakref.ref(self.token)

    def end(self) -> None:
        """Prevent further calls from beginning."""
        self.token = None

    @property
    def has_ended(self) -> bool:
        """True if `end` was called and every call that began before has ended."""
        return self._alive() is None
