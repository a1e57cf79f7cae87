"""GnuTLS's `p11tool`, which reads URIs with another implementation of RFC 7512."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def listed_ids(uri: str, module: Path, pin: str) -> list[bytes]:
    """Return the CKA_ID of each private key that p11tool finds with this URI."""
    program = shutil.which("p11tool")
    if program is None:
        pytest.skip("p11tool is not installed: apt-get install gnutls-bin")
    command = [program, "--provider", str(module), "--login", "--list-privkeys", uri]
    environment = {**os.environ, "GNUTLS_PIN": pin}
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    lines = (line.strip() for line in done.stdout.splitlines())
    return [bytes.fromhex(line.removeprefix("ID: ").replace(":", "")) for line in lines if line.startswith("ID: ")]


def printed_uris(uri: str, module: Path, pin: str) -> list[str]:
    """Return the URI of each object, as p11tool prints it."""
    command = ["p11tool", "--provider", str(module), "--login", "--list-all", uri]
    environment = {**os.environ, "GNUTLS_PIN": pin}
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    lines = (line.strip() for line in done.stdout.splitlines())
    return [line.removeprefix("URL: ") for line in lines if line.startswith("URL: ")]
