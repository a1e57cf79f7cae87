"""The outcome of one token request: MSAL's result, or the exception that it ended with."""

from __future__ import annotations

from typing import Any

import msgspec

from keyvouch.entra import aadsts_advice
from keyvouch.entra.client_key import UsedKey
from keyvouch.entra.msal_errors import describe, translate_network_error, unexpected_response
from keyvouch.errors import ConfigurationError, KeyvouchError, without_frames
from keyvouch.tokens import is_token


class Outcome(msgspec.Struct, frozen=True):
    """The outcome of one token request. Shared by threads that request the same token."""

    result: Any = None
    """What MSAL returned."""
    error: Exception | None = None
    used_key: UsedKey | None = None
    """The key that signed the request's last assertion; None if no assertion was made."""
    from_store: bool = False
    """True if `error` was raised by opening the key or signing with it."""
    skipped: tuple[str, ...] = ()
    """The keys that were skipped because their stores failed, each with the reason."""

    @property
    def is_store_defect(self) -> bool:
        """True if `error` was raised by a store's own code and is not one that a store may raise."""
        return self.from_store and not isinstance(self.error, KeyvouchError)

    @property
    def store_failed(self) -> bool:
        """True if the store failed in a way that another key may not: the next key should be tried."""
        return self.from_store and isinstance(self.error, KeyvouchError) and self.error.try_next_key

    @property
    def key_refused(self) -> bool:
        """True if the authority refused the key: another key, or this one reloaded, may be accepted."""
        if not isinstance(self.result, dict) or "error" not in self.result:
            return False
        return aadsts_advice.refuses_key(self.result, self.used_key)

    def as_msal(self) -> Any:
        """Return the result, copied for each caller, or raise the stored exception."""
        if self.error is not None:
            raise self.error
        return dict(self.result) if isinstance(self.result, dict) else self.result

    def access_token(self, authority: str, retry_after: float | None) -> str:
        """Return the access token; raise a keyvouch error for everything else.

        `retry_after`: the number of seconds to wait before the next request, if the authority gave one.
        """
        if self.error is not None:
            raise self._translated(self.error, authority, retry_after)
        result = self.result if isinstance(self.result, dict) else {}
        token = result.get("access_token")
        if is_token(token):
            return str(token)
        if "error" not in result:
            raise unexpected_response(authority, "neither a token nor an error", retry_after)
        if retry_after is not None or result["error"] == "temporarily_unavailable":
            raise unexpected_response(authority, aadsts_advice.error_description(result), retry_after)
        refused = aadsts_advice.authority_refused(result, self.used_key)
        refused.hint = "\n".join([refused.hint, *(f"Skipped before: {each}" for each in self.skipped)])
        raise refused

    def _translated(self, error: Exception, authority: str, retry_after: float | None) -> Exception:
        if self.is_store_defect:
            return error
        without_frames(error)  # the frames hold the assertion
        if isinstance(error, KeyvouchError):
            return error
        if (translated := translate_network_error(error, authority)) is None:
            if self.used_key is None:
                translated = ConfigurationError(
                    f"MSAL rejected the request: {error}", hint="Correct the scopes or the claims."
                )
            else:
                translated = unexpected_response(authority, describe(error), retry_after)
        translated.__cause__ = error
        return translated


class FailedOutcome(Exception):
    """Carries a failed outcome to every thread that waits for it."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome
