"""The order in which a client's keys are tried."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest

from keyvouch.entra import keys
from keyvouch.entra.keys import Keys


@pytest.fixture
def three() -> Keys:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("not opened here")

    return Keys(["pem:/a", "pem:/b", "pem:/c"], never, {})


def names(found: list[keys.Key]) -> list[str]:
    return [str(each) for each in found]


def test_preference_at_first(three: Keys) -> None:
    """In the order that they were given, and none is skipped."""
    assert names(three.in_order()) == ["pem:/a", "pem:/b", "pem:/c"]
    assert three.skipped() == []


def test_refused_key_is_skipped(three: Keys) -> None:
    """A key that the authority refused is left out, and named among those that were."""
    first = three.in_order()[0]
    first.refuse()
    assert names(three.in_order()) == ["pem:/b", "pem:/c"]
    assert three.skipped() == [first]


def test_refused_key_comes_back(three: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """After five minutes it is tried again."""
    three.in_order()[0].refuse()
    later = time.monotonic() + keys.REFUSED_FOR
    monkeypatch.setattr(time, "monotonic", lambda: later - 5)
    assert names(three.in_order()) == ["pem:/b", "pem:/c"]
    monkeypatch.setattr(time, "monotonic", lambda: later + 5)
    assert names(three.in_order()) == ["pem:/a", "pem:/b", "pem:/c"]


def test_all_refused_are_all_tried(three: Keys) -> None:
    """If all were refused, none is left out."""
    for each in three.in_order():
        each.refuse()
    assert names(three.in_order()) == ["pem:/a", "pem:/b", "pem:/c"]
    assert three.skipped() == []


def test_accepted_key_is_first(three: Keys) -> None:
    """The key that the authority took last comes first, until it is passed over."""
    second = three.in_order()[1]
    three.accept(second)
    assert names(three.in_order()) == ["pem:/b", "pem:/a", "pem:/c"]
    three.pass_over(three.in_order()[1], "another")
    assert names(three.in_order())[0] == "pem:/b"
    three.pass_over(second, "it failed")
    assert names(three.in_order()) == ["pem:/a", "pem:/b", "pem:/c"]


def test_accepting_a_refused_key_again(three: Keys, caplog: pytest.LogCaptureFixture) -> None:
    """A key that is accepted after a refusal is no longer skipped, and may be warned about again."""
    first = three.in_order()[0]
    with caplog.at_level(logging.WARNING, "keyvouch"):
        for _ in range(3):
            first.refuse()
            three.pass_over(first, "refused")
        assert len(caplog.records) == 1
        three.accept(first)
        assert three.skipped() == []
        assert first.refused_until == 0.0
        three.pass_over(first, "refused")
        assert len(caplog.records) == 2
