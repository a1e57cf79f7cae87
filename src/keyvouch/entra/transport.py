"""The HTTP session through which MSAL asks an authority: TLS verified, time-outs set, no redirect followed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies

from keyvouch import forks
from keyvouch.errors import ConfigurationError

CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 30.0
"""Seconds. An authority that does not answer within them is unavailable."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


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
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        """Leave the parent's open connections to the parent."""
        # One more try where the connection was not made at all, as MSAL's own session has it.
        self.mount("https://", HTTPAdapter(max_retries=1))

    def request(self, method: str, url: str, **options: Any) -> requests.Response:  # type: ignore[override]
        """As `requests` does, with our time-outs, proxies and without redirects."""
        options.setdefault("timeout", (CONNECT_TIMEOUT, READ_TIMEOUT))
        options.setdefault("proxies", self._proxies(url))
        if method.upper() != "GET":
            options["allow_redirects"] = False  # an assertion is for one server
        return super().request(method, url, **options)

    def _proxies(self, url: str) -> dict[str, str]:
        if urlsplit(url).hostname in _LOOPBACK:
            return {}
        if self._proxy:
            return {"https": self._proxy}
        return dict(get_environ_proxies(url))
