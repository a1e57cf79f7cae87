"""HTTPS requests for stores: pooled connections, TLS always verified, one deadline per request, no redirects.

Plugins use it as their SDK's transport. `requests`, which most SDKs use, limits each read but not the whole exchange,
looks up proxies for each request, and sends a token to another host if it is redirected there.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import re
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import urllib3
from requests.utils import get_environ_proxies, select_proxy
from urllib3.exceptions import HTTPError

from keyvouch._system import response_text, tls
from keyvouch._system.connection_failures import describe_failure
from keyvouch._system.sockets import MAX_RESPONSE_BYTES, ResponseTooLarge, exchange
from keyvouch._system.urllib3_pools import POOL_CLASSES
from keyvouch.errors import ConfigurationError, KeyvouchError, StoreUnavailable
from keyvouch.proxies import Credentials, proxy_from_url

OWN_TIMEOUT = 30.0
"""Timeout of a request in seconds if the caller sets none."""
CONNECT_TIMEOUT = 10.0
"""Timeout of a connection in seconds: name lookup, all addresses, the proxy and the TLS handshake together."""
_MAX_RETRY_AFTER = 86_400.0
_MAX_POOLED_CONNECTIONS = 64
"""Connections kept open to each host: this many threads can send requests at once without reconnecting."""


_FIELD_VALUE = re.compile(r"[\t\x20-\x7E\x80-\xFF]*")
"""RFC 9110, section 5.5."""


class Reply(NamedTuple):
    """A response with any status; the names in `headers` are case-insensitive."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


class Limits(threading.local):
    """Deadline of this thread's requests."""

    until: float | None = None

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Limit all requests in the block, together, to `seconds`."""
        former, until = self.until, time.monotonic() + seconds
        self.until = until if former is None else min(former, until)
        try:
            yield
        finally:
            self.until = former

    def left(self) -> float:
        """Return the seconds left for a request; negative once the deadline has passed."""
        return OWN_TIMEOUT if self.until is None else self.until - time.monotonic()


class Pools:
    """Pooled connections to any number of hosts, shared by threads. A forked child must create its own.

    `ca_file` is a PEM file, or a folder, of certificates to trust instead of those named by `$REQUESTS_CA_BUNDLE` or
    `$CURL_CA_BUNDLE`, or the system's. `proxy` is the URL of an HTTP proxy, used instead of the environment's;
    `proxy_credentials` is the result of `SecretResolver.proxy_credentials`. `client_certificate` is the PEM files of a
    certificate and of its key. Raises `ConfigurationError` if a file cannot be used.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        ca_file: str | None = None,
        proxy: str | None = None,
        proxy_credentials: Credentials | None = None,
        client_certificate: tuple[str, str] | None = None,
    ) -> None:
        self.limits = limits
        """Deadlines of the threads' requests."""
        self._proxy, self._proxy_credentials = proxy, proxy_credentials
        self._ca_file, self._client_certificate = ca_file, client_certificate
        self._context = tls.client_context(ca_file, client_certificate)
        # The client certificate is not for the proxy.
        self._proxy_context = tls.client_context(ca_file) if client_certificate else self._context
        self._pools: dict[str, urllib3.HTTPConnectionPool] = {}
        self._plain_pools: list[urllib3.HTTPConnectionPool] = []

    def request(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        """Send one request, once, and read the response.

        The deadline in `limits` covers name lookup, connecting, sending, and the response to its last byte. Raises
        `StoreUnavailable`, also if the response is larger than 8 MiB, and `ConfigurationError`.
        """
        start = url.find("/", url.find("//") + 2)
        host, target = (url[:start], url[start:]) if start > 0 else (url, "/")
        if not (target.isascii() and _FIELD_VALUE.fullmatch("".join(headers.values()))):
            raise _invalid_request(host)
        left = self.limits.left()
        if left <= 0:
            raise _timed_out(host)
        pool = None
        try:
            # A pool manager would parse the address each time, which takes a tenth of the time of a P-256 signature.
            pool = self._pools.get(host) or self._pools.setdefault(host, self._connect(host))
            with exchange(left):
                response = pool.urlopen(
                    method,
                    target,
                    body=body,
                    headers=headers,
                    retries=False,
                    redirect=False,
                    preload_content=False,
                )
                try:
                    data = read_body(response)
                except BaseException:
                    response.close()
                    raise
        except (HTTPError, OSError) as error:
            raise _transport_error(host, error, pool) from error
        except ValueError:
            response = None  # raised below: this error may quote the request, and must not be the context
        if response is None:
            raise StoreUnavailable(f"Invalid response from {host}.", hint="Check the server and the proxy.")
        response.release_conn()
        return Reply(response.status, response.reason or "", response.headers, data)

    def plain_pool(self, host: str) -> urllib3.HTTPConnectionPool:
        """Return a pool of urllib3's own connections to a host, `https://host:port`, for a store's `OffersPeer.peer`.

        Its TLS settings and its proxy are the same. Its requests have timeouts but no deadline, raise urllib3's errors,
        and are not repeated or redirected. `close` closes it.
        """
        context = tls.plain_context(self._ca_file, self._client_certificate)
        manager = self._manager(host, context, tls.plain_context(self._ca_file), read_timeout=OWN_TIMEOUT)
        pool = manager.connection_from_url(host)
        self._plain_pools.append(pool)
        return pool

    def close(self) -> None:
        """Close all connections."""
        for pool in [*self._pools.values(), *self._plain_pools]:
            pool.close()

    def _connect(self, host: str) -> urllib3.HTTPConnectionPool:
        # Reading ends with its `exchange`.
        manager = self._manager(host, self._context, self._proxy_context, read_timeout=None)
        manager.pool_classes_by_scheme = POOL_CLASSES
        return manager.connection_from_url(host)

    def _manager(
        self, host: str, context: ssl.SSLContext, proxy_context: ssl.SSLContext, *, read_timeout: float | None
    ) -> urllib3.PoolManager:
        options: dict[str, Any] = {
            "maxsize": _MAX_POOLED_CONNECTIONS,
            "retries": False,
            "ssl_context": context,
            "timeout": urllib3.Timeout(connect=CONNECT_TIMEOUT, read=read_timeout),
        }
        proxy = proxy_from_url(proxy_for(host, self._proxy), self._proxy_credentials)
        if proxy is None:
            return urllib3.PoolManager(**options)
        if proxy.address.startswith("https:"):
            options["proxy_ssl_context"] = proxy_context
        return urllib3.ProxyManager(proxy.address, proxy_headers=proxy.headers(), **options)


def is_loopback(url: str) -> bool:
    """Return True if a URL's host is this machine."""
    address = _ip_address(url)
    return address.is_loopback if address else urlsplit(url).hostname == "localhost"


def is_link_local(url: str) -> bool:
    """Return True if a URL's address is link-local, like the metadata service that gives cloud machines tokens."""
    address = _ip_address(url)
    return address is not None and address.is_link_local


def proxy_for(url: str, given: str | None) -> str | None:
    """Return the URL of the proxy for an address: the given one, else the environment's; None for no proxy.

    This machine and link-local addresses are reached directly: a cloud's metadata service is at 169.254.169.254.
    """
    if is_loopback(url) or is_link_local(url):
        return None
    proxy: str | None = given or select_proxy(url, get_environ_proxies(url))
    return proxy


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds from now a response asks to wait; None if it does not (RFC 9110 section 10.2.3).

    At most a day, even if the response names a later time: more is a mistake, or meant to stop the caller for good.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:10]), _MAX_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if not moment.tzinfo:
        return None
    return min(max(0.0, (moment - dt.datetime.now(dt.UTC)).total_seconds()), _MAX_RETRY_AFTER)


def describe_response(status: int, reason: str, body: bytes) -> str:
    """Return the status and the text of a response: `HTTP status 404 Not Found: no such route`.

    For responses that are not in the server's documented format. The text is printable, on one line, truncated, and
    without tokens, which a page may repeat from the request.
    """
    return response_text.describe_response(status, reason, body)


def _ip_address(url: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(urlsplit(url).hostname or "")
    except ValueError:
        return None


def read_body(response: urllib3.BaseHTTPResponse) -> bytes:
    """Read and decompress a body, within an `exchange`. Raises urllib3's errors, TimeoutError, `ResponseTooLarge`."""
    body = bytearray()
    # Not `read`, which would wait for all the bytes requested.
    while part := response.read1(65536, decode_content=True):
        body += part
        if len(body) > MAX_RESPONSE_BYTES:
            raise ResponseTooLarge
        if response.length_remaining == 0 and "Content-Encoding" not in response.headers:
            break  # saves the call that would find the end
    return bytes(body)


def _timed_out(host: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"The request to {host} timed out.", hint="Check that the server responds, and try again later."
    )


def _invalid_request(host: str) -> ConfigurationError:
    return ConfigurationError(
        f"Invalid request to {host}: its path or a header contains characters that HTTP does not allow.",
        hint="Check the secrets that the URI refers to for line breaks, spaces and non-ASCII letters.",
    )


def _transport_error(host: str, error: Exception, pool: urllib3.HTTPConnectionPool | None) -> KeyvouchError:
    failure = describe_failure(error, host, pool)
    kind = ConfigurationError if failure.kind in ("address", "trust") else StoreUnavailable
    return kind(failure.message, hint=failure.hint)
