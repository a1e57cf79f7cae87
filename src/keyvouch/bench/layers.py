"""What an assertion costs in each layer: the framework, the store's plugin, and the bare library below it.

The bare library includes the module, or the network and the server.
"""

from __future__ import annotations

from dataclasses import dataclass

from keyvouch.bench.document import Key, Measurement, Run
from keyvouch.bench.intervals import median
from keyvouch.bench.units import duration, listed

FRAMEWORK, PLUGIN, BELOW, STORE = "framework", "store's plugin", "bare library", "store"
LAYERS = (FRAMEWORK, PLUGIN, BELOW, STORE)
"""In the order in which to show them. `STORE` is the last two together, if the bare library was not measured."""


@dataclass(frozen=True)
class Layer:
    """The part of an assertion's time that one layer takes."""

    name: str
    """One of `LAYERS`."""
    seconds: float | None
    """None if the time is too short to be distinguished from 0: it is within the noise."""


@dataclass(frozen=True)
class Cost:
    """The time that an assertion takes with one key, by layer. The layers and `rest` add up to `seconds`."""

    key: Key
    seconds: float
    """Median of the whole assertion."""
    layers: tuple[Layer, ...]

    @property
    def known(self) -> dict[str, float]:
        """The layers that take a measurable time, with their seconds."""
        return {each.name: each.seconds for each in self.layers if each.seconds is not None}

    @property
    def within_noise(self) -> list[str]:
        """The other layers."""
        return [each.name for each in self.layers if each.seconds is None]

    @property
    def rest(self) -> float:
        """Seconds that are left for the layers within the noise."""
        return max(0.0, self.seconds - sum(self.known.values())) if self.within_noise else 0.0


def find_costs(run: Run) -> list[Cost]:
    """Return the cost of each key whose assertions and signatures were measured with one algorithm, in a closed loop.

    Each layer is the difference between two medians.
    """
    return [cost for key in run.keys if (cost := _cost(run, key))]


def describe(cost: Cost) -> str:
    """Return a clause such as "takes 650 µs, of which the framework takes 30.0 µs and the store 620 µs"."""
    whole = duration(cost.seconds)
    lowest = cost.layers[-1].name
    shown = {name: duration(seconds) for name, seconds in cost.known.items()}
    if shown == {lowest: whole}:
        return f"takes {whole}, nearly all of it in the {lowest}; the rest is within the noise"
    (first, time), *others = shown.items()
    parts = listed([f"the {first} takes {time}", *(f"the {name} {each}" for name, each in others)])
    return f"takes {whole}, of which {parts}{_remainder(cost)}"


def _remainder(cost: Cost) -> str:
    if not cost.within_noise:
        return ""
    if cost.rest:
        return "; the rest is within the noise"
    return f"; the {listed(cost.within_noise)} {'is' if len(cost.within_noise) == 1 else 'are'} within the noise"


def _cost(run: Run, key: Key) -> Cost | None:
    found = {
        each.operation: each
        for each in run.measurements
        if each.key == key.label and each.count and each.rate is None and each.algorithm == key.preferred
    }
    assertion, stored, peer = (found.get(each) for each in ("assertion", "stored_key", "peer"))
    if assertion is None or stored is None:
        return None
    whole = left = assertion.latency["p50"]
    layers = list[Layer]()
    differences = [(FRAMEWORK, assertion, stored)] + ([(PLUGIN, stored, peer)] if peer else [])
    for name, outer, inner in differences:
        seconds = _difference(outer, inner)
        if seconds is not None:
            seconds = min(seconds, left)
            left -= seconds
        layers.append(Layer(name, seconds))
    # Within the noise, a signature may seem to take longer than the assertion that contains it.
    below = min((peer or stored).latency["p50"], left)
    return Cost(key, whole, (*layers, Layer(BELOW if peer else STORE, below)))


def _difference(outer: Measurement, inner: Measurement) -> float | None:
    """Return the seconds by which `outer` takes longer; None if that may be chance."""
    seconds = outer.latency["p50"] - inner.latency["p50"]
    pairs = list(zip(outer.rounds, inner.rounds, strict=False))
    low = median([own - other for own, other in pairs]).low if pairs else None
    return None if seconds <= 0 or (low is not None and low <= 0) else seconds
