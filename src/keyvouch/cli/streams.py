"""The standard streams: their encoding, and what happens if they are closed or cannot be written."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import sys
from pathlib import Path

_UNWRITABLE = (errno.ENOSPC, errno.EIO, errno.EBADF, errno.EFBIG, errno.EDQUOT)


def prepare() -> None:
    """Replace streams that the parent process closed, and escape characters that a terminal cannot encode."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - open until exit
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=_encoding(stream), errors="backslashreplace")


def _encoding(stream: io.TextIOWrapper) -> str | None:
    """Return the encoding in which PowerShell and cmd read a program's output; None to keep Python's default.

    They use the console's code page, if there is a console, whereas Python uses the system's code page.
    """
    if sys.platform == "win32" and not (stream.isatty() or sys.flags.utf8_mode or os.environ.get("PYTHONIOENCODING")):
        import ctypes

        page = ctypes.WinDLL("kernel32").GetConsoleOutputCP()
        with contextlib.suppress(LookupError):
            return codecs.lookup(f"cp{page}").name
    return None


def is_broken_pipe(error: BaseException) -> bool:
    """Return True if the program that read the output has ended; Windows reports EINVAL without a file name."""
    if isinstance(error, BrokenPipeError):
        return True
    return (
        sys.platform == "win32"
        and isinstance(error, OSError)
        and error.errno == errno.EINVAL
        and error.filename is None
    )


def is_unwritable(error: OSError) -> bool:
    """Return True if the output cannot be written, for example because the disk is full."""
    return error.errno in _UNWRITABLE


def discard_output() -> None:
    """Discard all further standard output, including what the interpreter flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
