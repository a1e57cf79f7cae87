"""One of a client's keys: opened on first use, and the key and certificate that signed an assertion."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from keyvouch._core.signer import Signer
from keyvouch._system.single_flight import FlightTimeout, SingleFlight
from keyvouch.entra.assertion import Discovered, EntraAssertion
from keyvouch.errors import KeyvouchError, StoreUnavailable
from keyvouch.uri import KeyUri

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PublicKey

log = logging.getLogger("keyvouch")


class OpenUri(Protocol):
    """Opens the key for a URI within `timeout` seconds, as `keyvouch.open_signer` does."""

    def __call__(self, uri: str, *, timeout: float) -> Signer: ...


class UsedKey(msgspec.Struct, frozen=True):
    """The key and certificate with which an assertion was signed; what a refusal refers to."""

    uri: str
    public_key: PublicKey
    certificate: Certificate | None
    chain: tuple[Certificate, ...] = ()
    """The certificate, and its issuers as far as known."""
    header: Mapping[str, Any] = {}
    """The header of the assertion."""
    audience: str = ""
    """The audience of the assertion."""
    profile: str = ""
    """The name of the profile that the key is from; empty if it is from elsewhere."""

    @classmethod
    def of(cls, signer: Signer, profile: str = "") -> UsedKey:
        """Return the key and certificate that this signer currently uses."""
        return cls(signer.uri, signer.public_key, next(iter(signer.chain), None), signer.chain, profile=profile)

    def signed(self, assertion: str) -> UsedKey:
        """Return this key with the header and the audience of an assertion that it signed."""
        header, claims = (
            json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
            for encoded in assertion.split(".")[:2]
        )
        return msgspec.structs.replace(self, header=header, audience=str(claims["aud"]))

    def was_replaced_in(self, signer: Signer) -> bool:
        """Return True if the signer now has a different key or certificate."""
        return (self.public_key, self.certificate) != (signer.public_key, next(iter(signer.chain), None))


class ClientKey:
    """One of a client's keys: opened on first use, skipped for a while after it was refused."""

    def __init__(
        self,
        source: Signer | str | KeyUri,
        open_uri: OpenUri,
        options: Mapping[str, Any],
        discovered: Discovered | None = None,
        profile: str = "",
    ) -> None:
        self._discovered = discovered
        self._profile = profile
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
        used_key = UsedKey.of(assertion.signer, self._profile)
        made = assertion(context, timeout=end - time.monotonic())
        return made, used_key.signed(made)

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

    def mark_refused(self, seconds: float) -> None:
        """Record that the authority refused the key, which is to be skipped for so many seconds."""
        self.refused_until = time.monotonic() + seconds

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
            source = self._source.reveal() if isinstance(self._source, KeyUri) else self._source
            signer = source if isinstance(source, Signer) else self._open_uri(source, timeout=timeout)
            self._assertion = EntraAssertion(
                signer, discovered=self._discovered, profile=self._profile, **self._options
            )
            if self._closed:  # closed while, or before, it was opened
                self.close()
        return self._assertion

    def __str__(self) -> str:
        return self._assertion.signer.uri if self._assertion else str(self._source)
