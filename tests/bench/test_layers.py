"""How the time of an assertion is divided between the layers."""

from __future__ import annotations

from typing import Any

import pytest

from bench.runs import measurement, run_of
from keyvouch.bench import Measurement
from keyvouch.bench.layers import Cost, describe, find_costs

NOISY = [600e-6 * (1 + (-1) ** number * 0.1) for number in range(20)]


def timed(operation: str, microseconds: float, **more: Any) -> Measurement:
    return measurement("A", operation, [microseconds * 1e-6] * 50, **more)


def cost_of(*measurements: Measurement) -> Cost:
    [cost] = find_costs(run_of(*measurements))
    return cost


def layers_of(*measurements: Measurement) -> dict[str, float | None]:
    """Return the layers of the only key in microseconds; None for those within the noise."""
    layers = cost_of(*measurements).layers
    return {each.name: each.seconds and round(each.seconds * 1e6, 1) for each in layers}


def test_layers() -> None:
    """The framework is what an assertion takes longer than the store, the plugin what that adds to its peer."""
    found = layers_of(timed("assertion", 640), timed("stored_key", 610), timed("peer", 600))
    assert found == {"framework": 30.0, "store's plugin": 10.0, "bare library": 600.0}


def test_without_a_peer() -> None:
    """If the bare library was not measured, the store is one layer."""
    assert layers_of(timed("assertion", 640), timed("stored_key", 610)) == {"framework": 30.0, "store": 610.0}


def test_never_negative() -> None:
    """A plugin that seems faster than its library differs from it by less than the noise."""
    found = layers_of(timed("assertion", 640), timed("stored_key", 600), timed("peer", 601))
    assert found == {"framework": 40.0, "store's plugin": None, "bare library": 600.0}


def test_within_the_noise() -> None:
    """A difference that may be 0, given how much the rounds vary, is within the noise."""
    found = layers_of(timed("assertion", 605, rounds=NOISY), timed("stored_key", 600, rounds=NOISY[::-1]))
    assert found["framework"] is None


def test_no_part_is_longer_than_the_whole() -> None:
    """If signatures seem to take longer than assertions, the store takes all of the assertion's time."""
    assert layers_of(timed("assertion", 866), timed("stored_key", 904)) == {"framework": None, "store": 866.0}


@pytest.mark.parametrize("peer", [None, 560, 687, 700, 740])
@pytest.mark.parametrize("stored", [640, 700, 728, 760])
def test_parts_add_up(stored: float, peer: float | None) -> None:
    """The layers and the rest are the whole, whatever was measured; only the noise leaves a rest."""
    for rounds in (NOISY, ()):
        inner = [timed("stored_key", stored, rounds=rounds[::-1])]
        inner += [timed("peer", peer, rounds=rounds)] if peer else []
        cost = cost_of(timed("assertion", 728, rounds=rounds), *inner)
        assert sum(cost.known.values()) + cost.rest == pytest.approx(cost.seconds)
        assert all(seconds > 0 for seconds in cost.known.values())
        assert cost.within_noise or not cost.rest


@pytest.mark.parametrize(
    ("assertion", "stored", "peer", "noisy", "expected"),
    [
        (
            650,
            620,
            600,
            False,
            "of which the framework takes 30.0 µs, the store's plugin 20.0 µs and the bare library ",
        ),
        (728, 700, 687, True, "takes 728 µs, of which the bare library takes 687 µs; the rest is within the noise"),
        (
            640,
            600,
            601,
            False,
            "framework takes 40.0 µs and the bare library 600 µs; the store's plugin is within the ",
        ),
        (
            600,
            620,
            570,
            False,
            "store's plugin takes 50.0 µs and the bare library 550 µs; the framework is within the ",
        ),
        (866, 900, 904, True, "takes 866 µs, nearly all of it in the bare library; the rest is within the noise"),
        (640, 610, None, False, "takes 640 µs, of which the framework takes 30.0 µs and the store 610 µs"),
        (728, 700, None, True, "takes 728 µs, of which the store takes 700 µs; the rest is within the noise"),
        (866, 904, None, True, "takes 866 µs, nearly all of it in the store; the rest is within the noise"),
    ],
)
def test_description(assertion: float, stored: float, peer: float | None, noisy: bool, expected: str) -> None:
    """What is within the noise has no number; whatever was measured, the sentence is English."""
    rounds = NOISY if noisy else ()
    inner = [timed("stored_key", stored, rounds=rounds[::-1])] + ([timed("peer", peer, rounds=rounds)] if peer else [])
    assert expected in describe(cost_of(timed("assertion", assertion, rounds=rounds), *inner))


@pytest.mark.parametrize("more", [{"rate": 100.0}, {"algorithm": "RS256"}])
def test_not_comparable(more: dict[str, Any]) -> None:
    """In an open loop, or with another algorithm, the difference would mean something else."""
    assert not find_costs(run_of(timed("assertion", 640), timed("stored_key", 600, **more)))
