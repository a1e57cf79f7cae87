"""SoftHSM behind a socket: `p11-kit server`, with p11-kit's client as the module."""

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
from pkcs11_modules import finalize_modules
from softhsm_tokens import SOFTHSM, use_softhsm

P11_KIT_CLIENT = Path("/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so")


class P11KitServer:
    """The server, which forks a child for each client."""

    def __init__(self, process_id: int) -> None:
        self._process_id = process_id

    def kill_children(self) -> int:
        """Kill all connections, as a crash would, and return their number."""
        children = Path(f"/proc/{self._process_id}/task/{self._process_id}/children").read_text().split()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        return len(children)


@contextlib.contextmanager
def p11_kit_server(folder: Path, patch: pytest.MonkeyPatch, *labels: str) -> Iterator[P11KitServer]:
    """Serve SoftHSM tokens with these labels until the block ends."""
    if shutil.which("p11-kit") is None or not P11_KIT_CLIENT.exists():
        pytest.skip("p11-kit is not installed: apt-get install p11-kit p11-kit-modules")
    use_softhsm(folder, patch, *labels)
    # The client reads the address from the environment once, when loaded, so all servers of this process share one.
    address = Path(tempfile.gettempdir(), f"keyvouch-p11-kit-{os.getpid()}.socket")
    address.unlink(missing_ok=True)
    command = ("p11-kit", "server", "--foreground", f"--name={address}", f"--provider={SOFTHSM}", "pkcs11:")
    with daemon(*command, environment=dict(os.environ)) as server:
        wait_for(address.exists, "p11-kit server")
        patch.setenv("P11_KIT_SERVER_ADDRESS", f"unix:path={address}")
        try:
            yield P11KitServer(server.pid)
        finally:
            finalize_modules()
            address.unlink(missing_ok=True)
