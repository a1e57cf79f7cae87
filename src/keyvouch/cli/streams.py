"""The standard streams: their encoding, and what happens if they are closed or cannot be written."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import select
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


def is_unwritable(error: OSError) -> bool:
    """Return True if the output cannot be written, for example because the disk is full."""
    return error.errno in _UNWRITABLE


def reader_has_ended(error: BaseException) -> bool:
    """Return True if the error means that the program which reads the output has ended, as `head` does.

    click turns such an error into SystemExit. That of another pipe or of a connection is not meant.
    """
    if sys.platform == "win32":  # reports EINVAL without a file name, or EPIPE, for which click replaces the streams
        is_invalid = isinstance(error, OSError) and error.errno == errno.EINVAL and error.filename is None
        return is_invalid or (isinstance(error, SystemExit) and sys.stdout is not sys.__stdout__)
    if not isinstance(error, OSError | SystemExit):
        return False
    outputs = select.poll()
    for descriptor in (1, 2):
        outputs.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in outputs.poll(0))


def discard_unwritable() -> None:
    """Discard what cannot be written, and further output: the interpreter flushes at exit, and would fail."""
    for descriptor, stream in ((1, sys.__stdout__), (2, sys.__stderr__)):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
