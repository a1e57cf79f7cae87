"""A response, in the form that azure-core expects from a transport."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Self

from azure.core.exceptions import HttpResponseError
from azure.core.rest import HttpResponse

_FIRST_ERROR_STATUS = 400


class BufferedResponse(HttpResponse):
    """A response whose body was read completely; `headers` must have case-insensitive names."""

    def __init__(self, request: Any, status: int, reason: str, headers: Mapping[str, str], body: bytes) -> None:
        self._request, self._status, self._reason = request, status, reason
        self._headers, self._body = headers, body
        self._encoding: str | None = None

    request = property(lambda self: self._request)
    status_code = property(lambda self: self._status)
    headers = property(lambda self: self._headers)
    reason = property(lambda self: self._reason)
    content_type = property(lambda self: self._headers.get("Content-Type"))
    url = property(lambda self: self._request.url)
    content = property(lambda self: self._body)

    @property
    def is_closed(self) -> bool:
        """Always true: the body was read."""
        return True

    is_stream_consumed = is_closed

    @property
    def encoding(self) -> str | None:
        """The encoding that was set, or None for UTF-8."""
        return self._encoding

    @encoding.setter
    def encoding(self, value: str | None) -> None:
        self._encoding = value

    def text(self, encoding: str | None = None) -> str:
        """Return the body as text; undecodable bytes are replaced."""
        return self._body.decode(encoding or self._encoding or "utf-8-sig", errors="replace")

    def json(self) -> Any:
        """Return the decoded JSON of the body. Raises ValueError."""
        return json.loads(self._body)

    def raise_for_status(self) -> None:
        """Raise azure-core's error if the status is 400 or higher."""
        if self._status >= _FIRST_ERROR_STATUS:
            raise HttpResponseError(response=self)

    def read(self) -> bytes:
        """Return the body."""
        return self._body

    body = read  # the name that older clients use

    def iter_raw(self, **_: Any) -> Iterator[bytes]:
        """Yield the body in one piece."""
        yield self._body

    iter_bytes = iter_raw

    def close(self) -> None:
        """Do nothing: the connection was returned to its pool."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass
