"""Keys in a Managed HSM under a real host name, with the unmodified SDK and its check of that name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

import azure_simulator
import keyvouch
from azure_simulator import Vault
from bare_azure_store import assert_raises
from keyvouch.certificate import self_signed
from keyvouch.errors import ConfigurationError, KeyUnusable
from keyvouch.store import KeySpec
from keyvouch.testing.relay import Proxy
from peers import compared
from scripted_store import is_signed

HOST = "contoso.managedhsm.azure.net"


class Hsm:
    """A Managed HSM behind a proxy, and the URIs of its keys."""

    def __init__(self, vault: Vault, proxy: Proxy) -> None:
        self.vault, self.proxy = vault, proxy

    def uri(self, which: str, query: str = "") -> str:
        reached = f"auth=environment&ca-file={self.vault.ca_file}&proxy=http://127.0.0.1:{self.proxy.port}"
        return f"azure-keyvault:vault=https://{HOST};{which}?{reached}{query}"


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Hsm]:
    with (
        azure_simulator.running(folder, managed_hsm=True, names=[HOST]) as vault,
        Proxy(("127.0.0.1", vault.port)) as proxy,
    ):
        yield Hsm(vault, proxy)


@pytest.fixture
def hsm(tmp_path: Path) -> Iterator[Hsm]:
    with running(tmp_path) as hsm:
        yield hsm


def test_changed_tenant(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A login does not reuse the tenant that the same host required before, although the SDK remembers it."""
    tenants = set()
    for _ in range(2):
        with running(tmp_path_factory.mktemp("hsm")) as hsm:
            hsm.vault.make_key("app", "P-256")
            with keyvouch.open_signer(hsm.uri("key=app")) as signer:
                assert signer.sign(b"message", "ES256")
            tenants.add(hsm.vault.tenant)
    assert len(tenants) == 2


def test_key_signs_with_a_certificate_from_a_file(hsm: Hsm, tmp_path: Path) -> None:
    """`key=` is created in the HSM, and its certificate is in `certificate-file=`."""
    with keyvouch.open_store(hsm.uri("key=app")) as store:
        store.generate(KeySpec("P-256"))
    assert hsm.vault.keys["app"].newest.kind == "EC-HSM"
    with keyvouch.open_signer(hsm.uri("key=app")) as signer:
        certificate = self_signed(signer.private_key(), "CN=app", 10)
    file = tmp_path / "app.crt"
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    with keyvouch.open_signer(hsm.uri("key=app", f"&certificate-file={file}")) as signer:
        assert list(signer.chain) == [certificate]
        signature = signer.sign(b"message", "ES256")
    assert is_signed(certificate.public_key(), signature, b"message", "ES256")
    assert hsm.proxy.asked[-1] == f"{HOST}:443"


def test_peer_uses_the_proxy(hsm: Hsm) -> None:
    """The SDK's own transport reaches the HSM through the proxy of the URI, and checks the same host name."""
    hsm.vault.make_key("app", "P-256")
    with compared(hsm.uri("key=app"), "ES256") as (_, key, peer):
        asked = len(hsm.proxy.asked)
        assert is_signed(key.public_key, peer(b"message"), b"message", "ES256")
    assert hsm.proxy.asked[asked:] == [f"{HOST}:443"]


def test_no_rate_limit_is_published(hsm: Hsm) -> None:
    """A Managed HSM does not limit the rate of signatures."""
    hsm.vault.make_key("app", "P-256")
    with compared(hsm.uri("key=app"), "ES256") as (store, key, _):
        assert store.rate_limit(key) is None


def test_token_is_for_managed_hsm(hsm: Hsm) -> None:
    """The login requests a token for Managed HSM, whatever the challenge says."""
    hsm.vault.make_key("app", "P-256")
    with keyvouch.open_signer(hsm.uri("key=app")) as signer:
        assert signer.sign(b"message", "ES256")
    form = hsm.vault.authority.exchanges[-1].form
    assert form["scope"].startswith("https://managedhsm.azure.net/.default")


def test_vaults_challenge_is_not_followed(hsm: Hsm) -> None:
    """An HSM that requests a token for Key Vault gets none."""
    hsm.vault.resource = "https://vault.azure.net"
    assert_raises(ConfigurationError, lambda: keyvouch.open_signer(hsm.uri("key=app"), timeout=5))
    assert not hsm.vault.calls


def test_certificate_is_not_supported(hsm: Hsm) -> None:
    """An HSM has only keys, and the hint says what to write."""
    error = assert_raises(ConfigurationError, lambda: keyvouch.open_signer(hsm.uri("certificate=app")))
    assert "certificate-file=" in error.hint


def test_listing_contains_the_keys(hsm: Hsm) -> None:
    """Each version of each key is listed, without a request for certificates."""
    for name in ("one", "one", "two"):
        hsm.vault.make_key(name, "P-256")
    with keyvouch.open_store(hsm.uri("").replace(";?", "?")) as store:
        assert len(store.keys()) == 3
    assert not [call for call in hsm.vault.calls if "certificates" in call]


def test_disabled_key(hsm: Hsm) -> None:
    """A disabled version is reported as for a vault."""
    hsm.vault.make_key("app", "P-256", enabled=False)
    assert "--enabled true" in assert_raises(KeyUnusable, lambda: keyvouch.open_signer(hsm.uri("key=app"))).hint
