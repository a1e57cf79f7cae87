"""A login, and the SDK's clients that share it and one connection pool."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from azure.keyvault.certificates import CertificateClient
from azure.keyvault.keys import KeyClient, KeyVaultKey
from azure.keyvault.keys.crypto import CryptographyClient

from keyvouch.errors import AccessDenied, KeyvouchError, SessionLost
from keyvouch.https import OWN_TIMEOUT, Limits, is_loopback
from keyvouch.store import ForkGate
from keyvouch_azure_keyvault import azure_internals
from keyvouch_azure_keyvault.credentials import VaultCredential
from keyvouch_azure_keyvault.error_translation import (
    READER_ROLE,
    Operation,
    is_permission_denied,
    missing_credential,
    translate_errors,
)
from keyvouch_azure_keyvault.transports import NoOpPolicy, PoolTransport, VaultTransport
from keyvouch_azure_keyvault.uri_attributes import vault_url

if TYPE_CHECKING:
    from keyvouch.algorithms import Algorithm
    from keyvouch.secrets import SecretResolver
    from keyvouch.uri import KeyUri

_IMPORT_GATE = ForkGate()
_LIST_KEYS = Operation("listing keys", None, "keys/list", READER_ROLE)


class Session:
    """A login that threads share."""

    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:
        self.auth: str = uri.get("auth")
        self._uri = uri
        self._limits = Limits()
        proxy_credentials = secrets.proxy_credentials(uri.get("proxy-credentials"))
        self._transport = PoolTransport(uri, self._limits, proxy_credentials)
        try:
            self._credential = VaultCredential(uri, secrets, self._transport, self._limits)
        except ValueError as error:  # from azure-identity, which says what is missing
            raise missing_credential(error, self.auth) from error
        vault = vault_url(uri)
        self._options: dict[str, Any] = {
            "credential": self._credential,
            "api_version": uri.get("api-version"),
            "transport": VaultTransport(self._transport, vault),
            "retry_policy": NoOpPolicy(),  # the core retries, within the caller's timeout
            "redirect_policy": NoOpPolicy(),  # a token is for one host only
            # Check that a token is for the cloud of the vault's host name; on loopback, `VaultCredential` checks that.
            "verify_challenge_resource": not is_loopback(vault),
        }
        azure_internals.forget_challenge(vault)
        self.keys = KeyClient(vault, **self._options)
        self.certificates = CertificateClient(vault, **self._options)
        self._peers: list[CryptographyClient] = []

    def log_in(self, timeout: float) -> None:
        """Log in, and verify that with a request; a response that denies listing keys also counts as proof."""
        with self._limits.within(timeout):
            try:
                self._verify_log_in(timeout)
            except SessionLost as error:
                try:
                    if not self._credential.discard_tokens():
                        raise
                    self._verify_log_in(timeout)
                except SessionLost:
                    raise AccessDenied(error.message, hint=error.hint) from error

    def _verify_log_in(self, timeout: float) -> None:
        try:
            with self.performing(_LIST_KEYS, timeout):
                next(iter(self.keys.list_properties_of_keys(max_page_size=1)), None)
        except KeyvouchError as error:
            if not is_permission_denied(error):
                raise

    def close(self) -> None:
        """Close the connections. Raises nothing."""
        with contextlib.suppress(Exception):  # azure-identity may raise anything
            self._credential.close()
        self._transport.close_connections()
        for peer in self._peers:
            peer.close()

    def signing_client(self, key: KeyVaultKey) -> CryptographyClient:
        """Return a client that signs with a key; the public key is given, so that no request fetches it."""
        return CryptographyClient(key, **self._options)

    def make_peer(self, key: KeyVaultKey, algorithm: Algorithm) -> Callable[[bytes], bytes]:
        """Return a function that signs with this login, but with the SDK's own pipeline and transport.

        Raises `NotSupported`.
        """
        with _IMPORT_GATE:
            from keyvouch_azure_keyvault import peer
        client = peer.open_client(key, self._uri, self._credential)
        self._peers.append(client)
        return peer.make_peer(client, algorithm)

    def pause(self) -> None:
        """Pause between two polls of an operation in progress."""
        self._transport.sleep(OWN_TIMEOUT)

    @contextlib.contextmanager
    def performing(self, operation: Operation, timeout: float) -> Iterator[None]:
        """Limit the requests in the block to `timeout` seconds; translate their errors to keyvouch's."""
        with translate_errors(operation, self.auth), self._limits.within(timeout):
            yield
