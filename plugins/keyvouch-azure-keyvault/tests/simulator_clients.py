"""Clients of the Key Vault simulator: the unmodified Azure SDK, and one that can send anything."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Self

import requests
from azure.identity import CertificateCredential
from azure.keyvault.certificates import CertificateClient
from azure.keyvault.keys import KeyClient
from azure.keyvault.secrets import SecretClient
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from keyvouch.testing.authority import Authority
from keyvouch_azure_keyvault.testing import KeyVault
from testing.clients import Client, certify, key_for

VERSION = "7.6"
SOON = 0.001
"""Seconds between two polls."""


class Sdk:
    """The SDK's clients, with a credential from azure-identity; `proxy` leads to the vault, whatever its name."""

    def __init__(self, vault: KeyVault, url: str = "", proxy: str = "") -> None:
        key, certificate = key_for("RSA"), certify(key_for("RSA"))
        self.certified = [certificate]
        app = vault.authority.register(certificates=self.certified)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ) + certificate.public_bytes(serialization.Encoding.PEM)
        self.credential = CertificateCredential(
            app.tenant,
            app.client_id,
            certificate_data=pem,
            authority=vault.authority.url,
            disable_instance_discovery=True,
            additionally_allowed_tenants=["*"],
            connection_verify=vault.ca_file,
        )
        self.options: dict[str, Any] = {
            "credential": self.credential,
            "connection_verify": vault.ca_file,
            "retry_total": 0,
            "verify_challenge_resource": bool(url),
        }
        if proxy:
            self.options["proxies"] = {"https": proxy}
        self.keys: Any = KeyClient(url or vault.url, **self.options)
        self.certificates: Any = CertificateClient(url or vault.url, **self.options)
        self.secrets: Any = SecretClient(url or vault.url, **self.options)

    def close(self) -> None:
        for each in (self.keys, self.certificates, self.secrets, self.credential):
            each.close()


@contextlib.contextmanager
def sdk_of(vault: KeyVault, url: str = "", proxy: str = "") -> Iterator[Sdk]:
    with contextlib.closing(Sdk(vault, url, proxy)) as sdk:
        yield sdk


class Raw:
    """Sends requests with a token from the authority, and returns the status and the error's codes."""

    def __init__(self, vault: KeyVault) -> None:
        self.vault = vault
        self.session = requests.Session()
        self.session.trust_env, self.session.verify = False, vault.ca_file
        self.token = token_of(vault.authority, vault.resource)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    def ask(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, **options: Any
    ) -> requests.Response:
        """Send a request; `path` has no API version, unless it has a query."""
        query = "" if "?" in path else f"?api-version={VERSION}"
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"} | options.pop("headers", {})
        url = f"{self.vault.url}/{path}{query}"
        return self.session.request(method, url, json=body, headers=headers, timeout=10, **options)

    def refused(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, str, str]:
        """Send a request that is refused: return the status, the inner code or else the code, and the message."""
        answer = self.ask(method, path, body, **options)
        error = answer.json()["error"]
        return answer.status_code, error.get("innererror", error)["code"], error["message"]


def token_of(authority: Authority, resource: str, tenant: str | None = None) -> str:
    """Return a token for a resource."""
    with Client(authority, **({"tenant": tenant} if tenant else {})) as client:
        token: str = client.post(scope=f"{resource}/.default").json()["access_token"]
    return token


def issue(request: bytes) -> x509.Certificate:
    """Return a certificate for a request, from an unknown CA."""
    csr = x509.load_der_x509_csr(request)
    assert csr.is_signature_valid
    parent = certify(key_for("ES256"), "CN=CA", ca=True)
    builder = x509.CertificateBuilder(
        parent.subject,
        csr.subject,
        csr.public_key(),
        x509.random_serial_number(),
        parent.not_valid_before_utc,
        parent.not_valid_after_utc,
    )
    key = key_for("ES256")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return builder.sign(key, hashes.SHA256())
