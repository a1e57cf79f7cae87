"""HTTPS requests for stores: pooled connections, TLS always verified, one deadline per request, no redirects.

Plugins use it as their SDK's transport. `requests`, which most SDKs use, limits each read but not the whole exchange,
looks up proxies for each request, and sends a token to another host if it is redirected there.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import os
import re
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import urllib3
from requests.utils import get_environ_proxies, select_proxy
from urllib3.exceptions import HTTPError, LocationParseError, NewConnectionError, ProxyError, SSLError
from urllib3.exceptions import TimeoutError as PoolTimeout

from keyvouch._system import files
from keyvouch._system.sockets import LARGEST_RESPONSE, POOL_CLASSES, ResponseTooLarge, exchange, use_bounded_sockets
from keyvouch.errors import ConfigurationError, KeyvouchError, StoreUnavailable
from keyvouch.proxies import Credentials, proxy_at

OWN_TIMEOUT = 30.0
"""Timeout of a request in seconds if the caller sets none."""
CONNECT_TIMEOUT = 10.0
"""Timeout of a connection in seconds: name lookup, all addresses, the proxy and the TLS handshake together."""
E = TypeVar("E", bound=BaseException)
_LONGEST_WAIT = 86_400.0
_DEPTH = 10
"""Maximum nesting of wrapped exceptions."""
_CONNECTIONS = 64
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
        self._context = trust(ca_file, client_certificate)
        # The client certificate is not for the proxy.
        self._proxy_context = trust(ca_file) if client_certificate else self._context
        self._pools: dict[str, urllib3.HTTPConnectionPool] = {}

    def request(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        """Send one request, once, and read the response.

        The deadline in `limits` covers name lookup, connecting, sending, and the response to its last byte. Raises
        `StoreUnavailable`, also if the response is larger than 8 MiB, and `ConfigurationError`.
        """
        start = url.find("/", url.find("//") + 2)
        host, target = (url[:start], url[start:]) if start > 0 else (url, "/")
        if not (target.isascii() and _FIELD_VALUE.fullmatch("".join(headers.values()))):
            raise _unsendable(host)
        left = self.limits.left()
        if left <= 0:
            raise _late(host)
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
                    octets = read_body(response)
                except BaseException:
                    response.close()
                    raise
        except (HTTPError, OSError) as error:
            raise _unreachable(host, error) from error
        except ValueError:
            response = None  # raised below: this error may quote the request, and must not be the context
        if response is None:
            raise StoreUnavailable(f"{host} returned an invalid answer.", hint="Check the server and the proxy.")
        response.release_conn()
        return Reply(response.status, response.reason or "", response.headers, octets)

    def close(self) -> None:
        """Close all connections."""
        for pool in list(self._pools.values()):
            pool.close()

    def _connect(self, host: str) -> urllib3.HTTPConnectionPool:
        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT, read=None)  # reading ends with its `exchange`
        options: dict[str, Any] = {"maxsize": _CONNECTIONS, "ssl_context": self._context, "timeout": timeout}
        proxy = proxy_at(proxy_for(host, self._proxy), self._proxy_credentials)
        if proxy is None:
            return _timed(urllib3.PoolManager(**options)).connection_from_url(host)
        if proxy.address.startswith("https:"):
            options["proxy_ssl_context"] = self._proxy_context
        manager = _timed(urllib3.ProxyManager(proxy.address, proxy_headers=proxy.headers(), **options))
        return manager.connection_from_url(host)


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
    found: str | None = given or select_proxy(url, get_environ_proxies(url))
    return found


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds from now a response asks to wait; None if it does not (RFC 9110 section 10.2.3).

    At most a day, even if the response names a later time: more is a mistake, or meant to stop the caller for good.
    """
    told = headers.get("Retry-After", "").strip()
    if told.isascii() and told.isdigit():
        return min(float(told[:10]), _LONGEST_WAIT)
    try:
        moment = parsedate_to_datetime(told)
    except (ValueError, OverflowError):
        return None
    if not moment.tzinfo:
        return None
    return min(max(0.0, (moment - dt.datetime.now(dt.UTC)).total_seconds()), _LONGEST_WAIT)


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
        if len(body) > LARGEST_RESPONSE:
            raise ResponseTooLarge
        if response.length_remaining == 0 and "Content-Encoding" not in response.headers:
            break  # saves the call that would find the end
    return bytes(body)


def _timed(manager: urllib3.PoolManager) -> urllib3.PoolManager:
    manager.pool_classes_by_scheme = POOL_CLASSES
    return manager


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
        return ConfigurationError(f"Invalid address: {host}.", hint="Correct the address in the URI, or proxy=.")
    if reason := cause_of(error, ssl.SSLCertVerificationError):
        return ConfigurationError(
            f"The certificate of {host} is not trusted: {reason.verify_message}.",
            hint="Set ca-file= to its CA, or to a proxy's in between. The certificate must contain the host name.",
        )
    return _failed(host, error)


def _failed(host: str, error: Exception) -> StoreUnavailable:
    if cause_of(error, ResponseTooLarge):
        return StoreUnavailable(
            f"{host} sent more than {LARGEST_RESPONSE >> 20} MiB.",
            hint="Check that the address leads to the server, and not to another service.",
        )
    if isinstance(error, ProxyError):
        return StoreUnavailable(f"Failed to reach {host} through the proxy.", hint="Correct proxy=, or HTTPS_PROXY.")
    if isinstance(error, SSLError | ssl.SSLError):
        return StoreUnavailable(f"TLS with {host} failed.", hint="Check that the server on this port uses TLS.")
    return StoreUnavailable(
        f"Failed to reach {host}, or it closed the connection: {type(error).__name__}.",
        hint="Check the address, the network, private endpoints and the proxy, and that the server is running.",
    )


def cause_of(error: BaseException, kind: type[E]) -> E | None:
    """Return the exception of this type that caused `error`; urllib3 and requests wrap it more than once."""
    found: object = error
    for _ in range(_DEPTH):
        if isinstance(found, kind) or not isinstance(found, BaseException):
            break
        inner = getattr(found, "original_error", None) or getattr(found, "reason", None) or (*found.args, None)[-1]
        found = inner if isinstance(inner, BaseException) else found.__cause__ or found.__context__
    return found if isinstance(found, kind) else None


def trust(
    ca_file: str | None, client_certificate: tuple[str, str] | None = None, default: str | None = None
) -> ssl.SSLContext:
    """Return TLS settings for a client whose sockets end with their `exchange`.

    Trusts `ca_file`, else the file that the environment names, else `default`, else the system's certificates. Raises
    `ConfigurationError` if a file cannot be used.
    """
    named = ca_file or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    bundle = named or default  # the default comes with a package, which is trusted like code
    try:
        if named:
            files.check_trusted_certificates(Path(named))
        elif not default:
            _check_openssl_variables()
        is_folder = bool(bundle) and Path(bundle or "").is_dir()
        context = ssl.create_default_context(
            cafile=None if is_folder else bundle or None, capath=bundle if is_folder else None
        )
    except OSError as error:
        raise ConfigurationError(
            f"The certificates to trust for TLS, {bundle}, cannot be read.",
            hint="Correct ca-file=, or REQUESTS_CA_BUNDLE in the environment: it takes PEM.",
        ) from error
    use_bounded_sockets(context)
    if client_certificate:
        try:
            for path in client_certificate:
                files.check_trusted(Path(path))
            context.load_cert_chain(*client_certificate, password="")
        except OSError as error:
            raise ConfigurationError(
                f"The certificate {client_certificate[0]} with its key cannot be used.",
                hint="Both are PEM, the key not encrypted, and they belong together.",
            ) from error
    return context


def _check_openssl_variables() -> None:
    """Refuse certificates named by OpenSSL's variables if others could have written them.

    Raises `ConfigurationError`, OSError.
    """
    for path in (os.environ.get("SSL_CERT_FILE", ""), *os.environ.get("SSL_CERT_DIR", "").split(os.pathsep)):
        if path and Path(path).exists():
            files.check_trusted_certificates(Path(path))
