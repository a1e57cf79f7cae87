"""The outcome of an acquisition, and the keyvouch errors for every outcome other than a token.

MSAL reports failures through its results and through many kinds of exceptions: those of `requests` and `json`, its
own, and whatever a malformed response triggers in its code.
"""

from __future__ import annotations

import json
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from msal.exceptions import MsalServiceError

from keyvouch._system import files
from keyvouch._system.sockets import ResponseTooLarge
from keyvouch.entra import advice
from keyvouch.entra.discovery import UnusableAnswer
from keyvouch.entra.keys import Sent
from keyvouch.errors import (
    AuthorityRefused,
    AuthorityUnavailable,
    ConfigurationError,
    KeyvouchError,
    without_frames,
)
from keyvouch.https import cause_of
from keyvouch.tokens import is_token

_NO_TENANT = ("400", "404")
"""Statuses of a discovery response for a tenant that does not exist."""
_UNKNOWN_OPTION = re.compile(r"\b__init__\(\) (got an unexpected keyword|got multiple values for) argument")
_DEPTH = 10
"""Maximum number of chained exceptions to follow behind one from `requests`."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one acquisition: MSAL's result or the exception. Shared by threads with the same request."""

    result: Any = None
    error: Exception | None = None
    sent: Sent | None = None
    """The last assertion made for the request; None if the request was never sent."""
    of_key: bool = False
    """True if `error` was raised by opening the key or signing with it."""

    @property
    def defect(self) -> bool:
        """True if `error` was raised by a store's own code and is not one that a store may raise."""
        return self.of_key and not isinstance(self.error, KeyvouchError)

    @property
    def key_failed(self) -> bool:
        """True if another key should be tried."""
        return self.of_key and isinstance(self.error, KeyvouchError) and self.error.try_next_key

    def as_msal(self) -> Any:
        """Return the result, copied for each caller, or raise the stored exception."""
        if self.error is not None:
            raise self.error
        return dict(self.result) if isinstance(self.result, dict) else self.result

    def token(self, authority: str, retry_after: float | None) -> str:
        """Return the access token; raise a keyvouch error for everything else.

        `retry_after`: the number of seconds to wait before the next request, if the authority gave one.
        """
        if self.error is not None:
            raise self._as_ours(self.error, authority, retry_after)
        result = self.result if isinstance(self.result, dict) else {}
        token = result.get("access_token")
        if is_token(token):
            return str(token)
        if "error" not in result:
            raise no_usable_answer(authority, "neither a token nor an error", retry_after)
        if retry_after is not None or result["error"] == "temporarily_unavailable":
            raise no_usable_answer(authority, advice.description(result), retry_after)
        raise advice.refusal(result, self.sent)

    def _as_ours(self, error: Exception, authority: str, retry_after: float | None) -> Exception:
        if self.defect:
            return error
        without_frames(error)  # the frames hold the assertion
        if isinstance(error, KeyvouchError):
            return error
        if (known := from_network(error, authority)) is None:
            if self.sent is None:
                known = ConfigurationError(f"MSAL refuses the request: {error}", hint="Correct the scopes.")
            else:
                known = no_usable_answer(authority, _shape(error), retry_after)
        known.__cause__ = error
        return known


class Failed(Exception):
    """Carries a failed outcome to every thread that waits for it."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


def no_usable_answer(authority: str, what: str, retry_after: float | None = None) -> AuthorityUnavailable:
    """Build the error for a response that cannot be used: 5xx, 429, not JSON, or JSON of the wrong form."""
    hint = "Try again later." if retry_after is None else f"Try again in {retry_after:.0f} seconds."
    return AuthorityUnavailable(f"{authority} gave no usable answer: {what}.", hint=hint, retry_after=retry_after)


def from_network(error: Exception, authority: str) -> KeyvouchError | None:
    """Return the keyvouch error for an error from `requests` or the token cache's lock; None for other errors."""
    if isinstance(error, requests.exceptions.SSLError):
        return _from_tls(error, authority)
    if isinstance(error, requests.exceptions.InvalidProxyURL | requests.exceptions.InvalidSchema):
        return ConfigurationError("Invalid proxy URL.", hint="Set proxy or HTTPS_PROXY to http://host:port.")
    if isinstance(error, UnusableAnswer | requests.exceptions.JSONDecodeError):
        return no_usable_answer(authority, str(error) if isinstance(error, UnusableAnswer) else "it is not JSON")
    if isinstance(error, requests.exceptions.RequestException):
        return _from_exchange(error, authority)
    if isinstance(error, OSError):
        return files.cannot_write(Path(error.filename or "the token cache"), error)
    return None


def _from_exchange(error: Exception, authority: str) -> AuthorityUnavailable:
    if too_large := cause_of(error, ResponseTooLarge):
        return no_usable_answer(authority, str(too_large.strerror))
    return AuthorityUnavailable(
        f"{authority} cannot be reached: {_reason(error)}.", hint="Check network, proxy and the address."
    )


def _from_tls(error: BaseException, authority: str) -> ConfigurationError:
    found = _deepest(error, ssl.SSLError)
    if isinstance(found, ssl.SSLCertVerificationError):
        said = found.verify_message
        hint = "Name the certificate of its issuer in ca-file."
        if "ostname" in said or "IP address" in said:
            hint = "Correct the address: the certificate is another server's."
        elif "expired" in said or "not yet valid" in said:
            hint = "Correct this machine's clock, or have the server's certificate renewed."
        return ConfigurationError(f"The TLS certificate of {authority} is not trusted: {said}.", hint=hint)
    said = str(getattr(found, "reason", None) or "no TLS").lower().replace("_", " ")
    return ConfigurationError(
        f"There is no TLS with {authority}: {said}.",
        hint="Check address, port and proxy, and that ca-file holds certificates in PEM.",
    )


def _reason(error: BaseException) -> str:
    """Return why the connection failed: the innermost operating system error, or else the exception's name."""
    if isinstance(error, requests.exceptions.Timeout):
        return "timed out"
    found = _deepest(error, OSError)
    if isinstance(found, OSError) and found.strerror:
        return found.strerror
    refused = re.search(r"Tunnel connection failed: [\w ]+", str(error))
    return f"the proxy refused it ({refused[0]})" if refused else type(error).__name__


def _deepest(error: BaseException, kind: type[OSError]) -> BaseException | None:
    """Return the innermost chained exception of this kind that has the system's error text."""
    found: BaseException | None = None
    deeper: object = error
    for _ in range(_DEPTH):
        if isinstance(deeper, kind) and deeper.strerror:
            found = deeper
        if not isinstance(deeper, BaseException):
            break
        inner = getattr(deeper, "reason", None)
        deeper = inner if isinstance(inner, BaseException) else deeper.__cause__ or deeper.__context__
    return found


def _shape(error: Exception) -> str:
    """Describe what is wrong with a response."""
    if isinstance(error, MsalServiceError):
        return str(error)  # HTTP Error: 503
    return "it is not JSON" if isinstance(error, json.JSONDecodeError) else type(error).__name__


def from_discovery(error: Exception, authority: str) -> Exception:
    """Return the keyvouch error for an exception that MSAL raised during discovery or because of its options."""
    if isinstance(error, TypeError) and _UNKNOWN_OPTION.search(str(error)):
        return error  # the program's own mistake
    without_frames(error)
    if isinstance(error, KeyvouchError):
        return error
    if (known := from_network(error, authority)) is None:
        known = _from_msal(error, authority)
    known.__cause__ = error
    return known


def _from_msal(error: Exception, authority: str) -> KeyvouchError:
    """Map MSAL's exceptions: an unknown tenant, a non-JSON response and an invalid option are all ValueErrors."""
    if not isinstance(error, ValueError):
        return no_usable_answer(authority, type(error).__name__)
    text = f"{error} {error.__context__ or ''}"
    if isinstance(error.__context__, requests.exceptions.RequestException):  # some of them are also ValueErrors
        return from_network(error.__context__, authority) or no_usable_answer(authority, "no answer")
    status = re.search(r"HTTP status: (\d+)", text)
    if isinstance(error.__context__, json.JSONDecodeError) or (status and status[1] not in _NO_TENANT):
        return no_usable_answer(authority, status[0] if status else "it is not JSON")
    if "authority configuration" in text or "OIDC Discovery failed" in text:
        return AuthorityRefused(
            f"{authority} knows no such tenant, or is no authority.",
            hint="Check tenant, cloud and authority. Without a tenant, authority is an OpenID Connect issuer.",
            error="invalid_tenant",
            error_codes=(90002,),
        )
    return ConfigurationError(f"MSAL refuses the settings: {error}", hint="Correct them.")
