"""MSAL with a key in any store.

    app = msal.ConfidentialClientApplication(client_id, authority=authority,
                                             client_credential=client_credential("profile:nightly"))
    with ConfidentialClient(client_id, keys=[first_uri, standby_uri], authority=authority) as client:
        result = client.acquire_token_for_client(scopes)

`client_credential` is for MSAL as it is. `ConfidentialClient` adds what MSAL lacks: keys in order of preference, one
request where many threads ask for the same token, errors with advice.
"""

from __future__ import annotations

import functools
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msal
import msgspec
import requests
from msal.exceptions import MsalServiceError

from keyvouch import config, files, opening
from keyvouch.entra import advice
from keyvouch.entra.assertion import EntraAssertion
from keyvouch.entra.transport import Session
from keyvouch.errors import (
    AuthorityRefused,
    AuthorityUnavailable,
    ConfigurationError,
    KeyvouchError,
    StoreUnavailable,
    hidden_frames,
)
from keyvouch.signer import SIGN_TIMEOUT, Signer
from keyvouch.single_flight import SingleFlight

T = TypeVar("T")
log = logging.getLogger("keyvouch")

ACCESS_TOKEN_TIMEOUT = 60.0
"""Seconds that a thread waits for the token that another one is just getting."""
REFUSED_FOR = 300.0
"""Seconds for which a key that the authority refused is passed over, where there is another."""


def client_credential(signer: Signer | str, **options: Any) -> dict[str, Any]:
    """Return what MSAL takes as `client_credential`, from a signer or a URI, with options of `ClientAssertion`.

    A signer that is opened for a URI lives as long as the program. `profile:NAME` brings that profile's options.
    Raises what `open_signer` raises.
    """
    if isinstance(signer, str):
        if signer.startswith("profile:"):
            profile = config.load().profile(signer.removeprefix("profile:"))
            options = {**msgspec.structs.asdict(profile.assertion), **options}
        signer = opening.open_signer(signer)
    return {"client_assertion": EntraAssertion(signer, **options)}


class _Key:
    """One of a client's keys: opened when it is first needed, passed over for a while after it was refused."""

    def __init__(
        self, source: Signer | str, open_uri: Callable[[str], Signer], options: Mapping[str, Any], timeout: float
    ) -> None:
        self._source = source
        self._open_uri = open_uri
        self._options = options
        self._timeout = timeout
        self._assertion: EntraAssertion | None = None
        self._opening = SingleFlight[EntraAssertion]()
        self.refused_until = 0.0
        self.warned = False

    @property
    def signer(self) -> Signer | None:
        """The open signer, where it is open."""
        return self._assertion.signer if self._assertion else None

    def assertion(self) -> EntraAssertion:
        """Return what makes assertions with this key, which is opened where it is not."""
        if self._assertion is not None:
            return self._assertion
        try:
            return self._opening.do("open", self._open, timeout=opening.OPEN_TIMEOUT)
        except TimeoutError:
            raise StoreUnavailable("The key was not open in time.", hint="Try again later.") from None

    def _open(self) -> EntraAssertion:
        if self._assertion is None:
            signer = self._source if isinstance(self._source, Signer) else self._open_uri(self._source)
            made = EntraAssertion(signer, **self._options)
            made.timeout = self._timeout
            self._assertion = made
        return self._assertion

    def close(self) -> None:
        """Close the signer, if it was opened here."""
        if self._assertion is not None and not isinstance(self._source, Signer):
            self._assertion.signer.close()

    def __str__(self) -> str:
        return self.signer.uri if self.signer else str(self._source)


class _Turn(threading.local):
    """Which key this thread's request uses, and whether MSAL asked for an assertion at all."""

    key: _Key | None = None
    used = False


def _with_keys(name: str) -> Any:
    """Return MSAL's method of this name, tried with one key after the other."""
    inherited = getattr(msal.ConfidentialClientApplication, name)

    @functools.wraps(inherited)
    def method(self: ConfidentialClient, *args: Any, **kwargs: Any) -> Any:
        return self._try_keys(lambda: inherited(self, *args, **kwargs))

    return method


class ConfidentialClient(msal.ConfidentialClientApplication):  # type: ignore[misc]
    """A `msal.ConfidentialClientApplication` whose keys are in stores.

    The inherited calls give MSAL's results to the letter: a dict, also for a refusal. Only when every key's store
    failed do they raise, and then the last store's error. `access_token` raises for everything that is not a token.
    Safe under threads; a context manager, which closes the signers that it opened.
    """

    def __init__(
        self,
        client_id: str,
        keys: Sequence[Signer | str],
        *,
        scopes: Sequence[str] = (),
        ca_file: str | None = None,
        proxy: str | None = None,
        assertion: Mapping[str, Any] | None = None,
        open_uri: Callable[[str], Signer] = opening.open_signer,
        **msal_options: Any,
    ) -> None:
        """Take URIs or signers, the preferred one first, and MSAL's own options (`authority`, `token_cache`, ...).

        `scopes`: for `access_token` where it names none. `ca_file`: PEM certificates trusted for TLS; `proxy`: an HTTP
        proxy's address; both give way to MSAL's `http_client`. `assertion`: options of `ClientAssertion`. `open_uri`
        opens a URI. Asks the authority for its endpoints. Raises `ConfigurationError`, `AuthorityUnavailable`,
        `AuthorityRefused` (no such tenant).
        """
        if not keys:
            raise ConfigurationError("The client has no keys.", hint='Give keys=["scheme:..."].')
        for key in keys:  # a mistake in a URI shows now, and not when the standby key is needed
            if isinstance(key, str) and not key.startswith("profile:"):
                opening.parse(key)
        share = SIGN_TIMEOUT / len(keys)  # a store that stalls leaves time for the next key
        self._keys = [_Key(key, open_uri, assertion or {}, share) for key in keys]
        self._accepted: _Key | None = None
        self._last_refused: _Key | None = None
        self._default_scopes = list(scopes)
        self._turn = _Turn()
        self._flights = SingleFlight[dict[str, Any]]()
        if not {"http_client", "verify", "proxies", "timeout"} & msal_options.keys():
            msal_options["http_client"] = Session(ca_file, proxy)
        authority = str(msal_options.get("oidc_authority") or msal_options.get("authority") or "the authority")
        _with_our_errors(
            lambda: super(ConfidentialClient, self).__init__(
                client_id, client_credential={"client_assertion": self._assert}, **msal_options
            ),
            authority,
        )

    # Our own calls.

    def access_token(self, scopes: Sequence[str] | None = None, *, claims_challenge: str | None = None) -> str:
        """Return an access token of the client itself, from the cache while one lives.

        Raises `AuthorityRefused` with the AADSTS code and what to do, `AuthorityUnavailable`, and the last store's
        error where no key could sign.
        """
        wanted = list(scopes or self._default_scopes)
        if not wanted:
            raise ConfigurationError(
                "No scope was named.", hint="Give scopes, as https://graph.microsoft.com/.default."
            )
        result = _with_our_errors(
            lambda: self.acquire_token_for_client(wanted, claims_challenge=claims_challenge),
            self.authority.token_endpoint,
        )
        if "access_token" in result:
            return str(result["access_token"])
        raise advice.refusal(result, self._last_refused.signer if self._last_refused else None)

    async def access_token_async(
        self, scopes: Sequence[str] | None = None, *, claims_challenge: str | None = None
    ) -> str:
        """As `access_token`, in a thread."""
        import asyncio

        return await asyncio.to_thread(self.access_token, scopes, claims_challenge=claims_challenge)

    def close(self) -> None:
        """Close the signers that this client opened. May be called twice."""
        for key in self._keys:
            key.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Inherited calls that may need an assertion.

    def acquire_token_for_client(self, scopes: Sequence[str], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As MSAL's; where several threads ask for the same at once, one request serves them all."""

        def acquire() -> dict[str, Any]:
            return self._try_keys(lambda: parent(list(scopes), *args, **kwargs))

        parent = super().acquire_token_for_client
        same = (frozenset(scopes), json.dumps([args, kwargs], sort_keys=True, default=repr))
        try:
            return dict(self._flights.do(same, acquire, timeout=ACCESS_TOKEN_TIMEOUT))
        except TimeoutError:
            return acquire()

    acquire_token_by_auth_code_flow = _with_keys("acquire_token_by_auth_code_flow")
    acquire_token_by_authorization_code = _with_keys("acquire_token_by_authorization_code")
    acquire_token_by_refresh_token = _with_keys("acquire_token_by_refresh_token")
    acquire_token_by_username_password = _with_keys("acquire_token_by_username_password")
    acquire_token_on_behalf_of = _with_keys("acquire_token_on_behalf_of")
    acquire_token_silent = _with_keys("acquire_token_silent")
    acquire_token_silent_with_error = _with_keys("acquire_token_silent_with_error")

    # Which key.

    def _assert(self, context: Mapping[str, str]) -> str:
        """Make the assertion for one wire request of MSAL, with the key whose turn it is in this thread."""
        self._turn.used = True
        key = self._turn.key or self._in_order()[0]
        return key.assertion()(context)

    def _try_keys(self, request: Callable[[], T]) -> T:
        """Make a request with each key until one is accepted; see the design of `try_next_key`."""
        answer: list[T] = []
        error: KeyvouchError | None = None
        for key in self._in_order():
            try:
                answer = [self._with_key(key, request)]
            except KeyvouchError as failed:
                if not failed.try_next_key:
                    raise
                error = failed
                self._pass_over(key, failed.message)
                continue
            if not self._refused(answer[0]):
                return answer[0]
            self._last_refused = key
            key.refused_until = time.monotonic() + REFUSED_FOR
            self._pass_over(key, "the authority refused it")
        if answer:
            return answer[0]
        raise error or ConfigurationError("The client has no keys.")

    def _with_key(self, key: _Key, request: Callable[[], T]) -> T:
        """Make a request with one key, and once more where reloading it gives another certificate."""
        outer = (self._turn.key, self._turn.used)
        self._turn.key, self._turn.used = key, False
        try:
            result = request()
            if self._refused(result) and key.signer is not None and _reloaded(key.signer):
                result = request()
            if self._turn.used and not self._refused(result):
                self._accepted = key
                key.refused_until = 0.0
                key.warned = False
            return result
        finally:
            self._turn.key, self._turn.used = outer

    def _refused(self, result: object) -> bool:
        return isinstance(result, dict) and "error" in result and advice.refuses_key(result)

    def _in_order(self) -> list[_Key]:
        """Return the accepted key first, then the others by preference, without those refused lately."""
        now = time.monotonic()
        willing = [key for key in self._keys if key.refused_until <= now] or self._keys
        return sorted(willing, key=lambda key: key is not self._accepted)

    def _pass_over(self, key: _Key, reason: str) -> None:
        if self._accepted is key:
            self._accepted = None
        if len(self._keys) > 1 and not key.warned:
            key.warned = True
            log.warning("A key is passed over (%s): %s", reason, key)


def _reloaded(signer: Signer) -> bool:
    try:
        return signer.reload()
    except KeyvouchError as error:
        log.info("A refused key could not be reloaded: %s", error.message)
        return False


def _with_our_errors(call: Callable[[], T], authority: str) -> T:
    """Turn what `requests` and MSAL raise into our errors; MSAL's frames hold the assertion, and go."""
    try:
        with hidden_frames(Exception):
            return call()
    except requests.exceptions.SSLError as error:
        raise ConfigurationError(
            f"The TLS certificate of {authority} is not trusted.",
            hint="Name the certificate of its issuer in ca-file.",
        ) from error
    except requests.exceptions.RequestException as error:
        raise AuthorityUnavailable(
            f"{authority} cannot be reached: {type(error).__name__}.", hint="Check network, proxy and the address."
        ) from error
    except OSError as error:  # the token cache's lock
        raise files.cannot_write(Path(error.filename or "the token cache"), error) from error
    except (MsalServiceError, json.JSONDecodeError, RuntimeError) as error:
        raise AuthorityUnavailable(
            f"{authority} gave no usable answer: {type(error).__name__}.", hint="Try again later."
        ) from error
    except ValueError as error:
        raise _discovery_error(error, authority) from error


def _discovery_error(error: ValueError, authority: str) -> KeyvouchError:
    """MSAL says with a ValueError that there is no such tenant, and that an address is none."""
    text = str(error)
    if "authority configuration" in text or "OIDC Discovery failed" in text:
        return AuthorityRefused(
            f"{authority} knows no such tenant, or is no authority.",
            hint="Check tenant, cloud and authority.",
            error="invalid_tenant",
            error_codes=(90002,),
        )
    return ConfigurationError(f"MSAL refuses the settings: {text}", hint="Correct them.")
