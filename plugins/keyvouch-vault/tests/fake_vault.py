"""A Vault on loopback that gives valid responses, except for the one that a test replaces."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyvouch.certificate import self_signed
from scripted_server import ScriptedServer, http_response

JSON = "Content-Type: application/json"
AUTH = {"auth": {"client_token": "s.made", "lease_duration": 3600, "renewable": True}}
TOKEN = {"data": {"ttl": 3600, "renewable": True}}
_PATHS = [
    *(f"transit/keys/app{each}" for each in ("", "/rotate", "/import", "/config", "/set-certificate")),
    *("transit/wrapping_key", "transit/sign/app"),
]
_wrapping_key = rsa.generate_private_key(65537, 2048)


def pem(key: rsa.RSAPrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


class FakeVault(ScriptedServer):
    """A Vault with one RSA key, `app`, in one version with a certificate, in which every login succeeds."""

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        self.key = key
        certificate = self_signed(key, "CN=app", 1).public_bytes(Encoding.PEM).decode()
        self.version = {
            "public_key": pem(key),
            "creation_time": "2024-01-01T00:00:00.123456789Z",
            "certificate_chain": certificate,
        }
        described = {"type": "rsa-2048", "latest_version": 1, "min_encryption_version": 0, "exportable": False}
        self.bodies: dict[str, Any] = {
            "login": AUTH,
            "wrapping/lookup": {"data": {"creation_path": "auth/approle/role/app/secret-id"}},
            "wrapping/unwrap": {"data": {"secret_id": "sid"}},
            "lookup-self": TOKEN,
            "renew-self": AUTH,
            "revoke-self": {},
            "capabilities-self": {"data": {path: ["root"] for path in _PATHS}},
            "keys": {"data": {"keys": ["app", "import/"]}},
            "keys/app": {"data": {**described, "keys": {"1": self.version}}},
            "create": {"data": {**described, "keys": {"1": self.version}}},
            "sign": {"data": {"signature": "vault:v1:c2ln"}},
            "wrapping_key": {"data": {"public_key": pem(_wrapping_key)}},
            "import": {},
            "config": {},
            "set-certificate": {},
            "delete": {},
        }
        self.exists = True
        self.ca_file = ""
        """The certificates to trust: only a few, because the system's take long to load."""
        self.overrides: dict[str, tuple[str, bytes]] = {}
        """By endpoint: the status and body of the response."""
        self.requested: list[str] = []
        """The endpoints that were requested."""
        super().__init__(b"")

    def respond(self, request: str) -> bytes:
        """Return the response to a request."""
        endpoint = _endpoint(request)
        self.requested.append(endpoint)
        if endpoint in self.overrides:
            status, body = self.overrides[endpoint]
            return http_response(status, body, JSON)
        if endpoint not in self.bodies or (endpoint == "keys/app" and not self.exists):
            return http_response("404 Not Found", b'{"errors": []}', JSON)
        body = self._signed(request) if endpoint == "sign" else self.bodies[endpoint]
        return http_response("200 OK", json.dumps(body).encode(), JSON)

    def _signed(self, request: str) -> Any:
        digest = base64.b64decode(json.loads(request.partition("\r\n\r\n")[2])["input"])
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)
        signature = self.key.sign(digest, pss, utils.Prehashed(hashes.SHA256()))
        return {"data": {"signature": f"vault:v1:{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"}}


def _endpoint(request: str) -> str:
    method, path = request.split(" ")[:2]
    path = path.partition("?")[0].removeprefix("/v1/").removeprefix("sys/")
    if path.startswith("auth/token/"):
        return path.removeprefix("auth/token/")
    if path.startswith("auth/"):
        return "login"
    if path.startswith("wrapping/"):
        return path
    path = path.removeprefix("transit/")
    if path.startswith("sign/"):
        return "sign"
    if path == "keys/app" and method != "GET":
        return {"POST": "create", "DELETE": "delete"}[method]
    return path.removeprefix("keys/app/").replace("rotate", "create")


@contextlib.contextmanager
def fake_vault(key: rsa.RSAPrivateKey) -> Iterator[FakeVault]:
    server = FakeVault(key)
    try:
        yield server
    finally:
        server.close()
