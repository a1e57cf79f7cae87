"""Exceptions that the program's own signal handlers raise, such as a timeout by SIGALRM."""

from __future__ import annotations

import functools
import signal
from types import CodeType

from keyvouch.errors import frame_lines


def is_from_signal_handler(error: BaseException) -> bool:
    """Return True if one of the program's signal handlers raised this exception."""
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    codes = [code for handler in handlers if (code := _code_of(handler)) is not None]
    return any(
        line.startswith(f'File "{code.co_filename}", ') and line.endswith(f", in {code.co_name}")
        for line in frame_lines(error)
        for code in codes
    )


def _code_of(handler: object) -> CodeType | None:
    """Return the code of a function or method, even inside `functools.partial`, or of a callable object."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    if not callable(handler):
        return None
    code = getattr(handler, "__code__", None) or getattr(type(handler).__call__, "__code__", None)
    return code if isinstance(code, CodeType) else None
