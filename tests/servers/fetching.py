"""What the tests' downloads and builds have in common: their environment, their folder, and what happens if they fail.

The environment has the CAs that were set when the tests started. The tests themselves run without these variables, so
that the default trust applies.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

CACHE = Path(__file__).parents[2] / ".cache"
"""Kept between runs, and ignored by git."""

TRUST_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
_at_start = {name: os.environ[name] for name in TRUST_VARIABLES if name in os.environ}


def environment() -> dict[str, str]:
    """Return the current environment, with those variables as they were at the start."""
    return {**os.environ, **_at_start}


def server_missing(reason: str) -> NoReturn:
    """Skip the test, or fail it in CI, where everything must be available."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Exclude other processes of the same run; the lock ends with its process at the latest."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(command: list[str], folder: Path, timeout: float, **variables: str) -> None:
    """Run a command that downloads or builds a server, for at most `timeout` seconds."""
    shown = f"{command[0]} {command[1]}"
    try:
        subprocess.run(
            command,
            cwd=folder,
            env={**environment(), **variables},
            check=True,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.CalledProcessError as error:
        server_missing(f"{shown} failed for {folder.name}:\n{error.stderr}")
    except subprocess.TimeoutExpired:
        server_missing(f"{shown} took more than {timeout:.0f} s for {folder.name}")
