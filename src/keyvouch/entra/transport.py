"""The HTTP session through which MSAL asks an authority: TLS verified, time-outs set, no redirect followed."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.cookies import RequestsCookieJar
from urllib3 import HTTPResponse
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from keyvouch import forks
from keyvouch.connections import Deadline
from keyvouch.errors import ConfigurationError
from keyvouch.https import CONNECT_TIMEOUT, LARGEST_ANSWER, proxy_for
from keyvouch.tokens import describe_flaw

READ_TIMEOUT = 30.0
"""Seconds, after the connection. An authority that does not answer within them is unavailable."""
_LEAVE_ALONE, _LONGEST = 5, 3600
"""Seconds for which MSAL does not ask again after 429 and 5xx, where the answer does not say; and at most."""
_SERVER_ERRORS = 500


class UnusableAnswer(requests.exceptions.InvalidJSONError, ValueError):
    """A successful answer that MSAL cannot work with; its text says what is wrong.

    For MSAL it is a failure of the network, after which a token in the cache may still serve.
    """


class Session(requests.Session):
    """A session that trusts what it is told to trust, and not the environment where that says otherwise."""

    def __init__(self, ca_file: str | None = None, proxy: str | None = None) -> None:
        super().__init__()
        # In the environment REQUESTS_CA_BUNDLE would beat `verify`; with it goes HTTPS_PROXY, read below.
        self.trust_env = False
        bundle = ca_file or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        if bundle and not Path(bundle).exists():
            raise ConfigurationError(
                f"The certificates to trust for TLS, {bundle}, are not there.",
                hint="Correct ca-file, or REQUESTS_CA_BUNDLE in the environment.",
            )
        self.verify = bundle or True
        self._proxy = proxy
        self._limits = threading.local()
        self._busy_until: dict[tuple[str, str], float] = {}
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        """Leave the parent's open connections to the parent."""
        # One more try where the connection was not made at all. Who waits after 429 and 503 is the caller's affair.
        # `other` is TLS that fails, maybe behind a request that was heard: an assertion is not sent twice.
        once_more = Retry(
            total=1, connect=1, read=False, redirect=0, status=0, other=0, respect_retry_after_header=False
        )
        self.mount("https://", HTTPAdapter(max_retries=once_more))
        self.cookies = RequestsCookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))  # none are needed

    @contextlib.contextmanager
    def within(self, deadline: Deadline) -> Iterator[None]:
        """Let this thread's requests in the block end by the deadline too."""
        self._limits.deadline = deadline
        try:
            yield
        finally:
            self._limits.deadline = None

    def retry_after(self, url: str, scopes: Iterable[str]) -> float | None:
        """Return the seconds until a request for these scopes is sent again; None where it is sent at once.

        After 429 and 5xx MSAL gives its callers the same answer for that long, and asks nobody.
        """
        left = self._busy_until.get((url, _joined(scopes)), 0.0) - time.monotonic()
        return left if left > 0 else None

    def request(self, method: str, url: str, **options: Any) -> requests.Response:  # type: ignore[override]
        """As `requests` does, with our time-outs, proxies and without redirects."""
        options.setdefault("timeout", self._timeouts())
        options.setdefault("proxies", self._proxies(url))
        if method.upper() != "GET":
            options["allow_redirects"] = False  # an assertion is for one server
        options["stream"] = True
        response = super().request(method, url, **options)
        self._read(response)
        self._note(url, options.get("data"), response)
        _require_sound(response)
        return response

    def _read(self, response: requests.Response) -> None:
        """Read the body within bounds: a server that sends an octet now and then never runs into a read time-out."""
        end = time.monotonic() + READ_TIMEOUT
        deadline: Deadline | None = getattr(self._limits, "deadline", None)
        body = b""
        for part in _parts(response):
            body += part
            if len(body) > LARGEST_ANSWER or time.monotonic() > end or (deadline and deadline.left() <= 0):
                response.close()
                raise requests.exceptions.ReadTimeout
        response._content = body  # noqa: SLF001 - as `requests` keeps what it has read itself

    def _timeouts(self) -> tuple[float, float]:
        deadline: Deadline | None = getattr(self._limits, "deadline", None)
        if deadline is None:
            return CONNECT_TIMEOUT, READ_TIMEOUT
        left = deadline.left()
        if left <= 0:
            raise requests.exceptions.Timeout
        return min(CONNECT_TIMEOUT, left / 2), min(READ_TIMEOUT, left)  # a half: connecting is tried twice

    def _note(self, url: str, data: Any, response: requests.Response) -> None:
        place = (url, str(data.get("scope", ""))) if isinstance(data, dict) else (url, "")
        if response.status_code != requests.codes.too_many_requests and response.status_code < _SERVER_ERRORS:
            self._busy_until.pop(place, None)
            return
        now = time.monotonic()
        self._busy_until = {place: end for place, end in list(self._busy_until.items()) if end > now}
        told = response.headers.get("Retry-After", "")
        self._busy_until[place] = now + min(_LONGEST, int(told) if told.isdecimal() else _LEAVE_ALONE)

    def _proxies(self, url: str) -> dict[str, str]:
        proxy = proxy_for(url, self._proxy)
        return {"https": proxy} if proxy else {}


def _require_sound(response: requests.Response) -> None:
    """Raise `UnusableAnswer` for what MSAL would fail at, or cache and return. WS-Trust's XML is MSAL's to judge."""
    if response.status_code != requests.codes.ok or "xml" in response.headers.get("Content-Type", ""):
        return
    if flaw := describe_flaw(response.content):
        raise UnusableAnswer(flaw)


def _parts(response: requests.Response) -> Iterator[bytes]:
    """Give the body as it comes: a read of many octets would wait for all of them, however slowly they come."""
    if not hasattr(response.raw, "read1") or not isinstance(response.raw, HTTPResponse):
        yield from response.iter_content(65536)
        return
    try:
        while part := response.raw.read1(65536, decode_content=True):
            yield part
    except (HTTPError, OSError) as error:
        raise requests.exceptions.ConnectionError(error) from error


def _joined(scopes: Iterable[str]) -> str:
    """Return scopes as MSAL sends them."""
    return " ".join(sorted(scopes))
