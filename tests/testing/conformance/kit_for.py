"""The kit as the author of `MemoryStore`, or of one with a fault, would set it up."""

from __future__ import annotations

import datetime as dt
import itertools
import os
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from keyvouch.testing import StoreConformance
from scripted_store import certify, new_key
from testing.conformance.memory_store import PIN, SERVERS, Member, MemoryStore, Server

_numbers = itertools.count()


def kit_for(kind: type[MemoryStore], **more: Any) -> type[StoreConformance]:
    """Return the test class for a store, with a server of its own."""
    os.environ |= {"KIT_PIN": PIN, "KIT_WRONG_PIN": "hunter2-wrong"}
    number = str(next(_numbers))
    SERVERS[number] = server = Server()
    SERVERS[f"{number}-stalled"] = Server(stalled=True)
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

    members: dict[str, Any] = {
        "store_class": kind,
        "uri": at("ec"),
        "rsa_uri": at("rsa"),
        "ed25519_uri": at("ed"),
        "missing_uri": at("missing"),
        "ambiguous_uri": at("family"),
        "family_uri": at("family", "&select=newest&settle=0"),
        "wrong_secret_uri": at("ec", pin="KIT_WRONG_PIN"),
        "stalled_uri": f"memory:server={number}-stalled;key=ec?pin=env:KIT_PIN",
        "break_connection": break_connection,
        "new_uri": lambda self: at(f"new{next(_numbers)}"),
    }
    return type("TestStore", (StoreConformance,), {**members, **more})


def _chain(key: Any) -> tuple[x509.Certificate, ...]:
    issuer = new_key("P-256", 9)
    return certify(key, "app", issuer, issuer_name="issuer"), certify(issuer, "issuer")


def _aged(key: Any, days: int) -> x509.Certificate:
    begin = dt.datetime.now(dt.UTC).replace(microsecond=0) - dt.timedelta(days=days)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "member")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    return builder.not_valid_before(begin).not_valid_after(begin + dt.timedelta(days=99)).sign(key, hashes.SHA256())
