"""What an assertion costs in each layer: the framework, the store's plugin, and the bare library below it.

The bare library includes the module, or the network and the server.
"""

from __future__ import annotations

from dataclasses import dataclass

from keyvouch.bench.document import Key, Measurement, Run
from keyvouch.bench.intervals import median

FRAMEWORK, PLUGIN, BELOW, STORE = "framework", "store's plugin", "bare library", "store"
LAYERS = (FRAMEWORK, PLUGIN, BELOW, STORE)
"""In the order in which to show them. `STORE` is the last two together, if the bare library was not measured."""


@dataclass(frozen=True)
class Layer:
    """The part of an assertion's time that one layer takes."""

    name: str
    """One of `LAYERS`."""
    seconds: float
    within_noise: bool = False
    """True if the time is too short to be distinguished from 0; `seconds` is then 0."""


@dataclass(frozen=True)
class Cost:
    """The time that an assertion takes with one key, by layer."""

    key: Key
    seconds: float
    """Median of the whole assertion."""
    layers: tuple[Layer, ...]


def find_costs(run: Run) -> list[Cost]:
    """Return the cost of each key whose assertions and signatures were measured with one algorithm, in a closed loop.

    Each layer is the difference between two medians.
    """
    return [cost for key in run.keys if (cost := _cost(run, key))]


def _cost(run: Run, key: Key) -> Cost | None:
    found = {
        each.operation: each
        for each in run.measurements
        if each.key == key.label and each.count and each.rate is None and each.algorithm == key.preferred
    }
    assertion, stored, peer = (found.get(each) for each in ("assertion", "stored_key", "peer"))
    if assertion is None or stored is None:
        return None
    framework = _difference(FRAMEWORK, assertion, stored)
    if peer is None:
        rest = [Layer(STORE, stored.latency["p50"])]
    else:
        rest = [_difference(PLUGIN, stored, peer), Layer(BELOW, peer.latency["p50"])]
    return Cost(key, assertion.latency["p50"], (framework, *rest))


def _difference(name: str, outer: Measurement, inner: Measurement) -> Layer:
    seconds = outer.latency["p50"] - inner.latency["p50"]
    pairs = list(zip(outer.rounds, inner.rounds, strict=False))
    low = median([own - other for own, other in pairs]).low if pairs else None
    if seconds <= 0 or (low is not None and low <= 0):
        return Layer(name, 0.0, within_noise=True)
    return Layer(name, seconds)
