"""Checks of discovery documents, which determine where assertions and other credentials are sent.

OpenID Connect Discovery 1.0, section 4.3: a document's issuer must be the issuer that was asked. Entra ID's documents
name a different one (`sts.windows.net`, or a tenant's id instead of its name); their endpoints must be on the
authority's own host or on one that Microsoft runs for the same cloud.
"""

from __future__ import annotations

import json

import requests

from keyvouch.errors import ConfigurationError
from keyvouch.hosts import authority_of, is_microsoft_host

DOCUMENT_PATH = "/.well-known/openid-configuration"
_NOT_MODIFIED = "that no proxy or gateway modifies its responses"
_ENDPOINTS = ("token_endpoint", "authorization_endpoint", "device_authorization_endpoint")


class UnexpectedResponse(requests.exceptions.InvalidJSONError, ValueError):
    """A successful response that MSAL cannot use; the text says what is wrong.

    MSAL treats it as a network failure, after which it may still use a cached token.
    """


def check_document(url: str, text: str, issuer: str | None) -> None:
    """Check a discovery document requested from `url`; `issuer` is the issuer asked for, None for Entra ID and AD FS.

    Text that is not a JSON object is left for MSAL to refuse. Raises `ConfigurationError`, or
    `UnexpectedResponse` for a malformed document.
    """
    authority = url.partition(DOCUMENT_PATH)[0]
    try:
        document = json.loads(text)  # as MSAL does, from the same text
    except ValueError:
        return
    except RecursionError:
        raise UnexpectedResponse("it is nested too deeply") from None
    if not isinstance(document, dict):
        return
    trusts_issuer = issuer is not None and _is_same_issuer(document.get("issuer"), issuer)
    for name in _ENDPOINTS:
        if document.get(name) is not None:
            _check_endpoint(name, document[name], authority, any_host=trusts_issuer)
    if issuer is None or trusts_issuer:
        return
    if not isinstance(document.get("issuer"), str):
        raise UnexpectedResponse("its issuer is missing or not a string")
    if not is_microsoft_host(document["issuer"]):  # its documents name a tenant's id, not the name asked for
        raise ConfigurationError(
            f"Issuer mismatch: the discovery document of {authority} names {_shown(document.get('issuer'))}.",
            hint="If you trust that issuer, set authority to it, exactly as the document spells it.",
        )


def signing_algorithms(text: str) -> tuple[str, ...]:
    """Return the algorithms that a discovery document lists for assertions; empty if it lists none."""
    try:
        listed = json.loads(text).get("token_endpoint_auth_signing_alg_values_supported")
    except (ValueError, AttributeError, RecursionError):
        return ()
    return tuple(each for each in listed if isinstance(each, str)) if isinstance(listed, list) else ()


def issuer_for_msal(issuer: str) -> str:
    """Return an issuer in the form that MSAL accepts: without a slash at its end, and never without a path.

    `/.` means the same as no path (RFC 3986, section 5.2.4), and `document_url` removes it again.
    """
    issuer = issuer.rstrip("/")
    return issuer if "/" in issuer.partition("://")[2] else f"{issuer}/."


def document_url(url: str) -> str:
    """Return the URL of a discovery document without the `/.` of `issuer_for_msal`."""
    return url.replace(f"/.{DOCUMENT_PATH}", DOCUMENT_PATH)


def check_instance_discovery(authority: str, text: str) -> None:
    """Check the response to an instance discovery, which gives the URL of the authority's discovery document.

    Raises `ConfigurationError` unless the document is on the authority's own host; `check_document` then verifies it.
    """
    try:
        endpoint = json.loads(text).get("tenant_discovery_endpoint")
    except (ValueError, AttributeError, RecursionError):
        return  # for MSAL or `describe_flaw` to refuse
    if endpoint is None:
        return
    url = endpoint if isinstance(endpoint, str) else ""
    origin, expected = authority_of(url), authority_of(authority)
    # Do not compare the port, which MSAL omits in its request.
    if not url.endswith(DOCUMENT_PATH) or origin is None or expected is None or origin.host != expected.host:
        raise ConfigurationError(
            f"Instance discovery refers to a document that is not on the authority's host: {_shown(endpoint)}.",
            hint=f"Check authority and instance_discovery, and {_NOT_MODIFIED}.",
        )


def _check_endpoint(name: str, endpoint: object, authority: str, *, any_host: bool) -> None:
    if not isinstance(endpoint, str):
        raise UnexpectedResponse(f"its {name} is not a string")
    origin = authority_of(endpoint)
    if origin is None:
        raise ConfigurationError(
            f"The {name} of {authority} is not an https URL: {_shown(endpoint)}.",
            hint=f"Check authority, and {_NOT_MODIFIED}.",
        )
    if not any_host and origin != authority_of(authority):
        raise ConfigurationError(
            f"The {name} of {authority} is on another host: {_shown(endpoint)}.",
            hint="If you trust that host, set authority to it."
            " Otherwise, an attacker may be trying to obtain your assertions.",
        )


def _is_same_issuer(issuer: object, expected: str) -> bool:
    """Compare issuers, ignoring a trailing slash: profiles and MSAL remove it."""
    return isinstance(issuer, str) and issuer.rstrip("/") == expected.rstrip("/")


def _shown(text: object) -> str:
    return ascii(text)[:200]
