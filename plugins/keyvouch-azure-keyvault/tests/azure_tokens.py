"""How the test vault judges a bearer token: audience, tenant, issuer, time and signature."""

from __future__ import annotations

import threading
from typing import Any

import jwt
import requests

from azure_http import Call, Refusal
from keyvouch.testing.authority import Authority


class Judge:
    """Knows the authority's keys; a vault takes tokens of one tenant."""

    def __init__(self, authority: Authority) -> None:
        self.tenant = authority.tenant
        self._authority = authority
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self._revoked: set[str] = set()
        with requests.Session() as session:
            session.trust_env = False
            url = f"{authority.authority}/discovery/v2.0/keys"
            found = session.get(url, verify=authority.ca_file, timeout=10).json()
        self._keys = {each["kid"]: jwt.PyJWK(each, algorithm="RS256").key for each in found["keys"]}

    def check(self, call: Call, resource: str) -> dict[str, Any]:
        """Return the token's claims. Raises `Refusal` with the challenge."""
        scheme, _, token = (call.headers.get("Authorization") or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise self._challenge(resource, "AKV10000: Request is missing a Bearer or PoP token.")
        try:
            key = self._keys[jwt.get_unverified_header(token)["kid"]]
            claims: dict[str, Any] = jwt.decode(token, key, ["RS256"], audience=[resource, f"{resource}/"])
        except jwt.InvalidAudienceError:
            raise self._challenge(resource, f"AKV10022: Invalid audience. Expected {resource}.") from None
        except (jwt.InvalidTokenError, KeyError):
            raise self._challenge(resource, "AKV10005: Token validation failed.") from None
        if claims.get("tid") != self.tenant:
            said = f"AKV10032: Invalid issuer. Expected one of {self._authority.url}/{self.tenant}."
            raise self._challenge(resource, said)
        with self._lock:
            self._seen.add(claims["uti"])
        if claims["uti"] in self._revoked:
            raise self._challenge(resource, "AKV10005: Token validation failed.")
        return claims

    def revoke(self) -> None:
        """Take no token any more that was used so far."""
        with self._lock:
            self._revoked |= self._seen

    def _challenge(self, resource: str, said: str) -> Refusal:
        demand = f'Bearer authorization="{self._authority.url}/{self.tenant}", resource="{resource}"'
        return Refusal(401, "Unauthorized", said, WWW_Authenticate=demand)
