"""Keyvouch errors for the exceptions of MSAL and `requests`.

MSAL raises many kinds of exceptions: those of `requests` and `json`, its own, and whatever a malformed response
triggers in its code.
"""

from __future__ import annotations

import json
import re
import ssl
from pathlib import Path

import requests
from msal.exceptions import MsalServiceError

from keyvouch._system import files
from keyvouch._system.sockets import ResponseTooLarge
from keyvouch.entra.discovery import UnexpectedResponse
from keyvouch.errors import (
    AuthorityRefused,
    AuthorityUnavailable,
    ConfigurationError,
    KeyvouchError,
    without_frames,
)
from keyvouch.https import cause_of
from keyvouch.proxies import INVALID_PROXY, INVALID_PROXY_HINT

_NOT_JSON = "it is not valid JSON"
_UNKNOWN_TENANT_STATUSES = ("400", "404")
"""Statuses of a discovery response for a tenant that does not exist."""
_UNKNOWN_OPTION = re.compile(r"\b__init__\(\) (got an unexpected keyword|got multiple values for) argument")
_MAX_DEPTH = 10
"""Maximum number of chained exceptions to follow behind one from `requests`."""


def unexpected_response(authority: str, flaw: str, retry_after: float | None = None) -> AuthorityUnavailable:
    """Build the error for a response that cannot be used: 5xx, 429, not JSON, or JSON of the wrong form."""
    hint = "Try again later." if retry_after is None else f"Try again in {retry_after:.0f} seconds."
    return AuthorityUnavailable(f"Unexpected response from {authority}: {flaw}.", hint=hint, retry_after=retry_after)


def describe(error: Exception) -> str:
    """Describe what is wrong with the response on which MSAL failed."""
    if isinstance(error, MsalServiceError):
        return str(error)  # HTTP Error: 503
    return _NOT_JSON if isinstance(error, json.JSONDecodeError) else type(error).__name__


def translate_network_error(error: Exception, authority: str) -> KeyvouchError | None:
    """Return the keyvouch error for an error from `requests` or the token cache's lock; None for other errors."""
    if isinstance(error, requests.exceptions.SSLError):
        return _tls_error(error, authority)
    if isinstance(error, requests.exceptions.InvalidProxyURL | requests.exceptions.InvalidSchema):
        return ConfigurationError(INVALID_PROXY, hint=INVALID_PROXY_HINT)
    if isinstance(error, UnexpectedResponse | requests.exceptions.JSONDecodeError):
        return unexpected_response(authority, str(error) if isinstance(error, UnexpectedResponse) else _NOT_JSON)
    if isinstance(error, requests.exceptions.RequestException):
        return _connection_error(error, authority)
    if isinstance(error, OSError):
        return files.cannot_write(Path(error.filename or "the token cache"), error)
    return None


def _connection_error(error: Exception, authority: str) -> AuthorityUnavailable:
    if too_large := cause_of(error, ResponseTooLarge):
        return unexpected_response(authority, str(too_large.strerror))
    return AuthorityUnavailable(
        f"{authority} cannot be reached: {_reason(error)}.", hint="Check the network, the proxy and the address."
    )


def _tls_error(error: BaseException, authority: str) -> ConfigurationError:
    found = _innermost(error, ssl.SSLError)
    if isinstance(found, ssl.SSLCertVerificationError):
        reason = found.verify_message
        hint = "Set ca-file to a file with the certificate of its issuer."
        if "ostname" in reason or "IP address" in reason:
            hint = "Correct the address: the certificate belongs to another server."
        elif "expired" in reason or "not yet valid" in reason:
            hint = "Correct this machine's clock, or have the server's certificate renewed."
        return ConfigurationError(f"The TLS certificate of {authority} is not trusted: {reason}.", hint=hint)
    reason = str(getattr(found, "reason", None) or "unknown reason").lower().replace("_", " ")
    return ConfigurationError(
        f"The TLS connection to {authority} failed: {reason}.",
        hint="Check address, port and proxy, and that ca-file contains certificates in PEM format.",
    )


def _reason(error: BaseException) -> str:
    """Return why the connection failed: the innermost operating system error, or else the exception's name."""
    if isinstance(error, requests.exceptions.Timeout):
        return "timed out"
    found = _innermost(error, OSError)
    if isinstance(found, OSError) and found.strerror:
        return found.strerror
    refused = re.search(r"Tunnel connection failed: [\w ]+", str(error))
    return f"the proxy refused the connection ({refused[0]})" if refused else type(error).__name__


def _innermost(error: BaseException, kind: type[OSError]) -> BaseException | None:
    """Return the innermost chained exception of this kind that has the system's error text."""
    found: BaseException | None = None
    current: object = error
    for _ in range(_MAX_DEPTH):
        if isinstance(current, kind) and current.strerror:
            found = current
        if not isinstance(current, BaseException):
            break
        reason = getattr(current, "reason", None)
        current = reason if isinstance(reason, BaseException) else current.__cause__ or current.__context__
    return found


def translate_discovery_error(error: Exception, authority: str) -> Exception:
    """Return the keyvouch error for an exception that MSAL raised during discovery or because of its options."""
    if isinstance(error, TypeError) and _UNKNOWN_OPTION.search(str(error)):
        return error  # the program's own mistake
    without_frames(error)
    if isinstance(error, KeyvouchError):
        return error
    if (translated := translate_network_error(error, authority)) is None:
        translated = _msal_error(error, authority)
    translated.__cause__ = error
    return translated


def _msal_error(error: Exception, authority: str) -> KeyvouchError:
    """Map MSAL's exceptions: an unknown tenant, a non-JSON response and an invalid option are all ValueErrors."""
    if not isinstance(error, ValueError):
        return unexpected_response(authority, type(error).__name__)
    text = f"{error} {error.__context__ or ''}"
    if isinstance(error.__context__, requests.exceptions.RequestException):  # some of them are also ValueErrors
        return translate_network_error(error.__context__, authority) or unexpected_response(authority, "no response")
    status = re.search(r"HTTP status: (\d+)", text)
    if isinstance(error.__context__, json.JSONDecodeError) or (status and status[1] not in _UNKNOWN_TENANT_STATUSES):
        return unexpected_response(authority, status[0] if status else _NOT_JSON)
    if "authority configuration" in text or "OIDC Discovery failed" in text:
        return AuthorityRefused(
            f"{authority} is not an authority, or the tenant does not exist.",
            hint="Check tenant, cloud and authority. Without tenant, authority must be an OpenID Connect issuer.",
            error="invalid_tenant",
            error_codes=(90002,),
        )
    return ConfigurationError(f"MSAL rejected the settings: {error}", hint="Correct the settings.")
