"""What the plots share: colors, axes with few lines, scales with readable ticks, labels beside the curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from keyvouch.bench.palette import LIGHT

INK, MUTED, GRID, SURFACE = (LIGHT[each] for each in ("ink", "muted", "grid", "surface"))
KEY_COLORS = tuple(color for name, color in LIGHT.items() if name.startswith("series"))
LAYER_COLORS = tuple(color for name, color in LIGHT.items() if name.startswith("layer"))
FONT_SIZE = 9.0
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
_FEWEST_POWERS = 3
"""Number of powers of ten in a vertical axis below which it has ticks at 2 and 5, too."""
_LABEL_HEIGHT = 0.175
"""Inches that a line of labels needs."""


@dataclass(frozen=True)
class Plot:
    """A plot that the measurements allow."""

    name: str
    title: str
    reading: str
    """How to read it."""
    description: str
    """The same facts as text, for those who cannot see it."""
    draw: Callable[[Axes, bool], None]
    """Draws into axes; True for the narrow form, in which labels are short."""
    height: float
    """Inches of the axes."""
    margins: tuple[float, float]
    """Inches to the left and right of the axes."""
    narrow_margins: tuple[float, float]
    bottom: float = 0.55
    """Inches below the axes."""


@dataclass(frozen=True)
class Style:
    """How to draw the curve of one key."""

    color: str
    marker: str
    dashes: str | tuple[float, tuple[float, ...]]

    def of_line(self) -> dict[str, Any]:
        """Return the arguments of a curve with markers."""
        line = {"color": self.color, "linestyle": self.dashes, "linewidth": 1.6}
        return {**line, "marker": self.marker, "markersize": 5}


@dataclass(frozen=True)
class Label:
    """The name of a curve, written beside its last point."""

    text: str
    x: float
    y: float
    style: Style


def style_of(number: int) -> Style:
    """Return the style of the key with this number; no two of the first 70 are the same."""
    dashes = _DASHES[number // len(KEY_COLORS) % len(_DASHES)]
    return Style(KEY_COLORS[number % len(KEY_COLORS)], _MARKERS[number % len(_MARKERS)], dashes)


def curve_height(keys: int) -> float:
    """Return the inches of axes beside which there is room for the labels of so many keys."""
    return max(2.9, 1.03 * _LABEL_HEIGHT * keys)


def label_margin(labels: Sequence[str]) -> float:
    """Return the inches that labels need beside the axes."""
    return 0.42 + 0.075 * max(map(len, labels))


def prepare(axes: Axes, title: str) -> None:
    """Remove everything but the grid; the title of the vertical axis is at the top, where it needs no rotation."""
    axes.set_facecolor("none")
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=MUTED, labelsize=FONT_SIZE, pad=5)
    axes.set_title(title, loc="left", color=MUTED, fontsize=FONT_SIZE, pad=10)


def set_log_scale(axes: Axes, values: Sequence[float], name: Callable[[float], str]) -> None:
    """Make the vertical axis logarithmic, with all values in it and the ticks named by a function."""
    low, high = min(values), max(values)
    widen = max(1.25, math.sqrt(10 * low / high))  # at least one decade
    low, high = low / widen, high * widen
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    powers = [10.0**exponent for exponent in exponents]
    few = sum(low <= each <= high for each in powers) < _FEWEST_POWERS
    ticks = [step * each for each in powers for step in ((1, 2, 5) if few else (1,))]
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    _set_ticks(axes, "y", [each for each in ticks if low <= each <= high], name)


def set_horizontal_scale(
    axes: Axes, ticks: Sequence[float], name: Callable[[float], str], title: str, *, begin: float, room: float = 1.0
) -> None:
    """Make the horizontal axis logarithmic, from `begin` divided by `room` to the last tick times `room`."""
    axes.set_xscale("log")
    axes.set_xlim(begin / room, ticks[-1] * room)
    axes.set_xlabel(title, color=MUTED, fontsize=FONT_SIZE, labelpad=6)
    _set_ticks(axes, "x", ticks, name)


def _set_ticks(axes: Axes, which: str, ticks: Sequence[float], name: Callable[[float], str]) -> None:
    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_ticklabels([name(each) for each in ticks])
    axis.grid(color=GRID, linewidth=0.8)


def add_labels(axes: Axes, labels: Sequence[Label]) -> None:
    """Write each label to the right of the axes, at the height of its curve if there is room, with a line to it."""
    box = axes.get_window_extent().transformed(axes.get_figure(root=True).dpi_scale_trans.inverted())  # type: ignore[union-attr]
    ends = [axes.transAxes.inverted().transform(axes.transData.transform((each.x, each.y))) for each in labels]
    heights = spread([float(y) for _, y in ends], _LABEL_HEIGHT / box.height)
    bend, end, marker, text = (1 + inches / box.width for inches in (0.06, 0.16, 0.24, 0.34))
    outside: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
    for label, (x, y), height in zip(labels, ends, heights, strict=True):
        style = label.style
        dotted: dict[str, Any] = {"linewidth": 0.8, "linestyle": (0, (1, 2)), **outside}
        axes.plot([x, bend, end], [y, y, height], color=style.color, **dotted)
        axes.plot(marker, height, color=style.color, marker=style.marker, markersize=5, **outside)
        font: dict[str, Any] = {"color": INK, "fontsize": FONT_SIZE, "parse_math": False, **outside}
        axes.text(text, height, label.text, va="center_baseline", **font)


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Return places from 0 to 1 that are at least `gap` apart if there is room, in the same order, moved little.

    Places that are too close form a block, whose members move by the same distance on average.
    """
    gap = min(gap, 1 / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    blocks = list[list[float]]()
    for rank, index in enumerate(order):
        blocks.append([wanted[index] - rank * gap])
        while len(blocks) > 1 and _mean(blocks[-2]) > _mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    bases = [_mean(block) for block in blocks for _ in block]
    places = [0.0] * len(wanted)
    for rank, index in enumerate(order):
        places[index] = min(max(0.0, bases[rank]), 1 - (len(wanted) - 1) * gap) + rank * gap
    return places


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
