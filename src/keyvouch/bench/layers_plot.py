"""Where the time of an assertion is spent.

Each bar is 100 %, since one scale of time would not show both a key of 30 µs and one of 50 ms; the times are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from keyvouch.bench.document import Run
from keyvouch.bench.drawing import FONT_SIZE, INK, LAYER_COLORS, MUTED, Plot, prepare
from keyvouch.bench.layers import BELOW, LAYERS, PLUGIN, Cost, describe, find_costs
from keyvouch.bench.series import name_of_key
from keyvouch.bench.units import duration, listed

_REST = "rest, within the noise"
_FILLED = {name: {"color": color} for name, color in zip(LAYERS, LAYER_COLORS, strict=True)}
_STYLES: dict[str, dict[str, Any]] = {**_FILLED, _REST: {"facecolor": "none", "edgecolor": MUTED, "linewidth": 0.8}}
_SHORT = {PLUGIN: "plugin", BELOW: "library", _REST: "rest (noise)"}
"""Names on narrow screens."""
_READING = (
    "Each bar is 100 % of one assertion with that key, whose median time is at the right: compare the times of two "
    "keys, not the lengths of their bars."
)
_ROW = 0.62
"""Inches for one key."""


def plot(run: Run) -> Plot | None:
    """Return the plot of the keys whose assertions were measured in a closed loop; None if there is none."""
    costs = find_costs(run)
    if not costs:
        return None
    return Plot(
        name="layers",
        title="Cost of a client assertion",
        reading=_READING,
        description=" ".join(f"{name_of_key(each.key)}: a client assertion {describe(each)}." for each in costs),
        draw=partial(draw_layers, costs),
        height=_ROW * len(costs),
        margins=(0.15, 0.15),
        narrow_margins=(0.02, 0.02),
    )


def draw_layers(costs: Sequence[Cost], axes: Axes, narrow: bool) -> None:
    """Draw the share of each layer in the median time of an assertion, with the times below."""
    prepare(axes, "")
    axes.set_xlim(0, 1)
    axes.set_ylim(len(costs), 0)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    first, *_, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    axes.set_xlabel("Part of each key's own assertion", color=MUTED, fontsize=FONT_SIZE, labelpad=6)
    axes.set_yticks([])
    for row, cost in enumerate(costs):
        _draw_bar(axes, row + 0.48, cost)
        _write(axes, row + 0.2, name_of_key(cost.key), INK)
        _write(axes, row + 0.2, duration(cost.seconds), INK, at_the_right=True)
        _write(axes, row + 0.78, _short(cost) if narrow else _layers(cost), MUTED)
    used = {name for cost in costs for name in _shares(cost)}
    names = {name: _SHORT.get(name, name) if narrow else name for name in _STYLES if name in used}
    _add_legend(axes, names, columns=3 if narrow else len(names))


def _shares(cost: Cost) -> dict[str, float]:
    """Return the parts of the whole time, which add up to 1; the rest only if there is any."""
    parts = cost.known | ({_REST: cost.rest} if cost.rest else {})
    return {name: seconds / cost.seconds for name, seconds in parts.items()}


def _draw_bar(axes: Axes, y: float, cost: Cost) -> None:
    begin = 0.0
    for name, share in _shares(cost).items():
        axes.barh(y, share, 0.26, begin, **_STYLES[name])
        begin += share


def _write(axes: Axes, y: float, text: str, color: str, *, at_the_right: bool = False) -> None:
    x, side = (1, "right") if at_the_right else (0, "left")
    axes.text(x, y, text, color=color, ha=side, va="center", fontsize=FONT_SIZE, parse_math=False)


def _add_legend(axes: Axes, names: Mapping[str, str], columns: int) -> None:
    axes.legend(
        handles=[Patch(label=label, **_STYLES[name]) for name, label in names.items()],
        ncols=columns,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        frameon=False,
        fontsize=FONT_SIZE,
        labelcolor=MUTED,
        borderpad=0,
        borderaxespad=0,
        handlelength=1,
        handleheight=1,
        handletextpad=0.5,
        columnspacing=1.4,
    )


def _layers(cost: Cost) -> str:
    times = ", ".join(f"{name} {duration(seconds)}" for name, seconds in cost.known.items())
    return f"{times}; {listed(cost.within_noise)} within the noise" if cost.within_noise else times


def _short(cost: Cost) -> str:
    times = ", ".join(f"{_SHORT.get(name, name)} {duration(seconds)}" for name, seconds in cost.known.items())
    noise = ", ".join(_SHORT.get(name, name) for name in cost.within_noise)
    return f"{times}; {noise}: noise" if noise else times
