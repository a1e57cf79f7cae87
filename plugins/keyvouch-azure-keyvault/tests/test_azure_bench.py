"""Measuring keys in Key Vault, which bills for signatures and limits them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from azure_fixtures import vault  # noqa: F401 - a fixture
from azure_simulator import Vault
from keyvouch.bench import Key, Plan, measure_keys
from scripted_store import Script
from signing_in import run

SIGN = "POST keys/sign"


@pytest.fixture(scope="module")
def uri(vault: Vault) -> str:
    return vault.make("measured")


def test_not_measured_without_confirmation(vault: Vault, uri: str) -> None:
    """In a pipe nobody can confirm, so nothing signs; the key and its limit are shown."""
    before = vault.count(SIGN)
    done = run("bench", uri)
    assert done.status == 2
    assert "limit: 4,000 in 10 s" in done.errors
    assert "Use --yes" in done.errors
    assert vault.count(SIGN) == before


def test_confirmed(uri: str) -> None:
    """With --yes the key is measured, next to its published limit, and its price is that of a million signatures."""
    done = run("bench", "--yes", "--count", "3", "--price", "0.03/10000", "--output", "json", uri)
    assert done.status == 0, done.errors
    [key] = json.loads(done.output)["keys"]
    assert key["limit"]["signatures"] == 4000
    assert key["price"] == pytest.approx(3.0)


def test_declined(vault: Vault, uri: str) -> None:
    """Only the keys of such services are left out, and only they have a price."""
    asked = list[str]()

    def decline(keys: Sequence[Key]) -> bool:
        asked.extend(each.label for each in keys)
        return False

    before = vault.count(SIGN)
    with Script() as script:
        found = measure_keys([uri, script.uri], Plan(count=3, price=3.0), confirm=decline)
    assert asked == ["A"]
    assert vault.count(SIGN) == before
    assert {each.key for each in found.measurements} == {"B"}
    assert found.keys[1].price is None
