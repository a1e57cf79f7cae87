"""Opening a key takes one, two or three requests, however many others there are in the vault."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import pytest

from azure_fixtures import vault  # noqa: F401 - a fixture
from azure_simulator import Vault
from bare_azure_store import connected_store, parse_uri
from keyvouch.errors import CertificateMismatch, KeyChanged, KeyNotFound, KeyvouchError
from keyvouch_azure_keyvault.store import KeyVaultStore

CERTIFICATE = ["GET certificates/list", "GET certificates/get"]
KEY = ["GET keys/list", "GET keys/get"]
OTHERS = 60
"""More than two pages of a listing."""


@pytest.fixture
def store(vault: Vault) -> Iterator[KeyVaultStore]:
    """A connected store, and a vault with a certificate and a key among many."""
    for number in range(OTHERS):
        if f"other-{number}" not in vault.keys:
            vault.make_key(f"other-{number}", "P-256")
    with connected_store(vault.uri("key=other-0")) as found:
        yield found


def calls(vault: Vault, store: KeyVaultStore, uri: str, error: type[KeyvouchError] | None = None) -> list[str]:
    """Return the requests sent to open the key, or to fail."""
    before = len(vault.calls)
    if error is None:
        store.open(parse_uri(uri), timeout=30)
    else:
        with pytest.raises(error):
            store.open(parse_uri(uri), timeout=30)
    return vault.calls[before:]


def made(seconds_ago: float) -> dict[str, int]:
    """Return the attributes of a version that was created this many seconds ago."""
    return {"created": int((dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds_ago)).timestamp())}


def test_requests_to_open_a_certificate(vault: Vault, store: KeyVaultStore) -> None:
    """Two: the newest version's response contains the policy, which takes another request for any other version."""
    uri = vault.make("counted", "P-256", **made(5000))
    assert calls(vault, store, uri) == CERTIFICATE
    pinned = str(store.open(parse_uri(uri), timeout=30).uri)
    assert calls(vault, store, pinned) == ["GET certificates/get"] * 2
    vault.make("counted", "P-256", **made(100))
    assert calls(vault, store, uri) == [*CERTIFICATE, "GET certificates/get"]
    assert str(store.open(parse_uri(uri), timeout=30).uri) == pinned
    assert store.open(parse_uri(uri), timeout=30).exportable is False


def test_newest_version_is_disabled(vault: Vault, store: KeyVaultStore) -> None:
    """A version that cannot be chosen is not fetched."""
    uri = vault.make("disabled", "P-256", **made(5000))
    vault.make("disabled", "P-256", enabled=False)
    assert calls(vault, store, uri) == [*CERTIFICATE, "GET certificates/get"]


def test_new_version_appears_in_between(vault: Vault, store: KeyVaultStore) -> None:
    """If the newest version is not the one that was chosen, the chosen one is fetched."""
    uri = vault.make("renewing", "P-256", **made(5000))
    chosen = vault.keys["renewing"].newest.version

    def renew(permission: str) -> None:
        if permission == "certificates/get":
            vault.disturb = lambda _: None
            vault.make("renewing", "P-256", **made(1))

    vault.disturb = renew
    assert store.open(parse_uri(uri), timeout=30).uri.get("version") == chosen


def test_requests_to_open_a_key(vault: Vault, store: KeyVaultStore) -> None:
    """Two without a version, one with it."""
    assert calls(vault, store, vault.uri("key=other-7")) == KEY
    pinned = str(store.open(parse_uri(vault.uri("key=other-7")), timeout=30).uri)
    assert calls(vault, store, pinned) == ["GET keys/get"]


def test_requests_for_a_missing_name(vault: Vault, store: KeyVaultStore) -> None:
    """A name that does not exist takes one request, and other names are not listed."""
    for kind in ("key", "certificate"):
        assert calls(vault, store, vault.uri(f"{kind}=missing"), KeyNotFound) == [f"GET {kind}s/list"]


def test_versions_of_a_certificate_and_a_digest(vault: Vault, store: KeyVaultStore) -> None:
    """The versions are fetched from the newest on, up to the one of the digest or the certificate."""
    for age in range(9, 0, -1):
        vault.make_certificate("many", "P-256", **made(1000 * age))
    uri = vault.uri("certificate=many")
    newest = store.open(parse_uri(uri), timeout=30)
    before = len(vault.calls)
    assert store.open(parse_uri(uri), newest.chain[0], timeout=30).uri == newest.uri
    assert vault.calls[before:] == CERTIFICATE
    foreign = store.open(parse_uri(vault.make("foreign", "P-256")), timeout=30).chain[0]
    before = len(vault.calls)
    with pytest.raises(CertificateMismatch):
        store.open(parse_uri(uri), foreign, timeout=30)
    assert len(vault.calls) - before == 1 + 9
    assert len(calls(vault, store, vault.uri(f"certificate=many;spki-sha256={'0' * 64}"), KeyChanged)) == 1 + 9
