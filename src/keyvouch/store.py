"""The contract between keyvouch and a store of keys. A plugin implements `KeyStore` and `StoredKey`, and no more.

A store maps its library's exceptions to those of `keyvouch.errors`, each with a hint and its cause. It never retries,
never logs, never asks a person: the core does these, alike for all stores. `SessionLost` says that the log-in or the
module is dead, and may come from any method but `__init__` and `close`; `StoreUnavailable` and `Throttled` say that
this one request failed.

A class is found by its entry point in the group `keyvouch.stores`, whose name is the URI's scheme:

    [project.entry-points."keyvouch.stores"]
    mystore = "my_package:MyStore [contract1]"
"""

from __future__ import annotations

import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from keyvouch.errors import AmbiguousKey, CertificateMismatch, KeyChanged, KeyNotFound
from keyvouch.forks import ForkGate
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
    "OffersPeer",
    "RequestsCertificates",
    "StoredKey",
    "TokenInfo",
    "choose_one",
]

CONTRACT = 1
"""The version of this contract; a store's entry point names the one it was written for."""


@dataclass(frozen=True)
class KeyInfo:
    """What a store tells of one key without opening it."""

    uri: KeyUri
    """Opens this very key."""
    key_type: str
    """As `algorithms.key_type` names it: "RSA-2048", "P-256"."""
    spki_sha256: str | None = None
    """Of its public key, lower-case hexadecimal."""
    subject: str | None = None
    """Of its certificate, RFC 4514."""
    not_before: dt.datetime | None = None
    not_after: dt.datetime | None = None
    created: dt.datetime | None = None
    """The store's own creation time."""
    exportable: bool | None = None
    has_certificate: bool = False
    advice: tuple[str, ...] = ()
    """What whoever uses the key should change in the store before it does harm, each with what to do."""
    provider: str | None = None
    """What keeps the key inside the store, where the store has several such: a key storage provider of Windows."""
    readers: tuple[str, ...] | None = None
    """The accounts that may sign with it, as `GrantsAccess.readers` tells them; None where the store cannot tell."""

    @property
    def age_begins(self) -> dt.datetime | None:
        """From when a member of a family counts its age."""
        return self.created or self.not_before


@dataclass(frozen=True)
class TokenInfo:
    """What a store tells of one of the tokens that its keys are on."""

    uri: KeyUri
    """Of this token, without a key."""
    description: str
    """Of what it is and how it is: its maker and model, and whether its PIN is locked."""


@dataclass(frozen=True)
class KeySpec:
    """What `generate` is to make."""

    key_type: str = "RSA-2048"
    """One of `algorithms.KEY_TYPES`."""
    subject: str = "CN=keyvouch"
    """Of the certificate, RFC 4514; for stores that make key and certificate in one step."""
    days: int = 365
    """For which that certificate is valid."""
    exportable: bool = False
    """Whether the key may leave the store. Files cannot prevent it."""
    further: bool = False
    """Whether to add a member to a family that is already there."""


class StoredKey(ABC):
    """One private key, wherever it is. Made by `KeyStore.open`."""

    uri: KeyUri
    """Pinned: opening it again finds this very key."""
    public_key: PublicKey
    """From the store, else from the certificate that was given to `open`."""
    chain: tuple[Certificate, ...] = ()
    """The certificate that the store holds and its issuers, leaf first; empty where it holds none."""
    exportable: bool | None = None
    """Whether the private key can leave the store; None where the store cannot tell."""
    settles_at: dt.datetime | None = None
    """When a younger member of the family will be chosen instead: `choose_one` tells."""
    advice: tuple[str, ...] = ()
    """As in `KeyInfo`, where opening shows it without a further request; a signer warns of it once."""
    remote: bool = False
    """Whether signatures come over a network: keyvouch then verifies each one, and not only an algorithm's first."""

    @abstractmethod
    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        """Return the signature over `message` (not over its hash) in JOSE form: for ECDSA r||s of full width.

        Called by many threads at once, for algorithms that fit the key's type. Blocks for about `timeout` seconds at
        most. Raises `AlgorithmUnsupported` where the store cannot do this algorithm, `SessionLost`, `Throttled`,
        `StoreUnavailable`, `AccessDenied`, `KeyUnusable`.
        """

    def changed(self) -> bool:
        """Tell cheaply (a stat, no request) whether the thing behind the key was replaced since it was opened.

        Asked once a second at most, before a signature.
        """
        return False

    def close(self) -> None:  # noqa: B027 - most keys hold nothing alone
        """Give back what this key alone holds. Called once, never while it signs; raises nothing."""


class KeyStore(ABC):
    """One connection to a store, shared by all its keys: a module, a client. A store of files has none to hold.

    Life: `__init__`, `connect`, then `open` and what it is capable of; `connect` again after `SessionLost`; `close`.
    """

    contract: ClassVar[int] = CONTRACT
    attributes: ClassVar[tuple[Attribute, ...]]
    """What its URIs may hold, beside the core's own."""

    @abstractmethod
    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:
        """Validate the connection attributes. No I/O. Raises `ConfigurationError`, `NotSupported`."""

    @abstractmethod
    def connect(self, *, timeout: float) -> None:
        """Connect and log in, and prove the log-in by one cheap call.

        Called before the first `open`, again after a `SessionLost`, again in a forked child; by one thread at a time,
        while other keys of the store live on. Secrets are read anew. Raises `StoreUnavailable`, `SecretIncorrect`,
        `SecretRequired`, `AccessDenied`, `StoreLocked`, `NotSupported`, `ConfigurationError`.
        """

    @abstractmethod
    def open(self, uri: KeyUri, certificate: Certificate | None = None, *, timeout: float) -> StoredKey:
        """Open the one key that the URI matches; also every URI that this store ever returned.

        `certificate` is the one given beside the store's own: of several matches it chooses the one with its key.
        Called by many threads at once. Raises `KeyNotFound`, `AmbiguousKey` and what `connect` raises.
        """

    @abstractmethod
    def close(self) -> None:
        """Disconnect within 10 seconds; raise nothing. Called after the last key, never in a forked child."""


# What a store may be capable of beside signing. A method may raise NotSupported for a URI that it cannot serve.


class ListsKeys(ABC):
    """Can tell which keys there are."""

    @abstractmethod
    def keys(self, uri: KeyUri) -> list[KeyInfo]:
        """Return the keys that the URI matches; it may name none, and then all are meant."""


class ListsTokens(ABC):
    """Reaches several tokens by one connection, as a PKCS#11 module does."""

    @abstractmethod
    def tokens(self, uri: KeyUri) -> list[TokenInfo]:
        """Return the tokens that the URI matches; no secret is needed for it."""


class GeneratesKeys(ABC):
    """Can make keys."""

    @abstractmethod
    def generate(self, uri: KeyUri, spec: KeySpec) -> KeyUri:
        """Make a key and return its pinned URI. Raises `KeyExists` rather than touch one that is there.

        Raises `NotSupported` for a type of key that the store cannot make.
        """


class ImportsKeys(ABC):
    """Can take in a key that was made elsewhere."""

    @abstractmethod
    def import_key(
        self, uri: KeyUri, key: PrivateKey, chain: Sequence[Certificate], *, exportable: bool = False
    ) -> KeyUri:
        """Take in the key and return its pinned URI. Raises `KeyExists` rather than touch one that is there."""


class RequestsCertificates(ABC):
    """Makes certificate requests itself, where the key's signature alone is not enough."""

    @abstractmethod
    def request_certificate(self, uri: KeyUri, spec: KeySpec) -> bytes:
        """Return a PKCS#10 request in DER."""


class HoldsCertificates(ABC):
    """Can keep a certificate beside the key."""

    @abstractmethod
    def install_certificate(self, uri: KeyUri, chain: Sequence[Certificate]) -> KeyUri:
        """Keep the chain, leaf first. Returns the URI by which the key is known afterwards."""


class DeletesKeys(ABC):
    """Can delete keys."""

    @abstractmethod
    def delete(self, uri: KeyUri) -> None:
        """Delete the key of this pinned URI, and its certificate."""


class ExportsKeys(ABC):
    """Can give a private key away."""

    @abstractmethod
    def export_pfx(self, uri: KeyUri, password: Secret) -> bytes:
        """Return the key and its chain as PKCS#12, encrypted.

        Raises `KeyUnusable` where this key may not leave, `NotSupported` where the store lets none of its kind go.
        """


class OffersPeer(ABC):
    """Can show what the bare library costs."""

    @abstractmethod
    def peer(self, uri: KeyUri, algorithm: Algorithm) -> Callable[[bytes], bytes]:
        """Return a function that makes the same signature by the store's library alone, for comparison."""


class GrantsAccess(ABC):
    """Knows who may use a key."""

    @abstractmethod
    def readers(self, uri: KeyUri) -> list[str]:
        """Return the accounts that may sign with the key."""

    @abstractmethod
    def grant(self, uri: KeyUri, account: str) -> None:
        """Let an account sign with the key."""

    @abstractmethod
    def revoke(self, uri: KeyUri, account: str) -> None:
        """Take that permission away."""


def choose_one(
    uri: KeyUri, infos: Sequence[KeyInfo], certificate: Certificate | None = None
) -> tuple[KeyInfo, dt.datetime | None]:
    """Return the one key that the URI means, of those that match it, and when another will be chosen.

    In this order: the key that `spki-sha256` names; the certificate's; the only one; with `select=newest` the newest
    that has settled. Raises `KeyNotFound`, `KeyChanged`, `CertificateMismatch`, `AmbiguousKey`.
    """
    if not infos:
        raise KeyNotFound(f"No key matches {uri}.", hint="List what is there: `keyvouch keys`.", uri=uri)
    if pinned := uri.get("spki-sha256"):
        found = _by_key(infos, pinned)
        if found is None:
            raise KeyChanged(
                f"The key of {uri} is another one now.",
                hint="Take spki-sha256 out of the URI if the new key is meant.",
                uri=uri,
            )
        return found, None
    if certificate is not None:
        from keyvouch.certificate import certificate_spki

        found = _by_key(infos, certificate_spki(certificate))
        if found is None:
            raise CertificateMismatch(
                f"The certificate of {certificate.subject.rfc4514_string()} belongs to another key than that of {uri}.",
                hint="Give the certificate that was issued for this key.",
                uri=uri,
            )
        return found, None
    if len(infos) == 1:
        return infos[0], None
    if uri.get("select") != "newest":
        raise ambiguous(uri, infos, "Use one of these")
    return _newest_settled(uri, infos, dt.datetime.now(dt.UTC))


def ambiguous(uri: KeyUri, infos: Sequence[KeyInfo], advice: str) -> AmbiguousKey:
    """Make the error that lists a URI for each match."""
    candidates = tuple(str(info.uri) for info in infos)
    listed = "\n".join(f"  {info.uri.quoted}" for info in infos)
    return AmbiguousKey(f"{len(infos)} keys match {uri}.", hint=f"{advice}:\n{listed}", uri=uri, candidates=candidates)


def _by_key(infos: Sequence[KeyInfo], spki: str) -> KeyInfo | None:
    return next((info for info in infos if info.spki_sha256 == spki), None)


def _newest_settled(uri: KeyUri, infos: Sequence[KeyInfo], now: dt.datetime) -> tuple[KeyInfo, dt.datetime | None]:
    if any(info.has_certificate for info in infos):
        certified = [info for info in infos if info.has_certificate]
        # When none is valid the choice goes on among all: the assertion then says which certificate has expired.
        infos = [info for info in certified if _valid(info, now)] or certified
    aged = [(info.age_begins, info) for info in infos if info.age_begins]
    if len(aged) < len(infos):
        raise ambiguous(uri, infos, "Their ages are unknown: use one of these")
    aged.sort(key=lambda pair: pair[0], reverse=True)
    settle = dt.timedelta(seconds=uri.get("settle"))
    chosen = next((index for index, (begin, _) in enumerate(aged) if begin + settle <= now), len(aged) - 1)
    younger = [begin + settle for begin, _ in aged[:chosen]]
    return aged[chosen][1], min(younger, default=None)


def _valid(info: KeyInfo, now: dt.datetime) -> bool:
    return (info.not_before is None or info.not_before <= now) and (info.not_after is None or now <= info.not_after)
