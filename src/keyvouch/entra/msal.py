"""MSAL with a key in any store.

    app = msal.ConfidentialClientApplication(client_id, authority=authority,
                                             client_credential=client_credential("profile:nightly"))
    with ConfidentialClient(client_id, keys=[first_uri, standby_uri], authority=authority) as client:
        result = client.acquire_token_for_client(scopes)

`client_credential` is for MSAL as it is. `ConfidentialClient` adds what MSAL lacks: keys in order of preference, one
request where many threads ask for the same token, errors with advice.
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

from keyvouch import config, forks, opening
from keyvouch.connections import Deadline
from keyvouch.entra import advice
from keyvouch.entra.answers import Failed, Outcome, from_discovery
from keyvouch.entra.assertion import EntraAssertion
from keyvouch.entra.keys import Key, Keys, OpenUri, Sent
from keyvouch.entra.transport import Session
from keyvouch.entra.variants import Variants
from keyvouch.errors import AuthorityUnavailable, ConfigurationError, KeyvouchError, hidden_frames, without_frames
from keyvouch.proxies import Credentials
from keyvouch.signal_handlers import is_from_signal_handler
from keyvouch.signer import SIGN_TIMEOUT, Signer
from keyvouch.single_flight import FlightTimeout, SingleFlight
from keyvouch.tokens import is_token

log = logging.getLogger("keyvouch")
_CAE = "CP1"
"""The capability, in Entra ID's words, of a client that answers demands for claims."""
_PLAIN_ERROR = re.compile(r"[\x20-\x21\x23-\x5B\x5D-\x7E]*")

_ASSUMED_LIFETIME = 3599
"""Seconds."""
ACCESS_TOKEN_TIMEOUT = 60.0
"""Seconds that a token may take: opening a key, signing and asking, with every key in turn."""


@hidden_frames()
def client_credential(signer: Signer | str, **options: Any) -> dict[str, Any]:
    """Return what MSAL takes as `client_credential`, from a signer or a URI, with options of `ClientAssertion`.

    A signer that is opened for a URI lives as long as the program. `profile:NAME` brings that profile's options.
    Raises what `open_signer` raises.
    """
    if isinstance(signer, str):
        if signer.startswith("profile:"):
            profile = config.load().profile(signer.removeprefix("profile:"))
            options = {**msgspec.structs.asdict(profile.assertion), **options}
        EntraAssertion(None, **options)  # type: ignore[arg-type]  # a mistake in the options shows before it is opened
        signer = opening.open_signer(signer)
    return {"client_assertion": EntraAssertion(signer, **options)}


def _take(keys: Sequence[Signer | str], open_uri: OpenUri, options: Mapping[str, Any]) -> Keys:
    """Take the keys; a mistake in a URI shows now, and not when the standby key is needed."""
    for key in keys:
        if isinstance(key, str) and not key.startswith("profile:"):
            opening.parse(key)
    return Keys(keys, open_uri, options)


class _Turn:
    """A key whose turn it is to sign one acquisition, and what it made."""

    def __init__(self, key: Key, timeout: float, failure: KeyvouchError | None = None) -> None:
        self.key = key
        self.timeout = timeout
        self.failure = failure
        """Raised where an assertion is asked for: no key could make one."""
        self.sent: Sent | None = None
        self.error: Exception | None = None
        """What opening the key or signing with it raised."""


class _Here(threading.local):
    """What this thread's request is signed with: MSAL's callback does not tell whose it is."""

    turn: _Turn | None = None


def _with_keys(name: str) -> Any:
    """Return MSAL's method of this name, tried with one key after the other."""
    inherited = getattr(msal.ConfidentialClientApplication, name)

    @hidden_frames()
    @functools.wraps(inherited)
    def method(self: ConfidentialClient, *args: Any, **kwargs: Any) -> Any:
        return self._try_keys(lambda: inherited(self, *args, **kwargs)).as_msal()

    return method


class ConfidentialClient(msal.ConfidentialClientApplication):  # type: ignore[misc]
    """A `msal.ConfidentialClientApplication` whose keys are in stores.

    The inherited calls give MSAL's results to the letter: a dict, also for a refusal. Only when every key's store
    failed do they raise, and then the last store's error. `access_token` raises for everything that is not a token.
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

        `scopes`: for `access_token` where it names none. `ca_file`: PEM certificates trusted for TLS; `proxy`: an HTTP
        proxy's address; `proxy_credentials` returns `user:password` for it when a request is made. All three give way
        to MSAL's `http_client`. `assertion`: options of `ClientAssertion`. `open_uri`
        opens a URI. `cae_token_cache`: for the tokens of `variant(cae=True)`, else they are in memory.

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
        """Make MSAL's locks anew in a child: a thread of the parent may hold them, and is not there to release them."""
        mapping = getattr(self.http_client, "_expiring_mapping", None)
        for owner, name in ((self.token_cache, "_lock"), (mapping, "_lock"), (self, "_telemetry_lock")):
            if hasattr(owner, name):
                setattr(owner, name, threading.RLock())

    # Our own calls.

    @hidden_frames()
    def access_token(
        self,
        scopes: Sequence[str] | None = None,
        *,
        claims_challenge: str | None = None,
        timeout: float = ACCESS_TOKEN_TIMEOUT,
    ) -> str:
        """Return an access token of the client itself, from the cache while one lives; within `timeout` seconds.

        `claims_challenge`: the claims that a service demanded (CAE), as MSAL takes them; the cache is passed over then.
        Raises `AuthorityRefused` with the AADSTS code and what to do, `AuthorityUnavailable`, and the last store's
        error where no key could sign.
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
        """As `access_token`, with all that MSAL tells of the token: `expires_in`, `refresh_on`, `token_type`."""
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
                self.remove_tokens_for_client()  # MSAL keeps what is none too, and would give it again
        outcome.token(endpoint, self._session.retry_after(endpoint, wanted) if self._session else None)
        # Some servers send the number as text, and some none: then MSAL assumes an hour as well.
        return {**outcome.result, "expires_in": int(outcome.result.get("expires_in", _ASSUMED_LIFETIME))}

    async def access_token_async(
        self,
        scopes: Sequence[str] | None = None,
        *,
        claims_challenge: str | None = None,
        timeout: float = ACCESS_TOKEN_TIMEOUT,  # noqa: ASYNC109 - it bounds the request, not the await
    ) -> str:
        """As `access_token`, in a thread."""
        import asyncio

        try:
            return await asyncio.to_thread(
                self.access_token, scopes, claims_challenge=claims_challenge, timeout=timeout
            )
        except BaseException as error:
            without_frames(error)
            raise

    def is_of_tenant(self, tenant: str) -> bool:
        """Tell whether this client's authority is that tenant, named by its id or as in the authority's address.

        AD FS, and an `oidc_authority`, have no tenants, and do for each.
        """
        if not self._has_tenants:
            return True
        names = {str(self.authority.tenant).lower(), *str(self.authority.token_endpoint).lower().split("/")}
        return tenant.lower() in names

    @hidden_frames()
    def variant(self, tenant: str | None = None, *, cae: bool = False) -> ConfidentialClient:
        """Return this client for another tenant of the same cloud, for continuous access evaluation, or for both.

        It has the same keys, is the same one when it is asked for again, and is closed with this one. Tokens with `cae`
        live longer, and a service may revoke them: their caller answers the claims that it then demands. So they are in
        a cache of their own. Raises what the constructor raises.
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
        """Whether `close` was called; what is in the cache is still given."""
        return self._closed

    @hidden_frames()
    def close(self) -> None:
        """Close the signers that this client opened, and its connections to the authority. May be called twice."""
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

    # Inherited calls that may need an assertion.

    @hidden_frames()
    def acquire_token_for_client(self, scopes: Sequence[str], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As MSAL's; where several threads ask for the same at once, one request serves them all."""
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
        """As MSAL's, which leaves out of the other's result what is no token; the refusal is needed to go on."""
        result = self.acquire_token_silent_with_error(*args, **kwargs)
        return result if result and "error" not in result else None

    def _acquire(
        self, scopes: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any], timeout: float
    ) -> Outcome:
        """Ask once for all threads that want the same just now.

        Raises `AuthorityUnavailable` where another's request takes longer than `timeout` seconds.
        """
        # MSAL itself refuses what is no list.
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

    # Which key.

    def _assert(self, context: Mapping[str, str]) -> str:
        """Make the assertion for one wire request of MSAL, with the key whose turn it is in this thread."""
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

        Those that were refused lately have their turn only where no store of the others can sign.
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
            # A store that stalls leaves time for the next key.
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
        """Make a request with one key, and once more where reloading it gives another certificate."""
        turn = _Turn(key, timeout)
        with self._signing(turn):
            try:
                result = request()
                if turn.sent and _refuses(result) and key.is_renewed(turn.sent, timeout):
                    result = request()
                self._forget_odd_error(result)
            except Exception as error:
                self._telemetry_buffer.clear()  # may hold what MSAL failed at
                if is_from_signal_handler(error):
                    raise
                return Outcome(error=error, sent=turn.sent, of_key=error is turn.error)
        if turn.sent and isinstance(result, dict) and result.get("token_source") == "identity_provider":
            self._keys.accept(key)
        return Outcome(result, sent=turn.sent)

    def _forget_odd_error(self, result: Any) -> None:
        """Keep MSAL from failing ever after: it puts the errors of former answers into a header of the next request.

        One that is not of RFC 6749's form (section 5.2), as gateways answer with, cannot stand there.
        """
        error = result.get("error", "") if isinstance(result, dict) else ""
        if not (isinstance(error, str) and _PLAIN_ERROR.fullmatch(error)):
            self._telemetry_buffer.clear()

    def _aging_token(self, acquire: Callable[..., Any], failure: KeyvouchError) -> Outcome | None:
        """Return the token in the cache that is only due for renewal, where no store can sign; None without one.

        MSAL falls back on it after what it is told of as a failure of the network, and after nothing else.
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
        """Let MSAL's callback in this thread take this turn."""
        outer, self._here.turn = self._here.turn, turn
        try:
            yield
        finally:
            self._here.turn = outer


def _refuses(result: object) -> bool:
    return isinstance(result, dict) and "error" in result and advice.refuses_key(result)
