"""The contract between keyvouch and a store of keys. A plugin implements only `KeyStore` and `StoredKey`.

A store maps its library's exceptions to those of `keyvouch.errors`, each with a hint and its cause. It never retries,
logs or prompts: the core does this, in the same way for all stores. `SessionLost` means that the session or the module
is dead, and may come from any method but `__init__` and `close`; `StoreUnavailable` and `Throttled` mean that this one
request failed.

A class is found by its entry point in the group `keyvouch.stores`; the name of the entry point is the URI's scheme:

    [project.entry-points."keyvouch.stores"]
    mystore = "my_package:MyStore [contract1]"
"""

from __future__ import annotations

import datetime as dt
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, Self, TypeVar

from keyvouch._core.uri_text import UriSyntax
from keyvouch._system.forks import ForkGate
from keyvouch.errors import AmbiguousKey, CertificateMismatch, KeyChanged, KeyNotFound, SessionLost
from keyvouch.uri import Attribute, KeyUri

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import Algorithm, PrivateKey, PublicKey
    from keyvouch.secrets import Secret, SecretResolver

__all__ = [
    "CONTRACT",
    "Attribute",
    "DeletesKeys",
    "ExportsKeys",
    "ForkGate",
    "GeneratesKeys",
    "GrantsAccess",
    "HoldsCertificates",
    "ImportsKeys",
    "KeyInfo",
    "KeySpec",
    "KeyStore",
    "KeyUri",
    "ListsKeys",
    "ListsTokens",
    "ListsUnusableKeys",
    "OffersPeer",
    "ProcessLocal",
    "RequestsCertificates",
    "Schedule",
    "StoredKey",
    "TokenInfo",
    "UnusableKey",
    "UriSyntax",
    "choose_one",
]

T = TypeVar("T")

CONTRACT = 1
"""The version of this contract; a store's entry point names the one it was written for."""


@dataclass(frozen=True)
class KeyInfo:
    """What a store reports about a key without opening it."""

    uri: KeyUri
    """URI that opens this very key."""
    key_type: str
    """Type as in `algorithms.key_type`: "RSA-2048", "P-256"."""
    spki_sha256: str | None = None
    """SHA-256 of its public key, in lower-case hexadecimal."""
    subject: str | None = None
    """Subject of its certificate, RFC 4514."""
    not_before: dt.datetime | None = None
    not_after: dt.datetime | None = None
    created: dt.datetime | None = None
    """Creation time recorded by the store."""
    exportable: bool | None = None
    has_certificate: bool = False
    advice: tuple[str, ...] = ()
    """Problems in the store that should be fixed before they do harm, each with the remedy."""
    friendly_name: str | None = None
    """Name of its certificate that the store keeps beside the subject."""
    provider: str | None = None
    """The component that keeps the key, if the store has several: on Windows, a key storage provider."""
    readers: tuple[str, ...] | None = None
    """Accounts that may sign with the key, as in `GrantsAccess.readers`; None if the store does not know."""

    @classmethod
    def from_chain(
        cls,
        uri: KeyUri,
        public_key: PublicKey,
        chain: Sequence[Certificate],
        *,
        created: dt.datetime | None = None,
        exportable: bool | None = None,
        provider: str | None = None,
        readers: tuple[str, ...] | None = None,
    ) -> Self:
        """Describe a key by its public key and its certificate chain, leaf first, which may be empty."""
        from keyvouch.algorithms import key_type
        from keyvouch.certificate import spki_sha256

        leaf = chain[0] if chain else None
        return cls(
            uri,
            key_type(public_key),
            spki_sha256(public_key),
            subject=leaf.subject.rfc4514_string() if leaf else None,
            not_before=leaf.not_valid_before_utc if leaf else None,
            not_after=leaf.not_valid_after_utc if leaf else None,
            created=created,
            exportable=exportable,
            has_certificate=leaf is not None,
            provider=provider,
            readers=readers,
        )

    @property
    def age_begins(self) -> dt.datetime | None:
        """The time from which the age of a family member is counted."""
        return self.created or self.not_before


@dataclass(frozen=True)
class TokenInfo:
    """What a store reports about a token that holds its keys."""

    uri: KeyUri
    """URI of this token, without a key."""
    description: str
    """Maker and model of the token, and whether its PIN is locked."""


@dataclass(frozen=True)
class Schedule:
    """Which key of a list signs now, and which one takes over; None if that is unknown, or never happens."""

    now: KeyInfo | None = None
    next: KeyInfo | None = None
    next_at: dt.datetime | None = None
    """When the next key begins to sign."""


@dataclass(frozen=True)
class UnusableKey:
    """Something that a listing leaves out: a damaged file, a disabled version."""

    name: str
    """Path or URI."""
    reason: str
    """Why it cannot sign, as a sentence."""


@dataclass(frozen=True)
class KeySpec:
    """Specification of a key to generate."""

    key_type: str = "RSA-2048"
    """One of `algorithms.KEY_TYPES`."""
    subject: str = "CN=keyvouch"
    """Subject of the certificate, RFC 4514; for stores that make key and certificate in one step."""
    days: int = 365
    """Days for which that certificate is valid."""
    exportable: bool = False
    """True if the key may leave the store. Files cannot prevent it."""
    further: bool = False
    """True to add a member to an existing family."""


class StoredKey(ABC):
    """A private key in a store. Made by `KeyStore.open`."""

    uri: KeyUri
    """Pinned URI: opening it again finds this very key."""
    public_key: PublicKey
    """From the store, else from the certificate passed to `open`."""
    chain: tuple[Certificate, ...] = ()
    """The certificate that the store holds and its issuers, leaf first; empty if it holds none."""
    exportable: bool | None = None
    """True if the private key can leave the store; None if the store does not know."""
    settles_at: dt.datetime | None = None
    """When a younger member of the family will be chosen instead, as returned by `choose_one`."""
    advice: tuple[str, ...] = ()
    """As in `KeyInfo`, if opening reveals it without a further request; a signer logs it once as a warning."""
    algorithms: tuple[Algorithm, ...] = ()
    """The algorithms to which the key is restricted, the preferred one first; empty if all that fit are allowed."""
    remote: bool = False
    """True if signatures come over a network: keyvouch then verifies each one, not only an algorithm's first."""

    @abstractmethod
    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        """Return the signature over `message` (not over its hash) in JOSE form: for ECDSA r||s of full width.

        Called by many threads at once, with algorithms that fit the key's type. Blocks for about `timeout` seconds at
        most. Raises `AlgorithmUnsupported` if the store does not support the algorithm, `SessionLost`, `Throttled`,
        `StoreUnavailable`, `AccessDenied`, `KeyUnusable`.
        """

    def changed(self) -> bool:
        """Return True if the key was replaced since it was opened; must be cheap (a stat, no request).

        Called once a second at most, before a signature.
        """
        return False

    def close(self) -> None:  # noqa: B027 - most keys hold no resources
        """Release what only this key holds. Called once, never while it signs; raises nothing."""


class KeyStore(ABC):
    """A connection to a store, shared by all its keys: a module, a client. A store of files holds none.

    Life cycle: `__init__`, `connect`, then `open` and the store's capabilities; `connect` again after `SessionLost`;
    `close`.
    """

    contract: ClassVar[int] = CONTRACT
    attributes: ClassVar[tuple[Attribute, ...]]
    """Attributes of its URIs, besides the core's own."""
    uri_syntax: ClassVar[UriSyntax] = UriSyntax()
    """How its URIs differ from others, if a standard defines its scheme."""

    @abstractmethod
    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:
        """Validate the connection attributes. No I/O. Raises `ConfigurationError`, `NotSupported`."""

    @abstractmethod
    def connect(self, *, timeout: float) -> None:
        """Connect and log in, and verify the login with one cheap call.

        Called before the first `open`, again after a `SessionLost`, and again in a forked child; by one thread at a
        time, while other keys of the store remain open. Secrets are read again. Raises `StoreUnavailable`,
        `SecretIncorrect`, `SecretRequired`, `AccessDenied`, `StoreLocked`, `NotSupported`, `ConfigurationError`.
        """

    @abstractmethod
    def open(self, uri: KeyUri, certificate: Certificate | None = None, *, timeout: float) -> StoredKey:
        """Open the one key that matches the URI; accepts every URI that this store ever returned.

        `certificate` comes from outside the store: if several keys match, the one that it belongs to is chosen. Called
        by many threads at once. Raises `KeyNotFound`, `AmbiguousKey` and what `connect` raises.
        """

    @abstractmethod
    def close(self) -> None:
        """Disconnect within 10 seconds; raise nothing. Called after the last key, never in a forked child."""


class ProcessLocal(Generic[T]):
    """A connection that only the process that made it may use: in a forked child there is none until it connects."""

    def __init__(self) -> None:
        self._made: tuple[int, T] | None = None

    def set(self, value: T) -> None:
        """Keep the connection that `KeyStore.connect` made."""
        self._made = os.getpid(), value

    def get(self) -> T:
        """Return the connection. Raises `SessionLost` if this process has none."""
        made = self._made
        if made is None or made[0] != os.getpid():
            raise SessionLost("This process is not connected to the store.", hint="Try again.", performed=False)
        return made[1]

    def take(self) -> T | None:
        """Return the connection and forget it, for `KeyStore.close`; None if this process has none."""
        made, self._made = self._made, None
        return made[1] if made is not None and made[0] == os.getpid() else None


# Capabilities of a store besides signing. A method may raise NotSupported for a URI that it cannot serve.


class ListsKeys(ABC):
    """Can list keys."""

    @abstractmethod
    def keys(self, uri: KeyUri) -> list[KeyInfo]:
        """Return the keys that match the URI; all keys if it selects none."""


class ListsTokens(ABC):
    """Reaches several tokens through one connection, as a PKCS#11 module does."""

    @abstractmethod
    def tokens(self, uri: KeyUri) -> list[TokenInfo]:
        """Return the tokens that match the URI; this requires no secret."""


class ListsUnusableKeys(ABC):
    """Can say what `ListsKeys.keys` leaves out, and why."""

    @abstractmethod
    def unusable_keys(self, uri: KeyUri) -> list[UnusableKey]:
        """Return what matches the URI but cannot sign. Called after `ListsKeys.keys`."""


class GeneratesKeys(ABC):
    """Can make keys."""

    @abstractmethod
    def generate(self, uri: KeyUri, spec: KeySpec) -> KeyUri:
        """Make a key and return its pinned URI. Raises `KeyExists` instead of changing an existing key.

        Raises `NotSupported` for a key type that the store cannot make.
        """


class ImportsKeys(ABC):
    """Can import a key that was made elsewhere."""

    @abstractmethod
    def import_key(
        self, uri: KeyUri, key: PrivateKey, chain: Sequence[Certificate], *, exportable: bool = False
    ) -> KeyUri:
        """Import the key and return its pinned URI. Raises `KeyExists` instead of changing an existing key."""


class RequestsCertificates(ABC):
    """Makes certificate requests itself, if the key's signature is not sufficient for that."""

    @abstractmethod
    def request_certificate(self, uri: KeyUri, spec: KeySpec) -> bytes:
        """Return a PKCS#10 request in DER."""


class HoldsCertificates(ABC):
    """Can store a certificate with the key."""

    @abstractmethod
    def install_certificate(self, uri: KeyUri, chain: Sequence[Certificate]) -> KeyUri:
        """Store the chain, leaf first. Returns the URI that identifies the key afterwards."""


class DeletesKeys(ABC):
    """Can delete keys."""

    @abstractmethod
    def delete(self, uri: KeyUri) -> None:
        """Delete the key of this pinned URI, and its certificate."""


class ExportsKeys(ABC):
    """Can export a private key."""

    @abstractmethod
    def export_pfx(self, uri: KeyUri, password: Secret) -> bytes:
        """Return the key and its chain as PKCS#12, encrypted.

        Raises `KeyUnusable` if this key must not leave the store, `NotSupported` if the store exports no key of its
        type.
        """


class OffersPeer(ABC):
    """Can show the cost of the store's library by itself."""

    @abstractmethod
    def peer(self, uri: KeyUri, algorithm: Algorithm) -> Callable[[bytes], bytes]:
        """Return a function that makes the same signature with only the store's library, for comparison."""


class GrantsAccess(ABC):
    """Manages which accounts may use a key."""

    @abstractmethod
    def readers(self, uri: KeyUri) -> list[str]:
        """Return the accounts that may sign with the key."""

    @abstractmethod
    def grant(self, uri: KeyUri, account: str) -> None:
        """Allow an account to sign with the key."""

    @abstractmethod
    def revoke(self, uri: KeyUri, account: str) -> None:
        """Revoke an account's permission to sign with the key."""


def choose_one(
    uri: KeyUri, infos: Sequence[KeyInfo], certificate: Certificate | None = None
) -> tuple[KeyInfo, dt.datetime | None]:
    """Return the one matching key that the URI selects, and when another will be chosen (None if never).

    In this order: the key that `spki-sha256` identifies; the certificate's; the only one; with `select=newest` the
    newest that has settled. Raises `KeyNotFound`, `KeyChanged`, `CertificateMismatch`, `AmbiguousKey`.
    """
    if not infos:
        raise KeyNotFound(f"Key not found: {uri}.", hint="List the keys: `keyvouch keys`.", uri=uri)
    if pinned := uri.get("spki-sha256"):
        found = _by_key(infos, pinned)
        if found is None:
            raise KeyChanged(
                f"The key at {uri} was replaced by another.",
                hint="To use the new key, remove spki-sha256 from the URI.",
                uri=uri,
            )
        return found, None
    if certificate is not None:
        from keyvouch.certificate import belongs_to

        found = next((info for info in infos if info.spki_sha256 and belongs_to(certificate, info.spki_sha256)), None)
        if found is None:
            raise CertificateMismatch(
                f"The certificate of {certificate.subject.rfc4514_string()} does not belong to the key {uri}.",
                hint="Use the certificate that was issued for this key.",
                uri=uri,
            )
        return found, None
    if len(infos) == 1:
        return infos[0], None
    if uri.get("select") != "newest":
        raise ambiguous(uri, infos, "Use one of these URIs")
    return _newest_settled(uri, infos, dt.datetime.now(dt.UTC))


def ambiguous(uri: KeyUri, infos: Sequence[KeyInfo], advice: str) -> AmbiguousKey:
    """Return the error that lists a URI for each match."""
    candidates = tuple(str(info.uri) for info in infos)
    listed = "\n".join(f"  {info.uri.quoted}  {info.friendly_name or info.subject or ''}".rstrip() for info in infos)
    return AmbiguousKey(f"{len(infos)} keys match {uri}.", hint=f"{advice}:\n{listed}", uri=uri, candidates=candidates)


def _by_key(infos: Sequence[KeyInfo], spki: str) -> KeyInfo | None:
    return next((info for info in infos if info.spki_sha256 == spki), None)


def _newest_settled(uri: KeyUri, infos: Sequence[KeyInfo], now: dt.datetime) -> tuple[KeyInfo, dt.datetime | None]:
    settle = dt.timedelta(seconds=uri.get("settle"))
    infos = _usable(infos, now, settle)
    aged = [(info.age_begins, info) for info in infos if info.age_begins]
    if len(aged) < len(infos):
        raise ambiguous(uri, infos, "Their ages are unknown; use one of these URIs")
    aged.sort(key=lambda pair: pair[0], reverse=True)
    chosen = next((index for index, (begin, _) in enumerate(aged) if begin + settle <= now), len(aged) - 1)
    younger = [begin + settle for begin, _ in aged[:chosen]]
    return aged[chosen][1], min(younger, default=None)


def _usable(infos: Sequence[KeyInfo], now: dt.datetime, settle: dt.timedelta) -> Sequence[KeyInfo]:
    """Return the members with a valid certificate; before the first one has settled, also settled ones without."""

    def has_settled(info: KeyInfo) -> bool:
        return info.age_begins is not None and info.age_begins + settle <= now

    certified = [info for info in infos if info.has_certificate]
    if not certified:
        return infos
    # If none is valid, choose among all of them: the assertion then reports which certificate has expired.
    usable = [info for info in certified if _valid(info, now)] or certified
    if any(map(has_settled, certified)):
        return usable
    return [*usable, *(info for info in infos if not info.has_certificate and has_settled(info))]


def _valid(info: KeyInfo, now: dt.datetime) -> bool:
    return (info.not_before is None or info.not_before <= now) and (info.not_after is None or now <= info.not_after)
