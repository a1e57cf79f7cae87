"""Where the time of an assertion is spent.

Each bar is 100 %, since one scale of time would not show both a key of 30 us and one of 50 ms; the times are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes

from keyvouch.bench.document import Run
from keyvouch.bench.drawing import FONT_SIZE, INK, LAYER_COLORS, MUTED, Plot, prepare
from keyvouch.bench.layers import LAYERS, Cost, Layer, find_costs
from keyvouch.bench.series import name_of_key
from keyvouch.bench.units import duration

_COLORS = dict(zip(LAYERS, LAYER_COLORS, strict=True))
_ROW = 0.62
"""Inches for one key."""


def plot(run: Run) -> Plot | None:
    """Return the plot of the keys whose assertions were measured in a closed loop; None if there is none."""
    costs = find_costs(run)
    if not costs:
        return None
    texts = [f"{name_of_key(each.key)}: {duration(each.seconds)}, of which {_layers(each)}." for each in costs]
    return Plot(
        name="layers",
        title="Cost of a client assertion",
        reading="Each bar is the whole assertion, of which the first part is spent in keyvouch itself.",
        description=" ".join(texts),
        draw=partial(draw_layers, costs),
        height=_ROW * len(costs),
        margins=(0.15, 0.15),
        narrow_margins=(0.02, 0.02),
        bottom=0.05,
    )


def draw_layers(costs: Sequence[Cost], axes: Axes, narrow: bool) -> None:
    """Draw the share of each layer in the median time of an assertion, with the times below."""
    prepare(axes, "")
    axes.set_xlim(0, 1)
    axes.set_ylim(len(costs), 0)
    axes.set_xticks([])
    axes.set_yticks([])
    for row, cost in enumerate(costs):
        _draw_bar(axes, row + 0.48, cost)
        _write(axes, row + 0.2, name_of_key(cost.key), INK)
        _write(axes, row + 0.2, duration(cost.seconds), INK, at_the_right=True)
        below = _short(cost) if narrow else _layers(cost)
        _write(axes, row + 0.78, below, MUTED)
    _add_legend(axes, {layer.name for cost in costs for layer in cost.layers}, columns=2 if narrow else len(LAYERS))


def _draw_bar(axes: Axes, y: float, cost: Cost) -> None:
    begin, whole = 0.0, sum(each.seconds for each in cost.layers)
    for layer in cost.layers:
        share = layer.seconds / whole
        axes.barh(y, share, 0.26, begin, color=_COLORS[layer.name])
        begin += share


def _write(axes: Axes, y: float, text: str, color: str, *, at_the_right: bool = False) -> None:
    x, side = (1, "right") if at_the_right else (0, "left")
    axes.text(x, y, text, color=color, ha=side, va="center", fontsize=FONT_SIZE, parse_math=False)


def _add_legend(axes: Axes, used: set[str], columns: int) -> None:
    for name, color in _COLORS.items():
        if name in used:
            axes.barh(0, 0, color=color, label=name)
    axes.legend(
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
    return ", ".join(f"{each.name} {_time(each)}" for each in cost.layers)


def _short(cost: Cost) -> str:
    return " + ".join("noise" if each.within_noise else duration(each.seconds) for each in cost.layers)


def _time(layer: Layer) -> str:
    return "0 us (within the noise)" if layer.within_noise else duration(layer.seconds)
