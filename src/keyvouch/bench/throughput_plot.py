"""How many signatures a second several threads make."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes

from keyvouch.bench.document import Key, Measurement, Run
from keyvouch.bench.drawing import (
    INK,
    Label,
    Plot,
    Style,
    add_labels,
    curve_height,
    label_margin,
    prepare,
    set_horizontal_scale,
    set_log_scale,
    style_of,
)
from keyvouch.bench.knee import Knee
from keyvouch.bench.series import knees_of_signatures, name_of_key, with_signatures
from keyvouch.bench.units import number, threads

_READING = (
    "A circle marks the knee, beyond which throughput does not clearly grow with more threads; bars are 99 % "
    "confidence intervals."
)
_UNCERTAIN = ' "Unclear" means that throughput seems to grow, but within the noise: measure longer to find the knee.'
_MANY = 8
"""Number of keys from which on curves are not moved aside."""


def plot(run: Run) -> Plot | None:
    """Return the plot of signatures in a closed loop; None if no key was measured with several numbers of threads."""
    points, knees = _points(run), knees_of_signatures(run)
    if not knees:
        return None
    texts = " ".join(f"{name_of_key(key)}: {_rates(own, knees.get(key.label))}." for key, own in points.items())
    return Plot(
        name="throughput",
        title="Throughput",
        reading=_READING + (_UNCERTAIN if any(each.uncertain for each in knees.values()) else ""),
        description=f"Signatures per second. {texts}",
        draw=partial(draw_throughput, run),
        height=curve_height(len(points)),
        margins=(0.62, label_margin([_label(key, knees.get(key.label), narrow=False) for key in points])),
        narrow_margins=(0.56, label_margin([_label(key, knees.get(key.label), narrow=True) for key in points])),
    )


def draw_throughput(run: Run, axes: Axes, narrow: bool) -> None:
    """Draw signatures per second by the number of threads, with the knee of each key."""
    points, knees = _points(run), knees_of_signatures(run)
    prepare(axes, "Signatures per second")
    all_points = [each for own in points.values() for each in own]
    set_log_scale(axes, [bound for each in all_points for bound in _range(each)], _tick)
    numbers = sorted({each.threads for each in all_points})
    set_horizontal_scale(axes, numbers, _tick, "Threads", begin=numbers[0], room=1.08)
    labels = list[Label]()
    for index, (key, own) in enumerate(points.items()):
        style, knee = style_of(index), knees.get(key.label)
        # Keys of equal speed would hide each other's bars.
        aside = 2 ** (0.1 * (index / (len(points) - 1) - 0.5)) if 1 < len(points) < _MANY else 1.0
        _draw_curve(axes, own, style, aside)
        if knee and not (knee.still_growing or knee.uncertain):
            axes.plot(
                knee.threads * aside,
                knee.per_second,
                color=INK,
                marker="o",
                markersize=13,
                markerfacecolor="none",
                clip_on=False,
            )
        last = own[-1]
        labels.append(Label(_label(key, knee, narrow=narrow), last.threads * aside, _range(last)[1], style))
    add_labels(axes, labels)


def _draw_curve(axes: Axes, own: Sequence[Measurement], style: Style, aside: float) -> None:
    lows, values, highs = zip(*map(_range, own), strict=True)
    errors = [
        [value - low for value, low in zip(values, lows, strict=True)],
        [high - value for value, high in zip(values, highs, strict=True)],
    ]
    xs = [each.threads * aside for each in own]
    bars = axes.errorbar(xs, values, yerr=errors, elinewidth=1, capsize=3, **style.of_line())
    for artist in bars.get_children():
        artist.set_clip_on(False)


def _points(run: Run) -> dict[Key, list[Measurement]]:
    found = {
        key: [each for each in own if each.rate is None and each.per_second]
        for key, own in with_signatures(run).items()
    }
    return {key: own for key, own in found.items() if own}


def _range(each: Measurement) -> tuple[float, float, float]:
    """Return the throughput with its confidence interval, which is empty if there were too few rounds."""
    assert each.per_second is not None  # noqa: S101 - a point has one
    value, low, high = each.per_second.value, each.per_second.low, each.per_second.high
    return low or value, value, high or value


def _rates(own: Sequence[Measurement], knee: Knee | None) -> str:
    texts = [f"{number(_range(each)[1])} with {threads(each.threads)}" for each in own]
    return ", ".join(texts + ([_knee_text(knee)] if knee else []))


def _label(key: Key, knee: Knee | None, *, narrow: bool) -> str:
    if not narrow:
        return f"{name_of_key(key)}, {_knee_text(knee)}" if knee else name_of_key(key)
    short = key.label[:3]
    if not knee:
        return short
    if knee.uncertain:
        return f"{short}  unclear"
    return f"{short}  growing" if knee.still_growing else f"{short}  {_knee_text(knee)}"


def _knee_text(knee: Knee) -> str:
    if knee.uncertain:
        return "knee unclear"
    return f"still growing at {knee.threads}" if knee.still_growing else f"knee at {knee.threads}"


def _tick(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"
