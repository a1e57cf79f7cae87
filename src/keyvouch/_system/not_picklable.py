"""Objects that cannot be sent to another process, since they hold a key that is open in this one."""

from __future__ import annotations

from typing import ClassVar, NoReturn


class NotPicklable:
    """A base class whose objects raise TypeError if they are pickled or copied, with what to do instead."""

    pickle_hint: ClassVar[str]
    """What to do instead."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot pickle a {type(self).__name__}: its key is open in this process. {self.pickle_hint}")
