"""azure-core transports that use `keyvouch.https`, for the SDK's clients and azure-identity's credentials."""

from __future__ import annotations

import os
import re
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode, urlsplit

from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError, ServiceResponseError
from azure.core.pipeline import PipelineRequest, PipelineResponse
from azure.core.pipeline.policies import HTTPPolicy
from azure.core.pipeline.transport import HttpTransport
from azure.core.rest import HttpRequest

from keyvouch.errors import ConfigurationError, KeyvouchError, StoreUnavailable, Throttled
from keyvouch.hosts import authority_of, endpoint_of
from keyvouch.https import Limits, Pools, describe_response, retry_after
from keyvouch.tokens import describe_flaw
from keyvouch_azure_keyvault.http_response import BufferedResponse

if TYPE_CHECKING:
    from keyvouch.secrets import Secret
    from keyvouch.uri import KeyUri

_POLL_INTERVAL = 1.0
"""Maximum seconds between two polls of an operation in progress."""
_DEFAULT_AUTHORITY = "https://login.microsoftonline.com"
"""Where azure-identity signs in if AZURE_AUTHORITY_HOST is not set."""
_OK, _TOO_MANY_REQUESTS, _FIRST_SERVER_ERROR = 200, 429, 500


class RequestNotSent(ServiceRequestError):
    """The request was not sent; `keyvouch_error` says why."""

    def __init__(self, keyvouch_error: KeyvouchError) -> None:
        super().__init__(keyvouch_error.message)
        self.keyvouch_error = keyvouch_error


class NoResponse(ServiceResponseError):
    """The request may have been sent, but there is no response to use; `keyvouch_error` says why."""

    def __init__(self, keyvouch_error: KeyvouchError) -> None:
        super().__init__(keyvouch_error.message)
        self.keyvouch_error = keyvouch_error


class UnusableToken(ClientAuthenticationError):
    """The response contains no usable token, and azure-core must not retry; `keyvouch_error` says why."""

    def __init__(self, keyvouch_error: KeyvouchError) -> None:
        super().__init__(keyvouch_error.message)
        self.keyvouch_error = keyvouch_error


class _Transport(HttpTransport[Any, Any]):
    """What azure-core requires of a transport besides sending."""

    def open(self) -> None:
        """Do nothing: connections are opened when they are needed."""

    def close(self) -> None:
        """Do nothing: closing one client must not close the others' connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        pass


class PoolTransport(_Transport):
    """A transport that sends azure-core's requests through the connection pools of `keyvouch.https`."""

    def __init__(self, uri: KeyUri, limits: Limits, proxy_credentials: Secret | None = None) -> None:
        self._pools = Pools(
            limits, ca_file=uri.get("ca-file"), proxy=uri.get("proxy"), proxy_credentials=proxy_credentials
        )

    def send(self, request: Any, **_: Any) -> BufferedResponse:
        """Send a request and read its response. Raises `RequestNotSent`, `NoResponse`."""
        try:
            reply = self._pools.request(request.method, request.url, _request_body(request), dict(request.headers))
        except KeyvouchError as error:
            raise (RequestNotSent if isinstance(error, ConfigurationError) else NoResponse)(error) from error
        return BufferedResponse(request, *reply)

    def sleep(self, duration: float) -> None:
        """Pause between two polls, but no longer than the time left."""
        time.sleep(max(0.0, min(duration, _POLL_INTERVAL, self._pools.limits.left())))

    def close_connections(self) -> None:
        """Close all connections."""
        self._pools.close()


class VaultTransport(_Transport):
    """A transport for one vault only: its responses name the next page of a listing, which may be on any host."""

    def __init__(self, transport: PoolTransport, vault: str) -> None:
        self._transport, self._vault, self._endpoint = transport, vault, endpoint_of(vault)

    def send(self, request: Any, **options: Any) -> BufferedResponse:
        """Send a request to the vault.

        Raises `RequestNotSent`, and `NoResponse`, also for another host and for a success that is not a JSON object.
        """
        # The prefix first, because parsing each URL takes longer; Key Vault itself adds the port to the URLs of pages.
        if not (request.url.startswith(f"{self._vault}/") or endpoint_of(request.url) == self._endpoint):
            raise NoResponse(
                StoreUnavailable(
                    f"{self._vault} refers to another host, to which no request and no token is sent.",
                    hint="Check that vault= is the vault's URL, and what a gateway in front of it does.",
                )
            )
        response = self._transport.send(request, **options)
        if response.status_code == _OK and not response.body().lstrip().startswith(b"{"):
            shown = describe_response(_OK, response.reason, response.body())
            raise NoResponse(
                StoreUnavailable(
                    f"Unexpected response from {self._vault}: {shown}.",
                    hint="Check that vault= leads to Key Vault, and which proxy or gateway responds instead.",
                )
            )
        return response

    def sleep(self, duration: float) -> None:
        """Pause, but no longer than the time left."""
        self._transport.sleep(duration)


class NoOpPolicy(HTTPPolicy[Any, Any]):
    """Replaces an azure-core policy that is not used: the two together took a tenth of the SDK's own time."""

    def send(self, request: PipelineRequest[Any]) -> PipelineResponse[Any, Any]:
        """Pass the request to the next policy."""
        return self.next.send(request)


class TokenTransport(_Transport):
    """A transport that also checks tokens, because azure-identity and MSAL cache whatever they receive."""

    def __init__(self, transport: PoolTransport) -> None:
        self._transport = transport

    def send(self, request: Any, **options: Any) -> BufferedResponse:
        """Send a request. Raises `RequestNotSent`, `NoResponse`, `UnusableToken`."""
        response = self._transport.send(request, **options)
        if response.status_code == _OK and (flaw := describe_flaw(response.body())):
            raise UnusableToken(
                StoreUnavailable(
                    f"Unexpected response from {_origin(request)}: {flaw}.",
                    hint="Check whether the authority responds there, or a proxy or gateway.",
                )
            )
        return response

    def sleep(self, duration: float) -> None:
        """Pause, but no longer than the time left."""
        self._transport.sleep(duration)


class AuthorityTransport(TokenTransport):
    """A transport for logins, whose libraries do not distinguish an authority that fails from one that refuses."""

    def send(self, request: Any, **options: Any) -> BufferedResponse:
        """Send a request. Raises what the base class raises, and `NoResponse` for transient failures: 429 and 5xx.

        A client secret or an assertion is sent only to the authority's host, whatever a discovery document says.
        """
        if b"grant_type=" in (_request_body(request) or b""):
            _require_authority_host(request.url)
        response = super().send(request, **options)
        if response.status_code == _TOO_MANY_REQUESTS:
            raise NoResponse(
                Throttled(
                    f"Too many requests to {_origin(request)}.",
                    hint="Try again later.",
                    retry_after=retry_delay(response.headers),
                )
            )
        if response.status_code >= _FIRST_SERVER_ERROR:
            raise NoResponse(
                StoreUnavailable(
                    f"The authority {_origin(request)} failed: HTTP status {response.status_code}.",
                    hint="Try again later.",
                )
            )
        return response


def _require_authority_host(url: str) -> None:
    authority = os.environ.get("AZURE_AUTHORITY_HOST") or _DEFAULT_AUTHORITY
    authority = authority if "://" in authority else f"https://{authority}"
    if authority_of(url) is None or authority_of(url) != authority_of(authority):
        raise NoResponse(
            StoreUnavailable(
                f"The authority {authority} names a token endpoint on another host, to which no credentials are sent.",
                hint="Check AZURE_AUTHORITY_HOST, and that no proxy or gateway changes the authority's responses.",
            )
        )


def _origin(request: Any) -> str:
    return f"https://{urlsplit(request.url).netloc}"


def retry_delay(headers: Any) -> float | None:
    """Return how many seconds a response asks to wait, in any of the service's headers, or None."""
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        milliseconds = headers.get(name)
        if milliseconds and re.fullmatch(r"\d{1,9}", milliseconds.strip()):
            return int(milliseconds) / 1000
    return retry_after(headers)


def _request_body(request: Any) -> bytes | None:
    content = request.content if isinstance(request, HttpRequest) else request.body
    if isinstance(content, dict):
        content = urlencode(content)
    return content.encode() if isinstance(content, str) else content
