"""Parsing of requests as in the service, its responses, and routing."""

import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from keyvouch.testing.authority.jose import from_base64url, read_object, to_base64url
from keyvouch.testing.authority.server import Request, Response
from keyvouch_azure_keyvault.testing.objects import ObjectVersion
from keyvouch_azure_keyvault.testing.refusals import Refusal, bad, invalid, required

API_VERSIONS = (
    "2016-10-01",
    *(f"7.{minor}" for minor in range(7)),
    "2025-07-01",
    "2026-04-01",
)
"""The versions supported by the service, oldest first."""
PAGE = 25
"""Maximum page size, and the default."""
NAME = re.compile(r"[0-9a-zA-Z-]{1,127}")


@dataclass(frozen=True)
class Call:
    """A request for one operation."""

    base: str
    """The URL by which the client knows the vault; identifiers begin with it."""
    path: str
    name: str
    version: str
    """Empty if not specified."""
    query: Mapping[str, str]
    body: Mapping[str, Any]

    def required(self, member: str) -> Any:
        """Return a member of the body. Raises `Refusal` if it is missing."""
        if self.body.get(member) is None:
            raise required(member)
        return self.body[member]

    def decode_base64url(self, member: str) -> bytes:
        """Decode a base64url member of the body. Raises `Refusal`."""
        try:
            return from_base64url(self.required(member))
        except (ValueError, TypeError):
            raise bad(f"Content of '{member}' is not base64url.\r\nProperty '{member}' is required.\r\n") from None

    def apply(self, version: ObjectVersion) -> None:
        """Set the attributes and tags in the body on a version. Raises `Refusal`."""
        given = self.body.get("attributes") or {}
        for member, attribute, kind in (
            ("enabled", "enabled", bool),
            ("nbf", "not_before", int),
            ("exp", "expires", int),
        ):
            if given.get(member) is not None:
                if not isinstance(given[member], kind):
                    raise invalid(f"attributes.{member}")
                setattr(version, attribute, given[member])
        if version.not_before is not None and version.expires is not None and version.not_before >= version.expires:
            raise invalid("attributes.exp", "It must be later than nbf.")
        if self.body.get("tags") is not None:
            version.tags = dict(self.body["tags"])


@dataclass(frozen=True)
class JsonResponse:
    """A JSON response; None means no body."""

    status: int
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> Response:
        """Return the HTTP response."""
        common = {"Cache-Control": "no-cache", "x-ms-request-id": str(uuid.uuid4())}
        if self.body is None:
            return Response(self.status, headers=common | dict(self.headers))
        common["Content-Type"] = "application/json; charset=utf-8"
        return Response(self.status, json.dumps(self.body).encode(), common | dict(self.headers))


class Route:
    """An operation: method, path, the permission that it requires, and its handler.

    The path has the form `keys/{name}/{version}/sign`; a version at the end is optional.
    """

    def __init__(self, method: str, path: str, permission: str, handler: Callable[[Call], JsonResponse]) -> None:
        self.method, self.permission, self.handler = method, permission, handler
        optional_end = path.endswith("/{version}")
        pattern = path.removesuffix("/{version}").replace("{name}", "(?P<name>[^/]+)")
        pattern = pattern.replace("{version}", "(?P<version>[^/]*)")
        self._pattern = re.compile(f"/+{pattern}(/(?P<version>[^/]*))?/?" if optional_end else f"/+{pattern}/?")

    def match(self, path: str) -> re.Match[str] | None:
        """Match a request's path against this route."""
        return self._pattern.fullmatch(path)


def find_route(routes: list[Route], request: Request) -> tuple[Route, re.Match[str]]:
    """Return the first route that matches a request. Raises `Refusal`."""
    path = unquote(request.path)
    fitting = [(route, found) for route in routes if (found := route.match(path))]
    if not fitting:
        raise Refusal(404)
    for route, found in fitting:
        if route.method == request.method:
            return route, found
    allowed = ", ".join(sorted({route.method for route, _ in fitting}))
    raise Refusal(405, "MethodNotAllowed", f"{request.method} is not allowed here.", headers={"Allow": allowed})


def read_call(request: Request, found: re.Match[str], api_versions: Sequence[str] = API_VERSIONS) -> Call:
    """Parse a request as strictly as the service; `api_versions`: oldest first. Raises `Refusal`."""
    query = dict(parse_qsl(request.query, keep_blank_values=True))
    api_version = query.get("api-version")
    if api_version is None:
        raise bad("The request must specify an api-version.")
    if api_version not in api_versions:
        latest = f"Consider using the latest supported version ({api_versions[-1]})."
        raise bad(f"The specified version ({api_version}) is not recognized. {latest}")
    parts = found.groupdict()
    name = parts.get("name") or ""
    if name and not NAME.fullmatch(name):
        raise bad(f"The request URI contains an invalid name: {name}")
    base = f"https://{request.headers.get('Host', '')}"
    return Call(base, found[0].strip("/"), name, parts.get("version") or "", query, _read_body(request))


def _read_body(request: Request) -> Mapping[str, Any]:
    if not request.body:
        return {}
    if request.headers.get_content_type() != "application/json":
        # RFC 9110, section 15.5.16; the service's own message is not known.
        raise Refusal(415, "BadParameter", "The request body is not JSON by its Content-Type.")
    try:
        return read_object(request.body)
    except ValueError:
        raise bad("The request body is not a JSON object.") from None


def paginate(call: Call, items: list[dict[str, Any]]) -> JsonResponse:
    """Return a page of a listing, with the URL of the next one. Raises `Refusal`."""
    size = call.query.get("maxresults", str(PAGE))
    if not size.isdecimal() or not 1 <= int(size) <= PAGE:
        raise invalid("maxresults")
    begin, end = _read_token(call.query.get("$skiptoken")), int(size)
    end += begin
    link = None
    if end < len(items):
        token = to_base64url(str(end).encode())
        link = f"{call.base}/{call.path}?api-version={call.query['api-version']}&$skiptoken={token}&maxresults={size}"
    return JsonResponse(200, {"value": items[begin:end], "nextLink": link})


def _read_token(token: str | None) -> int:
    try:
        return int(from_base64url(token)) if token is not None else 0
    except ValueError:
        raise invalid("$skiptoken") from None
