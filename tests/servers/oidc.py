"""A third-party token endpoint that verifies client assertions: npm's oidc-provider.

It is at the paths of Entra ID, and a second time as an issuer without a path.

It checks the signature (for PSS with a salt as long as the hash), the algorithm, issuer, audience and times, and that
no assertion is reused; it also accepts the issuer as the audience. It ignores a certificate in the header:
``x5t#S256`` and ``x5c`` are not checked.

    with OidcProvider() as judge:
        judge.register(Client("my-app", "PS256", certificate))
        with judge.session() as session:
            app = msal.ConfidentialClientApplication(
                "my-app",
                authority=judge.authority,
                client_credential={"client_assertion": assertion},
                http_client=session,
                instance_discovery=False,
            )
            app.acquire_token_for_client([judge.scope])
        assert judge.refusals("my-app") == []
"""

import base64
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import requests
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from keyvouch.testing.authority.tls import make_certificates
from servers import npm

PACKAGE = Path(__file__).parent / "oidc_provider"

START_TIMEOUT = 30.0
"""In seconds; it takes 0.3 on an idle machine."""

STOP_TIMEOUT = 5.0
"""Seconds."""

TENANT = "6f3c7c2a-5d0e-4a53-9a51-1d2f6f0b7e11"

SCOPE = "api://keyvouch.test/.default"

# A CA preset for all programs must not reach a server under test, nor must settings that change Node.js itself.
FOREIGN_VARIABLES = (
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "NODE_OPTIONS",
    "NODE_TLS_REJECT_UNAUTHORIZED",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
)

CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
"""The curves' names in cryptography and in a JWK."""

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

Jwk = Mapping[str, str]


@dataclass(frozen=True)
class Client:
    """An app as the server knows it."""

    client_id: str

    algorithm: str
    """The only algorithm that its assertions may be signed with: PS256, RS256, ES256, EdDSA, ..."""

    key: PublicKey | x509.Certificate | Jwk | Sequence[PublicKey | x509.Certificate | Jwk]
    """Its key, or several in the order of its JWKS. Those that are not JWKs get their thumbprint as `kid`."""

    matching: Literal["all", "nimbus", "kid"] = "all"
    """How the server finds the key of an assertion. "all" tries all of them, as oidc-provider does.

    "nimbus" requires each of `kid` and `x5t#S256` that the header has to be in the JWK, as Spring Authorization Server
    does; "kid" takes the key with the header's `kid`, and only the first one without it, as Keycloak and fosite do.
    """

    def to_json(self) -> dict[str, Any]:
        keys = self.key if isinstance(self.key, Sequence) else [self.key]
        jwks = [dict(each) if isinstance(each, Mapping) else identified_jwk(each) for each in keys]
        return {
            "client_id": self.client_id,
            "algorithm": self.algorithm,
            "jwks": {"keys": jwks},
            "matching": self.matching,
        }


class OidcProvider:
    """The server, running from ``start`` to ``stop``, or as a context manager."""

    tenant = TENANT
    scope = SCOPE

    def __init__(self, clients: Iterable[Client] = (), algorithms: Sequence[str] = ALGORITHMS) -> None:
        """Take the first clients, and the algorithms that the server lists for assertions, and accepts."""
        self._clients = list(clients)
        self._algorithms = list(algorithms)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def authority(self) -> str:
        """MSAL's ``authority`` argument."""
        return f"{self.url}/{self.tenant}"

    @property
    def oidc_authority(self) -> str:
        """MSAL's ``oidc_authority`` argument, which is also the issuer."""
        return f"{self.authority}/v2.0"

    @property
    def issuer_without_path(self) -> str:
        """A second issuer with the same clients, as at Okta and Auth0; its token endpoint is `/token`."""
        return self.url

    @property
    def token_endpoint(self) -> str:
        return f"{self.authority}/oauth2/v2.0/token"

    @property
    def ca_file(self) -> str:
        return str(self._path("ca.pem"))

    @property
    def pid(self) -> int:
        return self._running().pid

    def session(self) -> requests.Session:
        """Return a session for MSAL's ``http_client``; the caller closes it."""
        session = requests.Session()
        # Otherwise REQUESTS_CA_BUNDLE in the environment would override the next line.
        session.trust_env = False
        session.verify = self.ca_file
        return session

    def register(self, client: Client) -> None:
        """Register a client, or give a known one another key. Raises ValueError for one that the server rejects."""
        stdin = self._running().stdin
        assert stdin is not None
        seen = len(self._events())
        stdin.write(json.dumps(client.to_json()) + "\n")
        stdin.flush()
        answer = self._wait_for(lambda event: not event.keys().isdisjoint({"registered", "rejected"}), after=seen)
        if "rejected" in answer:
            raise ValueError(answer["reason"])

    def refusals(self, client_id: str | None = None) -> list[str]:
        """Return the reasons for all refusals so far, of one client or of all, in order.

        A refusal's reason is available before its response is.
        """
        refused = (event for event in self._events() if "refused" in event)
        return [event["reason"] for event in refused if client_id in (None, event.get("client_id"))]

    def start(self) -> None:
        installed = npm.install(PACKAGE)
        self._folder = tempfile.TemporaryDirectory(prefix="keyvouch-judge-")
        try:
            self._write_configuration()
            self._process = self._spawn([npm.node(installed), str(installed / "server.mjs")])
            self.port = self._wait_for(lambda event: "port" in event)["port"]
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            _end(process)
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.cleanup()

    def _write_configuration(self) -> None:
        certificates = make_certificates()
        self._path("ca.pem").write_bytes(certificates.ca)
        self._path("server.pem").write_bytes(certificates.server)
        self._path("server.key").write_bytes(certificates.server_key)
        configuration = {
            "port": 0,
            "keyFile": str(self._path("server.key")),
            "certificateFile": str(self._path("server.pem")),
            "tenant": self.tenant,
            "scope": self.scope,
            "algorithms": self._algorithms,
            "clients": [client.to_json() for client in self._clients],
        }
        self._path("configuration.json").write_text(json.dumps(configuration))

    def _spawn(self, command: list[str]) -> subprocess.Popen[str]:
        # Both outputs are files: a pipe that nobody reads fills up, and a thread that reads one may be late.
        with self._path("events").open("w") as events, self._path("log").open("w") as log:
            return subprocess.Popen(
                [*command, str(self._path("configuration.json"))],
                stdin=subprocess.PIPE,
                stdout=events,
                stderr=log,
                text=True,
                env={name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES},
            )

    def _wait_for(self, wanted: Callable[[dict[str, Any]], bool], *, after: int = 0) -> dict[str, Any]:
        """Return the first wanted event after the first ``after`` ones."""
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            # Checked before reading the events, so that the last events of an ended process are not missed.
            ended = self._running().poll() is not None
            found = next(filter(wanted, self._events()[after:]), None)
            if found is not None:
                return found
            if ended or time.monotonic() > deadline:
                raise RuntimeError(
                    f"oidc-provider {'ended' if ended else 'is silent'}:\n{self._path('log').read_text()}"
                )
            time.sleep(0.005)

    def _events(self) -> list[dict[str, Any]]:
        lines = self._path("events").read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def _running(self) -> subprocess.Popen[str]:
        assert self._process is not None, "not started"
        return self._process

    def _path(self, name: str) -> Path:
        assert self._folder is not None, "not started"
        return Path(self._folder.name, name)


def _end(process: subprocess.Popen[str]) -> None:
    try:
        # Closes its standard input, which makes it exit.
        process.communicate(timeout=STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def identified_jwk(key: PublicKey | x509.Certificate) -> dict[str, str]:
    """Return the JWK with its thumbprint (RFC 7638), as joserfc computes it, as `kid`."""
    jwk = public_jwk(key)
    from joserfc.jwk import ECKey, OKPKey, RSAKey  # tests without servers also run where it is not installed

    kinds: dict[str, Any] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
    return {**jwk, "kid": kinds[jwk["kty"]].import_key(jwk).thumbprint()}


def public_jwk(key: PublicKey | x509.Certificate) -> dict[str, str]:
    match key:
        case x509.Certificate():
            return _certified_jwk(key)
        case rsa.RSAPublicKey():
            rsa_numbers = key.public_numbers()
            return {"kty": "RSA", "n": _base64url_int(rsa_numbers.n), "e": _base64url_int(rsa_numbers.e)}
        case ec.EllipticCurvePublicKey():
            # Coordinates keep their leading zeros, unlike RSA's numbers.
            size = (key.key_size + 7) // 8
            numbers = key.public_numbers()
            x, y = (_base64url(number.to_bytes(size)) for number in (numbers.x, numbers.y))
            return {"kty": "EC", "crv": CURVES[key.curve.name], "x": x, "y": y}
        case ed25519.Ed25519PublicKey():
            return {"kty": "OKP", "crv": "Ed25519", "x": _base64url(key.public_bytes_raw())}


def _certified_jwk(certificate: x509.Certificate) -> dict[str, str]:
    key = certificate.public_key()
    if not isinstance(key, PublicKey):
        raise TypeError(f"no JWK for {type(key).__name__}")
    return public_jwk(key)


def _base64url_int(number: int) -> str:
    return _base64url(number.to_bytes((number.bit_length() + 7) // 8))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
