"""A log-in, and the SDK's clients that share it and one connection pool."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from azure.keyvault.certificates import CertificateClient
from azure.keyvault.certificates._shared import http_challenge_cache as certificate_challenges
from azure.keyvault.keys import KeyClient, KeyVaultKey
from azure.keyvault.keys._shared import http_challenge_cache as key_challenges
from azure.keyvault.keys.crypto import CryptographyClient

from keyvouch._system import forks
from keyvouch.errors import AccessDenied, KeyvouchError, SessionLost
from keyvouch.https import OWN_TIMEOUT, Limits, is_loopback
from keyvouch_azure_keyvault.addresses import vault_of
from keyvouch_azure_keyvault.failures import Doing, is_denied, no_credential, told
from keyvouch_azure_keyvault.logins import LogIn
from keyvouch_azure_keyvault.transport import PassesOn, PoolTransport, VaultTransport

if TYPE_CHECKING:
    from keyvouch.secrets import SecretResolver
    from keyvouch.uri import KeyUri


class _ChallengeCaches:
    """The SDK's challenge caches, one per package: a fork during a look-up leaves their locks held in the child."""

    def after_fork(self) -> None:
        """Replace the locks."""
        for module in (certificate_challenges, key_challenges):
            vars(module)["_lock"] = threading.Lock()  # the SDK offers no API for this


_challenge_caches = _ChallengeCaches()
forks.watch(_challenge_caches)

_LISTING = Doing("listing keys", None, "keys/list", "Key Vault Reader")


class Session:
    """A log-in that threads share."""

    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:
        self.auth: str = uri.get("auth")
        self._limits = Limits()
        proxy_credentials = secrets.proxy_credentials(uri.get("proxy-credentials"))
        self._transport = PoolTransport(uri, self._limits, proxy_credentials)
        try:
            self._log_in = LogIn(uri, secrets, self._transport, self._limits)
        except ValueError as error:  # from azure-identity, which says what is missing
            raise no_credential(error, self.auth) from error
        vault = vault_of(uri)
        self._options: dict[str, Any] = {
            "credential": self._log_in,
            "transport": VaultTransport(self._transport, vault),
            "retry_policy": PassesOn(),  # the core retries, within the caller's timeout
            "redirect_policy": PassesOn(),  # a token is for one host only
            # Check that a token is for the cloud of the vault's host name; on loopback, `LogIn` checks it.
            "verify_challenge_resource": not is_loopback(vault),
        }
        for cache in (certificate_challenges, key_challenges):
            with contextlib.suppress(KeyError):  # raised by older versions
                cache.remove_challenge_for_url(vault)  # from an earlier log-in, it may name another tenant
        self.keys = KeyClient(vault, **self._options)
        self.certificates = CertificateClient(vault, **self._options)

    def begin(self, timeout: float) -> None:
        """Log in, and verify that with a request; a response that denies listing keys also counts as proof."""
        with self._limits.within(timeout):
            try:
                self._prove(timeout)
            except SessionLost as error:
                try:
                    if not self._log_in.forget():
                        raise
                    self._prove(timeout)
                except SessionLost:
                    raise AccessDenied(error.message, hint=error.hint) from error

    def _prove(self, timeout: float) -> None:
        try:
            with self.asking(timeout, _LISTING):
                next(iter(self.keys.list_properties_of_keys(max_page_size=1)), None)
        except KeyvouchError as error:
            if not is_denied(error):
                raise

    def end(self) -> None:
        """Close the connections. Raises nothing."""
        with contextlib.suppress(Exception):  # azure-identity may raise anything
            self._log_in.close()
        self._transport.end()

    def signing(self, key: KeyVaultKey) -> CryptographyClient:
        """Return a client that signs with a key; the public key is given, so that no request fetches it."""
        return CryptographyClient(key, **self._options)

    def nap(self) -> None:
        """Pause between two polls of an operation in progress."""
        self._transport.sleep(OWN_TIMEOUT)

    @contextlib.contextmanager
    def asking(self, timeout: float, doing: Doing) -> Iterator[None]:
        """Limit the requests in the block to `timeout` seconds; translate their errors into keyvouch's."""
        with told(doing, self.auth), self._limits.within(timeout):
            yield
