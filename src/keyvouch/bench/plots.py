"""The plots of a run: latency by percentile, throughput by threads, and the cost of an assertion by layer."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from keyvouch._system.text import printable
from keyvouch.bench import latency_plot, layers_plot, throughput_plot
from keyvouch.bench.document import Run
from keyvouch.bench.drawing import FONT_SIZE, INK, MUTED, SURFACE, Plot
from keyvouch.bench.output_files import plot_format, write_file

WIDTH, NARROW_WIDTH = 7.6, 3.6
"""Inches; the narrow form is for the screen of a phone."""
_TOP, _HEADING, _EDGE = 0.34, 0.4, 0.15
"""Inches above the axes; for the heading in a figure with several plots; around such a figure."""
_NOTE = 0.4
"""Inches for the line below the plots."""
_DPI = 192
"""Twice the usual number of pixels per inch."""


def plots(run: Run) -> list[Plot]:
    """Return the plots for which there are measurements."""
    return [each for make in (latency_plot, throughput_plot, layers_plot) if (each := make.plot(run))]


def write_plot(run: Run, path: Path) -> None:
    """Write all plots of a run in one picture, as PNG or SVG by the ending of its name; an existing file is replaced.

    Raises `ConfigurationError` for another ending, or if the file cannot be written.
    """
    form = plot_format(path)
    data = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        _figure_of_all(run).savefig(data, format=form, dpi=_DPI)
    write_file(path, data.getvalue())


def figure_of(plot: Plot, *, narrow: bool = False) -> Figure:
    """Return a figure with one plot, without its title, on a transparent background."""
    figure = Figure(figsize=(NARROW_WIDTH if narrow else WIDTH, plot.bottom + plot.height + _TOP), facecolor="none")
    _draw(figure, plot, plot.bottom, narrow=narrow)
    return figure


def _draw(figure: Figure, plot: Plot, bottom: float, *, narrow: bool = False) -> None:
    """Draw a plot whose axes begin `bottom` inches above the lower edge."""
    width, height = figure.get_size_inches()
    left, right = plot.narrow_margins if narrow else plot.margins
    axes = figure.add_axes((left / width, bottom / height, (width - left - right) / width, plot.height / height))
    plot.draw(axes, narrow)


def _figure_of_all(run: Run) -> Figure:
    found = plots(run)
    heights = [_HEADING + _TOP + each.height + each.bottom for each in found]
    top = height = sum(heights) + _EDGE + _NOTE
    figure = Figure(figsize=(WIDTH, height), facecolor=SURFACE)
    for plot, needed in zip(found, heights, strict=True):
        place = (_EDGE / WIDTH, (top - _EDGE) / height)
        figure.text(*place, plot.title, color=INK, fontsize=12, fontweight="bold", va="top")
        _draw(figure, plot, top - needed + plot.bottom)
        top -= needed
    machine = run.machine
    note = f"{machine.processor}, {machine.cores} cores, {machine.system}, {run.started[:10]}"
    if not found:
        note = f"No signature was measured. {note}"
    figure.text(_EDGE / WIDTH, _EDGE / height, printable(note), color=MUTED, fontsize=FONT_SIZE - 1, parse_math=False)
    return figure
