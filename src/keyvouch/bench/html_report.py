"""A run as one HTML file, which loads nothing and needs no script."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path

from keyvouch._system.text import printable
from keyvouch.bench.comparison import Change
from keyvouch.bench.document import BUSY, OPERATIONS, Key, Limit, Machine, Measurement, Run
from keyvouch.bench.drawing import KEY_COLORS, Plot
from keyvouch.bench.findings import findings
from keyvouch.bench.inline_svg import inline_svg
from keyvouch.bench.intervals import Interval
from keyvouch.bench.output_files import write_file
from keyvouch.bench.palette import DARK, LIGHT
from keyvouch.bench.plots import figure_of, plots
from keyvouch.bench.series import (
    FEWEST,
    counts_of_errors,
    cpu_per_thousand,
    interruption,
    percentile,
    with_signatures,
)
from keyvouch.bench.units import duration, number, percentage, size, threads

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_NOTHING = "\N{EN DASH}"
_COLUMNS = (
    "Key",
    "Algorithm",
    "Load",
    "Per second",
    *(each.capitalize() if each == "max" else each for each in FEWEST),
    "CPU per 1,000",
    "Count",
    "Failed",
)
_LEFT = ("Key", "Algorithm", "Load", "Operation")

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
_FOOTER = (
    "<footer>\n<p>Ranges are 99 % confidence intervals of the median over all rounds. A dash stands for a percentile "
    "of too few operations. CPU per 1,000 is the time that this process computes for 1,000 operations.</p>\n</footer>"
)


def write_report(run: Run, path: Path, changes: Sequence[Change] | None = None) -> None:
    """Write the report of a run, with the changes since an earlier one if any; an existing file is replaced.

    Raises `ConfigurationError` if the file cannot be written.
    """
    write_file(path, report(run, changes).encode())


def report(run: Run, changes: Sequence[Change] | None = None) -> str:
    """Return the report as HTML."""
    title = {0: "Benchmark", 1: "Benchmark of a key"}.get(len(run.keys), f"Benchmark of {len(run.keys)} keys")
    body = [
        _header(run, title),
        _findings(run),
        _keys(run),
        *(_plot(each) for each in plots(run)),
        _changes(changes) if changes else "",
        _measurements(run),
        _errors(run),
        _machine(run),
        _FOOTER if run.measurements else "",
    ]
    return _PAGE.format(policy=_POLICY, title=title, style=_style(), body="\n".join(filter(None, body)))


def _style() -> str:
    css = resources.files("keyvouch.bench").joinpath("report.css").read_text(encoding="utf-8")
    light, dark = (" ".join(f"--{name}: {color};" for name, color in each.items()) for each in (LIGHT, DARK))
    return f":root {{ {light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n{css}"


def _text(value: object) -> str:
    """Return a text from the document, which may be hostile, as HTML."""
    return escape(printable(str(value)))


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{content}\n</section>" if content else ""


def _header(run: Run, title: str) -> str:
    machine = run.machine
    where = f"{machine.processor}, {machine.cores} cores, {machine.system}, {machine.python}"
    notices = []
    if run.interrupted:
        notices.append(" ".join(interruption(run)))
    if machine.was_busy:
        notices.append(BUSY.format(machine=machine))
    shown = "".join(f'\n<p class="notice" role="note">{_text(each)}</p>' for each in notices)
    return f'<header>\n<h1>{title}</h1>\n<p class="muted">{_text(_when(run))}. {_text(where)}.</p>{shown}\n</header>'


def _when(run: Run) -> str:
    try:
        started = dt.datetime.fromisoformat(run.started)
    except ValueError:
        return run.started
    amount = f"{run.seconds:g} s" if run.count is None else f"at most {run.count:,} operations"
    return f"{started.day} {started:%B %Y, %H:%M} UTC, {amount} for each measurement"


def _findings(run: Run) -> str:
    found = findings(run) or [_nothing(run)]
    items = "\n".join(f"<li>{_finding(each)}</li>" for each in found)
    return _section("Results", f'{_legend(run)}<ul class="findings">\n{items}\n</ul>')


def _nothing(run: Run) -> str:
    if any(each.count for each in run.measurements):
        return "No signature was measured; the table below shows what was."
    if any(each.errors for each in run.measurements) or any(each.error for each in run.keys):
        return "Nothing was measured successfully: see the errors below."
    return "Nothing was measured."


def _finding(sentence: str) -> str:
    subject, colon, rest = sentence.partition(": ")
    return f"<strong>{_text(subject)}:</strong> {_text(rest)}" if colon else _text(sentence)


def _legend(run: Run) -> str:
    """Say which key each letter is, if there are several."""
    items = "\n".join(f"<li>{_chip(run, key)} {_text(_kind(key))}</li>" for key in run.keys)
    return f'<ul class="legend">\n{items}\n</ul>\n' if len(run.keys) > 1 else ""


def _chip(run: Run, key: Key) -> str:
    """Return the key's letter in the color of its curves."""
    keys = list(with_signatures(run))
    color = f' style="--color: var(--series-{1 + keys.index(key) % len(KEY_COLORS)})"' if key in keys else ""
    return f'<span class="label"{color}>{_text(key.label)}</span>'


def _kind(key: Key) -> str:
    return f"{key.scheme} {key.key_type}".rstrip()


def _keys(run: Run) -> str:
    cards = "\n".join(_key(run, each) for each in run.keys)
    return _section("Keys", f'<div class="keys">\n{cards}\n</div>' if cards else "")


def _key(run: Run, key: Key) -> str:
    facts = {
        "Algorithm": key.preferred,
        "Unsupported": ", ".join(key.unsupported),
        "Profile": key.profile,
        "Plugin": key.plugin,
        "Module": key.module,
        "Memory": None if key.memory is None else size(key.memory),
        "Published limit": key.limit and _limit(key.limit),
        "Price": None if key.price is None else f"{key.price:,.2f} for a million signatures",
        "Not measured": key.error,
    }
    return (
        f"<article>\n<h3>{_chip(run, key)} {_text(_kind(key))}</h3>\n"
        f'<code class="uri">{_text(key.uri)}</code>\n{_facts(facts)}\n</article>'
    )


def _limit(limit: Limit) -> str:
    return f"{limit.signatures:,} signatures in {limit.seconds:,g} s for each {limit.scope} ({limit.source})"


def _facts(facts: Mapping[str, object]) -> str:
    rows = "\n".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts.items() if value)
    return f"<dl>\n{rows}\n</dl>"


def _plot(plot: Plot) -> str:
    forms = "\n".join(_form(plot, narrow=narrow) for narrow in (False, True))
    return (
        f'<section class="plot">\n<div>\n<h2>{plot.title}</h2>\n<p>{_text(plot.reading)}</p>\n</div>\n'
        f"<figure>\n{forms}\n</figure>\n</section>"
    )


def _form(plot: Plot, *, narrow: bool) -> str:
    """Return a plot for wide or narrow screens, of which the style sheet shows one."""
    form = "narrow" if narrow else "wide"
    svg = inline_svg(figure_of(plot, narrow=narrow), f"{plot.name}-{form}", plot.title, plot.description)
    return f'<div class="{form}">{svg}</div>'


def _changes(changes: Sequence[Change]) -> str:
    rows = "\n".join(_row(each.new, _change(each), with_operation=True) for each in changes)
    columns = ("Key", "Operation", "Algorithm", "Load", "Before", "Now", "Times as long", "Change")
    return _section("Changes since the earlier run", _table("changes", columns, f"<tbody>\n{rows}\n</tbody>"))


def _change(each: Change) -> Iterator[str]:
    yield duration(each.old.latency["p50"])
    yield duration(each.new.latency["p50"])
    yield _interval(each.ratio)
    if each.ratio.low is None:
        yield "too few rounds"
    elif not each.significant:
        yield "within the noise"
    else:
        change = percentage(abs(each.ratio.value - 1), ".1%")
        yield f"{change} {'slower' if each.ratio.value > 1 else 'faster'}"


def _measurements(run: Run) -> str:
    groups = "\n".join(
        _group(title, rows)
        for operation, title in OPERATIONS.items()
        if (rows := [each for each in run.measurements if each.operation == operation])
    )
    return _section("All measurements", _table("measurements", _COLUMNS, groups) if groups else "")


def _group(title: str, rows: Iterable[Measurement]) -> str:
    shown = "\n".join(_row(each, _figures(each)) for each in rows)
    heading = f'<tr><th class="group" scope="rowgroup" colspan="{len(_COLUMNS)}"><span>{title}</span></th></tr>'
    return f"<tbody>\n{heading}\n{shown}\n</tbody>"


def _figures(each: Measurement) -> Iterator[str]:
    yield _interval(each.per_second) if each.per_second else _NOTHING
    for seconds in (*(percentile(each, name) for name in FEWEST), cpu_per_thousand(each)):
        yield _NOTHING if seconds is None else duration(seconds)
    yield f"{each.count:,}"
    yield f"{sum(each.errors.values()):,}"


def _row(each: Measurement, figures: Iterable[str], *, with_operation: bool = False) -> str:
    names = [each.operation.replace("_", " ")] if with_operation else []
    names += [each.algorithm or _NOTHING, _load(each)]
    cells = "".join(f'<td class="text">{_text(name)}</td>' for name in names)
    cells += "".join(f"<td>{_text(figure)}</td>" for figure in figures)
    return f'<tr><th scope="row">{_text(each.key)}</th>{cells}</tr>'


def _load(each: Measurement) -> str:
    if each.rate:
        return f"{each.rate:,g}/s"
    return threads(each.threads)


def _interval(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return number(interval.value)
    return f"{number(interval.value)} ({number(interval.low)} to {number(interval.high)})"


def _table(name: str, columns: Sequence[str], groups: str) -> str:
    heads = "".join(f'<th scope="col"{" class=text" if each in _LEFT else ""}>{each}</th>' for each in columns)
    return (
        f'<div class="scroll" role="region" aria-label="Table of {name}" tabindex="0">\n<table>\n'
        f"<thead>\n<tr>{heads}</tr>\n</thead>\n{groups}\n</table>\n</div>"
    )


def _errors(run: Run) -> str:
    items = [
        f"<li><strong>{_text(each.label)}</strong> was not measured: {_text(each.error)}</li>"
        for each in run.keys
        if each.error
    ]
    items += [f"<li>{_error(each)}</li>" for each in run.measurements if each.errors]
    return _section("Errors", '<ul class="errors">\n' + "\n".join(items) + "\n</ul>" if items else "")


def _error(each: Measurement) -> str:
    what = f"{OPERATIONS.get(each.operation, each.operation)} {each.algorithm or ''}".strip()
    early = "; it was not measured to the end" if each.stopped else ""
    first = f" First error: {_text(each.error)}" if each.error else ""
    failed = _text(f"{what}, {_load(each)}: failed {counts_of_errors(each)}{early}.")
    return f"<strong>{_text(each.key)}</strong> {failed}{first}"


def _machine(run: Run) -> str:
    facts = _facts(_machine_facts(run.machine) | run.versions)
    return f"<details>\n<summary>Machine and versions</summary>\n{facts}\n</details>"


def _machine_facts(machine: Machine) -> dict[str, object]:
    return {
        "System": machine.system,
        "Processor": machine.processor,
        "Cores": machine.cores,
        "Memory": size(machine.memory),
        "Python": machine.python,
        "Load": None if machine.load is None else f"{machine.load:g}",
    }
