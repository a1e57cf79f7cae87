"""Bearer tokens: checked before anything sends or caches them, and renewed by one thread before they expire."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Annotated

import msgspec

from keyvouch.errors import SecretIncorrect, StoreUnavailable, hidden_frames

_TOKEN = re.compile(r"[\x21-\x7E]+")
_DIGITS = r"^[0-9]{1,10}$"
_TEN_YEARS = 10 * 366 * 24 * 3600
_MAX_TIMESTAMP = 253_402_300_799
"""Seconds since 1970: the end of the year 9999."""

_Seconds = Annotated[int, msgspec.Meta(ge=0, le=_TEN_YEARS)] | Annotated[str, msgspec.Meta(pattern=_DIGITS)]
_Timestamp = Annotated[int, msgspec.Meta(ge=0, le=_MAX_TIMESTAMP)] | Annotated[str, msgspec.Meta(max_length=40)]
"""App Service's endpoint of 2017 sends a date as text."""


def is_token(value: object) -> bool:
    """Return True if a value can be sent in an HTTP header like `Authorization: Bearer` (RFC 6750, section 2.1)."""
    return isinstance(value, str) and bool(_TOKEN.fullmatch(value))


@hidden_frames()
def require_token(value: str, name: str, reference: str) -> None:
    """Raise `SecretIncorrect`, without the value, unless a secret can be sent as a token: printable ASCII, no spaces.

    The error contains `name`, what the secret is for, and `reference`, where it was read.
    """
    if not is_token(value):
        raise SecretIncorrect(
            f"The {name} from {reference} contains characters that a token cannot contain.",
            hint="Store only the token there: printable ASCII, without spaces or line breaks.",
        )


class TokenRenewal:
    """Renewal of a token that threads share: one thread renews it, and the others use it until it expires.

    The owner keeps the token itself. All times are those of `clock`.
    """

    def __init__(self, *, retry_after: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without a token, so that one is due. A failed renewal is due again after `retry_after` seconds."""
        self._retry_after = retry_after
        self._clock = clock
        self._renewing = threading.Lock()
        self.renew_at = self.expires_at = 0.0

    def schedule(self, renew_at: float, expires_at: float) -> None:
        """Set the time from which the token is due for renewal, and the time at which it expires."""
        self.renew_at, self.expires_at = renew_at, expires_at

    @property
    def expired(self) -> bool:
        """True if the token has expired, or there is none yet."""
        return self._clock() >= self.expires_at

    def renew_if_due(self, renew: Callable[[], None], *, timeout: float, errors: tuple[type[Exception], ...]) -> None:
        """Call `renew`, which fetches a token and calls `schedule`, if the token is due and no other thread does so.

        While the token is valid, this does not wait for another thread, and suppresses `errors` from `renew`. Once it
        has expired, those propagate, and waiting for another thread ends after `timeout` seconds with
        `StoreUnavailable`.
        """
        if self._clock() < self.renew_at:
            return
        expired = self.expired
        if not self._renewing.acquire(timeout=max(0.0, timeout) if expired else 0):
            if not expired:
                return
            raise StoreUnavailable("Timed out waiting for a token.", hint="Try again later.")
        try:
            if self._clock() >= self.renew_at:  # no other thread has renewed it meanwhile
                renew()
        except errors:
            if self.expired:
                raise
            self.renew_at = self._clock() + self._retry_after
        finally:
            self._renewing.release()


class _Cloud(msgspec.Struct):
    """An entry of the metadata that instance discovery returns."""

    preferred_network: str
    preferred_cache: str
    aliases: list[str]


class _Response(msgspec.Struct):
    """The fields that MSAL and azure-identity read from responses with tokens (RFC 6749, section 5.1) and discovery."""

    access_token: str | None = None
    refresh_token: str | None = None
    id_token: str | None = None
    client_info: str | None = None
    token_type: str | None = None
    scope: str = ""
    foci: str | None = None
    resource: str | None = None
    expires_in: _Seconds = 0
    ext_expires_in: _Seconds = 0
    refresh_in: _Seconds = 0
    expires_on: _Timestamp = 0

    issuer: str | None = None
    authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    device_authorization_endpoint: str | None = None
    tenant_discovery_endpoint: str | None = None
    metadata: list[_Cloud] | None = None


_decode = msgspec.json.Decoder(_Response).decode


def describe_flaw(body: bytes) -> str | None:
    """Describe what is wrong with a successful token or discovery response; None if MSAL can process it.

    MSAL and azure-identity do not check the fields' types, and cache a token that cannot be sent in a header.
    """
    try:
        response = _decode(body)
    except msgspec.ValidationError as error:
        return _clean(str(error))
    except (ValueError, RecursionError):
        return "it is not valid JSON"
    if response.access_token is not None and not is_token(response.access_token):
        return "its access token contains characters that a token cannot contain"
    return None


def _clean(text: str) -> str:
    """Return msgspec's message as the end of a sentence: names of fields and types, never a value."""
    return "".join(each for each in text[:200] if each.isprintable()).replace("`", "").rstrip(".")
