"""A profile or a client as a credential for the Azure SDK. Of the SDK, only the azure-core package is required.

    from azure.keyvault.secrets import SecretClient
    from keyvouch.entra.azure import KeyvouchCredential

    client = SecretClient("https://contoso.vault.azure.net", credential=KeyvouchCredential("nightly"))

For `azure.*.aio` clients, use `keyvouch.entra.azure.aio`.
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
from keyvouch.errors import AuthorityRefused, KeyvouchError, hidden_frames

__all__ = ["KeyvouchCredential"]


class KeyvouchCredential:
    """azure-core's `TokenCredential` and `SupportsTokenInfo`, with the cache and single flight of `ConfidentialClient`.

    An SDK client that supports continuous access evaluation (CAE) gets CAE tokens, which have a separate cache; claims
    that its service demands are passed on. Tokens for another tenant are issued only if that tenant is in
    `additionally_allowed_tenants`, as in azure-identity; `"*"` allows all. Safe under threads and fork.
    """

    def __init__(
        self, source: str | ConfidentialClient | None = None, *, additionally_allowed_tenants: Collection[str] = ()
    ) -> None:
        """Take a profile name, which is read when a token is requested, or a client, which the caller closes.

        By default, as for `connect`, the settings are those in variables, or in the only profile.
        """
        self._source = source
        self._allowed_tenants = frozenset(each.lower() for each in additionally_allowed_tenants)

    @hidden_frames()
    def get_token(
        self,
        *scopes: str,
        claims: str | None = None,
        tenant_id: str | None = None,
        enable_cae: bool = False,
        **_: Any,
    ) -> AccessToken:
        """Return an access token for these scopes. Raises the same errors as `get_token_info`."""
        found = self._token_info(scopes, claims, tenant_id, cae=enable_cae)
        return AccessToken(found.token, found.expires_on)

    @hidden_frames()
    def get_token_info(self, *scopes: str, options: TokenRequestOptions | None = None) -> AccessTokenInfo:
        """Return an access token and when to renew it. Raises azure-core's `ClientAuthenticationError`.

        If no key is available or the authority cannot be reached, raises azure-identity's `CredentialUnavailableError`
        if that package is in use, so that a `ChainedTokenCredential` tries its next credential.
        """
        given = options or {}
        cae = given.get("enable_cae", False)
        return self._token_info(scopes, given.get("claims"), given.get("tenant_id"), cae=cae)

    def close(self) -> None:
        """Do nothing: a profile's client is shared in the process, and any other client is closed by its owner."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.close()

    def _token_info(
        self, scopes: tuple[str, ...], claims: str | None, tenant: str | None, *, cae: bool
    ) -> AccessTokenInfo:
        if not scopes:  # as in azure-identity: never issue a token without a scope
            raise ValueError("at least one scope is required")
        now = int(time.time())  # before the request, so that the reported expiry is never too late
        try:
            client = self._source if isinstance(self._source, ConfidentialClient) else client_of(self._source)
            self._require_allowed_tenant(tenant, client)
            result = client.variant(tenant, cae=cae).token_result(list(scopes), claims_challenge=claims)
        except KeyvouchError as error:
            raise _as_azure_error(error) from error
        refresh_on = result.get("refresh_on")
        return AccessTokenInfo(
            str(result["access_token"]),
            now + int(result["expires_in"]),
            token_type=str(result.get("token_type") or "Bearer"),
            refresh_on=int(refresh_on) if refresh_on else None,
        )

    def _require_allowed_tenant(self, tenant: str | None, client: ConfidentialClient) -> None:
        if tenant and not client.is_of_tenant(tenant) and not self._allowed_tenants & {tenant.lower(), "*"}:
            # Another credential in a chain must not silently take over: end the chain, as azure-identity does.
            raise ClientAuthenticationError(
                message=f"A token for the tenant {tenant} was requested, but the client belongs to another tenant. "
                "To allow this, add the tenant to additionally_allowed_tenants."
            )


def _as_azure_error(error: KeyvouchError) -> ClientAuthenticationError:
    kind: Any = ClientAuthenticationError
    if not isinstance(error, AuthorityRefused):
        # A caller that uses a credential chain has already imported it.
        kind = getattr(sys.modules.get("azure.identity"), "CredentialUnavailableError", kind)
    translated: ClientAuthenticationError = kind(message=str(error))
    return translated
