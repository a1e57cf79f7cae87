"""`KeyvouchCredential` for the Azure SDK's asynchronous clients; signs in a thread, not in the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from types import TracebackType
from typing import Any, Self

from azure.core.credentials import AccessToken, AccessTokenInfo, TokenRequestOptions

from keyvouch.entra import azure
from keyvouch.entra.msal import ConfidentialClient
from keyvouch.errors import without_frames

__all__ = ["KeyvouchCredential"]


class KeyvouchCredential:
    """azure-core's `AsyncTokenCredential` and `AsyncSupportsTokenInfo`; otherwise as in `keyvouch.entra.azure`."""

    def __init__(
        self, source: str | ConfidentialClient | None = None, *, additionally_allowed_tenants: Collection[str] = ()
    ) -> None:
        """Take a profile name, or a client, which the caller closes; by default, settings as for `connect`."""
        self._credential = azure.KeyvouchCredential(source, additionally_allowed_tenants=additionally_allowed_tenants)

    async def get_token(
        self,
        *scopes: str,
        claims: str | None = None,
        tenant_id: str | None = None,
        enable_cae: bool = False,
        **_: Any,
    ) -> AccessToken:
        """Return an access token for these scopes."""
        try:
            return await asyncio.to_thread(
                self._credential.get_token, *scopes, claims=claims, tenant_id=tenant_id, enable_cae=enable_cae
            )
        except BaseException as error:
            without_frames(error)
            raise

    async def get_token_info(self, *scopes: str, options: TokenRequestOptions | None = None) -> AccessTokenInfo:
        """Return an access token and when to renew it."""
        try:
            return await asyncio.to_thread(self._credential.get_token_info, *scopes, options=options)
        except BaseException as error:
            without_frames(error)
            raise

    async def close(self) -> None:
        """Do nothing, as in the synchronous class."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.close()
