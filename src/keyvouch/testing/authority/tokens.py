"""Issuing access tokens, and publishing the key that signs them."""

import json
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from keyvouch.testing.authority.directory import App
from keyvouch.testing.authority.jose import to_base64url


class Issuer:
    """Makes access tokens. Its RSA key is generated on first use, since that takes longer than everything else."""

    def __init__(self, lifetime: int, key: rsa.RSAPrivateKey | None) -> None:
        self._lifetime = lifetime
        self._lock = threading.Lock()
        self._given = key
        self._identity: tuple[rsa.RSAPrivateKey, x509.Certificate] | None = None

    def issue(self, app: App, resource: str, issuer: str) -> dict[str, object]:
        """Return the response with a token for the application; `resource` is the scope without `/.default`."""
        key, certificate = self._signer()
        now = int(time.time())
        # Entra ID's `expires_in` is one second less than the actual lifetime, to allow for the response time.
        life = max(self._lifetime - 1, 0)
        header = {"typ": "JWT", "alg": "RS256", "x5t": _key_id(certificate), "kid": _key_id(certificate)}
        claims = _claims(app, resource, issuer) | {"iat": now, "nbf": now, "exp": now + self._lifetime}
        return {
            "token_type": "Bearer",
            "expires_in": life,
            "ext_expires_in": life,
            "access_token": _sign(key, header, claims),
        }

    def jwks(self, issuer: str) -> dict[str, object]:
        """Return the published keys (RFC 7517) in Entra ID's format."""
        key, certificate = self._signer()
        numbers = key.public_key().public_numbers()
        return {
            "keys": [
                {
                    "kty": "RSA",
                    "use": "sig",
                    "alg": "RS256",
                    "kid": _key_id(certificate),
                    "x5t": _key_id(certificate),
                    "n": to_base64url(_to_bytes(numbers.n)),
                    "e": to_base64url(_to_bytes(numbers.e)),
                    "x5c": [_pem_body(certificate)],
                    "issuer": issuer,
                }
            ]
        }

    def _signer(self) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
        with self._lock:
            if self._identity is None:
                key = self._given or rsa.generate_private_key(public_exponent=65537, key_size=2048)
                self._identity = key, _certify(key)
            return self._identity


def _claims(app: App, resource: str, issuer: str) -> dict[str, object]:
    principal = str(uuid.uuid5(uuid.UUID(app.tenant), app.client_id))
    return {
        "aud": resource,
        "iss": issuer,
        # Version 1 tokens have `appid`, version 2 tokens `azp`; programs for either read these. "2": by certificate.
        "appid": app.client_id,
        "appidacr": "2",
        "azp": app.client_id,
        "azpacr": "2",
        "idtyp": "app",
        "oid": principal,
        "sub": principal,
        "tid": app.tenant,
        "roles": list(app.roles),
        "uti": to_base64url(uuid.uuid4().bytes),
        "ver": "2.0",
    }


def _sign(key: rsa.RSAPrivateKey, header: dict[str, str], claims: dict[str, object]) -> str:
    parts = (to_base64url(json.dumps(part, separators=(",", ":")).encode("utf-8")) for part in (header, claims))
    message = ".".join(parts)
    signature = key.sign(message.encode("ascii"), padding.PKCS1v15(), hashes.SHA256())
    return f"{message}.{to_base64url(signature)}"


def _certify(key: rsa.RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "keyvouch development authority: tokens")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=30))
    return builder.sign(key, hashes.SHA256())


def _key_id(certificate: x509.Certificate) -> str:
    return to_base64url(certificate.fingerprint(hashes.SHA1()))  # noqa: S303 - as RFC 7515 defines x5t


def _pem_body(certificate: x509.Certificate) -> str:
    lines = certificate.public_bytes(serialization.Encoding.PEM).decode("ascii").splitlines()
    return "".join(lines[1:-1])


def _to_bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
