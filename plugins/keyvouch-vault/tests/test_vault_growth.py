"""Opening a key takes one request, and parses only the versions that decide, however many there are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keyvouch._core.opening import parse
from keyvouch.certificate import self_signed
from keyvouch.errors import CertificateMismatch, KeyNotFound
from keyvouch.local_key import make_key
from keyvouch.secrets import SecretResolver
from keyvouch.store import KeySpec
from keyvouch_vault import transit
from keyvouch_vault.store import VaultStore
from openbao import Server
from vault_keys import key_uri
from vault_keys import make_key as make_vault_key

pytestmark = pytest.mark.server


@pytest.fixture
def store(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[VaultStore]:
    """A connected store."""
    monkeypatch.setenv("VAULT_TEST_TOKEN", server.token("keys"))
    opened = VaultStore(parse(key_uri(server, "any")), SecretResolver())
    opened.connect(timeout=30)
    yield opened
    opened.close()


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The public keys that have been parsed."""
    found: list[str] = []
    load = transit._load_public_key

    def recorded(text: str) -> object:
        found.append(text)
        return load(text)

    monkeypatch.setattr(transit, "_load_public_key", recorded)
    return found


def requests_of(audit: Path, operation: Callable[[], object]) -> list[str]:
    """Return the method and path of each request that the server answered meanwhile."""
    before = len(audit.read_bytes())
    operation()
    entries = map(json.loads, audit.read_bytes()[before:].splitlines())
    return [
        f"{each['request']['operation']} {each['request']['path']}" for each in entries if each["type"] == "response"
    ]


def test_requests_do_not_grow(server: Server, store: VaultStore) -> None:
    """Opening reads the key, and nothing else in the mount; so does the error for a missing one."""
    name = parse(make_vault_key(server)).get("key")
    uri, missing = parse(key_uri(server, name)), parse(key_uri(server, "missing"))
    pinned = store.open(uri, timeout=30).uri

    def fail() -> None:
        with pytest.raises(KeyNotFound):
            store.open(missing, timeout=30)

    for others in (0, 20):
        for number in range(others):
            server.write(f"transit/keys/growth-{number}", type="ecdsa-p256")
        assert requests_of(server.audit, lambda: store.open(uri, timeout=30)) == [f"read transit/keys/{name}"]
        assert requests_of(server.audit, lambda: store.open(pinned, timeout=30)) == [f"read transit/keys/{name}"]
        assert requests_of(server.audit, fail) == ["read transit/keys/missing"]


def test_versions_that_are_parsed(store: VaultStore, server: Server, parsed: list[str]) -> None:
    """A pinned version, the one of a certificate, and the newest settled one are found without parsing older ones."""
    uri = parse(key_uri(server, "many-versions"))
    for _ in range(12):
        store.generate(uri, KeySpec("P-256", further=True))
    settled = uri.replace({"settle": "0"})
    third = store.open(uri.replace({"version": "3"}), timeout=30)
    newest = store.open(settled, timeout=30)
    for wanted, certificate, version, number in (
        (third.uri, None, 3, 1),
        (settled, None, 12, 1),
        (uri, newest.chain[0], 12, 1),
        (uri, third.chain[0], 3, 10),
    ):
        parsed.clear()
        assert store.open(wanted, certificate, timeout=30).uri.get("version") == version
        assert len(parsed) == number


def test_error_lists_the_last_versions(store: VaultStore, server: Server) -> None:
    """Ten versions are listed at most."""
    uri = parse(key_uri(server, "listed-versions"))
    for _ in range(12):
        store.generate(uri, KeySpec("P-256", further=True))
    listed = "..., 3, 4, 5, 6, 7, 8, 9, 10, 11, 12"
    with pytest.raises(KeyNotFound) as missing:
        store.open(uri.replace({"version": "13"}), timeout=30)
    assert missing.value.hint == f"Use one of the versions {listed}."
    with pytest.raises(CertificateMismatch) as mismatch:
        store.open(uri, self_signed(make_key("P-256"), "CN=app", 30), timeout=30)
    assert f"({listed})" in mismatch.value.hint
