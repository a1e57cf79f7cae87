"""The public interface of the development authority."""

import contextlib
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from keyvouch.testing.authority.assertions import AssertionValidator
from keyvouch.testing.authority.directory import App, Directory
from keyvouch.testing.authority.endpoints import Endpoints, Exchange
from keyvouch.testing.authority.jose import ALGORITHMS
from keyvouch.testing.authority.server import HttpsServer, Request, Response
from keyvouch.testing.authority.tls import make_context
from keyvouch.testing.authority.tokens import Issuer

ENTRA_ALGORITHMS = frozenset({"PS256", "RS256"})
EXCHANGES_KEPT = 10_000


class Authority:
    """A development authority. As a context manager it runs during the block; otherwise use `start()` and `close()`.

    `algorithms`: the JOSE algorithms accepted for assertions. The default is Entra ID's; PS384, PS512, RS384, RS512,
    ES256, ES384, ES512 and EdDSA are supported too.
    `token_lifetime`: how long its tokens are valid, in seconds.
    `refuse_replays`: whether to accept each assertion only once. Entra ID does not enforce this, and MSAL's own
    certificate credential reuses an assertion for nine minutes, so its second scope is refused here.
    `domain`: the domain name of the default tenant.
    `signing_key`: the RSA key that signs its tokens; by default one is generated on first use.
    """

    def __init__(
        self,
        *,
        algorithms: Iterable[str] = ENTRA_ALGORITHMS,
        token_lifetime: int = 3600,
        refuse_replays: bool = True,
        domain: str = "contoso.onmicrosoft.com",
        signing_key: rsa.RSAPrivateKey | None = None,
    ) -> None:
        accepted = frozenset(algorithms)
        if unknown := accepted - ALGORITHMS:
            raise ValueError(f"unsupported algorithms: {', '.join(sorted(unknown))}")
        self._validator = AssertionValidator(accepted, refuse_replays=refuse_replays)
        self._issuer = Issuer(token_lifetime, signing_key)
        self._directory = Directory(domain)
        self._lock = threading.Lock()
        self._exchanges: deque[Exchange] = deque(maxlen=EXCHANGES_KEPT)
        self._scripted: deque[Response] = deque()
        self._resources = contextlib.ExitStack()
        self._running: tuple[str, str] | None = None

    def start(self) -> Self:
        """Start serving. Does nothing if it is running; a closed authority starts again, on another port."""
        with self._lock:
            if self._running is None:
                with contextlib.ExitStack() as resources:
                    self._running = self._start(resources)
                    self._resources = resources.pop_all()
        return self

    def close(self) -> None:
        """Stop the server and its open connections, and remove its files. Does nothing if it is closed."""
        with self._lock:
            self._running = None
            resources = self._resources.pop_all()
        resources.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The URL: `https://localhost:PORT`."""
        return self._address()[0]

    @property
    def tenant(self) -> str:
        """The id of the default tenant, a GUID."""
        return self._directory.home

    @property
    def authority(self) -> str:
        """The default tenant's URL: MSAL's `authority`, and with `/v2.0` its `oidc_authority`."""
        return f"{self.url}/{self.tenant}"

    @property
    def ca_file(self) -> str:
        """The path of the certificate (PEM) that its clients must trust; removed when the authority closes."""
        return self._address()[1]

    @property
    def exchanges(self) -> list[Exchange]:
        """The token requests so far, oldest first; a copy. The last ten thousand are kept."""
        with self._lock:
            return list(self._exchanges)

    def register(
        self,
        client_id: str | None = None,
        tenant: str | None = None,
        roles: Iterable[str] = ("Demo.Read",),
        certificates: Iterable[x509.Certificate] = (),
    ) -> App:
        """Register an application, with a new id unless one is given.

        `tenant`: a GUID or a domain name; an unknown one creates a tenant, None means the default tenant.
        """
        return self._directory.register(client_id, tenant, roles, certificates)

    def answer_next(self, status: int, body: bytes | str = b"", headers: Mapping[str, str] | None = None) -> None:
        """Give the next token request this response, whatever it asks for; call repeatedly for several requests.

        For responses that cannot be provoked otherwise: 429 with `Retry-After`, 503, an empty 403, an HTML page.
        """
        if not 200 <= status <= 599:  # noqa: PLR2004 - HTTP's range of final statuses
            raise ValueError(f"invalid HTTP status of a response: {status}")
        response = Response(status, body.encode("utf-8") if isinstance(body, str) else body, dict(headers or {}))
        with self._lock:
            self._scripted.append(response)

    def _address(self) -> tuple[str, str]:
        running = self._running
        if running is None:
            raise RuntimeError("the authority is not running: use it in a `with` block, or call start()")
        return running

    def _start(self, resources: contextlib.ExitStack) -> tuple[str, str]:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="keyvouch-authority-")))
        context, ca_file = make_context(folder)
        server = HttpsServer(context)
        url = f"https://localhost:{server.port}"
        endpoints = Endpoints(url, self._directory, self._validator, self._issuer)
        server.serve(lambda request: self._respond(endpoints, request))
        resources.callback(server.close)
        return url, str(ca_file)

    def _respond(self, endpoints: Endpoints, request: Request) -> Response:
        if not endpoints.is_token_request(request):
            return endpoints.respond(request)
        with self._lock:
            scripted = self._scripted.popleft() if self._scripted else None
        exchange, response = endpoints.exchange(request, scripted)
        with self._lock:
            self._exchanges.append(exchange)
        return response
