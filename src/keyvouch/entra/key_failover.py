"""MSAL's requests, each made with one of a client's keys after another until one is accepted.

MSAL asks for an assertion in a callback, in the thread of the request, which does not say which request it is for:
each thread therefore remembers the key that it is trying.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import structs

from keyvouch._core.retries import Deadline
from keyvouch._core.signer import SIGN_TIMEOUT, Signer
from keyvouch._system.signal_handlers import is_from_signal_handler
from keyvouch.entra import aadsts_advice
from keyvouch.entra.assertion import Discovered, EntraAssertion
from keyvouch.entra.client_key import ClientKey, OpenUri, UsedKey
from keyvouch.entra.outcome import Outcome
from keyvouch.errors import KeyvouchError
from keyvouch.uri import KeyUri

log = logging.getLogger("keyvouch")

_VALID_ERROR = re.compile(r"[\x20-\x21\x23-\x5B\x5D-\x7E]*")
"""An error code as RFC 6749, section 5.2 allows it; gateways may send others."""


REFUSED_FOR = 300.0
"""Number of seconds for which a key that the authority refused is skipped if there is another."""


class ClientKeys:
    """All of a client's keys: the accepted one first, then the others by preference."""

    def __init__(
        self,
        sources: Sequence[Signer | str | KeyUri],
        open_uri: OpenUri,
        options: Mapping[str, Any],
        profile: str = "",
    ) -> None:
        EntraAssertion(None, **options)  # type: ignore[arg-type]  # reports invalid options now
        self.discovered = Discovered()
        self._all = [ClientKey(source, open_uri, options, self.discovered, profile) for source in sources]
        self._accepted: ClientKey | None = None

    def __len__(self) -> int:
        return len(self._all)

    def in_order(self) -> list[ClientKey]:
        """Return the keys to try, without those refused recently; if all were refused, return all."""
        return sorted(self._not_refused() or self._all, key=lambda key: key is not self._accepted)

    def held_back(self) -> list[ClientKey]:
        """Return the keys that `in_order` omits, to be tried if no store of the other keys can sign."""
        tried = self._not_refused() or self._all
        return [key for key in self._all if key not in tried]

    def _not_refused(self) -> list[ClientKey]:
        now = time.monotonic()
        return [key for key in self._all if key.refused_until <= now]

    def prefer(self, key: ClientKey) -> None:
        """Try this key first from now on: the authority accepted it."""
        self._accepted = key
        key.mark_accepted()

    def demote(self, key: ClientKey, reason: str, hint: str = "", *, warn: bool = True) -> None:
        """No longer try this key first; log one warning until it is accepted again, with the hint on its own line."""
        if self._accepted is key:
            self._accepted = None
        if warn and len(self._all) > 1 and not key.warned:
            key.warned = True
            log.warning("%s", "\n".join(filter(None, (f"Skipping a key ({reason}): {key}", hint))))

    def close(self) -> None:
        """Close the signers that were opened here."""
        for key in self._all:
            key.close()


class _RequestNeeded(Exception):
    """Raised instead of making an assertion, if only cached tokens are wanted."""


class _Attempt:
    """An attempt to make a request with one key."""

    def __init__(self, key: ClientKey, timeout: float) -> None:
        self.key = key
        self.timeout = timeout
        self.used_key: UsedKey | None = None
        self.store_error: Exception | None = None
        """The exception raised by opening the key or signing with it."""


class _CacheOnly:
    """Takes the place of an attempt while only cached tokens are wanted."""

    request_needed = False
    """True once MSAL wanted to make a request: there is no token, or it is due for renewal."""


class _CurrentAttempt(threading.local):
    attempt: _Attempt | _CacheOnly | None = None


class KeyFailover:
    """Makes requests with a client's keys. Safe under threads."""

    def __init__(self, keys: ClientKeys, discard_telemetry: Callable[[], None]) -> None:
        """Take the keys, and a function that makes MSAL forget the errors of earlier responses."""
        self._keys = keys
        self._discard_telemetry = discard_telemetry
        self._current = _CurrentAttempt()

    def make_assertion(self, context: Mapping[str, str]) -> str:
        """Make the assertion for one of MSAL's requests, with the key currently being tried in this thread."""
        attempt = self._current.attempt or _Attempt(self._keys.in_order()[0], SIGN_TIMEOUT)
        if isinstance(attempt, _CacheOnly):
            attempt.request_needed = True
            raise _RequestNeeded
        try:
            assertion, attempt.used_key = attempt.key.make_assertion(context, attempt.timeout)
        except Exception as error:
            attempt.store_error = error
            raise
        return assertion

    def try_keys(self, request: Callable[[], Any], deadline: Deadline | None = None) -> Outcome:
        """Make a request with each key until one is accepted, as `KeyvouchError.try_next_key` allows.

        Keys refused recently are tried only if no store of the other keys can sign.
        """
        keys, held_back = self._keys.in_order(), self._keys.held_back()
        outcome = self._try_each(keys, request, deadline, followed=bool(held_back))
        if held_back and outcome.store_failed:
            return self._try_each(held_back, request, deadline)
        return outcome

    def _try_each(
        self,
        keys: Sequence[ClientKey],
        request: Callable[[], Any],
        deadline: Deadline | None,
        *,
        followed: bool = False,
    ) -> Outcome:
        refused: Outcome | None = None
        outcome = Outcome()
        skipped: list[str] = []
        for position, key in enumerate(keys):
            # If a store stalls, leave time for the next key.
            timeout = SIGN_TIMEOUT / len(self._keys)
            if deadline:
                timeout = max(0.001, min(timeout, deadline.left() / (len(keys) - position)))
            outcome = self._try_key(key, request, timeout)
            if outcome.key_refused:
                refused = outcome
                key.mark_refused(REFUSED_FOR)
                text = aadsts_advice.error_description(outcome.result)
                # The last key's refusal becomes the error, which has the text.
                self._keys.demote(key, "the authority refused it" + (f": {text}" if key is not keys[-1] else ""))
            elif outcome.store_failed:
                reason, _, hint = str(outcome.error).partition("\n")
                skipped.append(f"{key} ({reason})")
                is_raised = key is keys[-1] and refused is None and not followed
                self._keys.demote(key, reason, hint, warn=not is_raised)
            else:
                return outcome
        return structs.replace(refused, skipped=tuple(skipped)) if refused else outcome

    def _try_key(self, key: ClientKey, request: Callable[[], Any], timeout: float) -> Outcome:
        """Make a request with one key, and once more if reloading it yields another certificate."""
        attempt = _Attempt(key, timeout)
        with self._in_this_thread(attempt):
            try:
                outcome = Outcome(request(), used_key=attempt.used_key)
                if outcome.key_refused and attempt.used_key and key.is_replaced(attempt.used_key, timeout):
                    outcome = Outcome(request(), used_key=attempt.used_key)
                self._discard_invalid_error(outcome.result)
            except Exception as error:
                self._discard_telemetry()  # may hold the value that MSAL failed on
                if is_from_signal_handler(error):
                    raise
                return Outcome(error=error, used_key=attempt.used_key, from_store=error is attempt.store_error)
        result = outcome.result
        if attempt.used_key and isinstance(result, dict) and result.get("token_source") == "identity_provider":
            self._keys.prefer(key)
        return outcome

    def _discard_invalid_error(self, result: Any) -> None:
        """Keep MSAL from failing permanently: it adds the errors of earlier responses to a header of the next request.

        An error that does not follow RFC 6749 is not valid in a header.
        """
        error = result.get("error", "") if isinstance(result, dict) else ""
        if not (isinstance(error, str) and _VALID_ERROR.fullmatch(error)):
            self._discard_telemetry()

    def cached_token(self, acquire: Callable[..., Any]) -> tuple[Outcome | None, bool]:
        """Return the valid token that MSAL has cached, if any, and True if it wants to make a request nevertheless.

        MSAL falls back on a token that is due for renewal only after exceptions declared to it as network failures.
        """
        lookup = _CacheOnly()
        with self._in_this_thread(lookup):
            try:
                return Outcome(acquire(http_exceptions=(_RequestNeeded,))), lookup.request_needed
            except Exception as error:
                if is_from_signal_handler(error):
                    raise
                return None, True  # a mistake in the call is reported by the request itself

    def use_cached_token(self, acquire: Callable[..., Any], failure: KeyvouchError) -> Outcome | None:
        """Return the cached token that is merely due for renewal, for when no store can sign; None if there is none."""
        cached, _ = self.cached_token(acquire)
        if cached:
            log.warning("No key can sign; using the cached token until it expires: %s", failure.message)
        return cached

    @contextlib.contextmanager
    def _in_this_thread(self, attempt: _Attempt | _CacheOnly) -> Iterator[None]:
        """Let MSAL's callback in this thread use this attempt."""
        outer, self._current.attempt = self._current.attempt, attempt
        try:
            yield
        finally:
            self._current.attempt = outer
