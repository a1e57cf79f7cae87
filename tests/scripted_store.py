"""A store scripted by a test, found by the registry through an entry point like any other.

    with Script() as script, open_signer(script.uri) as signer:
        script.fail("sign", SessionLost("gone"))        # the next signature fails so
        signer.sign(b"message", "ES256")
    assert script.count("connect") == 2

It also checks that the core keeps its side of the contract: `Script.violations` must stay
empty, and leaving the `with` block fails if it is not.

Nothing here takes a lock: a child forked while another thread signs can use everything.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime as dt
import itertools
import os
import shutil
import sys
import tempfile
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.x509.oid import NameOID

from keyvouch._core import registry
from keyvouch.algorithms import Algorithm, key_type
from keyvouch.certificate import spki_sha256
from keyvouch.errors import KeyExists, KeyNotFound, SessionLost
from keyvouch.local_key import sign_locally
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
)

if TYPE_CHECKING:
    from keyvouch.algorithms import PrivateKey, PublicKey

MESSAGE = b"header.payload"
LONG_ENOUGH = 60.0
"""Timeout in seconds for a test's waits, far longer than any test needs."""


# Keys, certificates, and a verifier independent of keyvouch.


def new_key(kind: str = "P-256", which: int = 0) -> Any:
    """Return the same private key for the same arguments; `which` distinguishes keys of one type."""
    return _cached_key(kind, which)


@cache
def _cached_key(kind: str, which: int) -> Any:
    match kind.split("-"):
        case ["RSA", bits]:
            return rsa.generate_private_key(65537, int(bits))
        case ["P", bits]:
            return ec.generate_private_key(getattr(ec, f"SECP{bits}R1")())
    return ed25519.Ed25519PrivateKey.generate()


def certify(
    key: Any, name: str = "app", issuer: Any = None, *, issuer_name: str = "authority", days: tuple[int, int] = (-1, 30)
) -> x509.Certificate:
    """Return a certificate for the key, valid between these days from now; self-signed, or signed by the issuer."""
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    signing_key = issuer or key
    builder = x509.CertificateBuilder(
        subject_name=_name(name),
        issuer_name=_name(issuer_name if issuer else name),
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now + dt.timedelta(days=days[0]),
        not_valid_after=now + dt.timedelta(days=days[1]),
    )
    return builder.sign(signing_key, None if isinstance(signing_key, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def is_signed(public_key: Any, signature: bytes, message: bytes, name: str) -> bool:
    """Whether it is this key's signature in JOSE form (RFC 7518, section 3; RFC 8037), using only `cryptography`."""
    try:
        if name == "EdDSA":
            public_key.verify(signature, message)
            return True
        digest = getattr(hashes, f"SHA{name[2:]}")()
        if name.startswith("ES"):
            middle = {"ES256": 32, "ES384": 48, "ES512": 66}[name]
            if len(signature) != 2 * middle:
                return False
            r, s = (int.from_bytes(half, "big") for half in (signature[:middle], signature[middle:]))
            public_key.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(digest))
        elif name.startswith("PS"):
            public_key.verify(signature, message, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
        else:
            public_key.verify(signature, message, padding.PKCS1v15(), digest)
    except InvalidSignature:
        return False
    return True


# The test's side.


@dataclass
class Member:
    """One version of a key."""

    private_key: Any
    chain: tuple[x509.Certificate, ...] = ()
    shown: Any = None
    """The public key that the store shows, if it differs from that of `private_key`."""

    @property
    def public_key(self) -> PublicKey:
        key: PublicKey = self.shown or self.private_key.public_key()
        return key


@dataclass(frozen=True)
class Event:
    """A call to the store, with process and thread."""

    step: str
    timeout: float
    process: int
    thread: int


_scripts: dict[str, Script] = {}
_numbers = itertools.count(1)


class Script:
    """Everything behind the stores of one test: the keys, the scripted failures, and the calls received.

    Steps are `init`, `connect`, `open`, `sign`, `close`, `close key`, and the names of the capabilities' methods.
    """

    def __init__(
        self, kind: str = "P-256", *, key: Any = None, chain: Sequence[x509.Certificate] | None = None
    ) -> None:
        """Hold one key of this type, self-signed unless another `chain` is given."""
        key = key or new_key(kind)
        self.keys: dict[str, list[Member]] = {"app": [Member(key, (certify(key),) if chain is None else tuple(chain))]}
        self.errors: dict[str, deque[BaseException]] = defaultdict(deque)
        self.always: dict[str, BaseException] = {}
        """Raised by every call of a step until removed."""
        self.before: dict[str, Callable[[float], object]] = {}
        """Called at the beginning of a step with its timeout: to wait, check or raise."""
        self.signing: Callable[[Any, bytes, Algorithm], bytes] = sign_locally
        self.settles_at: dt.datetime | None = None
        """Reported by keys that were opened without a version, as a family's members do."""
        self.exportable: bool | None = False
        self.accounts: list[str] = []
        self.secrets: list[str] = []
        """The PINs that `connect` received."""
        self.epoch = 0
        self.revision = 0
        self.events: list[Event] = []
        self.violations: list[str] = []
        self.number = str(next(_numbers))

    def __enter__(self) -> Self:
        sys.path.insert(0, _distribution())
        _scripts[self.number] = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        sys.path.remove(_distribution())
        registry.store_class.cache_clear()  # it has cached a distribution that no longer exists
        del _scripts[self.number]
        if error is None:
            assert not self.violations, self.violations

    @property
    def uri(self) -> str:
        """The URI of the newest version of the key."""
        return f"scripted:server={self.number};key=app"

    @property
    def able_uri(self) -> str:
        """The same in a store with all capabilities."""
        return f"scripted-able:server={self.number};key=app"

    @property
    def newest(self) -> Member:
        """The member that the URI selects now."""
        return self.keys["app"][-1]

    def fail(self, step: str, *errors: BaseException) -> None:
        """Make the next calls of a step raise these errors, one each."""
        self.errors[step].extend(errors)

    def drop(self) -> None:
        """Break every connection: open keys and the store raise SessionLost until reconnected."""
        self.epoch += 1

    def rotate(
        self, kind: str = "P-256", which: int = 1, *, key: Any = None, chain: Sequence[x509.Certificate] | None = None
    ) -> Member:
        """Add a version, which `changed()` of open keys reports."""
        key = key or new_key(kind, which)
        self.keys["app"].append(Member(key, (certify(key),) if chain is None else tuple(chain)))
        self.revision += 1
        return self.newest

    def count(self, step: str) -> int:
        """Return the number of times that this process called a step."""
        return sum(event.step == step and event.process == os.getpid() for event in list(self.events))

    def timeouts(self, step: str) -> list[float]:
        """Return the timeout in seconds of each of these calls."""
        return [event.timeout for event in list(self.events) if event.step == step and event.process == os.getpid()]

    @contextlib.contextmanager
    def held(self, step: str) -> Iterator[Gate]:
        """Block every call of a step until the gate is opened, at the latest at the end of the block."""
        gate = Gate()
        self.before[step] = gate.wait
        try:
            yield gate
        finally:
            del self.before[step]
            gate.open()

    def do(self, step: str, timeout: float = 0.0) -> None:
        """For the stores below: record a step, and do what the test scripted for it."""
        self.events.append(Event(step, timeout, os.getpid(), threading.get_ident()))
        if step in self.before:
            self.before[step](timeout)
        if step in self.always:
            raise self.always[step]
        with contextlib.suppress(IndexError):
            raise self.errors[step].popleft()


class Gate:
    """Blocks the calls of a step."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._opened = threading.Event()

    def wait(self, timeout: float = 0.0) -> None:
        """Wait until the gate is opened."""
        self.entered.set()
        assert self._opened.wait(LONG_ENOUGH)

    def open(self) -> None:
        """Let all waiting calls continue."""
        self._opened.set()


@cache
def _distribution() -> str:
    """Return a folder for `sys.path` with an installed distribution that provides these stores."""
    folder = tempfile.mkdtemp(prefix="scripted-")
    maker = os.getpid()
    atexit.register(lambda: shutil.rmtree(folder) if os.getpid() == maker else None)
    info = Path(folder, "scripted-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: scripted\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(
        f"[{registry.GROUP}]\n"
        f"scripted = {__name__}:ScriptedStore [contract1]\n"
        f"scripted-able = {__name__}:FullStore [contract1]\n",
        encoding="utf-8",
    )
    return folder


def without_coverage() -> dict[str, str]:
    """Return the environment for a process that forks beside threads, since a fork may leave a coverage lock held."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COV")}


def until(condition: Callable[[], object]) -> None:
    """Wait until another thread has made the condition true."""
    end = time.monotonic() + LONG_ENOUGH
    while not condition():
        assert time.monotonic() < end, "timed out waiting for the condition"
        time.sleep(0.001)


def in_threads(number: int, work: Callable[[], Any]) -> list[Any]:
    """Return what each thread's work returned, or the error that it raised; all start at once."""
    results: list[Any] = []
    begin = threading.Barrier(number)

    def run() -> None:
        begin.wait(LONG_ENOUGH)
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            results.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_ENOUGH)
    assert len(results) == number, "a thread did not finish"
    return results


# The stores.


class ScriptedStore(KeyStore):
    """Signs with keys in memory, and has no other capabilities."""

    attributes = (
        Attribute("server", "the script's number", connection=True, required_for=frozenset({"open", "generate"})),
        Attribute("key", "the key's name", required_for=frozenset({"open", "generate"})),
        Attribute("version", "counted from 1; else the newest"),
        Attribute("account", "the account that connects", query=True, connection=True),
        Attribute("pin", "a reference to the PIN", query=True, connection=True, secret=True),
        Attribute("speed", "has no effect", query=True),
    )

    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:
        self.script = _scripts[uri.get("server")]
        self.uri = uri
        self.secrets = secrets
        self.open_keys: list[ScriptedKey] = []
        self._process = os.getpid()
        self._epoch: int | None = None
        self._connecting: list[int] = []
        self._closed = False
        self.script.do("init")

    def connect(self, *, timeout: float) -> None:
        here = os.getpid()
        self._connecting.append(here)
        self._require(not self._closed, "connect after close")
        self._require(self._connecting.count(here) == 1, "two threads connect at once")
        try:
            if "pin" in self.uri:
                self.script.secrets.append(self.secrets.get(self.uri, "pin").reveal())
            epoch = self.script.epoch
            self.script.do("connect", timeout)
            self._epoch, self._process = epoch, here
        finally:
            self._connecting.remove(here)

    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        self._begin("open", timeout)
        members = self.script.keys.get(uri.get("key"), [])
        version = int(uri.get("version") or len(members))
        if not 1 <= version <= len(members):
            raise KeyNotFound(f"Key not found: {uri.get('key')}.", hint="Correct the key's name.", uri=uri)
        pinned = uri.replace({"version": str(version)})
        settles_at = None if "version" in uri else self.script.settles_at
        return ScriptedKey(self, pinned, members[version - 1], settles_at)

    def close(self) -> None:
        self._require(not self._closed, "closed twice")
        self._require(self._process == os.getpid(), "a parent's store is closed in the child")
        self._require(not [key for key in self.open_keys if key.process == os.getpid()], "closed under an open key")
        self._closed = True
        self.script.do("close")

    @property
    def epoch(self) -> int | None:
        return self._epoch

    def _begin(self, step: str, timeout: float = 0.0) -> None:
        self._require(self._process == os.getpid() and self._epoch is not None, f"{step} before connect")
        self._require(not self._closed, f"{step} after close")
        self.script.do(step, timeout)
        if self._epoch != self.script.epoch:
            raise SessionLost(f"The connection was dropped before {step}.", hint="Connect again.", performed=False)

    def _require(self, truth: object, rule: str) -> None:
        if not truth:
            self.script.violations.append(rule)


class ScriptedKey(StoredKey):
    """An open key."""

    def __init__(self, store: ScriptedStore, uri: KeyUri, member: Member, settles_at: dt.datetime | None) -> None:
        self.uri = uri
        self.public_key = member.public_key
        self.chain = member.chain
        self.exportable = store.script.exportable
        self.settles_at = settles_at
        self.process = os.getpid()
        self._store = store
        self._script = store.script
        self._member = member
        self._epoch = store.epoch
        self._revision = store.script.revision
        self._signing: list[None] = []
        self._closed = False
        store.open_keys.append(self)

    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        require = self._store._require  # noqa: SLF001, RUF100 - one unit with the store
        require(self.process == os.getpid(), "a parent's key signs in the child")
        require(not self._closed, "sign after close")
        require(timeout > 0, f"{timeout} seconds for a signature")
        self._signing.append(None)
        try:
            self._script.do("sign", timeout)
            if self._epoch != self._script.epoch:
                raise SessionLost("The connection was dropped.", hint="Connect again.")
            return self._script.signing(self._member.private_key, message, algorithm)
        finally:
            self._signing.pop()
            require(not self._closed, "closed while it signs")

    def changed(self) -> bool:
        self._script.do("changed")
        return self._revision != self._script.revision

    def close(self) -> None:
        require = self._store._require  # noqa: SLF001, RUF100 - one unit with the store
        require(self.process == os.getpid(), "a parent's key is closed in the child")
        require(not self._closed, "a key is closed twice")
        require(not self._signing, "a key is closed while it signs")
        self._closed = True
        self._store.open_keys.remove(self)
        self._script.do("close key")


class FullStore(
    ScriptedStore,
    ListsKeys,
    GeneratesKeys,
    ImportsKeys,
    RequestsCertificates,
    HoldsCertificates,
    DeletesKeys,
    ExportsKeys,
    OffersPeer,
    GrantsAccess,
):
    """The same store with all capabilities."""

    def keys(self, uri: KeyUri) -> list[KeyInfo]:
        self._begin("keys")
        wanted = uri.get("key")
        return [
            KeyInfo(
                uri.replace({"key": name, "version": str(version)}),
                key_type(member.public_key),
                spki_sha256(member.public_key),
                has_certificate=bool(member.chain),
            )
            for name, members in self.script.keys.items()
            if wanted in (None, name)
            for version, member in enumerate(members, 1)
        ]

    def generate(self, uri: KeyUri, spec: KeySpec) -> KeyUri:
        self._begin("generate")
        return self._add(uri, new_key(spec.key_type, len(self.script.keys)), (), further=spec.further)

    def import_key(
        self, uri: KeyUri, key: PrivateKey, chain: Sequence[x509.Certificate], *, exportable: bool = False
    ) -> KeyUri:
        self._begin("import_key")
        return self._add(uri, key, chain)

    def request_certificate(self, uri: KeyUri, spec: KeySpec) -> bytes:
        self._begin("request_certificate")
        return b"request"

    def install_certificate(self, uri: KeyUri, chain: Sequence[x509.Certificate]) -> KeyUri:
        self._begin("install_certificate")
        self.script.keys[uri.get("key")][-1].chain = tuple(chain)
        return uri

    def delete(self, uri: KeyUri) -> None:
        self._begin("delete")
        del self.script.keys[uri.get("key")]

    def export_pfx(self, uri: KeyUri, password: Secret) -> bytes:
        self._begin("export_pfx")
        return b"pfx"

    def peer(self, uri: KeyUri, algorithm: Algorithm) -> Callable[[bytes], bytes]:
        self._begin("peer")
        key = self.script.keys[uri.get("key")][-1].private_key
        return lambda message: self.script.signing(key, message, algorithm)

    def readers(self, uri: KeyUri) -> list[str]:
        self._begin("readers")
        return list(self.script.accounts)

    def grant(self, uri: KeyUri, account: str) -> None:
        self._begin("grant")
        if account not in self.script.accounts:
            self.script.accounts.append(account)

    def revoke(self, uri: KeyUri, account: str) -> None:
        self._begin("revoke")
        self.script.accounts.remove(account)

    def _add(self, uri: KeyUri, key: Any, chain: Sequence[x509.Certificate], *, further: bool = False) -> KeyUri:
        name = uri.get("key")
        if name in self.script.keys and not further:
            raise KeyExists(f"Key already exists: {name}.", hint="Use another name.", uri=uri)
        members = self.script.keys.setdefault(name, [])
        members.append(Member(key, tuple(chain)))
        return uri.replace({"version": str(len(members))})
