"""A TPM for the tests: tpm2-pkcs11 in front of a resource manager and swtpm, on a private D-Bus."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons import daemon, wait_for
from pkcs11_modules import finalize_modules

TPM2 = Path("/usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so")
TPM_LABEL, TPM_PIN = "tpm", "correct-horse"
_SO_PIN = "12345678"
_PROGRAMS = ("dbus-daemon", "swtpm", "tpm2-abrmd", "tpm2_dictionarylockout", "pkcs11-tool")


@contextlib.contextmanager
def tpm(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a TPM with one token, with its state in this folder, until the block ends."""
    if missing := [each for each in _PROGRAMS if shutil.which(each) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}: apt-get install dbus swtpm tpm2-abrmd tpm2-tools opensc")
    if not TPM2.exists():
        pytest.skip("tpm2-pkcs11 is not installed: apt-get install libtpm2-pkcs11-1")
    finalize_modules()
    store, state, bus = folder / "store", folder / "state", folder / "bus"
    for each in (store, state):
        each.mkdir()
    port = _two_free_ports()
    address = "type=tcp,bindaddr=127.0.0.1,port"
    sockets = f"--server={address}={port}", f"--ctrl={address}={port + 1}"
    flags, ready = "--flags=not-need-init,startup-clear", folder / "swtpm.pid"
    tcti = f"--tcti=swtpm:host=127.0.0.1,port={port}"
    with (
        daemon("dbus-daemon", "--session", "--nofork", "--nopidfile", f"--address=unix:path={bus}"),
        daemon("swtpm", "socket", "--tpm2", f"--tpmstate=dir={state}", *sockets, flags, f"--pid=file={ready}"),
    ):
        wait_for(bus.exists, "dbus-daemon")
        wait_for(ready.exists, "swtpm")
        patch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={bus}")
        with daemon("tpm2-abrmd", "--session", "--allow-root", tcti):
            patch.setenv("TPM2_PKCS11_STORE", str(store))
            patch.setenv("TPM2_PKCS11_TCTI", "tabrmd:bus_type=session")
            patch.setenv("TPM2_PKCS11_LOG_LEVEL", "0")
            wait_for(lambda: _pkcs11_tool("--init-token", "--label", TPM_LABEL, "--so-pin", _SO_PIN), "tpm2-abrmd")
            assert _pkcs11_tool("--init-pin", "--so-pin", _SO_PIN, "--pin", TPM_PIN, "--token-label", TPM_LABEL)
            _disable_lockout(tcti="tabrmd:bus_type=session")
            try:
                yield
            finally:
                finalize_modules()


def _two_free_ports() -> int:
    """Return the first of two consecutive free ports: the TCTI uses the second for swtpm's control channel."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            with contextlib.suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", port + 1))
                return port


def _disable_lockout(tcti: str) -> None:
    """Disable the lockout: a TPM counts the wrong PINs of all its tokens, and the tests try many."""
    command = ["tpm2_dictionarylockout", "--setup-parameters", "--max-tries=10000", "--recovery-time=1"]
    done = subprocess.run([*command, "--tcti", tcti], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _pkcs11_tool(*arguments: str) -> bool:
    command = ["pkcs11-tool", "--module", str(TPM2), *arguments]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
