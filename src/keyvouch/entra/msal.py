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
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import msal
import msgspec
import requests

from keyvouch import config
from keyvouch._core import opening
from keyvouch._core.retries import Deadline
from keyvouch._core.signer import SIGN_TIMEOUT, Signer
from keyvouch._system import forks
from keyvouch._system.signal_handlers import is_from_signal_handler
from keyvouch._system.single_flight import FlightTimeout, SingleFlight
from keyvouch.entra import advice
from keyvouch.entra.answers import Failed, Outcome, from_discovery
from keyvouch.entra.assertion import EntraAssertion
from keyvouch.entra.keys import Key, Keys, OpenUri, Sent
from keyvouch.entra.transport import Session
from keyvouch.entra.variants import Variants
from keyvouch.errors import AuthorityUnavailable, ConfigurationError, KeyvouchError, hidden_frames, without_frames
from keyvouch.proxies import Credentials
from keyvouch.tokens import is_token

log = logging.getLogger("keyvouch")
_CAE = "CP1"
"""The capability name by which Entra ID knows a client that can handle claims challenges."""
_PLAIN_ERROR = re.compile(r"[\x20-\x21\x23-\x5B\x5D-\x7E]*")

_ASSUMED_LIFETIME = 3599
"""In seconds."""
ACCESS_TOKEN_TIMEOUT = 60.0
"""Maximum number of seconds to get a token: opening a key, signing and the request, for all keys in turn."""


@hidden_frames()
def client_credential(signer: Signer | str, **options: Any) -> dict[str, Any]:
    """Return MSAL's `client_credential` for a signer or a URI, with options of `ClientAssertion`.

    A signer opened for a URI stays open until the program ends. `profile:NAME` also applies that profile's options.
    Raises what `open_signer` raises.
    """
    if isinstance(signer, str):
        if signer.startswith("profile:"):
            profile = config.load().profile(signer.removeprefix("profile:"))
            options = {**msgspec.structs.asdict(profile.assertion), **options}
        EntraAssertion(None, **options)  # type: ignore[arg-type]  # reports invalid options before opening
        signer = opening.open_signer(signer)
    return {"client_assertion": EntraAssertion(signer, **options)}


def _take(keys: Sequence[Signer | str], open_uri: OpenUri, options: Mapping[str, Any]) -> Keys:
    """Wrap the keys, so that an invalid URI is reported now rather than when the standby key is needed."""
    for key in keys:
        if isinstance(key, str) and not key.startswith("profile:"):
            opening.parse(key)
    return Keys(keys, open_uri, options)


class _Turn:
    """An attempt to sign one acquisition with one key, and its result."""

    def __init__(self, key: Key, timeout: float, failure: KeyvouchError | None = None) -> None:
        self.key = key
        self.timeout = timeout
        self.failure = failure
        """Raised when an assertion is requested, because no key could make one."""
        self.sent: Sent | None = None
        self.error: Exception | None = None
        """The exception raised by opening the key or signing with it."""


class _Here(threading.local):
    """The key for this thread's request: MSAL's callback does not say which request it is for."""

    turn: _Turn | None = None


def _with_keys(name: str) -> Any:
    """Return MSAL's method of this name, extended to try one key after another."""
    inherited = getattr(msal.ConfidentialClientApplication, name)

    @hidden_frames()
    @functools.wraps(inherited)
    def method(self: ConfidentialClient, *args: Any, **kwargs: Any) -> Any:
        return self._try_keys(lambda: inherited(self, *args, **kwargs)).as_msal()

    return method


class ConfidentialClient(msal.ConfidentialClientApplication):  # type: ignore[misc]
    """An `msal.ConfidentialClientApplication` whose keys are in stores.

    The inherited methods return exactly what MSAL returns: a dict, even for a refusal. They raise only if the stores of
    all keys failed, and then the last store's error. `access_token` raises for everything other than a token.
    Safe under threads; a context manager, which closes the signers that it opened.
    """

    @hidden_frames()
    def __init__(
        self,
        client_id: str,
        keys: Sequence[Signer | str] | Keys,
        *,
        scopes: Sequence[str] = (),
        ca_file: str | None = None,
        proxy: str | None = None,
        proxy_credentials: Callable[[], Credentials | None] | None = None,
        assertion: Mapping[str, Any] | None = None,
        open_uri: OpenUri = opening.open_signer,
        cae_token_cache: msal.TokenCache | None = None,
        **msal_options: Any,
    ) -> None:
        """Take URIs or signers, the preferred one first, and MSAL's own options (`authority`, `token_cache`, ...).

        `scopes`: the default for `access_token`. `ca_file`: PEM certificates trusted for TLS; `proxy`: the URL of an
        HTTP proxy; `proxy_credentials` returns its `user:password` and is called for each request. MSAL's `http_client`
        overrides all three. `assertion`: options of `ClientAssertion`. `open_uri` opens a URI. `cae_token_cache`: the
        cache for tokens of `variant(cae=True)`, by default in memory.

        Asks the authority for its endpoints. Raises `ConfigurationError`, `AuthorityUnavailable`, `AuthorityRefused`
        (no such tenant).
        """
        if not keys or isinstance(keys, str):
            raise ConfigurationError("The client has no list of keys.", hint='Give keys=["scheme:..."].')
        self._shares_keys = isinstance(keys, Keys)
        self._keys = keys if isinstance(keys, Keys) else _take(keys, open_uri, assertion or {})
        self._default_scopes = list(scopes)
        self._given: dict[str, Any] = {
            "scopes": scopes,
            "ca_file": ca_file,
            "proxy": proxy,
            "proxy_credentials": proxy_credentials,
            "assertion": assertion,
            "open_uri": open_uri,
            **msal_options,
        }
        self._here = _Here()
        self._flights = SingleFlight[Outcome]()
        self._variants = Variants[ConfidentialClient]()
        self._cae_token_cache = cae_token_cache or msal.TokenCache()
        self._session: Session | None = None
        self._closed = False
        if not {"http_client", "verify", "proxies", "timeout"} & msal_options.keys():
            self._session = msal_options["http_client"] = Session(
                ca_file, proxy, proxy_credentials, issuer=msal_options.get("oidc_authority")
            )
        authority = str(msal_options.get("oidc_authority") or msal_options.get("authority") or "the authority")
        try:
            super().__init__(client_id, client_credential={"client_assertion": self._assert}, **msal_options)
        except Exception as error:
            ours = from_discovery(error, authority)
            if ours is error:
                raise
            raise ours from error
        forks.watch(self)

    def after_fork(self) -> None:
        """Recreate MSAL's locks in a child process: a parent's thread may hold them and cannot release them."""
        mapping = getattr(self.http_client, "_expiring_mapping", None)
        for owner, name in ((self.token_cache, "_lock"), (mapping, "_lock"), (self, "_telemetry_lock")):
            if hasattr(owner, name):
                setattr(owner, name, threading.RLock())

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
        if not wanted or isinstance(wanted, str):
            raise ConfigurationError(
                "No list of scopes was given.", hint='Give scopes, as ["https://graph.microsoft.com/.default"].'
            )
        options = {"claims_challenge": claims_challenge} if claims_challenge else {}
        endpoint = str(self.authority.token_endpoint)
        outcome = self._acquire(list(wanted), (), options, timeout)
        if isinstance(outcome.result, dict) and not is_token(outcome.result.get("access_token", "-")):
            with contextlib.suppress(Exception):
                self.remove_tokens_for_client()  # MSAL also caches values that are not tokens
        outcome.token(endpoint, self._session.retry_after(endpoint, wanted) if self._session else None)
        # Some servers send the number as text, and some omit it: MSAL, too, then assumes an hour.
        return {**outcome.result, "expires_in": int(outcome.result.get("expires_in", _ASSUMED_LIFETIME))}

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
        of = "" if tenant is None or self.is_of_tenant(tenant) else tenant.lower()
        cae = cae and self._has_tenants and _CAE not in self._capabilities
        if not of and not cae:
            return self
        try:
            return self._variants.find((of, cae), lambda: self._make_variant(of, cae), timeout=ACCESS_TOKEN_TIMEOUT)
        except FlightTimeout:
            raise AuthorityUnavailable("Signing in took too long.", hint="Try again later.") from None

    def _make_variant(self, tenant: str, cae: bool) -> ConfidentialClient:
        changed: dict[str, Any] = {"token_cache": self.token_cache}
        if cae:
            changed = {"token_cache": self._cae_token_cache, "client_capabilities": [*self._capabilities, _CAE]}
        if tenant:
            host = urlsplit(str(self._given.get("authority") or self.authority.token_endpoint)).netloc
            changed["authority"] = f"https://{host}/{tenant}"
        return ConfidentialClient(self.client_id, self._keys, **{**self._given, **changed})

    @property
    def _has_tenants(self) -> bool:
        return not ("oidc_authority" in self._given or self.authority.is_adfs)

    @property
    def _capabilities(self) -> list[str]:
        return list(self._given.get("client_capabilities") or ())

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
        result: dict[str, Any] = self._acquire(scopes, args, kwargs, ACCESS_TOKEN_TIMEOUT).as_msal()
        return result

    acquire_token_by_auth_code_flow = _with_keys("acquire_token_by_auth_code_flow")
    acquire_token_by_authorization_code = _with_keys("acquire_token_by_authorization_code")
    acquire_token_by_refresh_token = _with_keys("acquire_token_by_refresh_token")
    acquire_token_by_username_password = _with_keys("acquire_token_by_username_password")
    acquire_token_on_behalf_of = _with_keys("acquire_token_on_behalf_of")
    acquire_token_silent_with_error = _with_keys("acquire_token_silent_with_error")
    if hasattr(msal.ConfidentialClientApplication, "acquire_token_by_user_federated_identity_credential"):  # since 1.38
        acquire_token_by_user_federated_identity_credential = _with_keys(
            "acquire_token_by_user_federated_identity_credential"
        )

    @hidden_frames()
    def acquire_token_silent(self, *args: Any, **kwargs: Any) -> Any:
        """Like MSAL's method, which returns None for errors; the refusal is needed internally to try the next key."""
        result = self.acquire_token_silent_with_error(*args, **kwargs)
        return result if result and "error" not in result else None

    def _acquire(
        self, scopes: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any], timeout: float
    ) -> Outcome:
        """Make one request for all threads that currently ask for the same token.

        Raises `AuthorityUnavailable` if another thread's request takes longer than `timeout` seconds.
        """
        # MSAL itself refuses scopes that are not a list.
        named = sorted(map(repr, scopes)) if isinstance(scopes, list | tuple | set) else repr(scopes)
        same = json.dumps([named, args, kwargs], sort_keys=True, default=repr)
        acquire = functools.partial(super().acquire_token_for_client, scopes, *args, **kwargs)
        deadline = Deadline(timeout)

        def ask() -> Outcome:
            with self._session.within(deadline) if self._session else contextlib.nullcontext():
                outcome = self._try_keys(acquire, deadline)
                if outcome.of_key and isinstance(outcome.error, KeyvouchError):
                    outcome = self._aging_token(acquire, outcome.error) or outcome
            if outcome.error is not None:
                raise Failed(outcome)
            return outcome

        try:
            return self._flights.do(same, ask, timeout=timeout)
        except Failed as failed:
            return failed.outcome
        except FlightTimeout:
            raise AuthorityUnavailable(
                f"There was no token of {self.authority.token_endpoint} within {timeout:g} seconds.",
                hint="Try again later, or wait longer.",
            ) from None

    # Choosing the key.

    def _assert(self, context: Mapping[str, str]) -> str:
        """Make the assertion for one of MSAL's requests, with the key currently being tried in this thread."""
        turn = self._here.turn or _Turn(self._keys.in_order()[0], SIGN_TIMEOUT)
        if turn.failure:
            raise turn.failure
        try:
            assertion, turn.sent = turn.key.make_assertion(context, turn.timeout)
        except Exception as error:
            turn.error = error
            raise
        return assertion

    def _try_keys(self, request: Callable[[], Any], deadline: Deadline | None = None) -> Outcome:
        """Make a request with each key until one is accepted; see the design of `try_next_key`.

        Keys refused recently are tried only if no store of the other keys can sign.
        """
        keys, skipped = self._keys.in_order(), self._keys.skipped()
        outcome = self._try_each(keys, request, deadline)
        if skipped and outcome.key_failed:
            return self._try_each(skipped, request, deadline)
        return outcome

    def _try_each(self, keys: Sequence[Key], request: Callable[[], Any], deadline: Deadline | None) -> Outcome:
        refused: Outcome | None = None
        outcome = Outcome()
        for position, key in enumerate(keys):
            # If a store stalls, leave time for the next key.
            share = SIGN_TIMEOUT / len(self._keys)
            if deadline:
                share = max(0.001, min(share, deadline.left() / (len(keys) - position)))
            outcome = self._with_key(key, request, share)
            if _refuses(outcome.result):
                refused = outcome
                key.refuse()
                self._keys.pass_over(key, f"the authority refused it: {advice.description(outcome.result)}")
            elif outcome.key_failed:
                self._keys.pass_over(key, str(outcome.error).partition("\n")[0])
            else:
                return outcome
        return refused or outcome

    def _with_key(self, key: Key, request: Callable[[], Any], timeout: float) -> Outcome:
        """Make a request with one key, and once more if reloading it yields another certificate."""
        turn = _Turn(key, timeout)
        with self._signing(turn):
            try:
                result = request()
                if turn.sent and _refuses(result) and key.is_renewed(turn.sent, timeout):
                    result = request()
                self._forget_odd_error(result)
            except Exception as error:
                self._telemetry_buffer.clear()  # may hold the value that MSAL failed on
                if is_from_signal_handler(error):
                    raise
                return Outcome(error=error, sent=turn.sent, of_key=error is turn.error)
        if turn.sent and isinstance(result, dict) and result.get("token_source") == "identity_provider":
            self._keys.accept(key)
        return Outcome(result, sent=turn.sent)

    def _forget_odd_error(self, result: Any) -> None:
        """Keep MSAL from failing permanently: it adds the errors of earlier responses to a header of the next request.

        An error that does not follow RFC 6749 (section 5.2), as gateways may send, is not valid in a header.
        """
        error = result.get("error", "") if isinstance(result, dict) else ""
        if not (isinstance(error, str) and _PLAIN_ERROR.fullmatch(error)):
            self._telemetry_buffer.clear()

    def _aging_token(self, acquire: Callable[..., Any], failure: KeyvouchError) -> Outcome | None:
        """Return the cached token that is merely due for renewal, for when no store can sign; None if there is none.

        MSAL falls back on it only after exceptions declared to it as network failures.
        """
        with self._signing(_Turn(self._keys.in_order()[0], 0.0, failure)):
            try:
                result = acquire(http_exceptions=(requests.exceptions.RequestException, KeyvouchError))
            except KeyvouchError:
                return None
        log.warning("No key can sign, and the token at hand is used while it lives: %s", failure.message)
        return Outcome(result)

    @contextlib.contextmanager
    def _signing(self, turn: _Turn) -> Iterator[None]:
        """Let MSAL's callback in this thread use this attempt."""
        outer, self._here.turn = self._here.turn, turn
        try:
            yield
        finally:
            self._here.turn = outer


def _refuses(result: object) -> bool:
    return isinstance(result, dict) and "error" in result and advice.refuses_key(result)
