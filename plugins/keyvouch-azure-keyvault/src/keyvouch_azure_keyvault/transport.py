"""azure-core's way to the service, through `keyvouch.https`: for the SDK's clients and azure-identity's credentials."""

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
from keyvouch.hosts import authority_of, place_of
from keyvouch.https import Limits, Pools, retry_after
from keyvouch.tokens import describe_flaw
from keyvouch_azure_keyvault.answer import Answer

if TYPE_CHECKING:
    from keyvouch.secrets import Secret
    from keyvouch.uri import KeyUri

_NAP = 1.0
"""Seconds between two questions whether the service has done what it was asked for."""
_AUTHORITY = "https://login.microsoftonline.com"
"""Where azure-identity signs in if AZURE_AUTHORITY_HOST is not set."""
_OK, _TOO_MANY, _FAILING = 200, 429, 500


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


class NotUsable(ClientAuthenticationError):
    """A log-in answered, but with no token; azure-core does not try again. `told` is the error of keyvouch's."""

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
    """Sends azure-core's requests through urllib3."""

    def __init__(self, uri: KeyUri, limits: Limits, proxy_credentials: Secret | None = None) -> None:
        self._pools = Pools(
            limits, ca_file=uri.get("ca-file"), proxy=uri.get("proxy"), proxy_credentials=proxy_credentials
        )

    def send(self, request: Any, **_: Any) -> Answer:
        """Send a request and read its answer. Raises `NotSent`, `NotAnswered`."""
        try:
            reply = self._pools.request(request.method, request.url, _body(request), dict(request.headers))
        except KeyvouchError as told:
            raise (NotSent if isinstance(told, ConfigurationError) else NotAnswered)(told) from told
        return Answer(request, *reply)

    def sleep(self, duration: float) -> None:
        """Wait between two questions, no longer than there is time."""
        time.sleep(max(0.0, min(duration, _NAP, self._pools.limits.left())))

    def end(self) -> None:
        """End all connections."""
        self._pools.close()


class VaultTransport(_Base):
    """The same for one vault: its answers name the next page of a listing, and may name any host."""

    def __init__(self, transport: PoolTransport, vault: str) -> None:
        self._transport, self._vault, self._place = transport, vault, place_of(vault)

    def send(self, request: Any, **options: Any) -> Answer:
        """Send a request to the vault. Raises `NotSent`, `NotAnswered`, also before a token would go elsewhere."""
        # A prefix, as parsing each URL takes longer; Key Vault itself adds the port to the URLs of pages.
        if not (request.url.startswith(f"{self._vault}/") or place_of(request.url) == self._place):
            raise NotAnswered(
                StoreUnavailable(
                    f"{self._vault} refers to another host, which gets neither a request nor a token.",
                    hint="Check that vault= is the vault's address, and what a gateway in front of it does.",
                )
            )
        return self._transport.send(request, **options)

    def sleep(self, duration: float) -> None:
        """Wait, no longer than there is time."""
        self._transport.sleep(duration)


class PassesOn(HTTPPolicy[Any, Any]):
    """In place of a policy of azure-core's that has nothing to do: those two cost a tenth of the SDK's own time."""

    def send(self, request: PipelineRequest[Any]) -> PipelineResponse[Any, Any]:
        """Pass the request on."""
        return self.next.send(request)


class TokenTransport(_Base):
    """The same for tokens, of which azure-identity and MSAL cache whatever they are given."""

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
        """Wait, no longer than there is time."""
        self._transport.sleep(duration)


class LogInTransport(TokenTransport):
    """The same for a log-in, whose libraries do not distinguish an authority that fails from one that refuses."""

    def send(self, request: Any, **options: Any) -> Answer:
        """Send a request. As the other; raises `NotAnswered` also for what may pass: 429 and 5xx.

        A client secret or an assertion goes only to the authority's host, whatever a discovery document says.
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
    """Return for how long an answer asks to wait, in any of the service's forms."""
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
