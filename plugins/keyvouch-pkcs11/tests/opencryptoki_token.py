"""A new software token of opencryptoki for the tests. The whole machine shares one daemon."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pkcs11_modules import finalize_modules

OPENCRYPTOKI = Path("/usr/lib/x86_64-linux-gnu/opencryptoki/libopencryptoki.so.0")
OPENCRYPTOKI_LABEL, OPENCRYPTOKI_PIN = "keyvouch-test", "01234567"
_SO_PIN = "12345678"
_SLOT, _INITIAL_LABEL, _INITIAL_SO_PIN = "3", "IBM OS PKCS#11", "87654321"
"""opencryptoki's software token, and its initial label and SO PIN."""
_TOKEN_FOLDER, _SHARED_MEMORY = Path("/var/lib/opencryptoki/swtok"), Path("/dev/shm/var.lib.opencryptoki.swtok")


@contextlib.contextmanager
def opencryptoki() -> Iterator[None]:
    """Run opencryptoki's daemon with a new software token; skip the test if its daemon or token is in use."""
    require_opencryptoki()
    if _is_running():
        pytest.skip("opencryptoki's daemon is already running, so it is in use")
    with _daemon():
        label = next(line for line in _pkcsconf("-t").splitlines() if "Label:" in line).partition(":")[2].strip()
    if label not in (_INITIAL_LABEL, OPENCRYPTOKI_LABEL):
        pytest.skip(f"opencryptoki's token {label} is in use")
    for path in (*_TOKEN_FOLDER.glob("MK_*"), *_TOKEN_FOLDER.glob("TOK_OBJ/*"), _TOKEN_FOLDER / "NVTOK.DAT"):
        path.unlink(missing_ok=True)
    _SHARED_MEMORY.unlink(missing_ok=True)
    with _daemon():
        _pkcsconf("-I", "-S", _INITIAL_SO_PIN, stdin=f"{OPENCRYPTOKI_LABEL}\n")
        _pkcsconf("-P", "-S", _INITIAL_SO_PIN, "-n", _SO_PIN)
        _pkcsconf("-u", "-S", _SO_PIN, "-n", OPENCRYPTOKI_PIN)
        yield


def require_opencryptoki() -> None:
    """Skip the test if opencryptoki cannot be used by this account."""
    if shutil.which("pkcsslotd") is None:
        pytest.skip("opencryptoki is not installed: apt-get install opencryptoki")
    if os.geteuid() != 0:
        pytest.skip("only root can start opencryptoki's daemon")


@contextlib.contextmanager
def _daemon() -> Iterator[None]:
    daemon = subprocess.Popen(["pkcsslotd", "-f"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while subprocess.run(["pkcsconf", "-i"], capture_output=True, check=False).returncode:
            assert daemon.poll() is None, "pkcsslotd does not start"
            time.sleep(0.02)
        yield
    finally:
        finalize_modules()  # the daemon waits for its clients
        daemon.terminate()
        try:
            daemon.wait(10)
        finally:
            daemon.kill()


def _is_running() -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex("/var/run/pkcsslotd.socket") == 0


def _pkcsconf(*arguments: str, stdin: str = "") -> str:
    command = ["pkcsconf", *arguments, "-c", _SLOT]
    return subprocess.run(command, input=stdin, text=True, capture_output=True, check=True).stdout
