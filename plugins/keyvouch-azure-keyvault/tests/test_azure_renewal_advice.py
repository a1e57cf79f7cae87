"""A warning before the vault renews a certificate automatically, because the new one is not registered in Entra ID."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import pytest

import keyvouch
from azure_fixtures import vault  # noqa: F401 - a fixture
from azure_simulator import Vault
from keyvouch_azure_keyvault.testing.refusals import missing_role
from signing_in import run

ADVICE = "renews the certificate {} automatically (AutoRenew)"


def make(vault: Vault, name: str, action: str = "AutoRenew") -> str:
    uri = vault.make(name, "P-256")
    policy = vault.keys[name].policy
    assert policy is not None
    policy["lifetime_actions"] = [{"trigger": {"lifetime_percentage": 80}, "action": {"action_type": action}}]
    return uri


def test_opening_warns_once(vault: Vault, caplog: pytest.LogCaptureFixture) -> None:
    """The warning says what to do, costs no extra requests, and is logged once."""
    uri = make(vault, "renewed")
    before = len(vault.calls)
    with keyvouch.open_signer(vault.make("plain", "P-256")):
        plain = len(vault.calls) - before
    assert not caplog.records
    before = len(vault.calls)
    with keyvouch.open_signer(uri) as signer:
        assert len(vault.calls) - before == plain
        (record,) = caplog.records
        assert ADVICE.format("renewed") in record.message
        assert "az keyvault certificate set-attributes" in record.message
        before = len(vault.calls)
        signer.sign(b"x", "ES256")
        assert vault.calls[before:] == ["POST keys/sign"]
        signer.reload()
    assert len(caplog.records) == 1


def test_no_advice_without_auto_renew(vault: Vault, caplog: pytest.LogCaptureFixture) -> None:
    """No warning is needed if only the contacts get a message, or if the URI names a version."""
    with keyvouch.open_signer(make(vault, "notified", "EmailContacts")):
        pass
    with keyvouch.open_signer(make(vault, "named")) as signer:
        pinned = signer.uri
    caplog.clear()
    with keyvouch.open_signer(pinned):
        pass
    assert not caplog.records


def test_unreadable_policy_is_not_an_error(
    vault: Vault, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minimal permissions are enough to open and to list; the policy is then unknown."""

    def deny(*_: Any) -> NoReturn:
        raise missing_role("certificates/get")

    uri = make(vault, "denied")
    policy = next(each for each in vault._routes if each.method == "GET" and each.match("/certificates/denied/policy"))
    monkeypatch.setattr(policy, "handler", deny)
    pinned = f"version={vault.keys['denied'].newest.version};certificate=denied"
    with keyvouch.open_signer(vault.uri(pinned)) as signer:
        assert signer.sign(b"x", "ES256")
        assert signer.exportable is None
    with keyvouch.open_store(uri) as store:
        listed = store.keys()
    assert [(each.exportable, each.advice) for each in listed] == [(None, ())]
    assert not caplog.records


def test_listing_shows_the_advice(vault: Vault) -> None:
    """`keyvouch keys` prints the advice below the keys, once for all versions, and in JSON with each version."""
    make(vault, "listed-renewed")
    uri = make(vault, "listed-renewed")
    done = run("keys", "--key", uri)
    assert done.status == 0
    assert done.errors.count(ADVICE.format("listed-renewed")) == 1
    assert ADVICE.format("listed-renewed") not in done.output
    listed = json.loads(run("keys", "--key", uri, "--output", "json").output)
    assert [len(each["advice"]) for each in listed] == [1, 1]
    assert ADVICE.format("listed-renewed") in listed[0]["advice"][0]
    assert listed[0]["exportable"] is False
