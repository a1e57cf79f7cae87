"""A run as text of at most 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from keyvouch.bench.comparison import Change, differences, machine_drift
from keyvouch.bench.document import BUSY, OPERATIONS, Key, Measurement, Run
from keyvouch.bench.findings import findings
from keyvouch.bench.series import FEWEST, counts_of_errors, cpu_per_thousand, percentile
from keyvouch.bench.units import duration, number, size

_WIDTH = 80
_HEADING = f"{'':18}{'per s':>8} {'±':>5}" + "".join(f"{each:>8}" for each in FEWEST) + f"{'CPU':>8}"


def as_text(run: Run) -> str:
    """Return the keys, a table of what was measured, and the conclusions."""
    conclusions = [textwrap.fill(each, _WIDTH, subsequent_indent="  ") for each in findings(run)]
    return "\n".join([*_keys(run), "", *_table(run), "", *_notes(run), *conclusions])


def changes_as_text(changes: Sequence[Change], new: Run, old: Run) -> str:
    """Return what has changed since the old run, and what else differs."""
    lines = [f"Compared with the run of {old.started}:"]
    lines += [f"  {name}: {before} -> {after}" for name, (before, after) in differences(new, old).items()]
    drift = machine_drift(new, old)
    lines += textwrap.wrap(
        f"The machine's own speed: a fixed amount of work took {drift:.3g} times as long as then. Changes up to that"
        " factor count as noise.",
        _WIDTH,
        initial_indent="  ",
        subsequent_indent="  ",
    )
    for each in changes:
        times = f"{duration(_typical(each.old))} -> {duration(_typical(each.new))}"
        lines += [f"  {name_of(each.new)}", f"    {times}: {_verdict(each)}"]
    if not changes:
        lines.append("  Nothing was measured in both runs.")
    return "\n".join(lines)


def _verdict(each: Change) -> str:
    low, high = each.ratio.low, each.ratio.high
    if low is None or high is None:
        return "too few rounds to judge"
    spread = f"{_percent(low)} to {_percent(high)}"
    if each.significant:
        return f"{_percent(each.ratio.value)} ({spread})"
    return f"within the noise ({spread})"


def _percent(ratio: float) -> str:
    return f"{ratio - 1:+.1%}".replace("%", " %")


def _typical(each: Measurement) -> float:
    return each.latency["p50"]


def _keys(run: Run) -> Iterator[str]:
    for key in run.keys:
        yield f"{key.label}  {key.uri}"
        yield f"   {_facts(key)}"


def _facts(key: Key) -> str:
    if key.error:
        return f"not measured: {key.error}"
    memory = f"{size(key.memory)} of memory" if key.memory else None
    facts = (key.profile and f"profile {key.profile}", key.key_type, key.module or key.plugin, memory)
    return ", ".join(filter(None, facts))


def _table(run: Run) -> Iterator[str]:
    yield _HEADING
    has_peer = any(each.operation == "peer" for each in run.measurements)
    for operation, title in OPERATIONS.items():
        rows = [each for each in run.measurements if each.operation == operation]
        if not rows or (operation == "stored_key" and not has_peer):
            continue
        yield title
        for each in rows:
            yield _row(each)
            if each.errors:
                yield f"    {_errors(each)}"


def _row(each: Measurement) -> str:
    threads = f"{each.threads} thr" if each.threads > 1 and each.rate is None else ""
    name = f"  {each.key} {each.algorithm or ''} {threads}".rstrip()
    rate, spread = "", ""
    if each.per_second:
        rate = number(each.per_second.value)
        if each.per_second.low is not None and each.per_second.high is not None:
            furthest = max(each.per_second.high - each.per_second.value, each.per_second.value - each.per_second.low)
            spread = f"{furthest / each.per_second.value:.0%}".replace("%", " %")
    times = "".join(f"{_shown(percentile(each, name), '-'):>8}" for name in FEWEST)
    cpu = _shown(cpu_per_thousand(each), "")
    return f"{name} {rate:>{max(0, 25 - len(name))}} {spread:>5}{times}{cpu:>8}"


def _shown(seconds: float | None, nothing: str) -> str:
    return nothing if seconds is None else duration(seconds)


def _errors(each: Measurement) -> str:
    text = f"failed: {counts_of_errors(each)}" + (f" ({each.error})" if each.error else "")
    return textwrap.fill(text, _WIDTH - 4, subsequent_indent="    ")


def _notes(run: Run) -> Iterator[str]:
    yield "per s: median over the rounds; ±: how far its 99 % confidence interval extends."
    yield "CPU: time of this process for 1,000 operations. -: too few operations."
    if any(each.rate for each in run.measurements):
        yield "With a rate, times begin when an operation was intended to start."
    for key in run.keys:
        if key.unsupported:
            yield f"{key.label} does not support {', '.join(key.unsupported)}."
    if run.machine.was_busy:
        yield from textwrap.wrap(BUSY.format(machine=run.machine), _WIDTH)
    if run.interrupted:
        yield "Interrupted: this is what was measured until then."
    yield ""


def name_of(each: Measurement) -> str:
    """Name a measurement, such as "A: Signature, PS256, 4 threads"."""
    threads = f"{each.threads} threads" if each.threads > 1 and each.rate is None else None
    rate = f"{each.rate:g} per second" if each.rate else None
    title = OPERATIONS.get(each.operation, each.operation)
    return ", ".join(filter(None, (f"{each.key}: {title}", each.algorithm, threads, rate)))
