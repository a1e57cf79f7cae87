"""MSAL with a key in any store.

    app = msal.ConfidentialClientApplication(client_id, authority=authority,
                                             client_credential=client_credential("profile:nightly"))
    with ConfidentialClient(client_id, keys=[first_uri, standby_uri], authority=authority) as client:
        result = client.acquire_token_for_client(scopes)

`client_credential` works with unmodified MSAL. `ConfidentialClient` adds what MSAL lacks: keys in order of preference,
a single request when many threads ask for the same token, and errors with advice.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import msal
import msgspec

from keyvouch import config
from keyvouch._core import opening
from keyvouch._core.retries import Deadline
from keyvouch._core.signer import Signer
from keyvouch._system import forks
from keyvouch._system.not_picklable import NotPicklable
from keyvouch._system.single_flight import FlightTimeout, SingleFlight
from keyvouch.entra.assertion import Discovered, EntraAssertion
from keyvouch.entra.client_key import OpenUri
from keyvouch.entra.client_variants import ClientVariants
from keyvouch.entra.discovery import issuer_for_msal
from keyvouch.entra.key_failover import ClientKeys, KeyFailover
from keyvouch.entra.locked_token_cache import LockedTokenCache
from keyvouch.entra.msal_errors import translate_discovery_error
from keyvouch.entra.msal_internals import discard_telemetry, renew_locks
from keyvouch.entra.outcome import FailedOutcome, Outcome
from keyvouch.entra.transport import Session
from keyvouch.errors import AuthorityUnavailable, ConfigurationError, KeyvouchError, hidden_frames, without_frames
from keyvouch.proxies import Credentials
from keyvouch.tokens import is_token
from keyvouch.uri import KeyUri

log = logging.getLogger("keyvouch")

_CAE = "CP1"
"""The capability name by which Entra ID knows a client that can handle claims challenges."""
_DEFAULT_LIFETIME = 3599
"""Number of seconds for which a token is valid if the response does not say so."""
ACCESS_TOKEN_TIMEOUT = 60.0
"""Maximum number of seconds to get a token: opening a key, signing and the request, for all keys in turn."""
_MAX_WAIT = 5.0
"""Maximum number of seconds to wait for another process's request: enough to open a key in a slow token or vault, sign
and get the response. A process that hangs delays the others by no more than that."""


@hidden_frames()
def client_credential(signer: Signer | str | KeyUri, **options: Any) -> dict[str, Any]:
    """Return MSAL's `client_credential` for a signer or a URI, with options of `ClientAssertion`.

    A signer opened for a URI stays open until the program ends. `profile:NAME` also applies that profile's options.
    Raises what `open_signer` raises.
    """
    if isinstance(signer, str | KeyUri):
        if name := opening.profile_name(signer):
            profile = config.load().profile(name)
            options = {"profile": name, **msgspec.structs.asdict(profile.assertion), **options}
        EntraAssertion(None, **options)  # type: ignore[arg-type]  # reports invalid options before opening
        signer = opening.open_signer(signer)
    return {"client_assertion": EntraAssertion(signer, **options)}


def _client_keys(
    keys: Sequence[Signer | str | KeyUri], open_uri: OpenUri, options: Mapping[str, Any], profile: str
) -> ClientKeys:
    """Wrap the keys. Raises `ConfigurationError` for an invalid URI now, not when the standby key is needed."""
    for key in keys:
        if isinstance(key, KeyUri) or (isinstance(key, str) and not opening.is_profile(key)):
            opening.parse(key)
    return ClientKeys(keys, open_uri, options, profile)


def _with_failover(name: str) -> Any:
    """Return MSAL's method of this name, extended to try one key after another."""
    inherited = getattr(msal.ConfidentialClientApplication, name)

    @hidden_frames()
    @functools.wraps(inherited)
    def method(self: ConfidentialClient, *args: Any, **kwargs: Any) -> Any:
        return self._failover.try_keys(lambda: inherited(self, *args, **kwargs)).as_msal()

    return method


class ConfidentialClient(NotPicklable, msal.ConfidentialClientApplication):  # type: ignore[misc]
    """An `msal.ConfidentialClientApplication` whose keys are in stores.

    The inherited methods return exactly what MSAL returns: a dict, even for a refusal. They raise only if the stores of
    all keys failed, and then the last store's error. `access_token` raises for everything other than a token.
    Safe under threads; a context manager, which closes the signers that it opened.
    """

    pickle_hint = "Pass the name of its profile, and call keyvouch.connect in the other process."

    @hidden_frames()
    def __init__(
        self,
        client_id: str,
        keys: Sequence[Signer | str | KeyUri] | ClientKeys,
        *,
        scopes: Sequence[str] = (),
        ca_file: str | None = None,
        proxy: str | None = None,
        proxy_credentials: Callable[[], Credentials | None] | None = None,
        assertion: Mapping[str, Any] | None = None,
        open_uri: OpenUri = opening.open_signer,
        cae_token_cache: msal.TokenCache | None = None,
        profile: str = "",
        **msal_options: Any,
    ) -> None:
        """Take URIs or signers, the preferred one first, and MSAL's own options (`authority`, `token_cache`, ...).

        `scopes`: the default for `access_token`. `ca_file`: PEM certificates trusted for TLS; `proxy`: the URL of an
        HTTP proxy; `proxy_credentials` returns its `user:password` and is called for each request. MSAL's `http_client`
        overrides all three. `assertion`: options of `ClientAssertion`. `open_uri` opens a URI. `cae_token_cache`: the
        cache for tokens of `variant(cae=True)`, by default in memory. `profile`: the name of the profile that the keys
        are from, for the commands in hints.

        Asks the authority for its endpoints. Raises `ConfigurationError`, `AuthorityUnavailable`, `AuthorityRefused`
        (no such tenant).
        """
        if not keys or isinstance(keys, str | KeyUri):
            raise ConfigurationError("keys must be a non-empty list.", hint='Pass keys=["scheme:..."].')
        self._shares_keys = isinstance(keys, ClientKeys)
        self._keys = keys if isinstance(keys, ClientKeys) else _client_keys(keys, open_uri, assertion or {}, profile)
        self._failover = KeyFailover(self._keys, functools.partial(discard_telemetry, self))
        self._default_scopes = list(scopes)
        self._options: dict[str, Any] = {
            "scopes": scopes,
            "ca_file": ca_file,
            "proxy": proxy,
            "proxy_credentials": proxy_credentials,
            "assertion": assertion,
            "open_uri": open_uri,
            **msal_options,
        }
        self._flights = SingleFlight[Outcome]()
        self._variants = ClientVariants[ConfidentialClient]()
        self._cae_token_cache = cae_token_cache or msal.TokenCache()
        self._session: Session | None = None
        self._closed = False
        if not {"http_client", "verify", "proxies", "timeout"} & msal_options.keys():
            self._session = msal_options["http_client"] = Session(
                ca_file, proxy, proxy_credentials, issuer=msal_options.get("oidc_authority")
            )
        issuer = msal_options.get("oidc_authority")
        if isinstance(issuer, str):
            msal_options["oidc_authority"] = issuer_for_msal(issuer)
        authority = str(issuer or msal_options.get("authority") or "the authority")
        try:
            super().__init__(
                client_id, client_credential={"client_assertion": self._failover.make_assertion}, **msal_options
            )
        except Exception as error:
            translated = translate_discovery_error(error, authority, is_issuer=bool(issuer))
            if translated is error:
                raise
            raise translated from error
        if self._session:
            self._keys.discovered.algorithms = self._session.signing_algorithms
        forks.watch(self)

    def after_fork(self) -> None:
        """Replace MSAL's locks in a child process."""
        renew_locks(self)

    # keyvouch's own methods.

    @hidden_frames()
    def access_token(
        self,
        scopes: Sequence[str] | None = None,
        *,
        claims_challenge: str | None = None,
        timeout: float = ACCESS_TOKEN_TIMEOUT,
    ) -> str:
        """Return an access token for the client itself, from the cache while it is valid, within `timeout` seconds.

        At an `oidc_authority`, no scopes means those that it grants by default.
        `claims_challenge`: the claims that a service demanded (CAE), in MSAL's format; bypasses the cache. Raises
        `AuthorityRefused` with the AADSTS code and advice, `AuthorityUnavailable`, and the last store's error if no key
        could sign.
        """
        return str(self.token_result(scopes, claims_challenge=claims_challenge, timeout=timeout)["access_token"])

    @hidden_frames()
    def token_result(
        self,
        scopes: Sequence[str] | None = None,
        *,
        claims_challenge: str | None = None,
        timeout: float = ACCESS_TOKEN_TIMEOUT,
    ) -> dict[str, Any]:
        """Like `access_token`, with all that MSAL reports about the token: `expires_in`, `refresh_on`, `token_type`."""
        wanted = scopes or self._default_scopes
        if isinstance(wanted, str) or not (wanted or self._has_default_scopes):
            raise ConfigurationError(
                "scopes must be a non-empty list.", hint='Pass scopes=["https://graph.microsoft.com/.default"].'
            )
        options = {"claims_challenge": claims_challenge} if claims_challenge else {}
        endpoint = str(self.authority.token_endpoint)
        outcome = self._acquire_shared(list(wanted), (), options, timeout)
        if isinstance(outcome.result, dict) and not is_token(outcome.result.get("access_token", "-")):
            with contextlib.suppress(Exception):
                self.remove_tokens_for_client()  # MSAL also caches values that are not tokens
        outcome.access_token(endpoint, self._session.retry_after(endpoint, wanted) if self._session else None)
        # Some servers send the number as text, and some omit it: MSAL, too, then assumes an hour.
        return {**outcome.result, "expires_in": int(outcome.result.get("expires_in", _DEFAULT_LIFETIME))}

    async def access_token_async(
        self,
        scopes: Sequence[str] | None = None,
        *,
        claims_challenge: str | None = None,
        timeout: float = ACCESS_TOKEN_TIMEOUT,  # noqa: ASYNC109 - it bounds the request, not the await
    ) -> str:
        """Like `access_token`, in a thread."""
        import asyncio

        try:
            return await asyncio.to_thread(
                self.access_token, scopes, claims_challenge=claims_challenge, timeout=timeout
            )
        except BaseException as error:
            without_frames(error)
            raise

    def is_of_tenant(self, tenant: str) -> bool:
        """Return True if this client's authority is that tenant, named by its id or as in the authority's URL.

        AD FS and an `oidc_authority` have no tenants; for them the result is always True.
        """
        if not self._has_tenants:
            return True
        names = {str(self.authority.tenant).lower(), *str(self.authority.token_endpoint).lower().split("/")}
        return tenant.lower() in names

    @hidden_frames()
    def variant(self, tenant: str | None = None, *, cae: bool = False) -> ConfidentialClient:
        """Return this client for another tenant of the same cloud, for continuous access evaluation, or for both.

        The variant has the same keys, is created once and is closed with this client. Tokens with `cae` are valid
        longer, and a service may revoke them: the caller must then answer its claims challenge. They therefore have a
        separate cache. Raises what the constructor raises.
        """
        other_tenant = "" if tenant is None or self.is_of_tenant(tenant) else tenant.lower()
        cae = cae and self._has_tenants and _CAE not in self._capabilities
        if not other_tenant and not cae:
            return self
        try:
            return self._variants.get_or_create(
                (other_tenant, cae), lambda: self._create_variant(other_tenant, cae), timeout=ACCESS_TOKEN_TIMEOUT
            )
        except FlightTimeout:
            raise AuthorityUnavailable(
                "Timed out waiting for the client to be created.", hint="Try again later."
            ) from None

    def _create_variant(self, tenant: str, cae: bool) -> ConfidentialClient:
        changed: dict[str, Any] = {"token_cache": self.token_cache}
        if cae:
            changed = {"token_cache": self._cae_token_cache, "client_capabilities": [*self._capabilities, _CAE]}
        if tenant:
            host = urlsplit(str(self._options.get("authority") or self.authority.token_endpoint)).netloc
            changed["authority"] = f"https://{host}/{tenant}"
        return ConfidentialClient(self.client_id, self._keys, **{**self._options, **changed})

    @property
    def discovered(self) -> Discovered:
        """What the authority's discovery document says, besides the endpoints in `authority`."""
        return self._keys.discovered

    @property
    def _has_tenants(self) -> bool:
        return not ("oidc_authority" in self._options or self.authority.is_adfs)

    @property
    def _has_default_scopes(self) -> bool:
        """True if the authority chooses the scopes of a request without any (RFC 6749, section 3.3)."""
        return "oidc_authority" in self._options

    @property
    def _capabilities(self) -> list[str]:
        return list(self._options.get("client_capabilities") or ())

    @property
    def closed(self) -> bool:
        """True if `close` was called; cached tokens are still returned."""
        return self._closed

    @hidden_frames()
    def close(self) -> None:
        """Close the signers that this client opened and its connections to the authority. May be called twice."""
        self._closed = True
        self._variants.close()
        if not self._shares_keys:
            self._keys.close()
        if self._session:
            self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Inherited methods that may need an assertion.

    @hidden_frames()
    def acquire_token_for_client(self, scopes: Sequence[str], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Like MSAL's method, but threads that ask for the same token at the same time share one request."""
        result: dict[str, Any] = self._acquire_shared(scopes, args, kwargs, ACCESS_TOKEN_TIMEOUT).as_msal()
        return result

    acquire_token_by_auth_code_flow = _with_failover("acquire_token_by_auth_code_flow")
    acquire_token_by_authorization_code = _with_failover("acquire_token_by_authorization_code")
    acquire_token_by_refresh_token = _with_failover("acquire_token_by_refresh_token")
    acquire_token_by_username_password = _with_failover("acquire_token_by_username_password")
    acquire_token_on_behalf_of = _with_failover("acquire_token_on_behalf_of")
    acquire_token_silent_with_error = _with_failover("acquire_token_silent_with_error")
    if hasattr(msal.ConfidentialClientApplication, "acquire_token_by_user_federated_identity_credential"):  # since 1.38
        acquire_token_by_user_federated_identity_credential = _with_failover(
            "acquire_token_by_user_federated_identity_credential"
        )

    @hidden_frames()
    def acquire_token_silent(self, *args: Any, **kwargs: Any) -> Any:
        """Like MSAL's method, which returns None for errors; the refusal is needed internally to try the next key."""
        result = self.acquire_token_silent_with_error(*args, **kwargs)
        return result if result and "error" not in result else None

    def _acquire_shared(
        self, scopes: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any], timeout: float
    ) -> Outcome:
        """Make one request for all threads that currently ask for the same token.

        Raises `AuthorityUnavailable` if another thread's request takes longer than `timeout` seconds.
        """
        # MSAL itself refuses scopes that are not a list.
        sorted_scopes = sorted(map(repr, scopes)) if isinstance(scopes, list | tuple | set) else repr(scopes)
        token_request = json.dumps([sorted_scopes, args, kwargs], sort_keys=True, default=repr)
        acquire = functools.partial(super().acquire_token_for_client, scopes, *args, **kwargs)
        deadline = Deadline(timeout)
        bypasses_cache = bool(kwargs.get("claims_challenge") or (args and args[0]))

        def acquire_with_failover() -> Outcome:
            with self._session.within(deadline) if self._session else contextlib.nullcontext():
                if isinstance(self.token_cache, LockedTokenCache) and not bypasses_cache:
                    outcome = self._acquire_in_turn(self.token_cache, token_request, acquire, deadline)
                else:
                    outcome = self._request(acquire, deadline)
            if outcome.error is not None:
                raise FailedOutcome(outcome)
            return outcome

        try:
            return self._flights.do(token_request, acquire_with_failover, timeout=timeout)
        except FailedOutcome as failed:
            return failed.outcome
        except FlightTimeout:
            raise AuthorityUnavailable(
                f"Timed out after {timeout:g} seconds waiting for a token from {self.authority.token_endpoint}.",
                hint="Try again later, or wait longer.",
            ) from None

    def _acquire_in_turn(
        self, cache: LockedTokenCache, token_request: str, acquire: Callable[..., Any], deadline: Deadline
    ) -> Outcome:
        """Make one request for all processes that currently ask for the same token.

        A valid token that another process is renewing is returned at once.
        """
        cached, request_needed = self._failover.cached_token(acquire)
        if cached and not request_needed:
            return cached
        timeout = 0.0 if cached else min(_MAX_WAIT, deadline.left() / 2)
        with cache.request_lock(f"{self.authority.token_endpoint} {token_request}", timeout) as is_free:
            if cached and not is_free:
                return cached
            if not is_free:
                log.info("Another process has not ended its request for the same token: no longer waiting for it.")
            return self._request(acquire, deadline)

    def _request(self, acquire: Callable[..., Any], deadline: Deadline) -> Outcome:
        """Make a request with one key after another, unless MSAL finds a token in its cache."""
        outcome = self._failover.try_keys(acquire, deadline)
        if outcome.from_store and isinstance(outcome.error, KeyvouchError):
            outcome = self._failover.use_cached_token(acquire, outcome.error) or outcome
        return outcome
