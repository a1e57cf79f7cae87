"""A third-party token endpoint that verifies client assertions: fosite's, as an issuer without a path.

fosite is the library of Ory Hydra. It finds a key by the assertion's `kid` among those with `use: sig`, accepts only
the algorithm that the client is registered with, and refuses a repeated `jti`. Its refusals say why.

    with FositeServer() as server:
        server.register("my-app", [jwk, other_jwk], "PS256")
        ConfidentialClient("my-app", [uri], oidc_authority=server.issuer, ca_file=server.ca_file)
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from keyvouch.testing.authority.tls import make_certificates
from servers import golang

MODULE = Path(__file__).parent / "fosite"

STOP_TIMEOUT = 5.0
"""Seconds."""


class FositeServer:
    """The server, from `with` to the end of the block."""

    def __enter__(self) -> Self:
        program = golang.build(MODULE)
        self._folder = tempfile.TemporaryDirectory(prefix="keyvouch-fosite-")
        certificates = make_certificates()
        path = Path(self._folder.name)
        self.ca_file = str(path / "ca.pem")
        Path(self.ca_file).write_bytes(certificates.ca)
        (path / "server.pem").write_bytes(certificates.server + certificates.server_key)
        self._process = subprocess.Popen(
            [program, path / "server.pem"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.issuer = self._read_line()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            # Closes its standard input, which makes it exit.
            self._process.communicate(timeout=STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._folder.cleanup()

    def register(self, client_id: str, jwks: Sequence[Mapping[str, str]], algorithm: str | None = None) -> None:
        """Register a client with a JWKS and its only algorithm, or let fosite choose the algorithm."""
        metadata = {
            "id": client_id,
            "grant_types": ["client_credentials"],
            "token_endpoint_auth_method": "private_key_jwt",
            "token_endpoint_auth_signing_alg": algorithm,
            "jwks": {"keys": jwks},
        }
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(metadata)}\n")
        self._process.stdin.flush()
        assert self._read_line() == client_id

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "The server ended; its standard error is above."
        return line.rstrip("\n")
