"""How the time of an assertion is divided between the layers."""

from __future__ import annotations

from typing import Any

import pytest

from bench.runs import measurement, run_of
from keyvouch.bench import Measurement
from keyvouch.bench.layers import find_costs


def timed(operation: str, microseconds: float, **more: Any) -> Measurement:
    return measurement("A", operation, [microseconds * 1e-6] * 50, **more)


def layers_of(*measurements: Measurement) -> dict[str, float]:
    """Return the layers of the only key in microseconds; those within the noise as -1."""
    [cost] = find_costs(run_of(*measurements))
    return {each.name: -1 if each.within_noise else round(each.seconds * 1e6, 1) for each in cost.layers}


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
    assert found["store's plugin"] == -1


def test_within_the_noise() -> None:
    """A difference that may be 0, given how much the rounds vary, is within the noise."""
    rounds = [600e-6 * (1 + (-1) ** number * 0.1) for number in range(20)]
    found = layers_of(timed("assertion", 605, rounds=rounds), timed("stored_key", 600, rounds=rounds[::-1]))
    assert found["framework"] == -1


@pytest.mark.parametrize("more", [{"rate": 100.0}, {"algorithm": "RS256"}])
def test_not_comparable(more: dict[str, Any]) -> None:
    """In an open loop, or with another algorithm, the difference would mean something else."""
    assert not find_costs(run_of(timed("assertion", 640), timed("stored_key", 600, **more)))
