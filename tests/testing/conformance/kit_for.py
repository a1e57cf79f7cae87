"""The kit, set up as the author of `MemoryStore`, or of a faulty store, would."""

from __future__ import annotations

import datetime as dt
import functools
import http.server
import itertools
import os
import threading
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from keyvouch.testing import StoreConformance
from keyvouch.uri import parse_uri
from scripted_store import certify, new_key
from testing.conformance.memory_store import PIN, SERVERS, Member, MemoryStore, Server

_numbers = itertools.count()


def kit_for(kind: type[MemoryStore], **more: Any) -> type[StoreConformance]:
    """Return the test class for a store, with its own server."""
    os.environ |= {"KIT_PIN": PIN, "KIT_WRONG_PIN": "hunter2-wrong"}
    number = str(next(_numbers))
    SERVERS[number] = server = Server()
    for name, key_kind in (("ec", "P-256"), ("rsa", "RSA-2048"), ("ed", "Ed25519")):
        server.keys[name] = {"1": Member(new_key(key_kind), _chain(new_key(key_kind)), exportable=name == "ec")}
    server.keys["family"] = {
        str(version): Member(new_key("P-256", version), (_aged(new_key("P-256", version), days=10 - version),))
        for version in (1, 2)
    }

    def at(key: str, query: str = "", pin: str = "KIT_PIN") -> str:
        return f"memory:server={number};key={key}?pin=env:{pin}{query}"

    def break_connection(self: StoreConformance) -> None:
        server.epoch += 1

    def stall_connection(self: StoreConformance) -> None:
        server.stalled = True

    def resume_connection(self: StoreConformance) -> None:
        server.stalled = False

    def replace_key(self: StoreConformance, uri: str) -> None:
        key = new_key("P-256", 8)
        members = server.keys[parse_uri(uri, MemoryStore.attributes).get("key")]
        members[next(iter(members))] = Member(key, _chain(key))

    members: dict[str, Any] = {
        "store_class": kind,
        "uri": at("ec"),
        "rsa_uri": at("rsa"),
        "ed25519_uri": at("ed"),
        "missing_uri": at("missing"),
        "ambiguous_uri": at("family"),
        "family_uri": at("family", "&select=newest&settle=0"),
        "wrong_secret_uri": at("ec", pin="KIT_WRONG_PIN"),
        "proxied_uri": at("ec").replace(";", ";address=memory.invalid:443;", 1),
        "proxied_server": answering(),
        "account": "app",
        "break_connection": break_connection,
        "stall_connection": stall_connection,
        "resume_connection": resume_connection,
        "replace_key": replace_key,
        "count_refusals": lambda self: server.refusals,
        "new_uri": lambda self: at(f"new{next(_numbers)}"),
    }
    return type("TestStore", (StoreConformance,), {**members, **more})


@functools.cache
def answering() -> tuple[str, int]:
    """The address of an HTTP server that answers everything with 200; it runs as long as the tests."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return "127.0.0.1", server.server_port


def _chain(key: Any) -> tuple[x509.Certificate, ...]:
    issuer = new_key("P-256", 9)
    return certify(key, "app", issuer, issuer_name="issuer"), certify(issuer, "issuer")


def _aged(key: Any, days: int) -> x509.Certificate:
    begin = dt.datetime.now(dt.UTC).replace(microsecond=0) - dt.timedelta(days=days)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "member")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    return builder.not_valid_before(begin).not_valid_after(begin + dt.timedelta(days=99)).sign(key, hashes.SHA256())
