"""A third-party token endpoint that verifies client assertions: Authlib's, as an issuer without a path.

It accepts only the algorithms that Authlib accepts by default, which its discovery document lists unless it is to be
like Okta's. It finds a key by
the assertion's `kid`, which is required if the client has several, and refuses a repeated `jti`.

    with AuthlibServer() as server:
        server.register("my-app", [jwk, other_jwk])
        ConfidentialClient("my-app", [uri], oidc_authority=server.issuer, ca_file=server.ca_file)
"""

from __future__ import annotations

import json
import ssl
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl

from authlib.oauth2 import AuthorizationServer, OAuth2Request
from authlib.oauth2.rfc6749 import ClientMixin
from authlib.oauth2.rfc6749.grants import ClientCredentialsGrant
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from joserfc.jwk import KeySet

from keyvouch.testing.authority.server import HttpsServer, Request, Response
from keyvouch.testing.authority.tls import make_certificates

ALGORITHMS = ["RS256", "ES256"]
METHOD = JWTBearerClientAssertion.CLIENT_AUTH_METHOD


class _Client(ClientMixin):  # type: ignore[misc]
    def __init__(self, client_id: str, jwks: Sequence[Mapping[str, str]]) -> None:
        self.client_id = client_id
        self.keys = KeySet.import_key_set({"keys": [dict(each) for each in jwks]})

    def get_client_id(self) -> str:
        return self.client_id

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return (method, endpoint) == (METHOD, "token")

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "client_credentials"


class _Request(OAuth2Request):  # type: ignore[misc]
    def __init__(self, uri: str, request: Request) -> None:
        super().__init__(request.method, uri, headers=dict(request.headers))
        self._form = dict(parse_qsl(request.body.decode()))
        self.payload = BasicOAuth2Payload(self._form)

    @property
    def args(self) -> dict[str, str]:
        return {}

    @property
    def form(self) -> dict[str, str]:
        return self._form


class _Grant(ClientCredentialsGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = [METHOD]  # noqa: RUF012 - as Authlib declares it


class _Assertion(JWTBearerClientAssertion):  # type: ignore[misc]
    def __init__(self, endpoint: str) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._seen: set[str] = set()

    def get_audiences(self) -> list[str]:
        return [self._endpoint]

    def validate_jti(self, claims: Mapping[str, Any], jti: str) -> bool:
        is_new = jti not in self._seen
        self._seen.add(jti)
        return is_new

    def resolve_client_public_key(self, client: _Client) -> KeySet:
        return client.keys


class _Server(AuthorizationServer):  # type: ignore[misc]
    """Authlib's server, connected to the HTTPS server."""

    def __init__(self, endpoint: str) -> None:
        super().__init__()
        self._endpoint = endpoint
        self.clients: dict[str, _Client] = {}
        self.register_client_auth_method(METHOD, _Assertion(endpoint))
        self.register_grant(_Grant)
        self.register_token_generator("default", _make_token)

    def query_client(self, client_id: str) -> _Client | None:
        return self.clients.get(client_id)

    def save_token(self, token: Mapping[str, Any], request: OAuth2Request) -> None:
        """Keep nothing: no test presents a token."""

    def send_signal(self, *_: Any, **__: Any) -> None:
        """Notify nobody."""

    def create_oauth2_request(self, request: Request) -> OAuth2Request:
        return _Request(self._endpoint, request)

    def handle_response(self, status: int, body: Any, headers: Sequence[tuple[str, str]]) -> Response:
        return Response(status, json.dumps(body).encode(), dict(headers))


def _make_token(**options: Any) -> dict[str, Any]:
    return {
        "token_type": "Bearer",
        "access_token": uuid.uuid4().hex,
        "expires_in": 3600,
        "scope": options["scope"] or "",
    }


class AuthlibServer:
    """The server, from `with` to the end of the block; `lists_algorithms=False` leaves them out of the document."""

    def __init__(self, *, lists_algorithms: bool = True) -> None:
        self._lists_algorithms = lists_algorithms

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="keyvouch-authlib-")
        certificates = make_certificates()
        path = Path(self._folder.name)
        self.ca_file = str(path / "ca.pem")
        Path(self.ca_file).write_bytes(certificates.ca)
        (path / "server.pem").write_bytes(certificates.server + certificates.server_key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path / "server.pem")
        self._https = HttpsServer(context)
        self.issuer = f"https://localhost:{self._https.port}"
        self.endpoint = f"{self.issuer}/oauth2/token"
        self._server = _Server(self.endpoint)
        self.refusals: list[str] = []
        """The reasons of all refusals so far."""
        self._https.serve(self._respond)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._https.close()
        self._folder.cleanup()

    def register(self, client_id: str, jwks: Sequence[Mapping[str, str]]) -> None:
        """Register a client with a JWKS, or give a known one another."""
        self._server.clients[client_id] = _Client(client_id, jwks)

    def _respond(self, request: Request) -> Response:
        if request.path == "/.well-known/openid-configuration":
            return Response(200, json.dumps(self._metadata()).encode(), {"Content-Type": "application/json"})
        if (request.method, request.path) != ("POST", "/oauth2/token"):
            return Response(404)
        response: Response = self._server.create_token_response(request)
        if response.status != 200:
            self.refusals.append(json.loads(bytes(response.body)).get("error_description", ""))  # type: ignore[arg-type]
        return response

    def _metadata(self) -> dict[str, object]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/oauth2/authorize",
            "token_endpoint": self.endpoint,
            "token_endpoint_auth_methods_supported": ["private_key_jwt"],
            **({"token_endpoint_auth_signing_alg_values_supported": ALGORITHMS} if self._lists_algorithms else {}),
        }
