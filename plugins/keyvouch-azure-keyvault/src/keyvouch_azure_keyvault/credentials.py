"""Sign-in with azure-identity: one token for all clients of a vault, fetched once for all threads."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from azure.core.credentials import AccessToken, AccessTokenInfo, TokenRequestOptions
from azure.core.exceptions import AzureError

from keyvouch.errors import ConfigurationError, KeyvouchError, StoreUnavailable
from keyvouch.https import is_loopback
from keyvouch.store import ForkGate
from keyvouch.tokens import TokenRenewal, is_token
from keyvouch_azure_keyvault.error_translation import SDK_ERRORS
from keyvouch_azure_keyvault.transports import AuthorityTransport, RequestNotSent, TokenTransport, UnusableToken
from keyvouch_azure_keyvault.uri_attributes import RESOURCES, vault_url

if TYPE_CHECKING:
    from keyvouch.https import Limits
    from keyvouch.secrets import SecretResolver
    from keyvouch.uri import KeyUri
    from keyvouch_azure_keyvault.transports import PoolTransport

_IMPORT_GATE = ForkGate()
_RENEWAL_MARGIN = 300.0
"""Seconds before a token expires at which the next is fetched, if the authority names no time for that."""
_EXPIRY_MARGIN = 10.0
"""Seconds before a token expires during which it is no longer sent."""
_RETRY_INTERVAL = 5.0
"""Seconds after which a failed renewal is tried again, while the token is valid."""
_LATEST = 253_402_300_799
"""Seconds since 1970: the end of the year 9999."""
_CLI_TIMEOUT = 10
"""Timeout in seconds for the Azure CLI."""
_KNOWN_HOSTS = ("login.microsoftonline.com", "login.chinacloudapi.cn", "login.microsoftonline.us")


class _CachedToken:
    """The token for some scopes, and its renewal."""

    def __init__(self) -> None:
        self.token: AccessTokenInfo | None = None
        self.renewal = TokenRenewal(retry_after=_RETRY_INTERVAL, clock=time.time)

    def keep(self, token: AccessTokenInfo) -> None:
        """Use this token from now on."""
        last = token.expires_on - _EXPIRY_MARGIN
        renew_at = max(token.refresh_on or token.expires_on - _RENEWAL_MARGIN, time.time() + _RETRY_INTERVAL)
        self.token = token
        self.renewal.schedule(min(renew_at, last), last)


class VaultCredential:
    """The credential of the SDK's clients."""

    def __init__(self, uri: KeyUri, secrets: SecretResolver, transport: PoolTransport, limits: Limits) -> None:
        self._vault = vault_url(uri)
        self._limits = limits
        self._profile = (
            _ProfileCredential(uri.get("profile"), secrets, limits) if uri.get("auth") == "profile" else None
        )
        self._credential: Any = self._profile or _create_credential(uri, transport)
        self._tokens: dict[tuple[object, ...], _CachedToken] = {}

    def get_token(
        self,
        *scopes: str,
        claims: str | None = None,
        tenant_id: str | None = None,
        enable_cae: bool = False,
        **_: Any,
    ) -> AccessToken:
        """Implement azure-core's `TokenCredential`."""
        options: TokenRequestOptions = {"enable_cae": enable_cae}
        if claims:
            options["claims"] = claims
        if tenant_id:
            options["tenant_id"] = tenant_id
        info = self.get_token_info(*scopes, options=options)
        return AccessToken(info.token, info.expires_on)

    def get_token_info(self, *scopes: str, options: TokenRequestOptions | None = None) -> AccessTokenInfo:
        """Implement azure-core's `SupportsTokenInfo`."""
        self._require_vault_scopes(scopes)
        wanted = options or {}
        key = (scopes, wanted.get("tenant_id"))
        cached = self._tokens.get(key) or self._tokens.setdefault(key, _CachedToken())

        def renew() -> None:
            cached.keep(self._fetch(scopes, wanted))

        if wanted.get("claims"):  # the vault refused the current token
            renew()
        else:
            cached.renewal.renew_if_due(renew, timeout=self._limits.left(), errors=(*SDK_ERRORS, KeyvouchError))
        assert cached.token is not None  # noqa: S101 - renewed, or an error was raised
        return cached.token

    def discard_tokens(self) -> bool:
        """Discard a refused token; return whether another can be fetched, rather than the same one from a cache."""
        self._tokens.clear()
        if self._profile is None:
            return False  # azure-identity's own cache was created with this login
        self._profile.bypass_cache = True
        return True

    def close(self) -> None:
        """Close the credential and discard the tokens."""
        self._tokens.clear()
        self._credential.close()

    def _fetch(self, scopes: tuple[str, ...], options: TokenRequestOptions) -> AccessTokenInfo:
        try:
            return _require_valid(self._credential.get_token_info(*scopes, options=options))
        except (AzureError, KeyvouchError):
            raise
        except SDK_ERRORS as error:
            raise _unusable_token(type(error).__name__) from error

    def _require_vault_scopes(self, scopes: tuple[str, ...]) -> None:
        """Reject a loopback server's request for another service's token; for other hosts, the SDK checks the name."""
        if is_loopback(self._vault) and not all(each.removesuffix("/.default") in RESOURCES for each in scopes):
            raise RequestNotSent(
                ConfigurationError(
                    f"{self._vault} requested a token for a service other than Key Vault.",
                    hint="Check that vault= leads to Key Vault.",
                )
            )


def _require_valid(token: AccessTokenInfo) -> AccessTokenInfo:
    """Return the token if a header can carry it and its times are valid numbers. Raises `UnusableToken`."""
    times = (token.expires_on, token.expires_on if token.refresh_on is None else token.refresh_on)
    if not is_token(token.token) or not all(type(each) is int and 0 <= each <= _LATEST for each in times):
        raise _unusable_token("an invalid token, or one with invalid times")
    return token


def _unusable_token(reason: str) -> UnusableToken:
    return UnusableToken(
        StoreUnavailable(
            f"Signing in did not return a usable token: {reason}.",
            hint="Check whether the authority responds, or a proxy or gateway.",
        )
    )


class _ProfileCredential:
    """Sign-in with another profile, so that a key in a TPM or a PFX gives access to the vault."""

    def __init__(self, profile: str, secrets: SecretResolver, limits: Limits) -> None:
        self._profile, self._secrets, self._limits = profile, secrets, limits
        self.bypass_cache = False
        """Whether the next token must not come from the profile's cache."""

    def get_token_info(self, *scopes: str, options: TokenRequestOptions) -> AccessTokenInfo:
        """Return the profile's token, with the claims that the vault requires.

        Its tenant is always the profile's, whatever the vault asks for; the vault decides whether to accept that.
        """
        bypass_cache, self.bypass_cache = self.bypass_cache, False
        token = self._secrets.access_token(
            self._profile,
            scopes[0],
            timeout=max(0.0, self._limits.left()),
            cae=options.get("enable_cae", False),
            claims=options.get("claims"),
            renew=bypass_cache,
        )
        return AccessTokenInfo(token.reveal(), token.ends, refresh_on=token.renew_at)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def _create_credential(uri: KeyUri, transport: PoolTransport) -> Any:
    """Create azure-identity's credential; nothing is sent yet. Raises ValueError if a setting is missing."""
    with _IMPORT_GATE:
        import azure.identity

    client_id = uri.get("client-id")
    # The core retries, within the caller's timeout.
    options: dict[str, Any] = {"transport": AuthorityTransport(transport), "retry_total": 0}
    discovery: dict[str, Any] = {"disable_instance_discovery": _is_private_cloud()}
    match uri.get("auth"):
        case "managed-identity":
            # On a machine that has just started, this endpoint responds for some seconds that it does not exist: the
            # protocol itself requires retries.
            return azure.identity.ManagedIdentityCredential(client_id=client_id, transport=TokenTransport(transport))
        case "workload":
            return azure.identity.WorkloadIdentityCredential(client_id=client_id, **options, **discovery)
        case "cli":
            return azure.identity.AzureCliCredential(process_timeout=_CLI_TIMEOUT)
        case "environment":
            return azure.identity.EnvironmentCredential(**options, **discovery)
        case _:
            return azure.identity.DefaultAzureCredential(
                managed_identity_client_id=client_id,
                workload_identity_client_id=client_id,
                process_timeout=_CLI_TIMEOUT,
                **options,
                **discovery,
            )


def _is_private_cloud() -> bool:
    """Return whether the authority is unknown to Microsoft's instance discovery, which must then not be queried."""
    host = os.environ.get("AZURE_AUTHORITY_HOST", "")
    return bool(host) and (urlsplit(host).hostname or host) not in _KNOWN_HOSTS
