"""A tenant's endpoints: discovery, keys, tokens."""

import json
import logging
import re
import time
import uuid
from dataclasses import dataclass
from email.message import Message
from urllib.parse import parse_qsl, unquote

from keyvouch.testing.authority.aadsts import AadstsError, response_body
from keyvouch.testing.authority.assertions import Assertion, AssertionValidator, parse
from keyvouch.testing.authority.directory import App, Directory, as_guid
from keyvouch.testing.authority.server import Request, Response
from keyvouch.testing.authority.tokens import Issuer

logger = logging.getLogger("keyvouch.testing.authority")

JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SECRETS = {"client_assertion", "client_secret"}
PARAMETERS_LIMIT = 100

DISCOVERY = "v2.0/.well-known/openid-configuration"
KEYS = "discovery/v2.0/keys"
TOKEN = "oauth2/v2.0/token"  # noqa: S105 - a path


@dataclass(frozen=True)
class Exchange:
    """A token request and the response to it."""

    tenant: str
    """The tenant as named in the request's path."""
    client_id: str | None
    header: dict[str, object] | None
    """The assertion's header; None if it is missing or cannot be parsed. The same applies to `claims`."""
    claims: dict[str, object] | None
    form: dict[str, str]
    """The parameters; the values of secrets and assertions are omitted."""
    status: int
    """The HTTP status of the response."""
    code: int | None
    """The AADSTS code of an error; None also for a scripted response."""


class Endpoints:
    """Responds to requests for a directory's tenants at the address `url`."""

    def __init__(self, url: str, directory: Directory, validator: AssertionValidator, issuer: Issuer) -> None:
        self._url = url
        self._directory = directory
        self._validator = validator
        self._issuer = issuer

    def is_token_request(self, request: Request) -> bool:
        """Return True for any request for a token, valid or not."""
        return request.method == "POST" and _split(request.path)[1] == TOKEN

    def respond(self, request: Request) -> Response:
        """Return the response to any request other than for a token."""
        name, endpoint = _split(request.path)
        if endpoint == TOKEN:
            failure = AadstsError(900561, method=request.method)
            return _error_response(failure, request.headers, status=405, extra={"Allow": "POST"})
        if endpoint not in {DISCOVERY, KEYS}:
            return Response(404)
        if request.method != "GET":
            return Response(405, headers={"Allow": "GET"})
        try:
            tenant = self._find_tenant(name)
        except AadstsError as error:
            # Entra ID uses this error only here.
            return _error_response(error, request.headers, error="invalid_tenant")
        return _json(
            200, self._discovery(tenant) if endpoint == DISCOVERY else self._issuer.jwks(self._issuer_name(tenant))
        )

    def exchange(self, request: Request, scripted: Response | None) -> tuple[Exchange, Response]:
        """Respond to a token request, with the scripted response if there is one, and record it."""
        form = _read_form(request)
        assertion = _parse_leniently(form)
        tenant = _split(request.path)[0]
        code = None
        response = scripted
        if response is None:
            try:
                response = _json(200, self._token(tenant, form))
            except AadstsError as error:
                code = error.code
                response = _error_response(error, request.headers)
        fields = {name: "(omitted)" if name in SECRETS else value for name, value in form}
        header, claims = (assertion.header, assertion.claims) if assertion else (None, None)
        return Exchange(tenant, fields.get("client_id"), header, claims, fields, response.status, code), response

    def _token(self, tenant_name: str, form: list[tuple[str, str]]) -> dict[str, object]:
        tenant = self._find_tenant(tenant_name)
        fields = _unique(form)
        if _required(fields, "grant_type") != "client_credentials":
            raise AadstsError(70003, grant=fields["grant_type"])
        app = self._find_app(tenant, _required(fields, "client_id"))
        resource = _read_scope(_required(fields, "scope"))
        audiences = {self._issuer_name(tenant), *(f"{self._url}/{name}/{TOKEN}" for name in (tenant, tenant_name))}
        self._validator.validate(_read_credential(fields, app), app, audiences, time.time())
        return self._issuer.issue(app, resource, self._issuer_name(tenant))

    def _find_tenant(self, name: str) -> str:
        tenant = self._directory.find_tenant(name)
        if tenant:
            return tenant
        is_valid_name = as_guid(name) or re.fullmatch(r"[\w-]+(\.[\w-]+)+", name, re.ASCII)
        raise AadstsError(90002 if is_valid_name else 900023, tenant=name)

    def _find_app(self, tenant: str, client_id: str) -> App:
        app = self._directory.find_app(tenant, client_id)
        if app is None:
            raise AadstsError(700016, client_id=client_id, tenant=tenant)
        return app

    def _issuer_name(self, tenant: str) -> str:
        """Return the issuer's name, as in `iss`, which MSAL compares with its `oidc_authority`."""
        return f"{self._url}/{tenant}/v2.0"

    def _discovery(self, tenant: str) -> dict[str, object]:
        base = f"{self._url}/{tenant}"
        return {
            "token_endpoint": f"{base}/{TOKEN}",
            "token_endpoint_auth_methods_supported": ["private_key_jwt"],
            "jwks_uri": f"{base}/{KEYS}",
            "response_types_supported": ["code"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "issuer": self._issuer_name(tenant),
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
            "tenant_region_scope": "EU",
        }


def _split(path: str) -> tuple[str, str]:
    """Return the tenant's name and the endpoint: `/{tenant}/{endpoint}`."""
    tenant, _, endpoint = path.lstrip("/").partition("/")
    return unquote(tenant), endpoint


def _read_form(request: Request) -> list[tuple[str, str]]:
    # A body that is not a form has no parameters, so the first one is reported as missing, as by Entra ID.
    if request.headers.get_content_type() != "application/x-www-form-urlencoded":
        return []
    try:
        text = request.body.decode("ascii")
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=PARAMETERS_LIMIT)
    except ValueError:
        return []


def _unique(form: list[tuple[str, str]]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in form:
        if name in fields:
            raise AadstsError(9000411, parameter=name)
        fields[name] = value
    return fields


def _required(fields: dict[str, str], name: str) -> str:
    if not fields.get(name):
        raise AadstsError(900144, parameter=name)
    return fields[name]


def _read_scope(scope: str) -> str:
    """Return the single requested resource: the scope without `/.default`, keeping any slash before it."""
    resources = scope.split()
    if not all(resource.endswith("/.default") for resource in resources):
        raise AadstsError(1002012, scope=scope)
    if len(resources) != 1 or resources[0] == "/.default":
        raise AadstsError(70011, scope=scope)
    return resources[0].removesuffix("/.default")


def _read_credential(fields: dict[str, str], app: App) -> Assertion:
    given = {name for name in SECRETS if fields.get(name)}
    if app.public and given:
        raise AadstsError(700025)
    if "client_secret" in given:
        raise AadstsError(7000215, client_id=app.client_id)
    if not given:
        raise AadstsError(7000218)
    # Entra ID's response to another type is not known; this one names the parameter.
    if fields.get("client_assertion_type") != JWT_BEARER:
        raise AadstsError(900144, parameter="client_assertion_type")
    return parse(fields["client_assertion"])


def _parse_leniently(form: list[tuple[str, str]]) -> Assertion | None:
    """Return the assertion for the record, even if the request is refused; None if it cannot be parsed."""
    try:
        return parse(dict(form).get("client_assertion", ""))
    except AadstsError:
        return None


def _error_response(
    failure: AadstsError,
    headers: Message,
    *,
    status: int | None = None,
    error: str | None = None,
    extra: dict[str, str] | None = None,
) -> Response:
    correlation_id = as_guid(headers.get("client-request-id", "")) or str(uuid.uuid4())
    logger.debug("refused with AADSTS%d, correlation ID %s", failure.code, correlation_id)
    return _json(status or failure.status, response_body(failure, correlation_id, error=error), extra)


def _json(status: int, value: dict[str, object], extra: dict[str, str] | None = None) -> Response:
    headers = {"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-store", "Pragma": "no-cache"}
    return Response(status, json.dumps(value).encode("utf-8"), headers | (extra or {}))
