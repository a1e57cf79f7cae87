"""A test vault that is as strict as Azure Key Vault: TLS on loopback, and tokens of the development authority.

    with running(folder) as vault:
        vault.make("app")
        vault.deny.add("keys/sign")                       # a role is missing
        vault.fail("keys/sign", Refusal(503, ...), CUT)   # the next two signatures

It is written from the service's documentation and the SDK's models, and shares no code with the store.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from azure_api import Api
from azure_http import Call, Cut, HttpsServer, Refusal, Reply
from azure_objects import Item, make_version, self_sign
from azure_tls import make_context
from azure_tokens import Judge
from keyvouch.algorithms import make_key
from keyvouch.certificate import self_signed
from keyvouch.testing.authority import App, Authority

HOST = "app.vault.invalid"
"""A name of the vault that only a proxy can resolve."""
RESOURCE = "https://vault.azure.net"
CUT = Cut()


class Vault:
    """The vault as its tests hold it."""

    def __init__(self, authority: Authority, app: App, folder: Path) -> None:
        self.authority, self.app = authority, app
        context, ca = make_context(folder, "localhost", HOST)
        self.server = HttpsServer(context, self._respond)
        self.judge = Judge(authority)
        self.address = f"https://localhost:{self.server.server_port}"
        self.api = Api(self.address)
        self.ca_file = folder / "both.pem"
        self.ca_file.write_bytes(ca + Path(authority.ca_file).read_bytes())
        self.resource = RESOURCE
        self.deny: set[str] = set()
        self.refusal: Refusal | None = None
        """What every authenticated request gets, where it is set."""
        self.calls: list[str] = []
        """The authenticated requests so far: `POST keys/sign`."""
        self.stalled = threading.Event()
        self.stalled.set()
        self._faults: dict[str, deque[Exception]] = {}
        self._lock = threading.Lock()

    def fail(self, operation: str, *faults: Exception) -> None:
        """Answer the next requests of this operation (`keys/sign`) so."""
        self._faults.setdefault(operation, deque()).extend(faults)

    def make(self, name: str, kind: str = "RSA-2048", **more: Any) -> str:
        """Make a certificate, or a version more of it; return its URI."""
        policy = {
            "key_props": {"exportable": False, **_properties(kind)},
            "x509_props": {"subject": f"CN={name}", "validity_months": 12},
        }
        item = self.api.keys.setdefault(name, Item(name, policy=policy))
        version = make_version(policy["key_props"], None)
        version.certificate = self_sign(version, policy)
        for field, value in more.items():
            setattr(version, field, value)
        item.versions.append(version)
        return self.uri(f"certificate={name}")

    def make_key(self, name: str, kind: str = "RSA-2048", **more: Any) -> str:
        """Make a key without certificate; return its URI."""
        version = make_version(_properties(kind), None)
        for field, value in more.items():
            setattr(version, field, value)
        self.api.keys.setdefault(name, Item(name)).versions.append(version)
        return self.uri(f"key={name}")

    def uri(self, which: str, query: str = "") -> str:
        return f"azure-keyvault:vault={self.address};{which}?auth=environment&ca-file={self.ca_file}{query}"

    def count(self, call: str) -> int:
        """How many requests of this kind there were: `POST keys/sign`."""
        return self.calls.count(call)

    def _respond(self, call: Call) -> Reply:
        resource = self.resource
        if (call.headers.get("Host") or "").startswith(HOST):
            resource = "https://vault.invalid"
        self.judge.check(call, resource)
        operation = _operation(call)
        with self._lock:
            self.calls.append(f"{call.method} {operation}")
            waiting = self._faults.get(operation)
            fault = waiting.popleft() if waiting else self.refusal
        if fault is not None:
            raise fault
        self.stalled.wait(60)
        if operation in self.deny:
            raise missing_role(operation)
        with self._lock if operation != "keys/sign" else contextlib.nullcontext():
            return self.api.answer(call)


def missing_role(operation: str) -> Refusal:
    said = (
        "Caller is not authorized to perform action on resource.\r\nIf role assignments, deny assignments or role"
        f" definitions were changed recently, please observe propagation time.\r\nAction: '{operation}'\r\n"
        "Assignment: (not found)\r\n"
    )
    return Refusal(403, "Forbidden", said, "ForbiddenByRbac")


def _operation(call: Call) -> str:
    """Name the permission that a request needs, as access policies do."""
    collection, *rest = call.path
    if call.method == "GET":
        return f"{collection}/{'list' if not rest or rest[-1] == 'versions' else 'get'}"
    if call.method == "DELETE":
        return f"{collection}/delete"
    last = rest[-1] if rest else ""
    return f"{collection}/{last if last in ('sign', 'create', 'import', 'merge', 'recover') else 'update'}"


def _properties(kind: str) -> dict[str, Any]:
    if kind.startswith("RSA"):
        return {"kty": "RSA", "key_size": int(kind.partition("-")[2])}
    return {"kty": "EC", "crv": kind}


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Vault]:
    """Start an authority and a vault, and let the environment have a log-in: `auth=environment`."""
    key = make_key("RSA-2048")
    certificate = self_signed(key, "CN=reader", 10)
    with Authority(refuse_replays=False) as authority, pytest.MonkeyPatch.context() as patch:
        app = authority.register(certificates=[certificate])
        pem = folder / "log-in.pem"
        pem.touch(mode=0o600)
        pem.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        patch.setenv("AZURE_CLIENT_ID", app.client_id)
        patch.setenv("AZURE_TENANT_ID", authority.tenant)
        patch.setenv("AZURE_CLIENT_CERTIFICATE_PATH", str(pem))
        patch.setenv("AZURE_AUTHORITY_HOST", authority.url)
        vault = Vault(authority, app, folder)
        try:
            yield vault
        finally:
            vault.stalled.set()
            vault.server.close()
