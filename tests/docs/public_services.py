"""The services that docs/how-to/other-libraries.md signs in to, on loopback under their real names."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs

import pytest

from keyvouch.testing.authority.tls import make_context

TOKEN = {"access_token": "opaque", "token_type": "Bearer", "expires_in": 3600}
_REPOSITORY = {"url": "https://api.github.com/repos/contoso/app", "default_branch": "main"}
_AWS = {
    "accessKeyId": "ASIAEXAMPLE",
    "secretAccessKey": "secret",
    "sessionToken": "opaque",
    "expiration": "2099-01-01T00:00:00Z",
}
_SNOWFLAKE = {"token": "opaque", "masterToken": "opaque", "parameters": [], "sessionId": 1, "sessionInfo": {}}
ANSWERS: dict[tuple[str, str], tuple[int, Mapping[str, Any]]] = {
    ("api.github.com", "/app/installations/7654321/access_tokens"): (
        201,
        {"token": "opaque", "expires_at": "2099-01-01T00:00:00Z", "permissions": {}},
    ),
    ("api.github.com", "/repos/contoso/app"): (200, _REPOSITORY),
    ("oauth2.googleapis.com", "/token"): (200, TOKEN),
    ("contoso-prod.snowflakecomputing.com", "/session/v1/login-request"): (200, {"success": True, "data": _SNOWFLAKE}),
    ("login.salesforce.com", "/services/oauth2/token"): (
        200,
        {"access_token": "opaque", "instance_url": "https://contoso.my.salesforce.com"},
    ),
    ("rolesanywhere.eu-central-1.amazonaws.com", "/sessions"): (201, {"credentialSet": [{"credentials": _AWS}]}),
}
"""Status and JSON for each host and path."""


@dataclass(frozen=True)
class Request:
    """A request that a library sent."""

    host: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(self.body.decode()).items()}


class PublicServices:
    """Answers all of them. While it is open, this process finds their names at it, and trusts its CA."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests: list[Request] = []
        hosts = {host for host, _ in ANSWERS}
        context, ca_file = make_context(folder, hosts)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self.requests))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        port = self._server.server_address[1]
        resolve = socket.getaddrinfo

        def here(host: Any, *arguments: Any, **named: Any) -> Any:
            if host in hosts:
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
            if host in ("127.0.0.1", "localhost"):
                return resolve(host, *arguments, **named)
            raise socket.gaierror(socket.EAI_NONAME, f"{host} is not one of the services")

        monkeypatch.setattr(socket, "getaddrinfo", here)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca_file))
        monkeypatch.setattr("botocore.httpsession.where", lambda: str(ca_file))  # it does not read that variable

    def request(self, host: str) -> Request:
        """Return the first request to this host."""
        return next(each for each in self.requests if each.host == host)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(requests: list[Request]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            host, path = self.headers["Host"].partition(":")[0], self.path.partition("?")[0]
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            requests.append(Request(host, path, dict(self.headers), body))
            status, answer = ANSWERS.get((host, path), (404, {"message": "unknown path"}))
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST  # noqa: N815 - the base class's name

        def log_message(self, *_: object) -> None:
            """Nothing on standard error."""

    return Handler
