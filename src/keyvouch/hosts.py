"""Comparison of hosts: a token, a client secret or an assertion is sent only to the server it is meant for."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

CLOUDS = (
    {"login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net"},
    {"login.partner.microsoftonline.cn", "login.chinacloudapi.cn"},
    {"login.microsoftonline.us", "login.usgovcloudapi.net"},
)
"""Host names of each cloud: the aliases that Entra ID's instance discovery lists."""


class Place(NamedTuple):
    """A server that is reached over https."""

    host: str
    port: int


def place_of(url: str) -> Place | None:
    """Return an https URL's host and port; None for another scheme, a user name in the URL, or an invalid URL."""
    try:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.username is not None:
            return None
        return Place(parts.hostname.rstrip("."), parts.port or 443)
    except ValueError:
        return None


def authority_of(url: str) -> Place | None:
    """Return the result of `place_of`, with one host for all aliases and regional hosts of a Microsoft cloud."""
    place = place_of(url)
    if place is None:
        return None
    for cloud in CLOUDS:
        if place.host in cloud or place.host.partition(".")[2] in cloud:
            return Place(min(cloud), place.port)
    return place
