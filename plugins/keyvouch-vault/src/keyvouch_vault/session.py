"""A log-in and what its requests share: a connection pool, and a token that is renewed when it is due."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hvac.exceptions import VaultError

from keyvouch.errors import KeyvouchError, SessionLost, StoreUnavailable
from keyvouch.https import Limits, Pools
from keyvouch_vault.failures import told
from keyvouch_vault.transport import make_client

if TYPE_CHECKING:
    from keyvouch.secrets import Secret
    from keyvouch.uri import KeyUri
    from keyvouch_vault.logins import Grant, LogIn

_RENEW_AFTER = 2 / 3
"""Fraction of the token's lifetime."""
_WORTH_KEEPING = 1 / 2
"""Fraction of the first lifetime. A token renewed for less is near its maximum, and another is fetched."""
_PAUSE = 1.0
"""Seconds after which a failed renewal is tried again, while the token is valid."""
_GOOD_BYE = 2.0
"""Timeout in seconds for revoking the token."""


class Session:
    """A log-in shared by threads: the one that finds the token due for renewal renews it, and the others go on."""

    def __init__(
        self,
        uri: KeyUri,
        log_in: LogIn,
        client_certificate: tuple[str, str] | None,
        proxy_credentials: Secret | None = None,
    ) -> None:
        self._limits = Limits()
        self._pools = Pools(
            self._limits,
            ca_file=uri.get("ca-file"),
            proxy=uri.get("proxy"),
            proxy_credentials=proxy_credentials,
            client_certificate=client_certificate,
        )
        self._log_in = log_in
        self._client = make_client(self._pools, uri)
        self._anonymous = make_client(self._pools, uri)
        self._renewing = threading.Lock()
        self._grant: Grant | None = None
        self._renew_at = self._ends_at = 0.0

    def begin(self, timeout: float) -> None:
        """Log in. Raises what `LogIn.do` raises."""
        with self._limits.within(timeout):
            self._fetch()

    def end(self) -> None:
        """Revoke the token if it was created for this log-in, and close the connections. Raises nothing."""
        if self._grant is not None and self._grant.ours and time.monotonic() < self._ends_at:
            with contextlib.suppress(KeyvouchError, VaultError), self._limits.within(_GOOD_BYE):
                self._client.auth.token.revoke_self()
        self._grant = None
        self._pools.close()

    @contextlib.contextmanager
    def asking(self, timeout: float, doing: str, needs: str = "") -> Iterator[Any]:
        """Yield hvac's client with a valid token, for requests that end within `timeout` seconds.

        Raises keyvouch's errors for the server's; `needs` is the hint if a policy denies access.
        """
        with self._limits.within(timeout), told(doing, needs):
            if time.monotonic() >= self._renew_at:
                self._refresh()
            yield self._client

    def _refresh(self) -> None:
        alive = time.monotonic() < self._ends_at
        # While the token is valid, nobody waits for the thread that renews it.
        if not self._renewing.acquire(timeout=0 if alive else max(0.0, self._limits.left())):
            if alive:
                return
            raise StoreUnavailable("The log-in was not renewed in time.", hint="Try again later.")
        try:
            if time.monotonic() >= self._renew_at:
                with self._limits.within(self._limits.left() / 2):  # the other half is for the request itself
                    self._renew_or_fetch()
        except (KeyvouchError, VaultError) as error:
            if time.monotonic() < self._ends_at:
                self._renew_at = time.monotonic() + _PAUSE
            elif isinstance(error, StoreUnavailable):
                raise
            else:  # connecting again reports the reason
                raise SessionLost("The log-in has ended.", hint="Try again.", performed=False) from error
        finally:
            self._renewing.release()

    def _renew_or_fetch(self) -> None:
        began, grant = time.monotonic(), self._grant
        if grant is not None and grant.renewable and began < self._ends_at:
            with contextlib.suppress(VaultError):
                lifetime = self._client.auth.token.renew_self().granted().lease_duration
                if not grant.ours or lifetime >= _WORTH_KEEPING * grant.seconds:
                    self._count_from(began, lifetime)
                    return
        self._fetch()

    def _fetch(self) -> None:
        began = time.monotonic()
        grant = self._log_in.do(self._anonymous)
        self._grant, self._client.token = grant, grant.token.reveal()
        self._count_from(began, grant.seconds)

    def _count_from(self, began: float, seconds: float) -> None:
        self._ends_at = began + seconds if seconds else math.inf
        self._renew_at = began + _RENEW_AFTER * seconds if seconds else math.inf
