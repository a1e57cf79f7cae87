"""A profile, or a client, as a credential of the Azure SDK. Needs the package azure-core, and no more of the SDK.

    from azure.keyvault.secrets import SecretClient
    from keyvouch.entra.azure import KeyvouchCredential

    client = SecretClient("https://contoso.vault.azure.net", credential=KeyvouchCredential("nightly"))

For clients of `azure.*.aio` there is the same in `keyvouch.entra.azure.aio`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection
from types import TracebackType
from typing import Any, Self

from azure.core.credentials import AccessToken, AccessTokenInfo, TokenRequestOptions
from azure.core.exceptions import ClientAuthenticationError

from keyvouch.entra.msal import ConfidentialClient
from keyvouch.entra.profile import client_of
from keyvouch.errors import AuthorityRefused, ConfigurationError, KeyvouchError, without_frames

__all__ = ["KeyvouchCredential"]


class KeyvouchCredential:
    """azure-core's `TokenCredential` and `SupportsTokenInfo`, with the cache and single flight of `ConfidentialClient`.

    Claims that a service demands (CAE) are passed on. A token of another tenant is given where that tenant is among
    `additionally_allowed_tenants`, as in azure-identity; `"*"` means all. Safe under threads and fork.
    """

    def __init__(self, source: str | ConfidentialClient, *, additionally_allowed_tenants: Collection[str] = ()) -> None:
        """Take a profile's name, which is read when a token is asked for, or a client, which stays the caller's."""
        self._source = source
        self._allowed = frozenset(each.lower() for each in additionally_allowed_tenants)
        self._of_tenants: dict[tuple[int, str], ConfidentialClient] = {}

    def get_token(
        self,
        *scopes: str,
        claims: str | None = None,
        tenant_id: str | None = None,
        enable_cae: bool = False,  # noqa: ARG002 - what the client's own `client_capabilities` say
        **_: Any,
    ) -> AccessToken:
        """Return an access token for these scopes. Raises azure-core's `ClientAuthenticationError`."""
        found = self._find(scopes, claims, tenant_id)
        return AccessToken(found.token, found.expires_on)

    def get_token_info(self, *scopes: str, options: TokenRequestOptions | None = None) -> AccessTokenInfo:
        """Return an access token and when to renew it. Raises azure-core's `ClientAuthenticationError`.

        Where there is no key or no authority to be reached it is azure-identity's `CredentialUnavailableError`, if that
        package is in use: a `ChainedTokenCredential` then goes on to its next.
        """
        wanted = options or {}
        return self._find(scopes, wanted.get("claims"), wanted.get("tenant_id"))

    def close(self) -> None:
        """Close what was opened for other tenants; a profile's client is shared in the process, and stays."""
        while self._of_tenants:
            self._of_tenants.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.close()

    def _find(self, scopes: tuple[str, ...], claims: str | None, tenant: str | None) -> AccessTokenInfo:
        try:
            client = self._client(tenant)
            result = client.token_result(list(scopes), claims_challenge=claims)
        except KeyvouchError as error:
            raise _as_azure(without_frames(error)) from error
        ends = int(time.time()) + int(result["expires_in"])
        renewed = result.get("refresh_on")
        return AccessTokenInfo(
            str(result["access_token"]),
            ends,
            token_type=str(result.get("token_type") or "Bearer"),
            refresh_on=int(renewed) if renewed else None,
        )

    def _client(self, tenant: str | None) -> ConfidentialClient:
        client = client_of(self._source) if isinstance(self._source, str) else self._source
        if not tenant or client.is_of_tenant(tenant):
            return client
        if not self._allowed & {tenant.lower(), "*"}:
            raise ConfigurationError(
                f"A token of the tenant {tenant} was asked for, and the client is of another.",
                hint="If that is meant, name it in additionally_allowed_tenants=.",
            )
        place = (id(client), tenant.lower())
        if place not in self._of_tenants:
            self._of_tenants[place] = client.of_tenant(tenant)
        return self._of_tenants[place]


def _as_azure(error: KeyvouchError) -> ClientAuthenticationError:
    kind: Any = ClientAuthenticationError
    if not isinstance(error, AuthorityRefused):
        # Whoever has a chain of credentials has imported it.
        kind = getattr(sys.modules.get("azure.identity"), "CredentialUnavailableError", kind)
    made: ClientAuthenticationError = kind(message=str(error))
    return made
