"""A correct store: keys in memory, behind a PIN and a connection that can be lost. The wrong ones derive from it."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, pkcs12

from keyvouch.algorithms import Algorithm, key_type
from keyvouch.certificate import order_chain, parse_subject, self_signed, spki_sha256
from keyvouch.errors import KeyExists, KeyNotFound, NotSupported, SecretIncorrect, SessionLost, StoreUnavailable
from keyvouch.local_key import make_key, sign_locally
from keyvouch.secrets import Secret, SecretResolver
from keyvouch.store import (
    Attribute,
    DeletesKeys,
    ExportsKeys,
    GeneratesKeys,
    GrantsAccess,
    HoldsCertificates,
    ImportsKeys,
    KeyInfo,
    KeySpec,
    KeyStore,
    KeyUri,
    ListsKeys,
    OffersPeer,
    RequestsCertificates,
    StoredKey,
    choose_one,
)

if TYPE_CHECKING:
    from keyvouch.algorithms import PrivateKey


@dataclass
class Member:
    """One version of a key."""

    key: Any
    chain: tuple[x509.Certificate, ...]
    exportable: bool = False


@dataclass
class Server:
    """The server behind the connection."""

    keys: dict[str, dict[str, Member]] = field(default_factory=dict)
    epoch: int = 0
    """Incremented when every connection is cut."""
    log_ins: int = 0
    refusals: int = 0
    stalled: bool = False
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(3))
    """The number of the next version: never reused, even after a deletion."""
    readers: set[str] = field(default_factory=lambda: {"root"})
    lock: threading.Lock = field(default_factory=threading.Lock)


SERVERS: dict[str, Server] = {}
PIN = "correct horse"


class MemoryStore(
    KeyStore,
    ListsKeys,
    GeneratesKeys,
    ImportsKeys,
    RequestsCertificates,
    HoldsCertificates,
    DeletesKeys,
    ExportsKeys,
    GrantsAccess,
    OffersPeer,
):
    """Keys in memory."""

    attributes: ClassVar[tuple[Attribute, ...]] = (
        Attribute("server", "number of the server", connection=True, required_for=frozenset({"open", "generate"})),
        Attribute("key", "name of the key", required_for=frozenset({"open", "generate"})),
        Attribute("version", "version of the key"),
        Attribute("address", "host and port of a server to query", connection=True),
        Attribute("pin", "PIN to log in with", query=True, connection=True, secret=True),
    )

    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:
        self._uri = uri
        self._secrets = secrets
        self._epoch: int | None = None
        self._process = 0

    @property
    def server(self) -> Server:
        return SERVERS[self._uri.get("server")]

    def connect(self, *, timeout: float) -> None:
        self.wait(timeout)
        if address := self._uri.get("address"):
            self.ask(address, timeout)
        self.log_in(self._secrets.get(self._uri, "pin"))

    def log_in(self, pin: Secret | None) -> None:
        self.server.log_ins += 1
        if pin != Secret(PIN):
            self.server.refusals += 1
            raise SecretIncorrect("The server refused the PIN.", hint="Correct it.")
        self._epoch, self._process = self.server.epoch, os.getpid()

    def wait(self, timeout: float) -> None:
        """Wait for the server while it is stalled."""
        if self.server.stalled:
            time.sleep(timeout)
            raise StoreUnavailable("The server does not respond.", hint="Try later.")

    def ask(self, address: str, timeout: float) -> None:
        """Send an HTTP request, through the proxy if there is one."""
        proxy = urllib.request.getproxies().get("https", "").removeprefix("http://")
        connection = http.client.HTTPConnection(proxy or address, timeout=timeout)
        if proxy:
            connection.set_tunnel(address)
        try:
            with contextlib.closing(connection):
                connection.request("GET", "/")
                connection.getresponse().read()
        except OSError as error:
            raise StoreUnavailable(f"{address} does not respond: {error}.", hint="Try later.") from error

    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        self.wait(timeout)
        info, settles_at = choose_one(uri, self.matches(uri), certificate)
        key = MemoryKey(self, info.uri, self._member(info.uri))
        key.settles_at = settles_at
        return key

    def close(self) -> None:
        self._epoch = None

    def keys(self, uri: KeyUri) -> list[KeyInfo]:
        return [info for info in self.matches(uri) if uri.get("spki-sha256") in (None, info.spki_sha256)]

    def matches(self, uri: KeyUri) -> list[KeyInfo]:
        self.require_alive()
        versions = self.server.keys.get(uri.get("key"), {})
        if not versions and "key" in uri:
            raise KeyNotFound(f"Key not found: {uri.get('key')}.", hint="See `keyvouch keys`.", uri=uri)
        return [
            self._describe(uri, version, member)
            for version, member in versions.items()
            if uri.get("version") in (None, version)
        ]

    def generate(self, uri: KeyUri, spec: KeySpec) -> KeyUri:
        key = make_key(spec.key_type)
        chain = (self_signed(key, spec.subject, spec.days),)
        return self._add(uri, key, chain, exportable=spec.exportable, further=spec.further)

    def import_key(
        self, uri: KeyUri, key: PrivateKey, chain: Sequence[x509.Certificate], *, exportable: bool = False
    ) -> KeyUri:
        return self._add(uri, key, tuple(chain), exportable=exportable)

    def install_certificate(self, uri: KeyUri, chain: Sequence[x509.Certificate]) -> KeyUri:
        self._member(uri).chain = tuple(chain)
        return uri

    def request_certificate(self, uri: KeyUri, spec: KeySpec) -> bytes:
        key = self._member(uri).key
        builder = x509.CertificateSigningRequestBuilder(parse_subject(spec.subject))
        algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        return builder.sign(key, algorithm).public_bytes(Encoding.DER)

    def readers(self, uri: KeyUri) -> list[str]:
        self._member(uri)
        return list(self.server.readers)

    def grant(self, uri: KeyUri, account: str) -> None:
        self._member(uri)
        self.server.readers.add(account)

    def revoke(self, uri: KeyUri, account: str) -> None:
        self._member(uri)
        self.server.readers.discard(account)

    def delete(self, uri: KeyUri) -> None:
        self._member(uri)
        del self.server.keys[uri.get("key")][uri.get("version")]

    def export_pfx(self, uri: KeyUri, password: Secret) -> bytes:
        member = self._member(uri)
        if not member.exportable:
            raise NotSupported("The key does not leave its store.", hint="Sign with it there.")
        encryption = BestAvailableEncryption(password.reveal().encode())
        return pkcs12.serialize_key_and_certificates(b"app", member.key, member.chain[0], None, encryption)

    def peer(self, uri: KeyUri, algorithm: Algorithm) -> Callable[[bytes], bytes]:
        key = self._member(uri).key
        return lambda message: sign_locally(key, message, algorithm)

    def require_alive(self) -> None:
        if self._epoch != self.server.epoch or self._process != os.getpid():
            raise SessionLost("The connection is gone.", hint="Connect again.", performed=False)

    def _member(self, uri: KeyUri) -> Member:
        self.require_alive()
        try:
            members = self.server.keys[uri.get("key")]
            return members[uri.get("version") or next(iter(members))]
        except KeyError:
            raise KeyNotFound(f"Key not found: {uri}.", hint="See `keyvouch keys`.", uri=uri) from None

    def _add(
        self, uri: KeyUri, key: Any, chain: tuple[x509.Certificate, ...], *, exportable: bool, further: bool = False
    ) -> KeyUri:
        self.require_alive()
        with self.server.lock:
            members = self.server.keys.setdefault(uri.get("key"), {})
            if members and not further:
                raise KeyExists(f"Key already exists: {uri.get('key')}.", hint="Use another name.", uri=uri)
            version = str(next(self.server.numbers))
            members[version] = Member(key, chain, exportable)
        return self.pinned(uri, version)

    def pinned(self, uri: KeyUri, version: str) -> KeyUri:
        return uri.replace({"version": version, "select": None, "settle": None})

    @staticmethod
    def _describe(uri: KeyUri, version: str, member: Member) -> KeyInfo:
        return KeyInfo(
            uri.replace({"version": version, "select": None, "settle": None}),
            key_type(member.key),
            spki_sha256(member.key.public_key()),
            not_before=member.chain[0].not_valid_before_utc if member.chain else None,
            not_after=member.chain[0].not_valid_after_utc if member.chain else None,
            exportable=member.exportable,
            has_certificate=bool(member.chain),
        )


class MemoryKey(StoredKey):
    """An open key."""

    def __init__(self, store: MemoryStore, uri: KeyUri, member: Member) -> None:
        self.uri = uri
        self.public_key = member.key.public_key()
        self.chain = order_chain(member.chain, self.public_key)
        self.exportable = member.exportable
        self.store = store
        self.member = member

    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        self.store.wait(timeout)
        self.store.require_alive()
        return sign_locally(self.member.key, message, algorithm)

    def changed(self) -> bool:
        now = self.store.server.keys.get(self.uri.get("key"), {}).get(self.uri.get("version"))
        return now is not self.member


class Bare(KeyStore):
    """The minimum that a store must have."""

    attributes = MemoryStore.attributes

    def __init__(self, uri: Any, secrets: Any) -> None:
        self._inner = MemoryStore(uri, secrets)

    def connect(self, *, timeout: float) -> None:
        self._inner.connect(timeout=timeout)

    def open(self, uri: Any, certificate: Any = None, *, timeout: float) -> StoredKey:
        return self._inner.open(uri, certificate, timeout=timeout)

    def close(self) -> None:
        self._inner.close()
