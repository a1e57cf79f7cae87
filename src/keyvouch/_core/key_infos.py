"""What stores and the core say to each other about keys."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from keyvouch.uri import KeyUri

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PublicKey


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
class RateLimit:
    """A limit on the rate of signatures, as a service publishes it."""

    signatures: int
    """Maximum number of signatures in `seconds`."""
    seconds: float
    scope: str
    """What shares the limit, a noun: "vault"."""
    source: str
    """URL of the page that states it."""


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
