"""How long signatures take, by percentile.

The horizontal axis is 1 / (1 - p), as in HdrHistogram's own plots: the rarer a latency, the further to the right, so
that the slowest of many thousand signatures is as visible as the median.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from functools import partial

from matplotlib.axes import Axes

from keyvouch.bench.document import Key, Measurement, Run
from keyvouch.bench.drawing import (
    Label,
    Plot,
    add_labels,
    curve_height,
    label_margin,
    prepare,
    set_horizontal_scale,
    set_log_scale,
    style_of,
)
from keyvouch.bench.series import ENOUGH, name_of_key, with_signatures
from keyvouch.bench.units import duration, number, threads

_PERCENTILES = {1: "0 %", 2: "50 %", 10: "90 %", 100: "99 %", 1000: "99.9 %", 10_000: "99.99 %"}
"""Names of 1 / (1 - p)."""
_READING = "At 99 %, one signature in a hundred takes longer than the curve shows; lower is faster."
_LAST = max(_PERCENTILES)
_CROWDED = 1000
"""Last tick from which on a narrow plot has no room for the names of both 0 % and 50 %."""
_STEPS = 160
"""Number of points of a curve."""


def plot(run: Run) -> Plot | None:
    """Return the plot of signatures with the smallest number of threads; None if there is none."""
    measured = with_signatures(run)
    first = {key: found[0] for key, found in measured.items()}
    if not first:
        return None
    several = any(len(found) > 1 for found in measured.values())
    quantiles = " ".join(f"{name_of_key(key)}: {_quantiles(each)}." for key, each in first.items())
    return Plot(
        name="latency",
        title="Latency",
        reading=_READING + _load(first, several=several),
        description=f"{_title(first)}. {quantiles}",
        draw=partial(draw_latency, first),
        height=curve_height(len(first)),
        margins=(0.62, label_margin([_label(*each, narrow=False) for each in first.items()])),
        narrow_margins=(0.56, label_margin([_label(*each, narrow=True) for each in first.items()])),
    )


def draw_latency(measurements: Mapping[Key, Measurement], axes: Axes, narrow: bool) -> None:
    """Draw the latencies of these measurements of signatures, one for each key."""
    prepare(axes, _short_title(measurements) if narrow else _title(measurements))
    curves = {key: _curve(each) for key, each in measurements.items()}
    set_log_scale(axes, [time for _, times in curves.values() for time in times], _tick)
    longest = max(xs[-1] for xs, _ in curves.values())
    ticks = [x for x in _PERCENTILES if x <= 10 or x < longest * 10]  # noqa: PLR2004 - at least 90 %
    if narrow and ticks[-1] >= _CROWDED:
        ticks.remove(1)
    set_horizontal_scale(axes, ticks, lambda x: _PERCENTILES[int(x)], "Percentile", begin=1)
    labels = list[Label]()
    for index, (key, (xs, times)) in enumerate(curves.items()):
        style = style_of(index)
        marked = [position for position, x in enumerate(xs) if x in _PERCENTILES or x == xs[-1]]
        axes.plot(xs, times, **style.of_line(), markevery=marked, clip_on=False)
        labels.append(Label(_label(key, measurements[key], narrow=narrow), xs[-1], times[-1], style))
    add_labels(axes, labels)


def _curve(each: Measurement) -> tuple[list[float], list[float]]:
    """Return 1 / (1 - p) and the time in seconds, from the shortest time to the longest, or to 99.99 %."""
    histogram = each.decoded_histogram()
    if histogram is None:
        return [1.0], [each.latency["p50"]]
    recorded = [(each.total_count_to_this_value, each.value_iterated_to) for each in histogram.get_recorded_iterator()]
    ranks, values = zip(*recorded, strict=True)
    count = ranks[-1]
    last = float(min(count, _LAST))
    exact = [float(x) for x in _PERCENTILES if x < last]
    xs = sorted({*(last ** (step / _STEPS) for step in range(_STEPS)), *exact, last})
    return xs, [values[bisect_left(ranks, _rank(x, count))] / 1e9 for x in xs]


def _rank(x: float, count: int) -> int:
    """Return which of the ordered times is at 1 / (1 - p): the first at 1, the last at `count`."""
    return min(count, round(count + 1 - count / x))


def _title(measurements: Mapping[Key, Measurement]) -> str:
    each = next(iter(measurements.values()))
    if each.rate:
        return f"Time for a signature, from the intended start; {each.rate:,g}/s requested"
    return f"Time for a signature, with {threads(each.threads)}"


def _short_title(measurements: Mapping[Key, Measurement]) -> str:
    each = next(iter(measurements.values()))
    return f"Time from the intended start; {each.rate:,g}/s requested" if each.rate else _title(measurements)


def _load(measurements: Mapping[Key, Measurement], *, several: bool) -> str:
    each = next(iter(measurements.values()))
    if each.rate:
        return f" {each.rate:,g} signatures per second were requested."
    more = "; the table shows the latency with more" if several else ""
    return f" Measured with {threads(each.threads)}{more}." if several or each.threads > 1 else ""


def _quantiles(each: Measurement) -> str:
    names = {"median": "p50", "99 %": "p99", "maximum": "max"}
    return ", ".join(f"{name} {duration(each.latency[field])}" for name, field in names.items())


def _label(key: Key, each: Measurement, *, narrow: bool) -> str:
    name = key.label[:3] if narrow else name_of_key(key)
    if each.rate is None or each.per_second is None or each.per_second.value >= ENOUGH * each.rate:
        return name
    return f"{name}  {number(each.per_second.value)}/s{'' if narrow else ' reached'}"


def _tick(seconds: float) -> str:
    """Name a tick, such as "100 µs"."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if round(seconds * factor, 9) >= 1:
            return f"{seconds * factor:,.0f} {unit}"
    return f"{seconds * 1e6:g} µs"
