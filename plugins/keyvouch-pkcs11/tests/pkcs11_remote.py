"""A module behind a socket: `p11-kit server` serving SoftHSM, with p11-kit's client as the module."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons import daemon, wait_for
from pkcs11_tokens import SOFTHSM, end_modules, use_softhsm

REMOTE = Path("/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so")


class Remote:
    """The server, which forks a child for each client."""

    def __init__(self, server: int) -> None:
        self._server = server

    def kill_children(self) -> int:
        """Kill all connections, as a crash would, and return their number."""
        listed = Path(f"/proc/{self._server}/task/{self._server}/children").read_text().split()
        for child in listed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        return len(listed)


@contextlib.contextmanager
def remote(folder: Path, patch: pytest.MonkeyPatch, *labels: str) -> Iterator[Remote]:
    """Serve SoftHSM tokens with these labels until the block ends."""
    if shutil.which("p11-kit") is None or not REMOTE.exists():
        pytest.skip("there is no p11-kit: apt-get install p11-kit p11-kit-modules")
    use_softhsm(folder, patch, *labels)
    # The client reads the address from the environment once, when loaded, so all servers of this process share one.
    address = Path(tempfile.gettempdir(), f"keyvouch-p11-kit-{os.getpid()}.socket")
    address.unlink(missing_ok=True)
    command = ("p11-kit", "server", "--foreground", f"--name={address}", f"--provider={SOFTHSM}", "pkcs11:")
    with daemon(*command, environment=dict(os.environ)) as server:
        wait_for(address.exists, "p11-kit server")
        patch.setenv("P11_KIT_SERVER_ADDRESS", f"unix:path={address}")
        try:
            yield Remote(server.pid)
        finally:
            end_modules()
            address.unlink(missing_ok=True)
