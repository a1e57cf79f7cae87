"""Tracebacks for `--debug`: every exception of the chain with its frames, and without secrets.

Only the text of keyvouch's own errors is free of secrets, so other exceptions are shown by their type. Frames that a
public call has hidden are taken from the note that it left.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator

from keyvouch.errors import KeyvouchError, frame_lines

_HEADING = "Traceback (most recent call last):"
_CAUSE = "It caused the following exception:"
_CONTEXT = "While it was handled, the following exception was raised:"


def describe(error: BaseException) -> str:
    """Return the traceback of the error, after those of the exceptions that led to it."""
    return "\n\n".join(_sections(error, set()))


def _sections(error: BaseException, seen: set[int]) -> Iterator[str]:
    """Yield the sections of the chain, oldest first; a chain may contain a loop."""
    seen.add(id(error))
    origin = error.__cause__ or error.__context__
    if origin is not None and id(origin) not in seen:
        yield from _sections(origin, seen)
        yield _CAUSE if error.__cause__ else _CONTEXT
    for number, member in enumerate(_members(error), 1):
        if id(member) not in seen:
            yield f"Exception {number} of the group:"
            yield from _sections(member, seen)
    yield "\n".join([_HEADING, *(f"  {line}" for line in _frames(error)), _summary(error)])


def _members(error: BaseException) -> tuple[BaseException, ...]:
    return error.exceptions if isinstance(error, BaseExceptionGroup) else ()


def _frames(error: BaseException) -> list[str]:
    """Return file, line and function of each frame, outermost first: those of the traceback, then the hidden ones."""
    frames = [
        f'File "{frame.f_code.co_filename}", line {line}, in {frame.f_code.co_name}'
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    innermost = frame_lines(error)
    return frames if innermost == frames else frames + innermost


def _summary(error: BaseException) -> str:
    """Return the exception's type, with its text only if that cannot contain a secret."""
    if isinstance(error, KeyvouchError):
        return f"{type(error).__name__}: {error.message}"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{type(error).__name__}: errno {error.errno}"
    return type(error).__name__
