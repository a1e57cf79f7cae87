"""Sign-in with azure-identity: one token for all clients of a vault, fetched once for all threads."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from azure.core.credentials import AccessToken, AccessTokenInfo, TokenRequestOptions
from azure.core.exceptions import AzureError

from keyvouch.errors import ConfigurationError, KeyvouchError, StoreUnavailable
from keyvouch.https import is_loopback
from keyvouch.store import ForkGate
from keyvouch.tokens import is_token
from keyvouch_azure_keyvault.addresses import RESOURCES, vault_of
from keyvouch_azure_keyvault.failures import MISREAD
from keyvouch_azure_keyvault.transport import LogInTransport, NotSent, NotUsable, TokenTransport

if TYPE_CHECKING:
    from keyvouch.https import Limits
    from keyvouch.secrets import SecretResolver
    from keyvouch.uri import KeyUri
    from keyvouch_azure_keyvault.transport import PoolTransport

_IMPORTS = ForkGate()
_MARGIN = 300.0
"""Seconds before a token expires at which the next is fetched, if the authority names no time for that."""
_LAST = 10.0
"""Seconds before a token expires during which it is no longer sent."""
_PAUSE = 5.0
"""Seconds after which a failed renewal is tried again, while the token is valid."""
_LATEST = 253_402_300_799
"""Seconds since 1970: the end of the year 9999."""
_PROCESS = 10
"""Timeout in seconds for the Azure CLI."""
_KNOWN_HOSTS = ("login.microsoftonline.com", "login.chinacloudapi.cn", "login.microsoftonline.us")


class _Kept:
    """A token, and the time at which the next one is due."""

    def __init__(self, token: AccessTokenInfo) -> None:
        self.token = token
        due = max(token.refresh_on or token.expires_on - _MARGIN, time.time() + _PAUSE)
        self.due = min(due, token.expires_on - _LAST)

    @property
    def alive(self) -> bool:
        return time.time() < self.token.expires_on - _LAST


class LogIn:
    """The credential of the SDK's clients. One thread fetches a token that is due; the others go on."""

    def __init__(self, uri: KeyUri, secrets: SecretResolver, transport: PoolTransport, limits: Limits) -> None:
        self._vault = vault_of(uri)
        self._limits = limits
        self._profile = _OfProfile(uri.get("profile"), secrets, limits) if uri.get("auth") == "profile" else None
        self._credential: Any = self._profile or _make(uri, transport)
        self._kept: dict[tuple[object, ...], _Kept] = {}
        self._fetching = threading.Lock()

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
        self._require_vaults(scopes)
        wanted = options or {}
        same = (scopes, wanted.get("tenant_id"))
        found = None if wanted.get("claims") else self._kept.get(same)
        if found and time.time() < found.due:
            return found.token
        alive = found is not None and found.alive
        # While the token is valid, nobody waits for the thread that renews it.
        if not self._fetching.acquire(timeout=0 if alive else max(0.0, self._limits.left())):
            if found is not None and alive:
                return found.token
            raise NotSent(StoreUnavailable("There was no token in time.", hint="Try again later."))
        try:
            again = None if wanted.get("claims") else self._kept.get(same)
            if again and time.time() < again.due:
                return again.token
            return self._fetch(scopes, wanted, same, again)
        finally:
            self._fetching.release()

    def forget(self) -> bool:
        """Discard a refused token; return whether another can be fetched, rather than the same one from a cache."""
        self._kept.clear()
        if self._profile is None:
            return False  # azure-identity's own cache was created with this log-in
        self._profile.renew = True
        return True

    def close(self) -> None:
        """Close the credential and discard the tokens."""
        self._kept.clear()
        self._credential.close()

    def _fetch(
        self, scopes: tuple[str, ...], options: TokenRequestOptions, same: tuple[object, ...], former: _Kept | None
    ) -> AccessTokenInfo:
        try:
            token = _sound(self._credential.get_token_info(*scopes, options=options))
        except (*MISREAD, KeyvouchError) as error:
            if former is None or not former.alive:
                if isinstance(error, AzureError | KeyvouchError):
                    raise
                raise _no_token(type(error).__name__) from error
            former.due = time.time() + _PAUSE
            return former.token
        self._kept[same] = _Kept(token)
        return token

    def _require_vaults(self, scopes: tuple[str, ...]) -> None:
        """Reject a loopback server's request for another service's token; for other hosts, the SDK checks the name."""
        if is_loopback(self._vault) and not all(each.removesuffix("/.default") in RESOURCES for each in scopes):
            raise NotSent(
                ConfigurationError(
                    f"{self._vault} asks for a token that is not one for Key Vault.",
                    hint="Does the address lead to Key Vault?",
                )
            )


def _sound(token: AccessTokenInfo) -> AccessTokenInfo:
    """Return the token if a header can carry it and its times are valid numbers. Raises `NotUsable`."""
    times = (token.expires_on, token.expires_on if token.refresh_on is None else token.refresh_on)
    if not is_token(token.token) or not all(type(each) is int and 0 <= each <= _LATEST for each in times):
        raise _no_token("an invalid token, or one with invalid times")
    return token


def _no_token(reason: str) -> NotUsable:
    return NotUsable(
        StoreUnavailable(f"The log-in returned no usable token: {reason}.", hint="Check what answers the log-in.")
    )


class _OfProfile:
    """Sign-in with another profile, so that a key in a TPM or a PFX gives access to the vault."""

    def __init__(self, profile: str, secrets: SecretResolver, limits: Limits) -> None:
        self._profile, self._secrets, self._limits = profile, secrets, limits
        self.renew = False
        """Whether the next token must not come from the profile's cache."""

    def get_token_info(self, *scopes: str, options: TokenRequestOptions) -> AccessTokenInfo:
        """Return the profile's token, with the claims that the vault requires.

        Its tenant is always the profile's, whatever the vault asks for; the vault decides whether to accept that.
        """
        renew, self.renew = self.renew, False
        token = self._secrets.access_token(
            self._profile,
            scopes[0],
            timeout=max(0.0, self._limits.left()),
            cae=options.get("enable_cae", False),
            claims=options.get("claims"),
            renew=renew,
        )
        return AccessTokenInfo(token.reveal(), token.ends, refresh_on=token.renew_at)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def _make(uri: KeyUri, transport: PoolTransport) -> Any:
    """Create azure-identity's credential; nothing is sent yet. Raises ValueError if a setting is missing."""
    with _IMPORTS:
        import azure.identity

    client_id = uri.get("client-id")
    # The core retries, within the caller's timeout.
    options: dict[str, Any] = {"transport": LogInTransport(transport), "retry_total": 0}
    discovery: dict[str, Any] = {"disable_instance_discovery": _is_private_cloud()}
    match uri.get("auth"):
        case "managed-identity":
            # On a machine that has just started, this endpoint responds for some seconds that it does not exist: the
            # protocol itself requires retries.
            return azure.identity.ManagedIdentityCredential(client_id=client_id, transport=TokenTransport(transport))
        case "workload":
            return azure.identity.WorkloadIdentityCredential(client_id=client_id, **options, **discovery)
        case "cli":
            return azure.identity.AzureCliCredential(process_timeout=_PROCESS)
        case "environment":
            return azure.identity.EnvironmentCredential(**options, **discovery)
        case _:
            return azure.identity.DefaultAzureCredential(
                managed_identity_client_id=client_id,
                workload_identity_client_id=client_id,
                process_timeout=_PROCESS,
                **options,
                **discovery,
            )


def _is_private_cloud() -> bool:
    """Return whether the authority is unknown to Microsoft's instance discovery, which must then not be queried."""
    host = os.environ.get("AZURE_AUTHORITY_HOST", "")
    return bool(host) and (urlsplit(host).hostname or host) not in _KNOWN_HOSTS
