"""Signatures through the SDK's own pipeline and transport, for comparison with keyvouch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from azure.core.exceptions import HttpResponseError
from azure.keyvault.keys.crypto import CryptographyClient, SignatureAlgorithm

from keyvouch.errors import NotSupported, Throttled
from keyvouch.https import CONNECT_TIMEOUT, OWN_TIMEOUT, is_loopback
from keyvouch_azure_keyvault.uri_attributes import vault_url

if TYPE_CHECKING:
    from azure.keyvault.keys import KeyVaultKey

    from keyvouch.algorithms import Algorithm
    from keyvouch.uri import KeyUri
    from keyvouch_azure_keyvault.credentials import VaultCredential


def open_client(key: KeyVaultKey, uri: KeyUri, credential: VaultCredential) -> CryptographyClient:
    """Return a client that verifies TLS, and neither retries nor follows redirects. Raises `NotSupported`."""
    if "proxy-credentials" in uri:
        raise NotSupported(
            "The SDK cannot be compared through a proxy with proxy-credentials.",
            hint="Use a proxy that requires no credentials, or a direct connection.",
        )
    vault, proxy = vault_url(uri), uri.get("proxy")
    options: dict[str, Any] = {"connection_verify": uri.get("ca-file") or True}
    if is_loopback(vault) or proxy:  # otherwise the environment's
        options["proxies"] = {"https": "" if is_loopback(vault) else proxy}
    client = CryptographyClient(
        key,
        credential,
        api_version=uri.get("api-version"),
        verify_challenge_resource=not is_loopback(vault),
        retry_total=0,
        permit_redirects=False,
        connection_timeout=CONNECT_TIMEOUT,
        read_timeout=OWN_TIMEOUT,
        **options,
    )
    return client.__enter__()  # its connection pool, which threads would otherwise create at the same time


def make_peer(client: CryptographyClient, algorithm: Algorithm) -> Callable[[bytes], bytes]:
    """Return a function that signs with the client, and raises `Throttled` or azure-core's errors."""
    name, hash_name = SignatureAlgorithm(algorithm.name), algorithm.hash_name

    def sign(message: bytes) -> bytes:
        try:
            return client.sign(name, hashlib.new(hash_name, message).digest()).signature
        except HttpResponseError as error:
            if error.status_code == HTTPStatus.TOO_MANY_REQUESTS:
                raise Throttled("The vault limits the rate.") from error
            raise

    return sign
