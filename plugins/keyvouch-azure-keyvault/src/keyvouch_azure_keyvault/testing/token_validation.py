"""The vault's checks of a bearer token: signature, time, audience, issuer and tenant."""

import contextlib
import json
import ssl
import threading
import time
import urllib.request
from email.message import Message

from cryptography.hazmat.primitives.asymmetric import rsa

from keyvouch.testing.authority import Authority
from keyvouch.testing.authority.jose import from_base64url, read_object, verifies
from keyvouch_azure_keyvault.testing.refusals import Refusal

TIMEOUT = 10
"""Number of seconds to fetch the authority's keys."""
PARTS = 3
"""Number of parts in a signed JWT."""


class TokenValidator:
    """Accepts the tokens of one tenant. Fetches the authority's keys whenever it encounters an unknown one."""

    def __init__(self, authority: Authority, *, managed_hsm: bool) -> None:
        self.tenant = authority.tenant
        self.resource = "https://managedhsm.azure.net" if managed_hsm else "https://vault.azure.net"
        self._authority = authority
        self._managed_hsm = managed_hsm
        self._lock = threading.Lock()
        self._keys: dict[object, rsa.RSAPublicKey] = {}
        self._seen: set[object] = set()
        self._revoked: set[object] = set()

    def validate(self, headers: Message) -> None:
        """Raise `Refusal`, with a challenge for a token, unless the token is valid."""
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise self._challenge("AKV10000: Request is missing a Bearer or PoP token.")
        claims = self._read(token)
        audience, issuer = str(claims.get("aud")).rstrip("/"), f"{self._authority.url}/{self.tenant}/v2.0"
        if audience != self.resource:
            raise self._challenge(f"AKV10022: Invalid audience. Expected {self.resource}, found: {audience}.")
        if claims.get("iss") != issuer or claims.get("tid") != self.tenant:
            raise self._challenge(f"AKV10032: Invalid issuer. Expected one of {issuer}, found {claims.get('iss')}.")
        with self._lock:
            self._seen.add(claims.get("uti"))
            if claims.get("uti") in self._revoked:
                raise self._challenge(_INVALID)

    def unauthorised(self) -> Refusal:
        """Return the refusal of an invalid token."""
        return self._challenge(_INVALID)

    def revoke(self) -> None:
        """Refuse all tokens that were used so far."""
        with self._lock:
            self._revoked |= self._seen

    def _read(self, token: str) -> dict[str, object]:
        parts = token.split(".")
        try:
            header, claims = (read_object(from_base64url(part)) for part in parts[: PARTS - 1])
            signature = from_base64url(parts[PARTS - 1])
        except (ValueError, IndexError):
            raise self._challenge(_INVALID) from None
        key = self._key(header.get("kid"))
        message = ".".join(parts[: PARTS - 1]).encode("ascii")
        good = header.get("alg") == "RS256" and verifies("RS256", key, signature, message)
        if not good or len(parts) != PARTS or not _is_current(claims):
            raise self._challenge(_INVALID)
        return claims

    def _key(self, kid: object) -> rsa.RSAPublicKey:
        if kid not in self._keys:
            self._keys = self._fetch()
        if kid not in self._keys:
            raise self._challenge("AKV10046: Unable to resolve the key used for signature validation.")
        return self._keys[kid]

    def _fetch(self) -> dict[object, rsa.RSAPublicKey]:
        context = ssl.create_default_context(cafile=self._authority.ca_file)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        url = f"{self._authority.authority}/discovery/v2.0/keys"
        with contextlib.closing(opener.open(url, timeout=TIMEOUT)) as answer:
            found = json.load(answer)["keys"]
        numbers = {each["kid"]: [int.from_bytes(from_base64url(each[name])) for name in "en"] for each in found}
        return {kid: rsa.RSAPublicNumbers(e, n).public_key() for kid, (e, n) in numbers.items()}

    def _challenge(self, message: str) -> Refusal:
        login = f"{self._authority.url}/{self.tenant}"
        challenge = {"WWW-Authenticate": f'Bearer authorization="{login}", resource="{self.resource}"'}
        if self._managed_hsm:
            return Refusal(401, headers=challenge)  # the service sends no body
        return Refusal(401, "Unauthorized", message, headers=challenge)


# The message is ours: the service's message for a malformed, expired or revoked token is not known.
_INVALID = "AKV10005: Token validation failed."


def _is_current(claims: dict[str, object]) -> bool:
    begin, end, now = claims.get("nbf"), claims.get("exp"), time.time()
    return isinstance(begin, int) and isinstance(end, int) and begin <= now < end
