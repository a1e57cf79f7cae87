"""hvac's way to the server: one pool of connections, TLS verified, every wait bounded, no redirect followed.

hvac's own adapter sends the token after a redirect to whatever host, retries nothing, knows no overall time-out, and
takes twice as long for a P-256 signature. This one keeps hvac's interface.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import hvac
import urllib3
from hvac.adapters import Adapter
from hvac.exceptions import VaultError
from requests.utils import get_environ_proxies, select_proxy
from urllib3.exceptions import HTTPError, LocationParseError, ProxyError, SSLError
from urllib3.exceptions import TimeoutError as PoolTimeout

from keyvouch.errors import ConfigurationError, KeyvouchError, StoreUnavailable, Throttled
from keyvouch_vault.addresses import is_loopback

if TYPE_CHECKING:
    from keyvouch.uri import KeyUri

OWN_TIMEOUT = 30.0
"""Seconds for a request whose caller names none."""
_CONNECTIONS = 64
"""That are kept; as many threads ask at once without connecting anew."""
_LARGEST_ANSWER = 8 * 1024 * 1024
"""Bytes."""
_TOO_MANY, _ERRORS = 429, 400
_REDIRECTS = range(300, 400)
_NOTHING = 204


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


class PoolAdapter(Adapter):  # type: ignore[misc]  # hvac has no types
    """Sends hvac's requests through a pool of urllib3; answers are what JSON says, and None where there is nothing."""

    pool: urllib3.HTTPConnectionPool
    limits: Limits

    def close(self) -> None:
        """End the connections of the pool, which others may use too."""
        self.pool.close()

    def get_login_token(self, response: Any) -> Any:
        """For hvac; log-ins are read where they are made."""
        return response["auth"]["client_token"]

    def request(self, method: str, url: str, headers: dict[str, str] | None = None, **options: Any) -> Any:
        """Send one request. Raises hvac's `VaultError` for what the server refuses, else keyvouch's errors."""
        headers = {**(headers or {}), "X-Vault-Request": "true", "Content-Type": "application/json"}
        if self.token:
            headers["X-Vault-Token"] = self.token
        if self.namespace:
            headers["X-Vault-Namespace"] = self.namespace
        body = json.dumps(options["json"]).encode() if options.get("json") is not None else None
        status, answered, octets = self._send(method.upper(), url, body, headers)
        if status in _REDIRECTS:
            raise StoreUnavailable(
                f"{self.base_uri} answers with a redirect, which is not followed with a token.",
                hint="Give the address of the active server, or of a load balancer that knows it.",
            )
        if status == _TOO_MANY:
            raise Throttled(
                f"{self.base_uri} asks to wait.",
                hint="Raise the server's quota, or ask less often.",
                retry_after=_seconds(answered.get("Retry-After")),
            )
        return self._understood(method, url, status, octets)

    def _understood(self, method: str, url: str, status: int, octets: bytes) -> Any:
        if status == _NOTHING and not octets:
            return None
        try:
            answer = json.loads(octets)
            if not isinstance(answer, dict):
                raise ValueError  # noqa: TRY004, TRY301 - as any other text that is no answer
        except ValueError:
            raise StoreUnavailable(
                f"{self.base_uri} answers ({status}) with something that is no answer of Vault's.",
                hint="Does the address lead to Vault, and not to a proxy or another server?",
            ) from None
        if status >= _ERRORS:
            raise VaultError.from_status(status, None, errors=answer.get("errors") or [""], method=method, url=url)
        return answer

    def _send(
        self, method: str, url: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, urllib3.HTTPHeaderDict, bytes]:
        left = self.limits.left()
        if left <= 0:
            raise _late(self.base_uri)
        end = time.monotonic() + left
        try:
            response = self.pool.urlopen(
                method,
                url,
                body=body,
                headers=headers,
                timeout=urllib3.Timeout(total=left),
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
            raise _unreachable(self.base_uri, error) from error
        response.release_conn()
        return response.status, response.headers, octets


def _read(response: Any, end: float) -> bytes:
    """Read the body within bounds: a server that sends an octet now and then never runs into a read time-out."""
    octets = b""
    while part := response.read1(65536, decode_content=True):
        octets += part
        if response.length_remaining == 0:  # as it mostly is: there is nothing more to be asked for
            break
        if time.monotonic() > end or len(octets) > _LARGEST_ANSWER:
            raise PoolTimeout("the answer does not end")
    return octets


def _seconds(told: str | None) -> float | None:
    return float(told) if told and told.isdecimal() else None


def _late(address: str) -> StoreUnavailable:
    return StoreUnavailable(f"{address} did not answer in time.", hint="Try again later, or allow more time.")


def _unreachable(address: str, error: Exception) -> KeyvouchError:
    if isinstance(error, PoolTimeout | TimeoutError):
        return _late(address)
    if isinstance(error, LocationParseError):
        return ConfigurationError(f"{address} is no address.", hint="Correct address=, or proxy=.")
    reason: BaseException | None = error.original_error if isinstance(error, ProxyError) else error
    while reason is not None and not isinstance(reason, ssl.SSLCertVerificationError):
        reason = reason.args[0] if reason.args and isinstance(reason.args[0], BaseException) else reason.__cause__
    if isinstance(reason, ssl.SSLCertVerificationError):
        return ConfigurationError(
            f"The certificate of {address} is not trusted: {reason.verify_message}.",
            hint="Name the CA in ca-file=, and in address= the host name that stands in the certificate.",
        )
    if isinstance(error, ProxyError):
        return StoreUnavailable(f"The proxy does not lead to {address}.", hint="Correct proxy=, or HTTPS_PROXY.")
    if isinstance(error, SSLError | ssl.SSLError):
        return StoreUnavailable(f"TLS with {address} failed.", hint="Does a server with TLS listen there?")
    return StoreUnavailable(
        f"{address} cannot be reached, or went away: {type(error).__name__}.",
        hint="Check address, network and proxy, and that the server runs.",
    )


def make_pool(uri: KeyUri, client_certificate: tuple[str, str] | None) -> urllib3.HTTPConnectionPool:
    """Make the pool for a URI's address, CA, proxy and client certificate. Raises `ConfigurationError`.

    A manager of pools, asked each time, would look at the address anew and find this one: a tenth of a P-256 signature.
    """
    address = uri.get("address")
    options: dict[str, Any] = {"maxsize": _CONNECTIONS}
    if urlsplit(address).scheme == "https":
        options["ssl_context"] = _trust(uri, client_certificate)
    proxy = _proxy(uri, address)
    if not proxy:
        return urllib3.PoolManager(**options).connection_from_url(address)
    parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    if parts.username:
        given = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        options["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=given)
    try:
        manager = urllib3.ProxyManager(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", **options)
        return manager.connection_from_url(address)
    except (HTTPError, ValueError):
        raise ConfigurationError(
            "The proxy cannot be used: its address is none of an HTTP proxy.", hint="Correct proxy=, or HTTPS_PROXY."
        ) from None


def _trust(uri: KeyUri, client_certificate: tuple[str, str] | None) -> ssl.SSLContext:
    # Named here, or in the environment as for requests; else what the system trusts.
    bundle = uri.get("ca-file") or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    try:
        path = Path(bundle) if bundle else None
        context = ssl.create_default_context(
            cafile=bundle if path and not path.is_dir() else None, capath=bundle if path and path.is_dir() else None
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


def _proxy(uri: KeyUri, address: str) -> str | None:
    if is_loopback(address):
        return None
    found: str | None = uri.get("proxy") or select_proxy(address, get_environ_proxies(address))
    return found


def make_client(pool: urllib3.HTTPConnectionPool, limits: Limits, uri: KeyUri, token: str = "") -> Any:
    """Return hvac's client over the pool. Without a token it has none: hvac itself would take ~/.vault-token."""
    client = hvac.Client(
        url=uri.get("address"), token=token, adapter=PoolAdapter, namespace=uri.get("namespace"), session=_NoSession()
    )
    client.adapter.pool, client.adapter.limits = pool, limits
    return client


class _NoSession:
    """In place of the session of `requests` that hvac would make, and never use."""

    verify = cert = proxies = None
