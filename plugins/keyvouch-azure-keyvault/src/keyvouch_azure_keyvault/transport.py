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
from keyvouch.https import Limits, Pools, retry_after
from keyvouch.tokens import describe_flaw
from keyvouch_azure_keyvault.answer import Answer

if TYPE_CHECKING:
    from keyvouch.secrets import Secret
    from keyvouch.uri import KeyUri

_NAP = 1.0
"""Seconds between two polls of an operation in progress."""
_AUTHORITY = "https://login.microsoftonline.com"
"""Where azure-identity signs in if AZURE_AUTHORITY_HOST is not set."""
_OK, _TOO_MANY, _FAILING = 200, 429, 500


class NotSent(ServiceRequestError):
    """The request was not sent; `told` is keyvouch's error."""

    def __init__(self, told: KeyvouchError) -> None:
        super().__init__(told.message)
        self.told = told


class NotAnswered(ServiceResponseError):
    """The request was sent, but got no response; `told` is keyvouch's error."""

    def __init__(self, told: KeyvouchError) -> None:
        super().__init__(told.message)
        self.told = told


class NotUsable(ClientAuthenticationError):
    """The log-in's response has no usable token, and azure-core does not retry; `told` is keyvouch's error."""

    def __init__(self, told: KeyvouchError) -> None:
        super().__init__(told.message)
        self.told = told


class _Base(HttpTransport[Any, Any]):
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


class PoolTransport(_Base):
    """A transport that sends azure-core's requests through urllib3."""

    def __init__(self, uri: KeyUri, limits: Limits, proxy_credentials: Secret | None = None) -> None:
        self._pools = Pools(
            limits, ca_file=uri.get("ca-file"), proxy=uri.get("proxy"), proxy_credentials=proxy_credentials
        )

    def send(self, request: Any, **_: Any) -> Answer:
        """Send a request and read its response. Raises `NotSent`, `NotAnswered`."""
        try:
            reply = self._pools.request(request.method, request.url, _body(request), dict(request.headers))
        except KeyvouchError as told:
            raise (NotSent if isinstance(told, ConfigurationError) else NotAnswered)(told) from told
        return Answer(request, *reply)

    def sleep(self, duration: float) -> None:
        """Pause between two polls, but no longer than the time left."""
        time.sleep(max(0.0, min(duration, _NAP, self._pools.limits.left())))

    def end(self) -> None:
        """Close all connections."""
        self._pools.close()


class VaultTransport(_Base):
    """A transport for one vault only: its responses name the next page of a listing, which may be on any host."""

    def __init__(self, transport: PoolTransport, vault: str) -> None:
        self._transport, self._vault, self._endpoint = transport, vault, endpoint_of(vault)

    def send(self, request: Any, **options: Any) -> Answer:
        """Send a request to the vault. Raises `NotSent`, `NotAnswered`, also instead of sending a token elsewhere."""
        # The prefix first, because parsing each URL takes longer; Key Vault itself adds the port to the URLs of pages.
        if not (request.url.startswith(f"{self._vault}/") or endpoint_of(request.url) == self._endpoint):
            raise NotAnswered(
                StoreUnavailable(
                    f"{self._vault} refers to another host, which gets neither a request nor a token.",
                    hint="Check that vault= is the vault's address, and what a gateway in front of it does.",
                )
            )
        return self._transport.send(request, **options)

    def sleep(self, duration: float) -> None:
        """Pause, but no longer than the time left."""
        self._transport.sleep(duration)


class PassesOn(HTTPPolicy[Any, Any]):
    """A placeholder for an azure-core policy that is not used: the two together took a tenth of the SDK's own time."""

    def send(self, request: PipelineRequest[Any]) -> PipelineResponse[Any, Any]:
        """Pass the request on."""
        return self.next.send(request)


class TokenTransport(_Base):
    """A transport that also checks tokens, because azure-identity and MSAL cache whatever they receive."""

    def __init__(self, transport: PoolTransport) -> None:
        self._transport = transport

    def send(self, request: Any, **options: Any) -> Answer:
        """Send a request. Raises `NotSent`, `NotAnswered`, `NotUsable`."""
        answer = self._transport.send(request, **options)
        if answer.status_code == _OK and (flaw := describe_flaw(answer.body())):
            raise NotUsable(
                StoreUnavailable(
                    f"{_host(request)} gave no usable answer: {flaw}.",
                    hint="Check what answers there: the authority, or a proxy or gateway.",
                )
            )
        return answer

    def sleep(self, duration: float) -> None:
        """Pause, but no longer than the time left."""
        self._transport.sleep(duration)


class LogInTransport(TokenTransport):
    """A transport for log-ins, whose libraries do not distinguish an authority that fails from one that refuses."""

    def send(self, request: Any, **options: Any) -> Answer:
        """Send a request. Raises what the base class raises, and `NotAnswered` for transient failures: 429 and 5xx.

        A client secret or an assertion is sent only to the authority's host, whatever a discovery document says.
        """
        if b"grant_type=" in (_body(request) or b""):
            _require_authority(request.url)
        answer = super().send(request, **options)
        host = _host(request)
        if answer.status_code == _TOO_MANY:
            seconds = seconds_to_wait(answer.headers)
            raise NotAnswered(Throttled(f"{host} asks to wait.", hint="Try again later.", retry_after=seconds))
        if answer.status_code >= _FAILING:
            raise NotAnswered(
                StoreUnavailable(f"The authority {host} fails: {answer.status_code}.", hint="Try again later.")
            )
        return answer


def _require_authority(url: str) -> None:
    authority = os.environ.get("AZURE_AUTHORITY_HOST") or _AUTHORITY
    authority = authority if "://" in authority else f"https://{authority}"
    if authority_of(url) is None or authority_of(url) != authority_of(authority):
        raise NotAnswered(
            StoreUnavailable(
                f"The authority {authority} names a token endpoint on another host, which gets no credentials.",
                hint="Check AZURE_AUTHORITY_HOST, and that nothing on the way changes the authority's answers.",
            )
        )


def _host(request: Any) -> str:
    return f"https://{urlsplit(request.url).netloc}"


def seconds_to_wait(headers: Any) -> float | None:
    """Return how many seconds a response asks to wait, in any of the service's headers, or None."""
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        told = headers.get(name)
        if told and re.fullmatch(r"\d{1,9}", told.strip()):
            return int(told) / 1000
    return retry_after(headers)


def _body(request: Any) -> bytes | None:
    content = request.content if isinstance(request, HttpRequest) else request.body
    if content is None:
        content = getattr(request, "_data", None)
    if isinstance(content, dict):
        content = urlencode(content)
    return content.encode() if isinstance(content, str) else content
