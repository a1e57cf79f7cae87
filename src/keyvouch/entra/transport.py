"""The HTTP session that MSAL uses to reach an authority: https only, TLS verified, one deadline per request."""

from __future__ import annotations

import contextlib
import io
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urljoin

import requests
from requests.adapters import HTTPAdapter
from requests.cookies import RequestsCookieJar
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util import Retry

from keyvouch._core.retries import Deadline
from keyvouch._system import forks, tls
from keyvouch._system.connection_failures import note_proxy
from keyvouch._system.sockets import exchange
from keyvouch._system.urllib3_pools import POOL_CLASSES
from keyvouch.entra import discovery
from keyvouch.entra.discovery import UnexpectedResponse
from keyvouch.errors import ConfigurationError
from keyvouch.https import CONNECT_TIMEOUT, describe_response, is_link_local, proxy_for, read_body
from keyvouch.proxies import Credentials, Proxy, proxy_from_url
from keyvouch.tokens import describe_flaw

REQUEST_TIMEOUT = 30.0
"""Number of seconds for a request, including redirects. An authority that takes longer is unavailable."""
MAX_REDIRECTS = 3
_DEFAULT_RETRY_AFTER, _MAX_RETRY_AFTER = 5, 3600
"""Seconds for which MSAL sends no request after 429 and 5xx if the response does not specify it; and the maximum."""
_FIRST_SERVER_ERROR = 500
_CLIENT_ERRORS = range(400, 500)


class _Adapter(HTTPAdapter):
    """Makes connections that end with their `exchange`; always verifies TLS, with one context for all.

    Sends proxy credentials in headers, not in the URL: `requests` quotes URLs in its errors.
    """

    def __init__(self, context: ssl.SSLContext, retries: Retry) -> None:
        self._context = context
        self._current_proxy: Proxy | None = None
        super().__init__(max_retries=retries)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = POOL_CLASSES

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        if not proxy.lower().startswith(("http://", "https://")):  # SOCKS would use connection classes of its own
            raise requests.exceptions.InvalidProxyURL(proxy.partition(":")[0])
        if proxy.lower().startswith("https://"):
            options["proxy_ssl_context"] = self._context
        manager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = POOL_CLASSES
        return manager

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {"ssl_context": self._context, "cert_reqs": "CERT_REQUIRED"}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Do nothing: the TLS context defines which issuers are trusted."""

    def use_proxy(self, proxy: Proxy) -> None:
        """Use this proxy's credentials from now on; drop connections that were made with others."""
        if self._current_proxy is not None and self._current_proxy.headers() != proxy.headers():
            self.proxy_manager.clear()
        self._current_proxy = proxy

    def proxy_headers(self, proxy: str) -> dict[str, str]:  # noqa: ARG002 - there is only one
        """Return the headers for the proxy."""
        return self._current_proxy.headers() if self._current_proxy else {}


class Session(requests.Session):
    """A session that uses the given CA file and proxy, or the environment's if none are given.

    `issuer` is the OpenID Connect issuer that discovery documents must name; None for Entra ID and AD FS.
    """

    def __init__(
        self,
        ca_file: str | None = None,
        proxy: str | None = None,
        proxy_credentials: Callable[[], Credentials | None] | None = None,
        *,
        issuer: str | None = None,
    ) -> None:
        super().__init__()
        # Otherwise requests would prefer REQUESTS_CA_BUNDLE to `verify`. HTTPS_PROXY is read below.
        self.trust_env = False
        self._context = tls.client_context(ca_file)
        self._proxy, self._proxy_credentials = proxy, proxy_credentials
        self._issuer = issuer
        self.signing_algorithms: tuple[str, ...] = ()
        """What the last discovery document lists; empty if it lists none."""
        self._this_thread = threading.local()
        self._throttled_until: dict[tuple[str, str], float] = {}
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        """Leave the parent's open connections to the parent."""
        # Retry once if the connection was not made at all. Waiting after 429 and 503 is up to the caller.
        # `other` is a TLS failure, possibly after the request was received: an assertion must not be sent twice.
        retry_once = Retry(
            total=1, connect=1, read=False, redirect=0, status=0, other=0, respect_retry_after_header=False
        )
        self._adapter = _Adapter(self._context, retry_once)
        for scheme in ("https://", "http://"):
            self.mount(scheme, self._adapter)
        self.cookies = RequestsCookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))  # none are needed

    @contextlib.contextmanager
    def within(self, deadline: Deadline) -> Iterator[None]:
        """Bound this thread's requests in the block by the deadline as well."""
        self._this_thread.deadline = deadline
        try:
            yield
        finally:
            self._this_thread.deadline = None

    def retry_after(self, url: str, scopes: Iterable[str]) -> float | None:
        """Return the seconds until the next request for these scopes is sent; None if it is sent immediately.

        After 429 and 5xx, MSAL returns the same response to its callers for that long without sending a request.
        """
        left = self._throttled_until.get((url, _scope_parameter(scopes)), 0.0) - time.monotonic()
        return left if left > 0 else None

    def request(self, method: str, url: str, **options: Any) -> requests.Response:  # type: ignore[override]
        """Send a request as `requests` does, within one deadline; https only, and up to three redirects, for GET only.

        Checks discovery documents. Raises the errors of `requests`, and `ConfigurationError` for anything unsafe.
        """
        url = discovery.document_url(url)
        with exchange(self._time_left()):
            response = self._send(method, url, options)
            if method.upper() == "GET":  # an assertion is meant for one server only
                response = self._follow(response, options)
        self._remember_throttling(url, options.get("data"), response)
        if discovery.DOCUMENT_PATH in url and response.status_code == requests.codes.ok:
            discovery.check_document(url, response.text, self._issuer)
            self.signing_algorithms = discovery.signing_algorithms(response.text)
        if (authority := (options.get("params") or {}).get("authorization_endpoint")) is not None:
            discovery.check_instance_discovery(str(authority), response.text)
        _require_usable(method, response)
        return response

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002 - as the inherited one
        """Hide redirects from `requests`: it would read their bodies without a limit. `request` follows them."""
        return

    def _send(self, method: str, url: str, options: dict[str, Any]) -> requests.Response:
        if method.upper() != "GET" or not is_link_local(url):  # the machine's metadata service, for its region
            _require_https(url, "The authority refers MSAL to")
        given = {"timeout": self._timeouts(), "proxies": self._proxies(url), **options}
        try:
            response = super().request(method, url, **{**given, "stream": True, "allow_redirects": False})
            _read_body(response)
        except requests.exceptions.RequestException as error:
            note_proxy(error, given["proxies"].get("https"))
            raise
        return response

    def _follow(self, response: requests.Response, options: dict[str, Any]) -> requests.Response:
        first = response.url
        options = {name: value for name, value in options.items() if name not in ("params", "headers")}
        for _ in range(MAX_REDIRECTS):
            if not response.is_redirect:
                return response
            target = urljoin(response.url, response.headers["Location"])
            _require_https(target, f"{response.url} redirects to")
            response = self._send("GET", target, options)
        if response.is_redirect:
            raise ConfigurationError(
                f"Too many redirects: {first} redirects more than {MAX_REDIRECTS} times.",
                hint="Set authority to the URL that the redirects lead to.",
            )
        return response

    def _time_left(self) -> float:
        """Return the number of seconds left for a request."""
        deadline: Deadline | None = getattr(self._this_thread, "deadline", None)
        if deadline is None:
            return REQUEST_TIMEOUT
        left = deadline.left()
        if left <= 0:
            raise requests.exceptions.Timeout
        return min(REQUEST_TIMEOUT, left)

    def _timeouts(self) -> tuple[float, float]:
        left = self._time_left()
        return min(CONNECT_TIMEOUT, left / 2), left  # half, because connecting is tried twice

    def _remember_throttling(self, url: str, data: Any, response: requests.Response) -> None:
        token_request = (url, str(data.get("scope", ""))) if isinstance(data, dict) else (url, "")
        if response.status_code != requests.codes.too_many_requests and response.status_code < _FIRST_SERVER_ERROR:
            self._throttled_until.pop(token_request, None)
            return
        now = time.monotonic()
        self._throttled_until = {each: end for each, end in list(self._throttled_until.items()) if end > now}
        header = response.headers.get("Retry-After", "")
        seconds = int(header) if header.isdecimal() else _DEFAULT_RETRY_AFTER
        self._throttled_until[token_request] = now + min(_MAX_RETRY_AFTER, seconds)

    def _proxies(self, url: str) -> dict[str, str]:
        # Asked twice, not kept in a local variable: the address may hold a password, and `proxy_from_url` may raise.
        given = self._proxy_credentials() if self._proxy_credentials and proxy_for(url, self._proxy) else None
        proxy = proxy_from_url(proxy_for(url, self._proxy), given)
        if proxy is None:
            return {}
        self._adapter.use_proxy(proxy)
        return {"https": proxy.address}


def _require_usable(method: str, response: requests.Response) -> None:
    """Raise `UnexpectedResponse` for a body that MSAL would fail on, or cache.

    MSAL gets what it distinguishes by status: responses to discovery, and those that make it wait. WS-Trust XML too.
    """
    if "xml" in response.headers.get("Content-Type", "").replace("xhtml", ""):
        return
    if response.status_code == requests.codes.ok:
        if flaw := describe_flaw(response.content):
            raise UnexpectedResponse(flaw if _is_json(response) else f"{flaw} ({_description(response)})")
    elif method.upper() == "POST" and not _is_for_msal(response):
        raise UnexpectedResponse(_description(response))


def _is_for_msal(response: requests.Response) -> bool:
    """Return whether MSAL can use a response to a token request: JSON, or a reason to wait."""
    is_throttled = response.status_code == requests.codes.too_many_requests or "Retry-After" in response.headers
    return is_throttled or response.status_code not in _CLIENT_ERRORS or _is_json(response)


def _is_json(response: requests.Response) -> bool:
    try:
        json.loads(response.content)
    except (ValueError, RecursionError):
        return False
    return True


def _description(response: requests.Response) -> str:
    return describe_response(response.status_code, response.reason or "", response.content)


def _require_https(url: str, referrer: str) -> None:
    if url.lower().startswith("https://"):
        return
    raise ConfigurationError(
        f"{referrer} {ascii(url)[:200]}, which is not https.",
        hint="Set authority to an https URL, and correct the server's redirects.",
    )


def _read_body(response: requests.Response) -> None:
    try:
        response.raw = io.BytesIO(read_body(response.raw))  # `requests` reads it from there
    except (ReadTimeoutError, TimeoutError) as error:
        response.close()
        raise requests.exceptions.ReadTimeout(error) from error
    except (HTTPError, OSError) as error:
        response.close()
        raise requests.exceptions.ConnectionError(error) from error


def _scope_parameter(scopes: Iterable[str]) -> str:
    """Return the scopes in the form in which MSAL sends them."""
    return " ".join(sorted(scopes))
