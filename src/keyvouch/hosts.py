"""Comparison of hosts: a token, a client secret or an assertion is sent only to the server it is meant for."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal
from urllib.parse import SplitResult, urlsplit

import msgspec

CLOUDS = (
    {"login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net"},
    {"login.partner.microsoftonline.cn", "login.chinacloudapi.cn"},
    {"login.microsoftonline.us", "login.usgovcloudapi.net"},
)
"""Host names of each cloud: the aliases that Entra ID's instance discovery lists."""

_OTHER_MICROSOFT_DOMAINS = (".ciamlogin.com", ".b2clogin.com")
_ENTRA_PATH = re.compile(r"https://[^/]+/.+/oauth2/v2\.0/token/?", re.IGNORECASE)
_ADFS_PATH = re.compile(r"https://[^/]+/adfs/", re.IGNORECASE)

TokenServer = Literal["entra", "adfs", "other"]
"""Who verifies an assertion: Entra ID and AD FS find the key by its certificate, other servers by its `kid`."""


class Endpoint(msgspec.Struct, frozen=True):
    """The host and port of a server that is reached over https."""

    host: str
    port: int


def endpoint_of(url: str) -> Endpoint | None:
    """Return an https URL's host and port; None for another scheme, a user name in the URL, or an invalid URL."""
    parts = _split(url)
    if parts is None or parts.scheme != "https":
        return None
    return Endpoint(str(parts.hostname).rstrip("."), parts.port or 443)


def authority_of(url: str) -> Endpoint | None:
    """Return the result of `endpoint_of`, with one host for all aliases and regional hosts of a Microsoft cloud."""
    endpoint = endpoint_of(url)
    if endpoint is None:
        return None
    for cloud in CLOUDS:
        if endpoint.host in cloud or endpoint.host.partition(".")[2] in cloud:
            return Endpoint(min(cloud), endpoint.port)
    return endpoint


def is_microsoft_host(url: str) -> bool:
    """Return True for an https URL on a host on which Microsoft runs Entra ID, for any cloud, region or tenant."""
    endpoint = authority_of(url)
    if endpoint is None:
        return False
    return any(endpoint.host in cloud for cloud in CLOUDS) or endpoint.host.endswith(_OTHER_MICROSOFT_DOMAINS)


@lru_cache(maxsize=1024)
def token_server(token_endpoint: str) -> TokenServer:
    """Return what kind of server has this token endpoint, by its host and by the paths of Entra ID and AD FS."""
    if is_microsoft_host(token_endpoint):
        return "entra"
    if _ADFS_PATH.match(token_endpoint):
        return "adfs"
    return "entra" if _ENTRA_PATH.match(token_endpoint.partition("?")[0]) else "other"


def is_origin(url: str, *schemes: str) -> bool:
    """Return True if a URL is nothing but one of these schemes, a host and optionally a port, like `https://host:1`."""
    parts = _split(url)
    if parts is None or parts.scheme not in schemes or not {" ", "\\"}.isdisjoint(url):
        return False
    return url.lower() == f"{parts.scheme}://{parts.netloc}".lower()  # urlsplit drops some control characters


def _split(url: str) -> SplitResult | None:
    """Split a URL; return None if it has no host, an invalid host or port, or a user name."""
    try:
        parts = urlsplit(url)
        if not parts.hostname or parts.username is not None or parts.port == 0:
            return None
    except ValueError:
        return None
    return parts
