"""Daemons started by tests: silent, and terminated by the test that started them."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping

_PATIENCE = 10.0
"""Maximum time in seconds for a daemon to start or to stop."""


@contextlib.contextmanager
def daemon(*command: str, environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a daemon until the block ends."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for(is_there: Callable[[], bool], name: str) -> None:
    """Wait until a daemon is ready. Raises AssertionError on timeout."""
    end = time.monotonic() + _PATIENCE
    while not is_there():
        assert time.monotonic() < end, f"{name} does not start"
        time.sleep(0.02)
