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
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from keyvouch._core.key_choice import choose_one, is_decided
from keyvouch._core.key_infos import KeyInfo, KeySpec, RateLimit, Schedule, TokenInfo, UnusableKey
from keyvouch._core.uri_text import UriSyntax
from keyvouch._system.forks import ForkGate
from keyvouch.errors import SessionLost
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
    "PublishesLimits",
    "RateLimit",
    "RequestsCertificates",
    "Schedule",
    "StoredKey",
    "TokenInfo",
    "UnusableKey",
    "UriSyntax",
    "choose_one",
    "is_decided",
]

T = TypeVar("T")

CONTRACT = 1
"""The version of this contract; a store's entry point names the one it was written for."""


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
    """Can sign with only the store's library, as a program without keyvouch would, so that the two can be compared."""

    @abstractmethod
    def peer(self, uri: KeyUri, algorithm: Algorithm) -> Callable[[bytes], bytes]:
        """Return a function that signs a message with only the store's library.

        `uri` is pinned, and the algorithm fits the key. Called after `KeyStore.connect`. Raises what `KeyStore.open`
        and `StoredKey.sign` raise, and `NotSupported` for a key for which there is no comparison.

        The function returns the signature in JOSE form. It raises `Throttled` if the service limits the rate, and
        otherwise its library's own exceptions. Many threads call it at once. Nothing protects it as keyvouch protects
        its own signatures: while a thread is in it, do not fork, connect the store again or close it. After each of
        these, get another one. `KeyStore.close` releases what it holds, such as a session for each thread.
        """


class PublishesLimits(ABC):
    """A service that limits the rate of signatures, and may bill for them.

    `keyvouch bench` asks before it loads such a service.
    """

    @abstractmethod
    def rate_limit(self, key: StoredKey) -> RateLimit | None:
        """Return the limit for signatures with this key, which `KeyStore.open` returned; None if none is published.

        Sends no request, and raises nothing.
        """


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
