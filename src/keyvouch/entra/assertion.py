"""The client assertion in the form that the authority requires: Entra ID, AD FS, or an OpenID Connect issuer."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from keyvouch._core import environment
from keyvouch.algorithms import PS256, RS256, Algorithm, algorithms_for, key_type
from keyvouch.assertion import ClientAssertion
from keyvouch.entra.missing_certificate import certificate_missing
from keyvouch.errors import AlgorithmUnsupported
from keyvouch.hosts import TokenServer, is_microsoft_host, token_server

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch._core.signer import Signer
    from keyvouch.algorithms import PublicKey

_REGIONAL = re.compile(
    r"https://[a-z0-9-]+\.(?:(login\.microsoft\.com)|(login\.microsoftonline\.us|login\.partner\.microsoftonline\.cn))/"
)
_MAX_SHOWN = 200
"""Maximum number of characters shown of what the authority lists."""


class Discovered(msgspec.Struct):
    """What the authority's discovery document says, besides the token endpoint."""

    algorithms: tuple[str, ...] = ()
    """`token_endpoint_auth_signing_alg_values_supported`; empty if there is none, as at Entra ID."""


class EntraAssertion(ClientAssertion):
    """A `ClientAssertion` that handles regional endpoints, AD FS, and what an authority's discovery document says."""

    def __init__(
        self, signer: Signer, *, discovered: Discovered | None = None, profile: str = "", **options: Any
    ) -> None:
        """Take the options of `ClientAssertion`, and the name of the profile that they are from, for hints."""
        super().__init__(signer, **options)
        self._discovered = discovered or Discovered()
        self._profile = profile

    def audience_of(self, endpoint: str) -> str:
        """Return the central endpoint for a regional one: MSAL posts to the regional one, but names the central one."""
        return self._audience or central_endpoint(endpoint)

    def algorithm_for(self, endpoint: str) -> Algorithm | None:
        """Return the configured algorithm, else one that the authority lists.

        For AD FS that is RS256: it supports only RS256 with a SHA-1 thumbprint. Raises `AlgorithmUnsupported` if the
        key has none of the listed algorithms.
        """
        if self._algorithm or self.server_kind(endpoint) == "adfs":
            return self._algorithm or RS256
        supported = self._discovered.algorithms
        if not supported:
            return None
        return choose_algorithm(self.signer.public_key, supported, self.signer.uri, self._profile)

    def preferred_algorithm(self, endpoint: str) -> Algorithm | None:
        """Return None, for PS256, if the authority lists the algorithms that it supports."""
        return None if self._discovered.algorithms else super().preferred_algorithm(endpoint)

    def server_kind(self, endpoint: str) -> TokenServer:
        """Return who verifies the assertion. A server with Entra ID's paths on another host may be Entra ID itself.

        It has custom domains. Unlike others, it does not list its algorithms (RFC 8414, section 2, requires them).
        """
        kind = token_server(endpoint)
        is_other = kind == "entra" and self._discovered.algorithms and not is_microsoft_host(endpoint)
        return "other" if is_other else kind

    def _header(
        self, algorithm: Algorithm, chain: tuple[Certificate, ...], public_key: PublicKey, server: TokenServer
    ) -> Any:
        if server == "entra" and not chain:
            raise certificate_missing(self.signer.uri, self.signer.requested_uri)
        return super()._header(algorithm, chain, public_key, server)


def choose_algorithm(public_key: PublicKey, supported: tuple[str, ...], uri: str, profile: str) -> Algorithm | None:
    """Return the preferred algorithm of the key that an authority supports; the hint of the error is for the profile.

    None lets the signer choose: PS256, or RS256 if the key's store does not support PS256. Raises
    `AlgorithmUnsupported`.
    """
    kind = key_type(public_key)
    fitting = [algorithm for algorithm in algorithms_for(kind) if algorithm.name in supported]
    if not fitting:
        shown = ", ".join(supported)[:_MAX_SHOWN]
        raise AlgorithmUnsupported(
            f"The authority supports only the algorithms {shown}; this {kind} key has none of them.",
            hint="Use a key of another type (`keyvouch new --key-type`), or set"
            f" {environment.options_to_set('{algorithm}', profile)}.",
            uri=uri,
        )
    if PS256 in fitting:
        return None if RS256 in fitting else PS256
    return RS256 if RS256 in fitting else fitting[0]


@lru_cache(maxsize=1024)
def central_endpoint(endpoint: str) -> str:
    """Map `https://westeurope.login.microsoft.com/...?...` to `https://login.microsoftonline.com/...`."""
    regional = _REGIONAL.match(endpoint)
    if regional is None:
        return endpoint
    host = "login.microsoftonline.com" if regional[1] else regional[2]
    return f"https://{host}/{endpoint[regional.end() :].partition('?')[0]}"
