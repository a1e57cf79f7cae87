"""HTTP proxies: valid addresses, and credentials, which are never in an address that is shown or logged.

An address with a user and a password (`http://user:password@host:3128`) is split before a library sees it, since
libraries quote addresses in their errors. The credentials are sent as `Proxy-Authorization` (RFC 9110, section 11.7.1).
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Protocol

from keyvouch._system.forks import IMPORTS
from keyvouch.errors import ConfigurationError

if TYPE_CHECKING:
    from urllib.parse import SplitResult

# urllib.parse is slow to import, so only the functions that handle a proxy import it.

CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")
"""Characters that no credentials contain (RFC 7617, section 2)."""
INVALID_PROXY = "Invalid proxy URL."
INVALID_PROXY_HINT = "Set proxy or HTTPS_PROXY to http://host:port."


class Credentials(Protocol):
    """Credentials that do not print themselves, like `keyvouch.secrets.Secret`."""

    def reveal(self) -> str:
        """Return `user:password`."""


class _Userinfo:
    """The credentials in an address, still percent-encoded."""

    __slots__ = ("_parts",)

    def __init__(self, parts: SplitResult) -> None:
        self._parts = parts.username or "", parts.password or ""

    def reveal(self) -> str:
        with IMPORTS:
            from urllib.parse import unquote
        return ":".join(map(unquote, self._parts))


class Proxy:
    """A proxy as passed to the libraries: `address` has no credentials, `headers` returns them."""

    __slots__ = ("_credentials", "address")

    def __init__(self, address: str, credentials: Credentials | None) -> None:
        self.address = address
        self._credentials = credentials

    def headers(self) -> dict[str, str]:
        """Return the headers for the proxy itself (RFC 7617: Basic, in UTF-8)."""
        if self._credentials is None:
            return {}
        return {"proxy-authorization": f"Basic {base64.b64encode(self._credentials.reveal().encode()).decode()}"}


def proxy_from_url(url: str | None, credentials: Credentials | None = None) -> Proxy | None:
    """Return the proxy at an address, None if there is none. `credentials` take precedence over those in the address.

    Raises `ConfigurationError`, which does not quote the address.
    """
    if not url:
        return None
    parts = _split_url(url)
    if parts is None or invalid_reason(url, parts):
        del url, parts  # a traceback may show a frame's variables
        raise ConfigurationError(INVALID_PROXY, hint=INVALID_PROXY_HINT)
    if credentials is None and parts.username is not None:
        credentials = _Userinfo(parts)
    return Proxy(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", credentials)


def parse_proxy(data: bytes) -> str:
    """Return a proxy's address, for `Attribute.parse`. Raises ValueError, which does not quote the address."""
    text = data.decode()
    if "@" in text and "://" not in text:
        raise ValueError("write http:// before the user name")
    if reason := invalid_reason(text, _split_url(text)):
        raise ValueError(reason)
    return text


def invalid_reason(text: str, parts: SplitResult | None) -> str:
    """Return what is wrong with a proxy's address; empty if it is valid."""
    with IMPORTS:
        from urllib.parse import unquote
    url_form = "write http://host:port" + (", and percent-encode / ? # @ in the password" if "@" in text else "")
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        return url_form
    if "***" in text.rpartition("@")[0]:
        return "the credentials are redacted: enter them again, or use proxy-credentials"
    if CONTROL_CHARACTERS.search(unquote(text)) or " " in text:
        return "spaces and control characters are not allowed"
    if ":" in unquote(parts.username or ""):  # RFC 7617, section 2
        return "the user name must not contain a colon"
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        return url_form
    return ""


def _split_url(text: str) -> SplitResult | None:
    """Split an address; None if it is invalid. No error that contains the address is left behind."""
    with IMPORTS:
        from urllib.parse import urlsplit
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        _ = parts.port, parts.hostname
    except ValueError:
        return None
    return parts
