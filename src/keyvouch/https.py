"""Requests for stores behind HTTPS: pools of connections, TLS verified, every wait bounded, no redirect followed.

Plugins put it beneath their SDK. `requests`, which most stand on, bounds each read and not the whole, looks for proxies
at each request, and takes a token to another host where it is redirected.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import ipaddress
import os
import re
import ssl
import threading
import time
import unicodedata
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import urllib3
from requests.utils import get_environ_proxies, select_proxy
from urllib3.exceptions import HTTPError, LocationParseError, NewConnectionError, ProxyError, SSLError
from urllib3.exceptions import TimeoutError as PoolTimeout

from keyvouch.errors import ConfigurationError, KeyvouchError, StoreUnavailable

OWN_TIMEOUT = 30.0
"""Seconds for a request whose caller names none."""
CONNECT_TIMEOUT = 10.0
"""Seconds that a connection may take; a host that is there answers in one."""
LARGEST_ANSWER = 8 * 1024 * 1024
"""Bytes."""
_CONNECTIONS = 64
"""That are kept for each host; as many threads ask at once without connecting anew."""


_FIELD_VALUE = re.compile(r"[\t\x20-\x7E\x80-\xFF]*")
"""RFC 9110, section 5.5."""


class Reply(NamedTuple):
    """What a server answered, whatever its status; `headers` are found in any case of letters."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


class Limits(threading.local):
    """By when this thread's requests end."""

    until: float | None = None

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Let the requests in the block end after these seconds at the latest, all together."""
        former, until = self.until, time.monotonic() + seconds
        self.until = until if former is None else min(former, until)
        try:
            yield
        finally:
            self.until = former

    def left(self) -> float:
        """Return the seconds that are left for a request; negative when it is over."""
        return OWN_TIMEOUT if self.until is None else self.until - time.monotonic()


class Pools:
    """Connections to each host that is asked, shared by threads. A child makes its own.

    `ca_file` is a PEM file, or a folder, of certificates to trust; without it `$REQUESTS_CA_BUNDLE`, `$CURL_CA_BUNDLE`,
    or the system's are. `proxy` is an HTTP proxy's address, in place of the environment's. `client_certificate` names
    the PEM files of a certificate and of its key. Raises `ConfigurationError` where a file cannot be used.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        ca_file: str | None = None,
        proxy: str | None = None,
        client_certificate: tuple[str, str] | None = None,
    ) -> None:
        self.limits = limits
        """By when the requests of a thread end."""
        self._proxy = proxy
        self._context = _trust(ca_file, client_certificate)
        self._pools: dict[str, urllib3.HTTPConnectionPool] = {}

    def request(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        """Send one request, once, and read the answer. Raises `StoreUnavailable`, `ConfigurationError`."""
        start = url.find("/", url.find("//") + 2)
        host, target = (url[:start], url[start:]) if start > 0 else (url, "/")
        if not (target.isascii() and all(map(_FIELD_VALUE.fullmatch, headers.values()))):
            raise _unsendable(host)
        left = self.limits.left()
        if left <= 0:
            raise _late(host)
        end = time.monotonic() + left
        try:
            # A manager of pools would look at the address anew each time: a tenth of a P-256 signature.
            pool = self._pools.get(host) or self._pools.setdefault(host, self._connect(host))
            response = pool.urlopen(
                method,
                target,
                body=body,
                headers=headers,
                timeout=urllib3.Timeout(connect=min(left, CONNECT_TIMEOUT), total=left),
                retries=False,
                redirect=False,
                preload_content=False,
            )
            try:
                octets = _read(response, end)
            except BaseException:
                response.close()
                raise
        except (HTTPError, OSError) as error:
            raise _unreachable(host, error) from error
        except ValueError:
            response = None  # raised below: this error may quote what was sent, and must not be the context
        if response is None:
            raise StoreUnavailable(f"{host} returned an invalid answer.", hint="Check the server and the proxy.")
        response.release_conn()
        return Reply(response.status, response.reason or "", response.headers, octets)

    def close(self) -> None:
        """End all connections."""
        for pool in list(self._pools.values()):
            pool.close()

    def _connect(self, host: str) -> urllib3.HTTPConnectionPool:
        options: dict[str, Any] = {"maxsize": _CONNECTIONS, "ssl_context": self._context}
        proxy = proxy_for(host, self._proxy)
        if not proxy:
            return urllib3.PoolManager(**options).connection_from_url(host)
        parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
        if parts.username:
            options["proxy_headers"] = _proxy_headers(unquote(parts.username), unquote(parts.password or ""))
        try:
            manager = urllib3.ProxyManager(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", **options)
        except (HTTPError, ValueError):
            raise ConfigurationError(
                "The proxy cannot be used: its address is none of an HTTP proxy.",
                hint="Correct proxy=, or HTTPS_PROXY.",
            ) from None
        return manager.connection_from_url(host)


def _proxy_headers(user: str, password: str) -> dict[str, str]:
    """Return the header that signs in to a proxy (RFC 7617). Raises `ConfigurationError`, which quotes neither."""
    both = f"{user}:{password}"
    if ":" in user or any(unicodedata.category(each) == "Cc" for each in both):
        raise ConfigurationError(
            "The user name or password of the proxy contains characters that cannot be sent.",
            hint="Correct them in proxy=, or in HTTPS_PROXY: no control characters, and no colon in the user name.",
        )
    return {"proxy-authorization": f"Basic {base64.b64encode(both.encode(errors='replace')).decode()}"}


def is_loopback(url: str) -> bool:
    """Tell whether an address leads to this machine."""
    address = _ip_address(url)
    return address.is_loopback if address else urlsplit(url).hostname == "localhost"


def proxy_for(url: str, given: str | None) -> str | None:
    """Return the proxy to an address: the one that is given, else the environment's; None for what is near.

    Near are this machine, and link-local addresses: at 169.254.169.254 a machine in a cloud asks for its tokens.
    """
    address = _ip_address(url)
    if is_loopback(url) or (address and address.is_link_local):
        return None
    found: str | None = given or select_proxy(url, get_environ_proxies(url))
    return found


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return for how many seconds an answer asks to wait, from now, None where it does not say (RFC 9110 §10.2.3)."""
    told = headers.get("Retry-After", "").strip()
    if told.isascii() and told.isdigit():
        return float(told[:9])
    try:
        moment = parsedate_to_datetime(told)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (moment - dt.datetime.now(dt.UTC)).total_seconds()) if moment.tzinfo else None


def _ip_address(url: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(urlsplit(url).hostname or "")
    except ValueError:
        return None


def _read(response: urllib3.BaseHTTPResponse, end: float) -> bytes:
    """Read the body within bounds: a server that sends an octet now and then never runs into a read time-out."""
    octets = b""
    while part := response.read1(65536, decode_content=True):
        octets += part
        if time.monotonic() > end or len(octets) > LARGEST_ANSWER:
            raise PoolTimeout("the answer does not end")
    return octets


def _late(host: str) -> StoreUnavailable:
    return StoreUnavailable(f"{host} did not answer in time.", hint="Try again later, or allow more time.")


def _unsendable(host: str) -> ConfigurationError:
    return ConfigurationError(
        f"The request to {host} cannot be sent: its path or a header contains characters that HTTP does not allow.",
        hint="Look for line breaks, spaces or letters outside ASCII in the secrets that the URI refers to.",
    )


def _unreachable(host: str, error: Exception) -> KeyvouchError:
    if isinstance(error, PoolTimeout | TimeoutError) and not isinstance(error, NewConnectionError):
        return _late(host)
    if isinstance(error, LocationParseError):
        return ConfigurationError(f"{host} is no address.", hint="Correct the address in the URI, or proxy=.")
    reason: BaseException | None = error.original_error if isinstance(error, ProxyError) else error
    while reason is not None and not isinstance(reason, ssl.SSLCertVerificationError):
        reason = reason.args[0] if reason.args and isinstance(reason.args[0], BaseException) else reason.__cause__
    if isinstance(reason, ssl.SSLCertVerificationError):
        return ConfigurationError(
            f"The certificate of {host} is not trusted: {reason.verify_message}.",
            hint="Name its CA, or that of a proxy between, in ca-file=. Its host name must stand in the certificate.",
        )
    if isinstance(error, ProxyError):
        return StoreUnavailable(f"The proxy does not lead to {host}.", hint="Correct proxy=, or HTTPS_PROXY.")
    if isinstance(error, SSLError | ssl.SSLError):
        return StoreUnavailable(f"TLS with {host} failed.", hint="Does a server with TLS listen there?")
    return StoreUnavailable(
        f"{host} cannot be reached, or went away: {type(error).__name__}.",
        hint="Check its address, the network, a private endpoint and the proxy, and that the server runs.",
    )


def _trust(ca_file: str | None, client_certificate: tuple[str, str] | None) -> ssl.SSLContext:
    bundle = ca_file or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    try:
        is_folder = bool(bundle) and Path(bundle or "").is_dir()
        context = ssl.create_default_context(
            cafile=None if is_folder else bundle or None, capath=bundle if is_folder else None
        )
    except OSError as error:
        raise ConfigurationError(
            f"The certificates to trust for TLS, {bundle}, cannot be read.",
            hint="Correct ca-file=, or REQUESTS_CA_BUNDLE in the environment: it takes PEM.",
        ) from error
    if client_certificate:
        try:
            context.load_cert_chain(*client_certificate, password="")
        except OSError as error:
            raise ConfigurationError(
                f"The certificate {client_certificate[0]} with its key cannot be used.",
                hint="Both are PEM, the key not encrypted, and they belong together.",
            ) from error
    return context
