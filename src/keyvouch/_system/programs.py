"""Programs whose output is a secret: no shell, no input, a time limit for the program and everything it starts."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

from keyvouch._system.forks import IMPORTS

if TYPE_CHECKING:
    import subprocess

_MAX_OUTPUT_BYTES = 1024 * 1024


def split_command(line: str) -> list[str]:
    """Split a line as a shell does; on Windows a backslash separates folders. Raises ValueError."""
    import shlex

    parts = shlex.shlex(line, posix=True)
    parts.whitespace_split, parts.commenters = True, ""
    if sys.platform == "win32":
        parts.escape = ""
    return list(parts)


def run_program(arguments: list[str], timeout: float) -> tuple[int, bytes]:
    """Run a program; return its exit status and its output, up to 1 MiB. Raises OSError, `TimeoutExpired`."""
    with IMPORTS:
        import subprocess

    deadline = time.monotonic() + timeout
    output: list[bytes] = []
    # Its standard error may contain anything, so it is not shown. In a session of its own, it can be killed together
    # with everything it started.
    with subprocess.Popen(  # noqa: S603 - the program is named by the profile, no shell
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=None if sys.platform == "win32" else "/",  # `python -m` and others load modules from the working directory
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # keeps a job without a console from opening one
    ) as process:
        pipe = process.stdout or io.BytesIO()
        reader = threading.Thread(target=lambda: output.append(pipe.read(_MAX_OUTPUT_BYTES)), daemon=True)
        reader.start()
        try:
            reader.join(timeout)
            if not output:  # it, or a process that it started, still holds its output open
                raise subprocess.TimeoutExpired(arguments[0], timeout)  # noqa: TRY301 - ended below like all
            # A program that prints endlessly is not waited for.
            endless = len(output[0]) == _MAX_OUTPUT_BYTES
            status = process.wait(0 if endless else max(0.0, deadline - time.monotonic()))
        except BaseException:
            _kill(process)  # this also ends the reader
            raise
    return status, output[0]


def _kill(process: subprocess.Popen[bytes]) -> None:
    if sys.platform == "win32":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
