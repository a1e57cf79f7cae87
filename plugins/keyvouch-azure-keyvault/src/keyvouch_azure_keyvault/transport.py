"""azure-core's way to the service: one pool of connections, TLS verified, every wait bounded, no redirect followed.

azure-core's own transport takes a time-out for each read and none for the whole, and asks the environment for proxies
at each request. The SDK's clients and azure-identity's credentials take this one in its place.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import re
import ssl
import threading
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote, urlencode, urlsplit

import urllib3
from azure.core.exceptions import ServiceRequestError, ServiceResponseError
from azure.core.pipeline.transport import HttpTransport
from azure.core.rest import HttpRequest
from requests.utils import get_environ_proxies, select_proxy
from urllib3.exceptions import HTTPError, LocationParseError, ProxyError, SSLError
from urllib3.exceptions import TimeoutError as PoolTimeout

from keyvouch.errors import ConfigurationError, KeyvouchError, StoreUnavailable, Throttled
from keyvouch_azure_keyvault.addresses import is_loopback
from keyvouch_azure_keyvault.answer import Answer

if TYPE_CHECKING:
    from keyvouch.uri import KeyUri

OWN_TIMEOUT = 30.0
"""Seconds for a request whose caller names none."""
_CONNECT = 10.0
"""Seconds that a connection may take; a host that is there answers in one."""
_CONNECTIONS = 64
"""That are kept for each host; as many threads ask at once without connecting anew."""
_LARGEST_ANSWER = 8 * 1024 * 1024
"""Bytes."""
_NAP = 1.0
"""Seconds between two questions whether the service has done what it was asked for."""
_TOO_MANY, _FAILING = 429, 500
_METADATA = "169.254.169.254"
"""Where a machine in Azure asks for tokens; never behind a proxy."""


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


class NotSent(ServiceRequestError):
    """No connection; `told` is the error of keyvouch's."""

    def __init__(self, told: KeyvouchError) -> None:
        super().__init__(told.message)
        self.told = told


class NotAnswered(ServiceResponseError):
    """A request went out, and no answer came; `told` is the error of keyvouch's."""

    def __init__(self, told: KeyvouchError) -> None:
        super().__init__(told.message)
        self.told = told


class _Base(HttpTransport[Any, Any]):
    """What azure-core wants of a transport beside sending."""

    def open(self) -> None:
        """Do nothing: connections are made when they are needed."""

    def close(self) -> None:
        """Do nothing: a client that is closed must not end the others' connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        pass


class PoolTransport(_Base):
    """Sends azure-core's requests through urllib3. Shared by the clients of a vault and by their log-in."""

    def __init__(self, uri: KeyUri, limits: Limits) -> None:
        self._proxy: str | None = uri.get("proxy")
        self._context = _trust(uri)
        self._limits = limits
        self._pools: dict[str | None, urllib3.PoolManager] = {}
        self._proxies: dict[str, str | None] = {}

    def send(self, request: Any, **_: Any) -> Answer:
        """Send a request and read its answer. Raises `NotSent`, `NotAnswered`."""
        left = self._limits.left()
        host = f"https://{urlsplit(request.url).netloc}"
        if left <= 0:
            raise NotSent(_late(host))
        end = time.monotonic() + left
        try:
            response = self._pool(request.url).request(
                request.method,
                request.url,
                body=_body(request),
                headers=dict(request.headers),
                timeout=urllib3.Timeout(connect=min(left, _CONNECT), total=left),
                retries=False,
                redirect=False,
                preload_content=False,
            )
            try:
                octets = _read(response, end)
            except BaseException:
                response.close()
                raise
        except (HTTPError, OSError, ValueError) as error:
            told = _unreachable(host, error)
            raise (NotSent if isinstance(told, ConfigurationError) else NotAnswered)(told) from error
        response.release_conn()
        return Answer(request, response.status, response.reason or "", response.headers, octets)

    def sleep(self, duration: float) -> None:
        """Wait between two questions, no longer than there is time."""
        time.sleep(max(0.0, min(duration, _NAP, self._limits.left())))

    def end(self) -> None:
        """End all connections."""
        for pool in list(self._pools.values()):
            pool.clear()

    def _pool(self, url: str) -> urllib3.PoolManager:
        host = urlsplit(url).netloc
        if host not in self._proxies:
            self._proxies[host] = self._proxy_for(url)
        proxy = self._proxies[host]
        if proxy not in self._pools:
            self._pools[proxy] = _make_pool(proxy, self._context)
        return self._pools[proxy]

    def _proxy_for(self, url: str) -> str | None:
        if is_loopback(url) or urlsplit(url).hostname == _METADATA:
            return None
        return self._proxy or select_proxy(url, get_environ_proxies(url))


class LogInTransport(_Base):
    """The same for a log-in, whose libraries tell an authority that fails like one that refuses."""

    def __init__(self, transport: PoolTransport) -> None:
        self._transport = transport

    def send(self, request: Any, **options: Any) -> Answer:
        """Send a request. Raises `NotSent`, `NotAnswered`, also for what may pass: 429 and 5xx."""
        answer = self._transport.send(request, **options)
        host = f"https://{urlsplit(request.url).netloc}"
        if answer.status_code == _TOO_MANY:
            seconds = seconds_to_wait(answer.headers)
            raise NotAnswered(Throttled(f"{host} asks to wait.", hint="Try again later.", retry_after=seconds))
        if answer.status_code >= _FAILING:
            raise NotAnswered(
                StoreUnavailable(f"The authority {host} fails: {answer.status_code}.", hint="Try again later.")
            )
        return answer

    def sleep(self, duration: float) -> None:
        """Wait, no longer than there is time."""
        self._transport.sleep(duration)


def seconds_to_wait(headers: Any) -> float | None:
    """Return for how long an answer asks to wait, in any of the service's forms."""
    for name, parts in (("retry-after-ms", 1000), ("x-ms-retry-after-ms", 1000), ("Retry-After", 1)):
        told = headers.get(name)
        if told and re.fullmatch(r"\d{1,9}", told.strip()):
            return int(told) / parts
    return _until(headers.get("Retry-After"))


def _until(date: str | None) -> float | None:
    try:
        moment = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    return max(0.0, (moment - dt.datetime.now(dt.UTC)).total_seconds()) if moment.tzinfo else None


def _body(request: Any) -> bytes | None:
    content = request.content if isinstance(request, HttpRequest) else request.body
    if content is None:
        content = getattr(request, "_data", None)
    if isinstance(content, dict):
        content = urlencode(content)
    return content.encode() if isinstance(content, str) else content


def _read(response: urllib3.BaseHTTPResponse, end: float) -> bytes:
    """Read the body within bounds: a server that sends an octet now and then never runs into a read time-out."""
    octets = b""
    while part := response.read1(65536, decode_content=True):
        octets += part
        if time.monotonic() > end or len(octets) > _LARGEST_ANSWER:
            raise PoolTimeout("the answer does not end")
    return octets


def _late(host: str) -> StoreUnavailable:
    return StoreUnavailable(f"{host} did not answer in time.", hint="Try again later, or allow more time.")


def _unreachable(host: str, error: Exception) -> KeyvouchError:
    if isinstance(error, PoolTimeout | TimeoutError):
        return _late(host)
    if isinstance(error, LocationParseError):
        return ConfigurationError(f"{host} is no address.", hint="Correct vault=, or proxy=.")
    reason: BaseException | None = error.original_error if isinstance(error, ProxyError) else error
    while reason is not None and not isinstance(reason, ssl.SSLCertVerificationError):
        reason = reason.args[0] if reason.args and isinstance(reason.args[0], BaseException) else reason.__cause__
    if isinstance(reason, ssl.SSLCertVerificationError):
        return ConfigurationError(
            f"The certificate of {host} is not trusted: {reason.verify_message}.",
            hint="If a proxy of your own network stands between, name its CA in ca-file=.",
        )
    if isinstance(error, ProxyError):
        return StoreUnavailable(f"The proxy does not lead to {host}.", hint="Correct proxy=, or HTTPS_PROXY.")
    if isinstance(error, SSLError | ssl.SSLError):
        return StoreUnavailable(f"TLS with {host} failed.", hint="Does a server with TLS listen there?")
    return StoreUnavailable(
        f"{host} cannot be reached, or went away: {type(error).__name__}.",
        hint="Check the vault's name, network, private endpoint and proxy.",
    )


def _trust(uri: KeyUri) -> ssl.SSLContext:
    # Named here, or in the environment as for requests; else what the system trusts.
    bundle = uri.get("ca-file") or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    try:
        path = Path(bundle) if bundle else None
        return ssl.create_default_context(
            cafile=bundle if path and not path.is_dir() else None, capath=bundle if path and path.is_dir() else None
        )
    except OSError as error:
        raise ConfigurationError(
            f"The certificates to trust for TLS, {bundle}, cannot be read.",
            hint="Correct ca-file=, or REQUESTS_CA_BUNDLE in the environment: it takes PEM.",
        ) from error


def _make_pool(proxy: str | None, context: ssl.SSLContext) -> urllib3.PoolManager:
    options: dict[str, Any] = {"maxsize": _CONNECTIONS, "num_pools": 8, "ssl_context": context}
    if not proxy:
        return urllib3.PoolManager(**options)
    parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    if parts.username:
        given = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        options["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=given)
    return urllib3.ProxyManager(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", **options)
