"""A run as text of at most 80 columns."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from keyvouch.bench.comparison import Change, differences, machine_drift, no_longer_measured
from keyvouch.bench.document import BUSY, OPERATIONS, Key, Measurement, Run
from keyvouch.bench.findings import findings
from keyvouch.bench.series import FEWEST, counts_of_errors, cpu_per_thousand, interruption, percentile
from keyvouch.bench.units import duration, number, percentage, size

_WIDTH = 80
_INDENT = " " * 5
_HEADING = f"{'':18}{'per s':>8} {'±':>5}" + "".join(f"{each:>8}" for each in FEWEST) + f"{'CPU/1k':>8}"


def as_text(run: Run) -> str:
    """Return the keys, a table of what was measured, and the conclusions."""
    parts = [list(_keys(run)), list(_table(run)), list(_notes(run)), [_filled(each) for each in findings(run)]]
    return "\n\n".join("\n".join(each) for each in parts if each)


def _filled(sentence: str) -> str:
    return textwrap.fill(sentence, _WIDTH, subsequent_indent="  ")


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
    return percentage(ratio - 1, "+.1%")


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
    if not run.measurements:
        yield "Nothing was measured."
        return
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
            spread = percentage(furthest / each.per_second.value)
    times = "".join(f"{_shown(percentile(each, name), '-'):>8}" for name in FEWEST)
    cpu = _shown(cpu_per_thousand(each), "")
    return f"{name} {rate:>{max(0, 25 - len(name))}} {spread:>5}{times}{cpu:>8}"


def _shown(seconds: float | None, nothing: str) -> str:
    return nothing if seconds is None else duration(seconds)


def _errors(each: Measurement) -> str:
    text = f"failed: {counts_of_errors(each)}" + (f" ({each.error})" if each.error else "")
    return textwrap.fill(text, _WIDTH - 4, subsequent_indent="    ")


def _notes(run: Run) -> Iterator[str]:
    if run.measurements:
        yield "per s: median over the rounds; ±: how far its 99 % confidence interval extends."
        yield "CPU/1k: time of this process for 1,000 operations. -: too few operations."
    if any(each.rate for each in run.measurements):
        yield "With a rate, times begin when an operation was intended to start."
    for key in run.keys:
        if key.unsupported:
            yield f"{key.label} does not support {', '.join(key.unsupported)}."
    if run.machine.was_busy and run.measurements:
        yield _filled(BUSY.format(machine=run.machine))
    if run.measurements:
        yield from map(_filled, interruption(run))


def failures_as_text(new: Run, old: Run) -> str | None:
    """Return what was measured in the old run but fails in the new one, by key, with the errors; None if nothing."""
    lines = ["Measured before, but failing now:"]
    for label, own in _by_key(no_longer_measured(new, old)).items():
        lines += _of_key(label, own)
        for error in _causes(new, label, own):
            lines += textwrap.wrap(error, _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT)
    return "\n".join(lines) if len(lines) > 1 else None


def slower_as_text(changes: Sequence[Change], part: float) -> str | None:
    """Return what became slower by at least this part of the old time, by key; None if nothing."""
    lines = [f"Slower than before by at least {part * 100:g} %:"]
    for label, own in _by_key([each.new for each in changes if each.is_slower_by(part)]).items():
        lines += _of_key(label, own)
    return "\n".join(lines) if len(lines) > 1 else None


def _by_key(measurements: Sequence[Measurement]) -> Mapping[str, list[Measurement]]:
    groups = defaultdict[str, list[Measurement]](list)
    for each in measurements:
        groups[each.key].append(each)
    return groups


def _causes(run: Run, label: str, failed: Sequence[Measurement]) -> list[str]:
    """Return the different errors of a key, or of these measurements."""
    if error := run.key(label).error:
        return [error]
    identities = {each.identity for each in failed}
    own = [each for each in run.measurements if each.identity in identities]
    return list(dict.fromkeys(each.error or counts_of_errors(each) for each in own))


def _of_key(label: str, measurements: Sequence[Measurement]) -> list[str]:
    """Return lines that name these measurements of one key."""
    names = f"  {label}: {'; '.join(map(_without_key, measurements))}."
    return textwrap.wrap(names, _WIDTH, subsequent_indent=_INDENT)


def name_of(each: Measurement) -> str:
    """Name a measurement, such as "A: Signature, PS256, 4 threads"."""
    return f"{each.key}: {_without_key(each)}"


def _without_key(each: Measurement) -> str:
    threads = f"{each.threads} threads" if each.threads > 1 and each.rate is None else None
    rate = f"{each.rate:g} per second" if each.rate else None
    title = OPERATIONS.get(each.operation, each.operation)
    return ", ".join(filter(None, (title, each.algorithm, threads, rate)))
