"""The Key Vault simulator, with URIs for its keys and a login in the environment for this plugin's tests.

with running(folder) as vault:
    uri = vault.make("app")
    vault.deny.add("keys/sign")                            # a role is missing
    vault.fail("keys/sign", refusals.failing(), Drop())    # the next two signatures
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from keyvouch.certificate import self_signed
from keyvouch.local_key import make_key
from keyvouch.testing.authority import App, Authority
from keyvouch_azure_keyvault.testing import KeyVault

RESOURCE = "https://vault.azure.net"
PROXIED = "app.vault.azure.net"
"""A host name of the vault that can be reached only through a proxy."""


class Vault(KeyVault):
    """A vault that returns the URIs of its keys, and has the application that the environment signs in as."""

    def __init__(self, authority: Authority, app: App, **options: Any) -> None:
        super().__init__(authority, **options)
        self.app = app

    @property
    def address(self) -> str:
        """The vault's address, for `vault=`."""
        return self.url

    def make(self, name: str, kind: str = "RSA-2048", **attributes: Any) -> str:
        """Create a certificate, or another version of it; return its URI."""
        self.make_certificate(name, kind, **attributes)
        return self.uri(f"certificate={name}")

    def uri(self, which: str, query: str = "") -> str:
        return f"azure-keyvault:vault={self.address};{which}?auth=environment&ca-file={self.ca_file}{query}"


@contextlib.contextmanager
def running(folder: Path, **options: Any) -> Iterator[Vault]:
    """Start an authority and a vault, and set the environment variables for `auth=environment`."""
    key = make_key("RSA-2048")
    certificate = self_signed(key, "CN=reader", 10)
    with Authority(refuse_replays=False) as authority, pytest.MonkeyPatch.context() as patch:
        app = authority.register(certificates=[certificate])
        pem = folder / "login.pem"
        pem.touch(mode=0o600)
        pem.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        patch.setenv("AZURE_CLIENT_ID", app.client_id)
        patch.setenv("AZURE_TENANT_ID", authority.tenant)
        patch.setenv("AZURE_CLIENT_CERTIFICATE_PATH", str(pem))
        patch.setenv("AZURE_AUTHORITY_HOST", authority.url)
        with Vault(authority, app, **options) as vault:
            yield vault
