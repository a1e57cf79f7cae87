"""azure-core's way to the service, through `keyvouch.https`: for the SDK's clients and azure-identity's credentials."""

from __future__ import annotations

import re
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode, urlsplit

from azure.core.exceptions import ServiceRequestError, ServiceResponseError
from azure.core.pipeline import PipelineRequest, PipelineResponse
from azure.core.pipeline.policies import HTTPPolicy
from azure.core.pipeline.transport import HttpTransport
from azure.core.rest import HttpRequest

from keyvouch.errors import ConfigurationError, KeyvouchError, StoreUnavailable, Throttled
from keyvouch.https import Limits, Pools, retry_after
from keyvouch_azure_keyvault.answer import Answer

if TYPE_CHECKING:
    from keyvouch.secrets import Secret
    from keyvouch.uri import KeyUri

_NAP = 1.0
"""Seconds between two questions whether the service has done what it was asked for."""
_TOO_MANY, _FAILING = 429, 500


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


class PassesOn(HTTPPolicy[Any, Any]):
    """In place of a policy of azure-core's that has nothing to do: those two cost a tenth of the SDK's own time."""

    def send(self, request: PipelineRequest[Any]) -> PipelineResponse[Any, Any]:
        """Pass the request on."""
        return self.next.send(request)


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
