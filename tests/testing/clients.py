"""A client of the development authority that can make every mistake; it builds its assertions by hand."""

import base64
import json
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from types import TracebackType
from typing import Any, Self

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from keyvouch.testing.authority import App, Authority

JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
Pair = tuple[PrivateKey, x509.Certificate]

HASHES: dict[str, hashes.HashAlgorithm] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
CURVES: dict[str, tuple[ec.EllipticCurve, int]] = {
    "ES256": (ec.SECP256R1(), 32),
    "ES384": (ec.SECP384R1(), 48),
    "ES512": (ec.SECP521R1(), 66),
}


@cache
def key_for(algorithm: str, owner: str = "app") -> PrivateKey:
    """The owner's key for an algorithm, shared by all tests."""
    if algorithm in CURVES:
        return ec.generate_private_key(CURVES[algorithm][0])
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, 2048) if algorithm == "RSA" else key_for("RSA", owner)


def certify(
    key: PrivateKey,
    subject: str = "CN=app",
    issuer: Pair | None = None,
    *,
    ca: bool = False,
    path_length: int | None = None,
    signs: bool = True,
    days: tuple[int, int] = (-1, 1),
) -> x509.Certificate:
    """A certificate valid between the two values of `days`, relative to now; self-signed without an issuer.

    `signs`: whether a CA's key usage lets it sign certificates.
    """
    name = x509.Name.from_rfc4514_string(subject)
    signer, parent = (issuer[0], issuer[1].subject) if issuer else (key, name)
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        parent,
        name,
        key.public_key(),
        x509.random_serial_number(),
        now + timedelta(days=days[0]),
        now + timedelta(days=days[1]),
    )
    builder = builder.add_extension(x509.BasicConstraints(ca, path_length), critical=True)
    if ca:
        usage = [True, *[False] * 4, signs, *[False] * 3]
        builder = builder.add_extension(x509.KeyUsage(*usage), critical=True)
    return builder.sign(signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def encode(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def thumbprint(certificate: x509.Certificate, used: hashes.HashAlgorithm | None = None) -> str:
    """The thumbprint as in a JWT header, SHA-256 by default."""
    return encode(certificate.fingerprint(used or hashes.SHA256()))


def x5c(*chain: x509.Certificate) -> list[str]:
    """A chain as in a JWT header."""
    return [base64.b64encode(link.public_bytes(serialization.Encoding.DER)).decode() for link in chain]


def sign(algorithm: str, key: PrivateKey, message: bytes, salt: int | None = None) -> bytes:
    """A signature in JOSE form; `salt` is the PSS salt length in bytes, the hash's by default."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    used = HASHES[algorithm[2:]]
    if isinstance(key, ec.EllipticCurvePrivateKey):
        width = CURVES[algorithm][1]
        r, s = utils.decode_dss_signature(key.sign(message, ec.ECDSA(used)))
        return r.to_bytes(width, "big") + s.to_bytes(width, "big")
    if algorithm.startswith("RS"):
        return key.sign(message, padding.PKCS1v15(), used)
    return key.sign(message, padding.PSS(padding.MGF1(used), used.digest_size if salt is None else salt), used)


def join(header: Any, claims: Any) -> str:
    """Header and claims in the form that is signed."""
    return ".".join(encode(json.dumps(part).encode()) for part in (header, claims))


class Client:
    """A registered application with its certificate."""

    def __init__(self, authority: Authority, algorithm: str = "PS256", **register: Any) -> None:
        self.authority = authority
        self.algorithm = algorithm
        self.key = key_for(algorithm)
        self.certificate = certify(self.key)
        self.app: App = authority.register(**({"certificates": [self.certificate]} | register))
        self.tenant = self.app.tenant
        self.session = new_session(authority)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.session.close()

    @property
    def endpoint(self) -> str:
        """The URL of the token endpoint."""
        return f"{self.authority.url}/{self.tenant}/oauth2/v2.0/token"

    def header(self, **changes: Any) -> dict[str, Any]:
        """A correct header with these changes; None removes a member."""
        right = {"alg": self.algorithm, "typ": "JWT", "x5t#S256": thumbprint(self.certificate)}
        return _changed(right, changes)

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Correct claims with these changes; None removes a member."""
        now = int(time.time())
        right = {"aud": self.endpoint, "iss": self.app.client_id, "sub": self.app.client_id, "jti": str(uuid.uuid4())}
        return _changed(right | {"nbf": now, "iat": now, "exp": now + 600}, changes)

    def assertion(
        self, header: Mapping[str, Any] | None = None, salt: Any = None, key: Any = None, **claims: Any
    ) -> str:
        """An assertion with these header members and claims changed, optionally signed by another key."""
        head = self.header(**(header or {}))
        message = join(head, self.claims(**claims))
        algorithm = (head.get("alg", "")[:2] in {"RS", "PS", "ES", "Ed"} and head["alg"]) or self.algorithm
        return f"{message}.{encode(sign(algorithm, key or self.key, message.encode(), salt))}"

    def form(self, assertion: str | None = None, **changes: Any) -> dict[str, Any]:
        """A correct form with these changes; None removes a parameter."""
        right = {
            "grant_type": "client_credentials",
            "client_id": self.app.client_id,
            "scope": "api://demo/.default",
            "client_assertion_type": JWT_BEARER,
            "client_assertion": assertion or self.assertion(),
        }
        return _changed(right, changes)

    def post(self, assertion: str | None = None, **changes: Any) -> requests.Response:
        """Request a token."""
        return self.session.post(self.endpoint, data=self.form(assertion, **changes), timeout=10)

    def refused(self, assertion: str | None = None, **changes: Any) -> tuple[int, str, list[int], str]:
        """Request a token that is refused: return the status, the error, its codes and its text."""
        answer = self.post(assertion, **changes)
        body = answer.json()
        return answer.status_code, body["error"], body["error_codes"], body["error_description"]

    def code(self, assertion: str | None = None, **changes: Any) -> int:
        """Request a token that is refused: return the AADSTS code."""
        return int(self.post(assertion, **changes).json()["error_codes"][0])


def new_session(authority: Authority) -> requests.Session:
    """A session that trusts the authority and ignores the environment."""
    session = requests.Session()
    session.trust_env, session.verify = False, authority.ca_file
    return session


def read_jwt(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header and the claims of a JWT, unverified."""
    header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2])
    return header, claims


def _changed(right: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (right | changes).items() if value is not None}
