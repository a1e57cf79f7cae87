"""A client's keys: opened on first use, tried in order of preference, skipped for a while after a refusal."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from keyvouch._core.signer import Signer
from keyvouch._system.single_flight import FlightTimeout, SingleFlight
from keyvouch.entra.assertion import EntraAssertion
from keyvouch.errors import KeyvouchError, StoreUnavailable

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PublicKey

log = logging.getLogger("keyvouch")

REFUSED_FOR = 300.0
"""Number of seconds for which a key that the authority refused is skipped if there is another."""


class OpenUri(Protocol):
    """Opens the key for a URI within `timeout` seconds, as `keyvouch.open_signer` does."""

    def __call__(self, uri: str, *, timeout: float) -> Signer: ...


@dataclass(frozen=True)
class UsedKey:
    """The key and certificate with which an assertion was signed; what a refusal refers to."""

    uri: str
    public_key: PublicKey
    certificate: Certificate | None

    @classmethod
    def of(cls, signer: Signer) -> UsedKey:
        """Return the key and certificate that this signer currently uses."""
        return cls(signer.uri, signer.public_key, next(iter(signer.chain), None))

    def was_replaced_in(self, signer: Signer) -> bool:
        """Return True if the signer now has a different key or certificate."""
        return (self.public_key, self.certificate) != (signer.public_key, next(iter(signer.chain), None))


class ClientKey:
    """One of a client's keys: opened on first use, skipped for a while after it was refused."""

    def __init__(self, source: Signer | str, open_uri: OpenUri, options: Mapping[str, Any]) -> None:
        self._source = source
        self._open_uri = open_uri
        self._options = options
        self._assertion: EntraAssertion | None = None
        self._opening = SingleFlight[EntraAssertion]()
        self._closed = False
        self.refused_until = 0.0
        self.warned = False

    def make_assertion(self, context: Mapping[str, str], timeout: float) -> tuple[str, UsedKey]:
        """Return an assertion and the key that signed it; opens the key if needed."""
        end = time.monotonic() + timeout
        assertion = self._open(timeout)
        used_key = UsedKey.of(assertion.signer)
        return assertion(context, timeout=end - time.monotonic()), used_key

    def is_replaced(self, used_key: UsedKey, timeout: float) -> bool:
        """Return True if `used_key` was replaced: already, or after a reload within `timeout` seconds."""
        if self._assertion is None:
            return False
        signer = self._assertion.signer
        try:
            # Another thread that was also refused may have reloaded it already.
            return used_key.was_replaced_in(signer) or (
                signer.reload(timeout=timeout) or used_key.was_replaced_in(signer)
            )
        except KeyvouchError as error:
            log.info("Failed to reload a key that the authority refused: %s", error.message)
            return False

    def mark_accepted(self) -> None:
        """Record that the authority accepted the key."""
        self.refused_until = 0.0
        self.warned = False

    def mark_refused(self) -> None:
        """Record that the authority refused the key."""
        self.refused_until = time.monotonic() + REFUSED_FOR

    def close(self) -> None:
        """Close the signer if it was opened here; if it is still being opened, the opening thread closes it."""
        self._closed = True
        if self._assertion is not None and not isinstance(self._source, Signer):
            self._assertion.signer.close()

    def _open(self, timeout: float) -> EntraAssertion:
        if self._assertion is not None:
            return self._assertion
        end = time.monotonic() + timeout
        try:
            return self._opening.do("open", lambda: self._open_once(end - time.monotonic()), timeout=timeout)
        except FlightTimeout:
            raise StoreUnavailable("Timed out waiting for the key to open.", hint="Try again later.") from None

    def _open_once(self, timeout: float) -> EntraAssertion:
        if self._assertion is None:
            source = self._source
            signer = source if isinstance(source, Signer) else self._open_uri(source, timeout=timeout)
            self._assertion = EntraAssertion(signer, **self._options)
            if self._closed:  # closed while, or before, it was opened
                self.close()
        return self._assertion

    def __str__(self) -> str:
        return self._assertion.signer.uri if self._assertion else str(self._source)


class ClientKeys:
    """All of a client's keys: the accepted one first, then the others by preference."""

    def __init__(self, sources: Sequence[Signer | str], open_uri: OpenUri, options: Mapping[str, Any]) -> None:
        EntraAssertion(None, **options)  # type: ignore[arg-type]  # reports invalid options now
        self._all = [ClientKey(source, open_uri, options) for source in sources]
        self._accepted: ClientKey | None = None

    def __len__(self) -> int:
        return len(self._all)

    def in_order(self) -> list[ClientKey]:
        """Return the keys to try, without those refused recently; if all were refused, return all."""
        return sorted(self._not_refused() or self._all, key=lambda key: key is not self._accepted)

    def held_back(self) -> list[ClientKey]:
        """Return the keys that `in_order` omits, to be tried if no store of the other keys can sign."""
        tried = self._not_refused() or self._all
        return [key for key in self._all if key not in tried]

    def _not_refused(self) -> list[ClientKey]:
        now = time.monotonic()
        return [key for key in self._all if key.refused_until <= now]

    def prefer(self, key: ClientKey) -> None:
        """Try this key first from now on: the authority accepted it."""
        self._accepted = key
        key.mark_accepted()

    def demote(self, key: ClientKey, reason: str) -> None:
        """No longer try this key first; log one warning until it is accepted again."""
        if self._accepted is key:
            self._accepted = None
        if len(self._all) > 1 and not key.warned:
            key.warned = True
            log.warning("Skipping a key (%s): %s", reason, key)

    def close(self) -> None:
        """Close the signers that were opened here."""
        for key in self._all:
            key.close()
