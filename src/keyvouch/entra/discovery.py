"""What a discovery document may say: where assertions and other credentials are sent is read from it.

OpenID Connect Discovery 1.0, section 4.3: a document's issuer is the one that was asked. Entra ID's documents name
another (`sts.windows.net`, a tenant's id instead of its name); there the endpoints must be on the authority's own host,
or on one that Microsoft runs for the same cloud.
"""

from __future__ import annotations

import json
from urllib.parse import urlsplit

import requests

from keyvouch.errors import ConfigurationError

PATH = "/.well-known/openid-configuration"
_ENDPOINTS = ("token_endpoint", "authorization_endpoint", "device_authorization_endpoint")
_CLOUDS = (
    {"login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net"},
    {"login.partner.microsoftonline.cn", "login.chinacloudapi.cn"},
    {"login.microsoftonline.us", "login.usgovcloudapi.net"},
)
"""Hosts of one cloud, by the aliases that Entra ID's instance discovery lists."""


class UnusableAnswer(requests.exceptions.InvalidJSONError, ValueError):
    """A successful response that MSAL cannot use; its text says what is wrong.

    For MSAL it is a network failure, after which a token in the cache may still serve.
    """


def check(url: str, text: str, issuer: str | None) -> None:
    """Check a discovery document requested from `url`; `issuer` is the issuer asked for, None for Entra ID and AD FS.

    What is not a document at all is MSAL's to refuse. Raises `ConfigurationError`, and `UnusableAnswer` for one that is
    malformed.
    """
    asked = url.partition(PATH)[0]
    try:
        document = json.loads(text)  # as MSAL does, of the same text
    except ValueError:
        return
    except RecursionError:
        raise UnusableAnswer("it is nested too deeply") from None
    if not isinstance(document, dict):
        return
    trusts_issuer = issuer is not None and _is_same(document.get("issuer"), issuer)
    for name in _ENDPOINTS:
        if document.get(name) is not None:
            _check_endpoint(name, document[name], asked, any_host=trusts_issuer)
    if issuer is not None and not isinstance(document.get("issuer"), str):
        raise UnusableAnswer("it names no issuer")  # OpenID Connect Discovery 1.0, section 3: it is required
    if issuer is not None and not trusts_issuer and not _is_microsofts(document.get("issuer")):
        raise ConfigurationError(
            f"{asked} is not the issuer that its discovery document names: {_shown(document.get('issuer'))}.",
            hint="Set authority to the issuer, exactly as the document spells it.",
        )


def _check_endpoint(name: str, endpoint: object, authority: str, *, any_host: bool) -> None:
    if not isinstance(endpoint, str):
        raise UnusableAnswer(f"its {name} is not a string")
    place = _place(endpoint)
    if place is None:
        raise ConfigurationError(
            f"The {name} of {authority} is not an https URL: {_shown(endpoint)}.",
            hint="Check authority, and that nothing on the way changes its answers.",
        )
    if not any_host and place != _place(authority):
        raise ConfigurationError(
            f"The {name} of {authority} is on another host: {_shown(endpoint)}.",
            hint="If you trust that host, name it in authority. Otherwise somebody may be after your assertions.",
        )


def _place(url: str) -> tuple[str, int] | None:
    """Return an https URL's host and port, else None; one host for all aliases and regional hosts of a cloud."""
    try:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.username is not None:
            return None
        port = parts.port or 443
    except ValueError:
        return None
    host = parts.hostname.rstrip(".")
    for cloud in _CLOUDS:
        if host in cloud or host.partition(".")[2] in cloud:
            return min(cloud), port
    return host, port


def _is_same(named: object, asked: str) -> bool:
    """Compare issuers, a slash at the end aside: profiles and MSAL drop it."""
    return isinstance(named, str) and named.rstrip("/") == asked.rstrip("/")


def _is_microsofts(issuer: object) -> bool:
    """True for an issuer that Microsoft runs: its documents name a tenant's id, and not the name that was asked for."""
    place = _place(issuer) if isinstance(issuer, str) else None
    return place is not None and (
        any(place[0] in cloud for cloud in _CLOUDS) or place[0].endswith((".ciamlogin.com", ".b2clogin.com"))
    )


def _shown(text: object) -> str:
    return ascii(text)[:200]
