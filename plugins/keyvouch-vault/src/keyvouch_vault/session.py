"""A login, and what its requests share: a connection pool, and a token that is renewed when it is due."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hvac.exceptions import VaultError

from keyvouch.errors import KeyvouchError, SessionLost, StoreUnavailable
from keyvouch.https import OWN_TIMEOUT, Limits, Pools
from keyvouch.tokens import TokenRenewal
from keyvouch_vault.error_translation import translate_errors
from keyvouch_vault.hvac_adapter import make_client

if TYPE_CHECKING:
    from urllib3 import HTTPConnectionPool

    from keyvouch.secrets import Secret
    from keyvouch.uri import KeyUri
    from keyvouch_vault.auth_methods import AuthMethod, ClientToken

_RENEW_AFTER = 2 / 3
"""Fraction of the token's lifetime."""
_MIN_EXTENSION = 1 / 2
"""Fraction of the first lifetime. A token renewed for less is near its maximum TTL, and a new login replaces it."""
_RETRY_AFTER = 1.0
"""Seconds after which a failed renewal is tried again, while the token is valid."""
_REVOKE_TIMEOUT = 2.0
"""Timeout in seconds for revoking the token."""


class Session:
    """A login that threads share."""

    def __init__(
        self,
        uri: KeyUri,
        auth_method: AuthMethod,
        client_certificate: tuple[str, str] | None,
        proxy_credentials: Secret | None = None,
    ) -> None:
        self._address: str = uri.get("address")
        self._limits = Limits()
        self._pools = Pools(
            self._limits,
            ca_file=uri.get("ca-file"),
            proxy=uri.get("proxy"),
            proxy_credentials=proxy_credentials,
            client_certificate=client_certificate,
        )
        self._auth_method = auth_method
        self._client = make_client(self._pools, uri)
        self._anonymous = make_client(self._pools, uri)
        self._token: ClientToken | None = None
        self._renewal = TokenRenewal(retry_after=_RETRY_AFTER)

    def log_in(self, timeout: float) -> None:
        """Log in. Raises what `AuthMethod.log_in` raises."""
        with self._limits.within(timeout):
            self._replace_token()

    def close(self) -> None:
        """Revoke the token if it was created by this login, and close the connections. Raises nothing."""
        if self._token is not None and self._token.created_by_login and not self._renewal.expired:
            with contextlib.suppress(KeyvouchError, VaultError), self._limits.within(_REVOKE_TIMEOUT):
                self._client.auth.token.revoke_self()
        self._token = None
        self._pools.close()

    @contextlib.contextmanager
    def authenticated(self, timeout: float, operation: str, alternative: str = "") -> Iterator[Any]:
        """Yield hvac's client with a valid token, for requests that end within `timeout` seconds.

        Translates the server's errors as `translate_errors` does.
        """
        with self._limits.within(timeout), translate_errors(operation, alternative):
            self._ensure_token()
            yield self._client

    def plain_pool(self) -> tuple[HTTPConnectionPool, dict[str, str]]:
        """Return a pool without keyvouch's limits, and the headers of its requests; `close` closes it."""
        with self.authenticated(OWN_TIMEOUT, "sign") as client:
            headers: dict[str, str] = client.adapter.own_headers()
        return self._pools.plain_pool(self._address), headers

    def _ensure_token(self) -> None:
        try:
            self._renewal.renew_if_due(
                self._renew_or_replace, timeout=self._limits.left(), errors=(KeyvouchError, VaultError)
            )
        except StoreUnavailable:
            raise
        except (KeyvouchError, VaultError) as error:  # connecting again reports the reason
            raise SessionLost("The token has expired.", hint="Try again.", performed=False) from error

    def _renew_or_replace(self) -> None:
        with self._limits.within(self._limits.left() / 2):  # the other half is for the request itself
            if not self._renew():
                self._replace_token()

    def _renew(self) -> bool:
        """Renew the token; return False if that is impossible, or does not extend it for long enough."""
        began, token = time.monotonic(), self._token
        if token is None or not token.renewable or self._renewal.expired:
            return False
        try:
            ttl = self._client.auth.token.renew_self().auth().lease_duration
        except VaultError:
            return False
        if token.created_by_login and ttl < _MIN_EXTENSION * token.ttl:
            return False
        self._schedule_renewal(began, ttl)
        return True

    def _replace_token(self) -> None:
        began = time.monotonic()
        token = self._auth_method.log_in(self._anonymous)
        self._token, self._client.token = token, token.value.reveal()
        self._schedule_renewal(began, token.ttl)

    def _schedule_renewal(self, began: float, ttl: float) -> None:
        ttl = ttl or math.inf
        self._renewal.schedule(began + _RENEW_AFTER * ttl, began + ttl)
