"""The client assertion in the form that Entra ID and AD FS require."""

from __future__ import annotations

import re
from functools import lru_cache

from keyvouch.algorithms import RS256, Algorithm
from keyvouch.assertion import ClientAssertion

_REGIONAL = re.compile(
    r"https://[a-z0-9-]+\.(?:(login\.microsoft\.com)|(login\.microsoftonline\.us|login\.partner\.microsoftonline\.cn))/"
)


class EntraAssertion(ClientAssertion):
    """A `ClientAssertion` that handles regional endpoints and AD FS."""

    def audience_of(self, endpoint: str) -> str:
        """Return the central endpoint for a regional one: MSAL posts to the regional one, but names the central one."""
        return self._audience or central_endpoint(endpoint)

    def algorithm_for(self, endpoint: str) -> Algorithm | None:
        """Return the configured algorithm; RS256 for AD FS, which supports only RS256 with a SHA-1 thumbprint."""
        return self._algorithm or (RS256 if _is_adfs(endpoint) else None)


@lru_cache(maxsize=1024)
def central_endpoint(endpoint: str) -> str:
    """Map `https://westeurope.login.microsoft.com/...?...` to `https://login.microsoftonline.com/...`."""
    regional = _REGIONAL.match(endpoint)
    if regional is None:
        return endpoint
    host = "login.microsoftonline.com" if regional[1] else regional[2]
    return f"https://{host}/{endpoint[regional.end() :].partition('?')[0]}"


@lru_cache(maxsize=1024)
def _is_adfs(endpoint: str) -> bool:
    return bool(re.match(r"https://[^/]+/adfs/", endpoint, re.IGNORECASE))
