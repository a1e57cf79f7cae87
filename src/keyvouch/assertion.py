"""Client assertions: short-lived JWTs with which a client proves possession of its key (RFC 7523, RFC 7521).

    assertion = ClientAssertion(signer)({"client_id": client_id, "token_endpoint": endpoint})

A `ClientAssertion` is a callable that MSAL accepts as `client_assertion`, and serves any server that supports
`private_key_jwt` (OpenID Connect Core, section 9). Header and signature always come from the same key, even while the
key is being replaced.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
import uuid
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from keyvouch import certificate
from keyvouch._core.signer import SIGN_TIMEOUT, Signer
from keyvouch._formats.text_encodings import base64url
from keyvouch._system.single_flight import FlightTimeout, SingleFlight
from keyvouch.algorithms import RS256, Algorithm, find_algorithm
from keyvouch.errors import ConfigurationError, StoreUnavailable, without_frames
from keyvouch.hosts import TokenServer, token_server

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PublicKey

X5t = Literal["auto", "sha256", "sha1", "none"]
Kid = str | Mapping[str, str]
_RENEW_BEFORE = 60
"""Seconds before its expiry in which an assertion is not reused: the authority's clock may be ahead."""
_THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")
"""A SHA-256 in base64url."""

_MAX_REUSABLE = 1000
"""Maximum number of assertions kept for reuse, each for one client and endpoint."""


class ClientAssertion:
    """Makes client assertions with a signer. Thread-safe; does not close the signer."""

    def __init__(
        self,
        signer: Signer,
        *,
        algorithm: str | Algorithm | None = None,
        x5t: X5t = "auto",
        kid: Kid | None = None,
        send_x5c: bool = False,
        lifetime: int = 600,
        audience: str | None = None,
        reuse: int = 0,
    ) -> None:
        """Configure the assertions; the defaults suit Entra ID, AD FS, and servers where keys are registered as a JWKS.

        `algorithm`: a JOSE name; None chooses by the key. An RSA key signs with PS256 for Entra ID, and with RS256 for
        other servers, which need not support PS256; with the other one if the key or its store does not support that.
        `x5t`: the certificate thumbprint to send: "sha256" (`x5t#S256`), "sha1" (`x5t`) or "none". "auto" sends one
        only to Entra ID and AD FS: SHA-256, or SHA-1 with RS256.
        `kid`: "thumbprint" sends the RFC 7638 thumbprint of the signing key, "none" nothing, other text is sent as it
        is. A mapping from thumbprints to such texts has a `kid` for each key; keys not in it send their thumbprint.
        None is "thumbprint", except that Entra ID and AD FS get no `kid` if the key has a certificate.
        `send_x5c`: send the whole chain, for trust by subject name and issuer.
        `lifetime`: seconds from `iat` to `exp`. `audience`: `aud` instead of the token endpoint.
        `reuse`: seconds for which an assertion is reused for the same client, endpoint and key, if signatures are slow
        or billed; servers that reject a repeated `jti` reject a reused assertion.

        Raises `ConfigurationError` for an invalid `x5t`, `kid`, `lifetime` or `reuse`, and like `find_algorithm`.
        """
        if x5t not in ("auto", "sha256", "sha1", "none"):
            raise ConfigurationError(f"Invalid x5t: {x5t!r}.", hint='Use "auto", "sha256", "sha1" or "none".')
        _require_valid_kid(kid)
        if lifetime <= 0 or reuse < 0 or (reuse and reuse + _RENEW_BEFORE > lifetime):
            raise ConfigurationError(
                f"Invalid lifetime or reuse of an assertion: {lifetime} and {reuse} seconds.",
                hint=f"Set a positive lifetime; to reuse assertions, at least {_RENEW_BEFORE} seconds more than reuse.",
            )
        self.signer = signer
        self._algorithm = None if algorithm is None else find_algorithm(algorithm)
        self._x5t = x5t
        self._kid = kid
        self._send_x5c = send_x5c
        self._lifetime = lifetime
        self._audience = audience
        self._reuse = reuse
        self._headers: dict[tuple[Algorithm, TokenServer], _Header] = {}
        self._reusable: dict[tuple[str, str], _Reusable] = {}
        self._flights = SingleFlight[str]()

    def __call__(self, context: Mapping[str, str], *, timeout: float = SIGN_TIMEOUT) -> str:
        """Return an assertion for `context["client_id"]` at `context["token_endpoint"]`, within `timeout` seconds.

        Raises `CertificateExpired`, `CertificateNotYetValid`, and whatever `Signer.sign` raises.
        """
        try:
            client_id, endpoint = context["client_id"], context["token_endpoint"]
            if not self._reuse:
                return self._make(client_id, endpoint, timeout)
            return self._reuse_or_make(client_id, endpoint, timeout)
        except BaseException as error:
            without_frames(error)
            raise

    def audience_of(self, endpoint: str) -> str:
        """Return the `aud` for a token endpoint. Override this if an authority has its own rule."""
        return self._audience or endpoint

    def algorithm_for(self, endpoint: str) -> Algorithm | None:  # noqa: ARG002 - for subclasses
        """Return the algorithm for a token endpoint; None lets the key decide. Override this for the same purpose."""
        return self._algorithm

    def preferred_algorithm(self, endpoint: str) -> Algorithm | None:
        """Return what an RSA key prefers if `algorithm_for` lets it decide: RS256, except for Entra ID and AD FS.

        Servers should support RS256 (RFC 8414, section 2), and some, such as Okta, do not support PS256.
        """
        return RS256 if self.server_kind(endpoint) == "other" else None

    def server_kind(self, endpoint: str) -> TokenServer:
        """Return who verifies assertions for a token endpoint: "entra", "adfs" or "other". Override this if needed."""
        return token_server(endpoint)

    def _make(self, client_id: str, endpoint: str, timeout: float) -> str:
        audience, server = self.audience_of(endpoint), self.server_kind(endpoint)
        token_id = str(uuid.uuid4())
        now = int(time.time())
        claims = base64url(
            f'{_fixed_claims(audience, client_id)},"jti":"{token_id}","nbf":{now},"iat":{now},'
            f'"exp":{now + self._lifetime}}}'.encode()
        )

        def build(algorithm: Algorithm, chain: tuple[Certificate, ...], public_key: PublicKey) -> bytes:
            header = self._headers.get((algorithm, server))
            if header is None or header.chain is not chain or header.public_key is not public_key:
                header = self._headers[algorithm, server] = self._header(algorithm, chain, public_key, server)
            if not header.not_before <= now <= header.not_after:
                certificate.check_validity(chain[0], self.signer.uri)
            return header.encoded + b"." + claims

        message, signature = self.signer.sign_negotiated(
            build,
            algorithm=self.algorithm_for(endpoint),
            preferred=self.preferred_algorithm(endpoint),
            timeout=timeout,
            audit={"jti": token_id, "client_id": client_id, "audience": audience},
        )
        return f"{message.decode()}.{base64url(signature).decode()}"

    def _header(
        self, algorithm: Algorithm, chain: tuple[Certificate, ...], public_key: PublicKey, server: TokenServer
    ) -> _Header:
        members: dict[str, object] = {"alg": algorithm.name, "typ": "JWT"}
        if chain and (hash_name := self._x5t_hash(algorithm, server)):
            members["x5t" if hash_name == "sha1" else "x5t#S256"] = base64url(
                certificate.fingerprint(chain[0], hash_name)
            ).decode()
        kid = self._kid
        if kid is None and chain and server != "other":
            kid = "none"
        if (found := key_id(public_key, kid)) is not None:
            members["kid"] = found
        if self._send_x5c and chain:
            members["x5c"] = [base64.b64encode(certificate.to_der(each)).decode() for each in chain]
        return _Header(base64url(json.dumps(members, separators=(",", ":")).encode()), chain, public_key)

    def _x5t_hash(self, algorithm: Algorithm, server: TokenServer) -> certificate.HashName | None:
        """Return the hash of the certificate thumbprint to send, or None."""
        if self._x5t != "auto":
            return None if self._x5t == "none" else self._x5t
        if server == "other":  # a server that knows only the key would look for this thumbprint, too
            return None
        return "sha1" if algorithm.name == "RS256" else "sha256"

    def _reuse_or_make(self, client_id: str, endpoint: str, timeout: float) -> str:
        recipient = (client_id, endpoint)

        def find_or_make() -> str:
            found = self._reusable.get(recipient)
            key = (self.signer.public_key, self.signer.chain)  # a new certificate may have the old key
            now = time.time()  # not a monotonic clock, which may pause while the machine sleeps
            if found is None or found.key != key or not 0 <= now - found.made < self._reuse:
                self._evict_old(now)
                found = self._reusable[recipient] = _Reusable(self._make(client_id, endpoint, timeout), key, now)
            return found.assertion

        try:
            return self._flights.do(recipient, find_or_make, timeout=timeout)
        except FlightTimeout:  # a signature from this thread would not be ready sooner, and may be billed
            raise StoreUnavailable("Timed out waiting for the assertion.", hint="Try again later.") from None

    def _evict_old(self, now: float) -> None:
        """If there are too many assertions, drop those too old to reuse, and keep at most the newer half."""
        if len(self._reusable) < _MAX_REUSABLE:
            return
        kept = [item for item in list(self._reusable.items()) if 0 <= now - item[1].made < self._reuse]
        kept.sort(key=lambda item: item[1].made)
        self._reusable = dict(kept[-_MAX_REUSABLE // 2 :])


class _Header:
    """An encoded header and the key it belongs to."""

    def __init__(self, encoded: bytes, chain: tuple[Certificate, ...], public_key: PublicKey) -> None:
        self.encoded = encoded
        self.chain = chain
        self.public_key = public_key
        self.not_before = chain[0].not_valid_before_utc.timestamp() if chain else float("-inf")
        self.not_after = chain[0].not_valid_after_utc.timestamp() if chain else float("inf")


class _Reusable:
    """An assertion made at `made` (POSIX time) that may be reused with this key and chain."""

    def __init__(self, assertion: str, key: tuple[PublicKey, tuple[Certificate, ...]], made: float) -> None:
        self.assertion = assertion
        self.key = key
        self.made = made


def _require_valid_kid(kid: Kid | None) -> None:
    texts = [kid] if isinstance(kid, str) else list((kid or {}).values())
    if not all(texts):
        raise ConfigurationError("Invalid kid: it is empty.", hint='Use "thumbprint", "none" or the key\'s ID.')
    for name in () if isinstance(kid, str) else kid or ():
        if not _THUMBPRINT.fullmatch(name):
            raise ConfigurationError(
                f"Invalid kid: {name!r} is not the thumbprint of a key.",
                hint="Use the kid that `keyvouch export --jwk --key URI` prints for the key.",
            )


def key_id(public_key: PublicKey, kid: Kid | None = None) -> str | None:
    """Return the `kid` of a key with this option of `ClientAssertion`; None if it has none."""
    if isinstance(kid, Mapping):
        thumbprint = jwk_thumbprint(public_key)
        kid = kid.get(thumbprint, thumbprint)
    if kid in (None, "thumbprint"):
        return jwk_thumbprint(public_key)
    return None if kid == "none" else kid


def jwk_thumbprint(public_key: PublicKey) -> str:
    """Return the SHA-256 thumbprint of the public key as a JWK (RFC 7638; for Ed25519 RFC 8037, appendix A.3)."""
    members = json.dumps(public_jwk(public_key), sort_keys=True, separators=(",", ":"))
    return base64url(hashlib.sha256(members.encode()).digest()).decode()


def public_jwk(public_key: PublicKey) -> dict[str, str]:
    """Return the required members of the public key's JWK (RFC 7517, RFC 7518 section 6, RFC 8037 section 2)."""
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    from keyvouch.algorithms import key_type

    if isinstance(public_key, rsa.RSAPublicKey):
        numbers = public_key.public_numbers()
        return {"kty": "RSA", "n": _base64url_uint(numbers.n), "e": _base64url_uint(numbers.e)}
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        size, point = (public_key.key_size + 7) // 8, public_key.public_numbers()
        return {
            "kty": "EC",
            "crv": key_type(public_key),
            "x": _base64url_uint(point.x, size),
            "y": _base64url_uint(point.y, size),
        }
    return {"kty": "OKP", "crv": "Ed25519", "x": base64url(public_key.public_bytes_raw()).decode()}


def _base64url_uint(value: int, size: int | None = None) -> str:
    """Encode an integer (RFC 7518, section 2), in `size` bytes."""
    return base64url(value.to_bytes(size or (value.bit_length() + 7) // 8, "big")).decode()


@lru_cache(maxsize=1024)
def _fixed_claims(audience: str, client_id: str) -> str:
    """Return the constant claims, as the beginning of a JSON object."""
    return json.dumps({"aud": audience, "iss": client_id, "sub": client_id}, separators=(",", ":"))[:-1]
