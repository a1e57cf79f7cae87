"""The order in which a client's keys are tried."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest

from keyvouch import open_signer
from keyvouch.entra import key_failover
from keyvouch.entra.client_key import ClientKey, UsedKey
from keyvouch.entra.key_failover import ClientKeys
from keyvouch.errors import StoreUnavailable
from scripted_store import LONG_ENOUGH, Script, certify, new_key

CONTEXT = {"client_id": "client", "token_endpoint": "https://login.example/tenant/oauth2/v2.0/token"}


@pytest.fixture
def three() -> ClientKeys:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("not opened here")

    return ClientKeys(["pem:/a", "pem:/b", "pem:/c"], never, {})


def names(found: list[ClientKey]) -> list[str]:
    return [str(each) for each in found]


def test_keys_are_tried_in_the_given_order(three: ClientKeys) -> None:
    """Keys are tried in the given order, and none is skipped."""
    assert names(three.in_order()) == ["pem:/a", "pem:/b", "pem:/c"]
    assert three.held_back() == []


def test_refused_key_is_skipped(three: ClientKeys) -> None:
    """A key that the authority refused is skipped, and listed among the refused."""
    first = three.in_order()[0]
    first.mark_refused(key_failover.REFUSED_FOR)
    assert names(three.in_order()) == ["pem:/b", "pem:/c"]
    assert three.held_back() == [first]


def test_refused_key_is_tried_again_after_five_minutes(three: ClientKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    """After five minutes it is tried again."""
    three.in_order()[0].mark_refused(key_failover.REFUSED_FOR)
    later = time.monotonic() + key_failover.REFUSED_FOR
    monkeypatch.setattr(time, "monotonic", lambda: later - 5)
    assert names(three.in_order()) == ["pem:/b", "pem:/c"]
    monkeypatch.setattr(time, "monotonic", lambda: later + 5)
    assert names(three.in_order()) == ["pem:/a", "pem:/b", "pem:/c"]


def test_all_keys_are_tried_if_all_were_refused(three: ClientKeys) -> None:
    """If all were refused, none is skipped."""
    for each in three.in_order():
        each.mark_refused(key_failover.REFUSED_FOR)
    assert names(three.in_order()) == ["pem:/a", "pem:/b", "pem:/c"]
    assert three.held_back() == []


def test_accepted_key_is_first(three: ClientKeys) -> None:
    """The key that the authority accepted last comes first, until it is skipped."""
    second = three.in_order()[1]
    three.prefer(second)
    assert names(three.in_order()) == ["pem:/b", "pem:/a", "pem:/c"]
    three.demote(three.in_order()[1], "another")
    assert names(three.in_order())[0] == "pem:/b"
    three.demote(second, "it failed")
    assert names(three.in_order()) == ["pem:/a", "pem:/b", "pem:/c"]


def test_accepting_a_refused_key_again(three: ClientKeys, caplog: pytest.LogCaptureFixture) -> None:
    """A key that is accepted after a refusal is no longer skipped, and may cause another warning."""
    first = three.in_order()[0]
    with caplog.at_level(logging.WARNING, "keyvouch"):
        for _ in range(3):
            first.mark_refused(key_failover.REFUSED_FOR)
            three.demote(first, "refused")
        assert len(caplog.records) == 1
        three.prefer(first)
        assert three.held_back() == []
        assert first.refused_until == 0.0
        three.demote(first, "refused")
        assert len(caplog.records) == 2


def test_key_is_shown_by_its_uri() -> None:
    """An unopened key is named as it was given, an open one by its complete URI."""
    with Script("RSA-2048") as script:
        key = ClientKey(script.uri, open_signer, {})
        assert str(key) == script.uri
        key.make_assertion(CONTEXT, LONG_ENOUGH)
        with open_signer(script.uri) as signer:
            assert str(key) == signer.uri != script.uri
        key.close()


def test_key_without_a_certificate() -> None:
    """Without a certificate only the public key identifies it, until the key changes."""
    with Script("RSA-2048", chain=[]) as script, open_signer(script.uri) as signer:
        used_key = UsedKey.of(signer)
        assert used_key.certificate is None
        assert not used_key.was_replaced_in(signer)
        script.rotate(chain=[])
        signer.reload()
        assert used_key.was_replaced_in(signer)


def test_new_certificate_of_the_same_key() -> None:
    """An assertion used_key with the previous certificate is outdated."""
    with Script("RSA-2048") as script, open_signer(script.uri) as signer:
        used_key = UsedKey.of(signer)
        script.newest.chain = (certify(new_key("RSA-2048"), "renewed"),)
        assert not used_key.was_replaced_in(signer)
        signer.reload()
        assert used_key.was_replaced_in(signer)


def test_replaced_key() -> None:
    """A refused key is tried again only if reloading finds another."""
    with Script("RSA-2048") as script:
        key = ClientKey(script.uri, open_signer, {})
        with open_signer(script.uri) as signer:
            used_key = UsedKey.of(signer)
        assert not key.is_replaced(used_key, LONG_ENOUGH)  # it is not even open
        key.make_assertion(CONTEXT, LONG_ENOUGH)
        assert not key.is_replaced(used_key, LONG_ENOUGH)
        script.rotate()
        assert key.is_replaced(used_key, LONG_ENOUGH)
        assert key.is_replaced(used_key, LONG_ENOUGH)  # also for a thread that arrives after another has reloaded it
        key.close()


def test_key_that_cannot_be_reloaded(caplog: pytest.LogCaptureFixture) -> None:
    """A key that fails to reload is not renewed, and the reason is logged."""
    with Script("RSA-2048") as script, open_signer(script.uri) as signer:
        key = ClientKey(signer, open_signer, {})
        _, used_key = key.make_assertion(CONTEXT, LONG_ENOUGH)
        script.fail("open", *[StoreUnavailable("down for the night") for _ in range(50)])
        with caplog.at_level(logging.INFO, "keyvouch"):
            assert not key.is_replaced(used_key, 0.2)
    (line,) = [line for line in caplog.messages if "reload" in line]
    assert "down for the night" in line


def test_time_for_opening_and_signing() -> None:
    """Opening may use all the available time; signing gets the rest."""
    given = []

    def open_late(uri: str, *, timeout: float) -> Any:
        given.append(timeout)
        time.sleep(0.05)
        return open_signer(uri)

    with Script("RSA-2048") as script:
        key = ClientKey(script.uri, open_late, {})
        assert key.make_assertion(CONTEXT, LONG_ENOUGH)[0].count(".") == 2
        key.close()
    assert LONG_ENOUGH - 1 < given[0] <= LONG_ENOUGH


def test_only_signers_opened_by_the_client_are_closed() -> None:
    """A signer from the caller stays open; one opened for a URI is closed, even if it opens late."""
    with Script("RSA-2048") as script, open_signer(script.uri) as signer:
        brought = ClientKey(signer, open_signer, {})
        brought.make_assertion(CONTEXT, LONG_ENOUGH)
        brought.close()
        assert signer.sign(b"x", "PS256")

        opened: list[Any] = []

        def open_and_keep(uri: str, *, timeout: float) -> Any:
            opened.append(open_signer(uri, timeout=timeout))
            return opened[0]

        key = ClientKey(script.uri, open_and_keep, {})
        key.close()  # as if it were being opened
        with pytest.raises(Exception, match="closed"):
            key.make_assertion(CONTEXT, LONG_ENOUGH)
        with pytest.raises(Exception, match="closed"):
            opened[0].sign(b"x", "PS256")
