"""Daemons started by tests: silent, and terminated by the test that started them."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping

_TIMEOUT = 10.0
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
                process.wait(_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for(is_ready: Callable[[], bool], name: str) -> None:
    """Wait until a daemon is ready. Raises AssertionError on timeout."""
    deadline = time.monotonic() + _TIMEOUT
    while not is_ready():
        assert time.monotonic() < deadline, f"timed out waiting for {name}"
        time.sleep(0.02)
