"""Keyvouch errors for the exceptions of MSAL and `requests`.

MSAL raises many kinds of exceptions: those of `requests` and `json`, its own, and whatever a malformed response
triggers in its code.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import requests
from msal.exceptions import MsalServiceError

from keyvouch._system import files
from keyvouch._system.connection_failures import describe_failure
from keyvouch.entra.discovery import DOCUMENT_PATH, UnexpectedResponse
from keyvouch.errors import (
    AuthorityRefused,
    AuthorityUnavailable,
    ConfigurationError,
    KeyvouchError,
    without_frames,
)
from keyvouch.hosts import is_microsoft_host
from keyvouch.https import describe_response
from keyvouch.proxies import INVALID_PROXY, INVALID_PROXY_HINT

_NOT_JSON = "it is not valid JSON"
_UNKNOWN_TENANT_STATUSES = ("400", "404")
"""Statuses of a discovery response for a tenant that does not exist."""
_CA_FILE = "ca-file (in the profile; as an option --ca-file, as a variable KEYVOUCH_CA_FILE, in Python ca_file=)"
_ISSUER_WITH_TENANT = (
    " If authority is an OpenID Connect issuer, leave out tenant (in the profile; as an option --tenant, as a variable"
    " KEYVOUCH_TENANT; in Python pass oidc_authority instead of authority)."
)
_UNKNOWN_OPTION = re.compile(r"\b__init__\(\) (got an unexpected keyword|got multiple values for) argument")


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
    if isinstance(error, requests.exceptions.InvalidProxyURL | requests.exceptions.InvalidSchema):
        return ConfigurationError(INVALID_PROXY, hint=INVALID_PROXY_HINT)
    if isinstance(error, UnexpectedResponse | requests.exceptions.JSONDecodeError):
        return unexpected_response(authority, str(error) if isinstance(error, UnexpectedResponse) else _NOT_JSON)
    if isinstance(error, requests.exceptions.RequestException):
        return _connection_error(error, authority)
    if isinstance(error, OSError):
        return files.cannot_write(Path(error.filename or "the token cache"), error)
    return None


def _connection_error(error: Exception, authority: str) -> KeyvouchError:
    failure = describe_failure(error, authority, ca_file=_CA_FILE)
    kind = ConfigurationError if failure.kind in ("address", "trust", "tls") else AuthorityUnavailable
    return kind(failure.message, hint=failure.hint)


def translate_discovery_error(error: Exception, authority: str, *, is_issuer: bool = False) -> Exception:
    """Return the keyvouch error for an exception that MSAL raised during discovery or because of its options."""
    if isinstance(error, TypeError) and _UNKNOWN_OPTION.search(str(error)):
        return error  # the program's own mistake
    without_frames(error)
    if isinstance(error, KeyvouchError):
        return error
    if (translated := translate_network_error(error, authority)) is None:
        translated = _msal_error(error, authority, is_issuer=is_issuer)
    translated.__cause__ = error
    return translated


def _msal_error(error: Exception, authority: str, *, is_issuer: bool) -> KeyvouchError:
    """Map MSAL's exceptions: an unknown tenant, a non-JSON response and an invalid option are all ValueErrors."""
    if not isinstance(error, ValueError):
        return unexpected_response(authority, describe(error))
    text = f"{error} {error.__context__ or ''}"
    if isinstance(error.__context__, requests.exceptions.RequestException):  # some of them are also ValueErrors
        return translate_network_error(error.__context__, authority) or unexpected_response(authority, "no response")
    response = re.search(r"(?s)HTTP status: (\d+)(?:, Error: (.*))?", text)
    shown = describe_response(int(response[1]), "", (response[2] or "").encode()) if response else ""
    if isinstance(error.__context__, json.JSONDecodeError) or (
        response and response[1] not in _UNKNOWN_TENANT_STATUSES
    ):
        return unexpected_response(authority, shown or _NOT_JSON)
    if "authority configuration" in text or "OIDC Discovery failed" in text:
        if is_issuer:
            return _no_such_issuer(authority)
        return AuthorityRefused(
            f"{authority} is not an authority, or the tenant does not exist{f': {shown}' if shown else ''}.",
            hint="Check tenant, cloud and authority." + ("" if is_microsoft_host(authority) else _ISSUER_WITH_TENANT),
            error="invalid_tenant",
            error_codes=(90002,),
        )
    return _rejected_settings(error, authority)


def _rejected_settings(error: ValueError, authority: str) -> ConfigurationError:
    if "minimum of one segment in a path" in str(error):
        return ConfigurationError(
            f"The authority {authority} contains no tenant.",
            hint=f"For an OpenID Connect issuer, pass oidc_authority={authority!r} instead of authority. For Entra ID,"
            " add the tenant: authority='https://login.microsoftonline.com/TENANT'.",
        )
    return ConfigurationError(f"MSAL rejected the settings: {error}", hint="Correct the settings.")


def _no_such_issuer(issuer: str) -> AuthorityRefused:
    return AuthorityRefused(
        f"{issuer} is not an OpenID Connect issuer: it has no {DOCUMENT_PATH}.",
        hint="Set authority to the issuer's exact URL. For Entra ID, set tenant, too.",
        error="invalid_issuer",
    )
