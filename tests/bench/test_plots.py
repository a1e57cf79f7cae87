"""Which plots there are, what they show, and how they are written."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from bench.runs import all_operations, key, latencies, measurement, run_of, threads_of
from keyvouch.bench import Interval, Run
from keyvouch.bench.drawing import spread, style_of
from keyvouch.bench.plots import NARROW_WIDTH, WIDTH, figure_of, plots, write_plot
from keyvouch.errors import ConfigurationError

FULL = run_of(
    *all_operations("A", 30e-6, peer=True, rates={1: 100, 2: 190, 4: 191}),
    *all_operations("B", 45e-3, rates={1: 10, 2: 20, 4: 40}),
)
FASTER = Interval(892.0, 500.0, 1100.0)
HOSTILE = "$\\frac{$ <script>&\x1b\u202e\ud800"


def names(run: Run) -> list[str]:
    return [each.name for each in plots(run)]


def axes_of(run: Run, name: str, *, narrow: bool = False) -> Axes:
    [plot] = [each for each in plots(run) if each.name == name]
    return figure_of(plot, narrow=narrow).axes[0]


def texts(axes: Axes) -> list[str]:
    return [each.get_text() for each in axes.texts]


def test_all_plots() -> None:
    """With several threads and assertions, there are all three."""
    assert names(FULL) == ["latency", "throughput", "layers"]


def test_throughput_needs_several_threads() -> None:
    """One number of threads is no curve."""
    assert names(run_of(*all_operations("A", 1e-3))) == ["latency", "layers"]


def test_rate() -> None:
    """In an open loop the latency matters, from the intended start; the requested rate is in the title."""
    run = run_of(measurement("A", times=latencies(1e-3), rate=200), measurement("A", "assertion", [1e-3], rate=200))
    assert names(run) == ["latency"]
    axes = axes_of(run, "latency")
    assert axes.get_title("left") == "Time for a signature, from the intended start; 200/s requested"
    assert texts(axes) == ["A  pem RSA-2048"]


def test_rate_that_is_not_reached() -> None:
    """The label says what was reached."""
    run = run_of(measurement("A", times=latencies(1e-3), rate=950, per_second=Interval(665, 660, 670)))
    assert texts(axes_of(run, "latency")) == ["A  pem RSA-2048  665/s reached"]
    narrow = axes_of(run, "latency", narrow=True)
    assert texts(narrow) == ["A  665/s"]
    assert narrow.get_title("left") == "Time from the intended start; 950/s requested"


def test_latency_with_several_threads() -> None:
    """The title says with how many threads, and the text that others are in the table."""
    assert axes_of(FULL, "latency").get_title("left") == "Time for a signature, with 1 thread"
    [plot] = [each for each in plots(FULL) if each.name == "latency"]
    assert plot.reading.endswith("Measured with 1 thread; the table shows the latency with more.")


@pytest.mark.parametrize("narrow", [False, True])
def test_percentiles_are_named(narrow: bool) -> None:
    """Each tick of the horizontal axis has a name."""
    axes = axes_of(FULL, "latency", narrow=narrow)
    names = [each.get_text() for each in axes.get_xticklabels()]
    assert names[-5:] == ["50 %", "90 %", "99 %", "99.9 %", "99.99 %"]


@pytest.mark.parametrize("times", [[1.3e-3, 160e-3], [1.1e-3, 9e-3], [0.9, 1.1], [12e-6, 900e-6]])
def test_ticks_of_a_short_axis(times: list[float]) -> None:
    """With fewer than three powers of ten, there are ticks at 2 and 5, too."""
    ticks = axes_of(run_of(measurement("A", times=times)), "latency").get_yticks()
    assert len(ticks) >= 3


def test_nothing_measured() -> None:
    """A run with errors only has no plots."""
    assert names(run_of(measurement("A", errors={"store-unavailable": 3}))) == []


def test_latency_curve() -> None:
    """The curve begins with the shortest time and ends with the longest; 99 % is at 100 = 1 / (1 - 0.99)."""
    times = [number * 1e-3 for number in range(1, 1001)]
    [line, *_] = axes_of(run_of(measurement("A", times=times)), "latency").lines
    curve = dict(line.get_xydata().tolist())  # type: ignore[union-attr]
    assert curve[1.0] == pytest.approx(1e-3, rel=2e-3)
    assert curve[100.0] == pytest.approx(0.99, rel=2e-3)
    assert curve[1000.0] == max(curve.values()) == pytest.approx(1.0, rel=2e-3)


@pytest.mark.parametrize("times", [[2.0], [5e-6] * 5000 + [2.0] * 3])
def test_any_latency_is_within_the_axes(times: list[float]) -> None:
    """One sample, or a span from microseconds to seconds."""
    axes = axes_of(run_of(measurement("A", times=times)), "latency")
    low, high = axes.get_ylim()
    assert low < min(times)
    assert high > max(times)
    assert len(axes.get_yticks()) >= 2


def test_knee_is_marked_and_named() -> None:
    """A circle is around the knee; a key whose throughput still grows has none."""
    axes = axes_of(FULL, "throughput")
    assert texts(axes) == ["A  pem RSA-2048, knee at 2", "B  pem RSA-2048, still growing at 4"]
    [ring] = [each for each in axes.lines if each.get_markersize() == 13]
    assert list(ring.get_ydata()) == [190]  # type: ignore[arg-type]


def test_confidence_intervals() -> None:
    """Each point of the throughput has a bar from the lower to the upper bound."""
    axes = axes_of(run_of(*threads_of("A", {1: 100, 2: 190}, spread=0.1)), "throughput")
    [bars] = axes.collections
    spans = [np.asarray(each.vertices)[:, 1].tolist() for each in bars.get_paths()]
    assert spans == [pytest.approx([90, 110]), pytest.approx([171, 209])]


def test_layers() -> None:
    """Each key has a bar as long as the axes, with the total and the times as text."""
    axes = axes_of(FULL, "layers")
    assert texts(axes)[1] == "40.0 µs"
    assert texts(axes)[2] == "framework 10.0 µs, store's plugin 1.50 µs, bare library 28.5 µs"
    assert axes.get_xlabel() == "Part of each key's own assertion"
    bars = [each for each in axes.patches if each.get_width()]  # type: ignore[attr-defined]
    assert sum(each.get_width() for each in bars) == pytest.approx(2)  # type: ignore[attr-defined]


def test_layer_within_the_noise() -> None:
    """A layer that cannot be measured has no number, and what is left for it is drawn as a rest."""
    rounds = [1e-3, 1.2e-3] * 10
    run = run_of(
        measurement("A", "assertion", [728e-6] * 50, rounds=rounds),
        measurement("A", "stored_key", [700e-6] * 50, rounds=rounds[::-1]),
        measurement("A", "peer", [687e-6] * 50, rounds=rounds),
    )
    axes = axes_of(run, "layers")
    assert texts(axes)[2] == "bare library 687 µs; framework and store's plugin within the noise"
    assert texts(axes_of(run, "layers", narrow=True))[2] == "library 687 µs; framework, plugin: noise"
    widths = [each.get_width() for each in axes.patches]  # type: ignore[attr-defined]
    assert widths == pytest.approx([687 / 728, 41 / 728], rel=1e-3)
    legend = axes.get_legend()
    assert legend
    assert [each.get_text() for each in legend.get_texts()] == ["bare library", "rest, within the noise"]


def test_unclear_knee() -> None:
    """A knee that may be further on has no circle, and the text says what that means."""
    slower = measurement("A", times=latencies(1e-3), per_second=Interval(564.0, 400.0, 800.0))
    run = run_of(slower, measurement("A", times=latencies(1e-3), threads=2, per_second=FASTER))
    axes = axes_of(run, "throughput")
    assert texts(axes) == ["A  pem RSA-2048, knee unclear"]
    assert texts(axes_of(run, "throughput", narrow=True)) == ["A  unclear"]
    assert not [each for each in axes.lines if each.get_markersize() == 13]
    [plot] = [each for each in plots(run) if each.name == "throughput"]
    assert "measure longer" in plot.reading


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("number", [1, 3, 26])
def test_texts_do_not_overlap(number: int, narrow: bool) -> None:
    """No two texts of a plot overlap, and none is outside the figure, for any number of keys."""
    labels = [chr(ord("A") + index) for index in range(number)]
    factors = [1.1 ** (index // 2) for index in range(number)]  # pairs of equally fast keys
    rates = {1: 400, 2: 500, 4: 600, 8: 1000}
    uneven = [1e-3, 1.5e-3] * 10
    run = run_of(
        *(
            each
            for label, factor in zip(labels, factors, strict=True)
            for each in all_operations(label, factor * 1e-3, rates=rates, peer=label > "B")
        ),
        # within the noise: the framework and the plugin
        measurement("Y", "assertion", [0.85e-3] * 50, rounds=uneven),
        measurement("Y", "stored_key", [0.84e-3] * 50, rounds=uneven[::-1]),
        measurement("Y", "peer", [0.81e-3] * 50, rounds=uneven),
        measurement("Y", times=latencies(1e-3), per_second=Interval(564.0, 400.0, 800.0)),
        measurement("Y", times=latencies(1e-3), threads=8, per_second=FASTER),
        keys=[key(label, scheme="azurekeyvault") for label in {*labels, "Y"}],
    )
    for plot in plots(run):
        figure = figure_of(plot, narrow=narrow)
        boxes = boxes_of_texts(figure)
        width, height = figure.bbox.size
        assert all(box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1 for box in boxes)
        assert not any(one.overlaps(other) for index, one in enumerate(boxes) for other in boxes[:index])


def boxes_of_texts(figure: Figure) -> list[Bbox]:
    figure.draw_without_rendering()
    found = [each for each in figure.findobj(Text) if isinstance(each, Text) and each.get_text() and each.get_visible()]
    return [each.get_window_extent().padded(-1) for each in found]


def test_hostile_names() -> None:
    """Names from a document are neither formulas nor markup, nor do they contain control characters."""
    run = run_of(*all_operations("A", 1e-3, rates={1: 9, 2: 12}), keys=[key("A", key_type=HOSTILE)])
    for plot in plots(run):
        figure = figure_of(plot)
        figure.savefig(io.BytesIO(), format="png")
        assert any("$\\frac{$" in each for each in texts(figure.axes[0]))
        assert all(each.isprintable() for each in texts(figure.axes[0]))


def test_long_names_are_shortened() -> None:
    """A name has at most 28 characters."""
    run = run_of(*all_operations("A", 1e-3), keys=[key("A", key_type="x" * 500)])
    assert texts(axes_of(run, "latency")) == ["A  pem xxxxxxxxxxxxxxxxxx..."]


def test_26_keys_differ() -> None:
    """No two keys have the same color, marker and dashes; the first ten differ in their colors."""
    styles = [style_of(number) for number in range(26)]
    assert len(set(styles)) == 26
    assert len({each.color for each in styles[:10]}) == 10
    assert len({each.marker for each in styles[:7]}) == 7


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([0.1, 0.9], [0.1, 0.9]),
        ([0.5, 0.5], [0.4, 0.6]),
        ([1.0, 1.0, 0.0], [0.8, 1.0, 0.0]),
        ([0.5] * 11, [number / 10 for number in range(11)]),
        ([], []),
    ],
)
def test_spread(wanted: list[float], expected: list[float]) -> None:
    """Labels are moved apart, by as little as possible, within the axes."""
    assert spread(wanted, 0.2) == pytest.approx(expected)


# Files


def test_png(tmp_path: Path) -> None:
    """A PNG has twice the usual number of pixels."""
    write_plot(FULL, tmp_path / "plot.PNG")
    data = (tmp_path / "plot.PNG").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    assert width == int(WIDTH * 96 * 2)
    assert height > width


def test_svg(tmp_path: Path) -> None:
    """An SVG contains all plots, with text as text."""
    path = tmp_path / "plot.svg"
    write_plot(FULL, path)
    root = ET.fromstring(path.read_bytes())  # noqa: S314 - our own
    found = {each.text for each in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"Latency", "Throughput", "Cost of a client assertion", "A  pem RSA-2048"} <= found


def test_nothing_to_plot(tmp_path: Path) -> None:
    """The picture of a run with errors only says so."""
    path = tmp_path / "plot.svg"
    write_plot(run_of(measurement("A", errors={"store-unavailable": 3})), path)
    assert "No signature was measured." in path.read_text(encoding="utf-8")


def test_existing_file_is_replaced(tmp_path: Path) -> None:
    """A plot is written completely or not at all, and leaves no other file."""
    path = tmp_path / "plots" / "plot.svg"
    path.parent.mkdir()
    path.write_text("old", encoding="utf-8")
    write_plot(FULL, path)
    assert path.read_text(encoding="utf-8").startswith("<?xml")
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["plot.pdf", "plot", "png"])
def test_other_ending(tmp_path: Path, name: str) -> None:
    """An ending other than .png and .svg is refused."""
    with pytest.raises(ConfigurationError, match="Unsupported type of plot") as raised:
        write_plot(FULL, tmp_path / name)
    assert raised.value.hint == "Use .png or .svg."


def test_unwritable_path(tmp_path: Path) -> None:
    """A missing folder is an error with a remedy."""
    with pytest.raises(ConfigurationError, match="its folder does not exist") as raised:
        write_plot(FULL, tmp_path / "missing" / "plot.png")
    assert raised.value.hint == f"Create the folder {tmp_path / 'missing'} first."


def test_no_pyplot() -> None:
    """Plots neither choose a back end with windows nor keep figures."""
    assert "matplotlib.pyplot" not in sys.modules


def test_narrow_form() -> None:
    """On a narrow screen labels are short."""
    axes = axes_of(FULL, "throughput", narrow=True)
    assert texts(axes) == ["A  knee at 2", "B  growing"]
    assert axes.get_figure().get_figwidth() == NARROW_WIDTH  # type: ignore[union-attr]


def test_matplotlib_is_imported_only_for_plots() -> None:
    """Neither measuring nor the text of a run needs matplotlib, which takes long to import."""
    code = "import sys, keyvouch.bench, keyvouch.bench.findings; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
