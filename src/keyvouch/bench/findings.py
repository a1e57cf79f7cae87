"""What a run shows, in sentences: which key is faster, how many signatures a second it makes, which limits it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from keyvouch.bench.comparison import Comparison, compare_keys
from keyvouch.bench.document import OPERATIONS, Key, Measurement, Run
from keyvouch.bench.intervals import Interval
from keyvouch.bench.layers import BELOW, describe, find_costs
from keyvouch.bench.series import ENOUGH, FEWEST, knees_of_signatures, with_signatures
from keyvouch.bench.units import duration, listed, number, percentage, threads
from keyvouch.errors import Throttled

_ORDER = ("signature", "assertion", "token", "first_signature", "open_warm", "open_cold")
"""Operations in the order in which users ask about them."""
_SIGNING = ("signature", "assertion", "stored_key", "peer")
"""Operations that count towards a limit on signatures while the key is open."""
_MOST_COMPARED = 5
"""Number of slower keys to name one by one."""


def findings(run: Run) -> list[str]:
    """Return what follows from the measurements, the most important first."""
    conclusions = (_rates, _speed, _comparisons, _layers, _knees, _limits, _prices)
    return [sentence for each in conclusions for sentence in each(run)]


def _speed(run: Run) -> Iterator[str]:
    """Yield how fast the only key is: with several, the comparison is more interesting."""
    if len(with_signatures(run)) != 1 or any(each.rate for each in run.measurements):
        return
    [(key, [first, *_])] = with_signatures(run).items()
    others = [each for each in run.measurements if each.key == key.label and each.operation in {"assertion", "token"}]
    for each in (first, *others):
        if each.count:
            yield f"{OPERATIONS[each.operation]}: {key.label} takes {duration(each.latency['p50'])}{_tail(each)}."


def _tail(each: Measurement) -> str:
    if each.count == 1:
        return ", measured once"
    if each.count < FEWEST["p99"]:
        return f" (median of {each.count})"
    return f" (median), and at most {duration(each.latency['p99'])} in 99 % of cases"


def _comparisons(run: Run) -> Iterator[str]:
    found = compare_keys(run)
    for operation in _ORDER:
        fewest = min((each.threads for each in found if each.operation == operation), default=0)
        chosen = [each for each in found if (each.operation, each.threads) == (operation, fewest)]
        if chosen:
            yield f"{_what(chosen)}: {_comparison(sorted(chosen, key=lambda each: each.ratio.value))}."


def _what(found: Sequence[Comparison]) -> str:
    """Name what is compared, such as "Signature, PS256, at 200 per second"."""
    algorithms = {algorithm for each in found for algorithm in (each.faster.algorithm, each.slower.algorithm)}
    algorithm = next(iter(algorithms)) if len(algorithms) == 1 else None
    rate = f"at {found[0].rate:g} per second" if found[0].rate else None
    return ", ".join(filter(None, (OPERATIONS[found[0].operation], algorithm, rate)))


def _comparison(found: Sequence[Comparison]) -> str:
    """Compare the fastest key with the others, in the order of their speed; of many, only with some."""
    if len(found) <= _MOST_COMPARED:
        return _clauses(found)
    last, number_of_keys = found[-1], len(found) + 1
    fastest, slowest = last.faster.key, last.slower.key
    if last.ratio.low is not None and not last.significant:
        shown = f"none of {number_of_keys} keys is clearly the fastest"
        return f"{shown}: {slowest} takes {_range(last.ratio)} times as long as {fastest}"
    if equal := [each.slower.key for each in found if each.ratio.low is not None and not each.significant]:
        noise = "difference is" if len(equal) == 1 else "differences are"
        shown = f"{listed([fastest, *equal])} are the fastest of {number_of_keys} keys (the {noise} within the noise)"
        return f"{shown}; {slowest} is the slowest: {_clauses([last])}"
    names = listed([fastest, found[0].slower.key, slowest])
    return f"{names} are the fastest, the next and the slowest of {number_of_keys} keys; {_clauses([found[0], last])}"


def _clauses(found: Sequence[Comparison]) -> str:
    fastest = found[0].faster.key
    uncertain = [each for each in found if each.ratio.low is None]
    clear = [each for each in found if each.significant and each.ratio.value > 1]
    equal = [each for each in found if each not in uncertain and each not in clear]
    clauses = list[str]()
    if clear:
        times = [f"{_times(each)} ({_range(each.ratio)})" for each in clear]
        clauses.append(f"{fastest} is {listed(times)}")
    for each in equal:
        spread, other = f"{_range(each.ratio)} times as long", each.slower.key
        clauses.append(f"the difference between {fastest} and {other} is within the noise ({other} takes {spread})")
    if uncertain:
        others = listed([each.slower.key for each in uncertain])
        clauses.append(f"there were too few rounds to compare {fastest} with {others}")
    return "; ".join(clauses)


def _range(interval: Interval) -> str:
    return f"{number(interval.low or 0)} to {number(interval.high or 0)}"


def _times(each: Comparison) -> str:
    return f"{number(each.ratio.value)} times as fast as {each.slower.key}"


def _layers(run: Run) -> Iterator[str]:
    """Yield what keyvouch adds to the bare library under each store, if that was measured."""
    for cost in find_costs(run):
        if any(layer.name == BELOW for layer in cost.layers):
            yield f"{cost.key.label}: a client assertion {describe(cost)}."


def _knees(run: Run) -> Iterator[str]:
    for each in knees_of_signatures(run).values():
        rate = f"{number(each.per_second)} signatures per second"
        where = threads(each.threads)
        if each.still_growing:
            yield f"{each.key}: no knee up to {where}: throughput still grows there, with {rate}."
        elif each.uncertain:
            more = f"with more, throughput is up to {percentage(each.possible_growth)} above the {rate} there"
            noise = "but within the noise. Measure longer to find the knee"
            yield f"{each.key}: the knee is at {where} or more: {more}, {noise}."
        else:
            yield f"{each.key}: the knee is at {where}: more do not clearly increase the throughput of {rate}."


def _rates(run: Run) -> Iterator[str]:
    for operation in ("signature", "assertion"):
        for key in run.keys:
            yield from (
                f"{OPERATIONS[operation]}: {_carries(each)}."
                for each in run.measurements
                if (each.key, each.operation) == (key.label, operation)
                and each.rate
                and each.algorithm == (run.main_algorithm(key) if operation == "signature" else key.preferred)
            )


def _carries(each: Measurement) -> str:
    rate, achieved, failed = each.rate or 0.0, each.per_second, sum(each.errors.values())
    whole = f"{rate:,g} per second"
    if achieved is None:
        return f"{each.key} does not carry {whole}: all {failed:,} failed ({', '.join(sorted(each.errors))})"
    share, slowest = ("99 %", "p99") if each.count >= FEWEST["p99"] else ("all", "max")
    within = f"{share} end within {duration(each.latency[slowest])} of their intended start"
    if achieved.value >= ENOUGH * rate and not failed:
        return f"{each.key} carries {whole}; {within}"
    if not failed and (doubt := _doubt(achieved, rate)):
        return f"whether {each.key} carries {whole} is uncertain: {doubt}; {within}"
    reasons = [f"{number(achieved.value)} per second were achieved"]
    if failed:
        reasons.append(f"{failed:,} of {failed + each.count:,} failed ({', '.join(sorted(each.errors))})")
    return f"{each.key} does not carry {whole}: {listed(reasons)}; {within}"


def _doubt(achieved: Interval, rate: float) -> str | None:
    """Return why the throughput may in fact be that of the requested rate; None if it is certainly lower."""
    if achieved.low is None or achieved.high is None:
        return f"{number(achieved.value)} per second were achieved, in too few rounds"
    if achieved.high < ENOUGH * rate:
        return None
    return f"{number(achieved.value)} per second were achieved ({_range(achieved)})"


def _limits(run: Run) -> Iterator[str]:
    for key in run.keys:
        signing = [each for each in run.measurements if each.key == key.label and each.operation in _SIGNING]
        throttled = [each for each in signing if Throttled.code in each.errors]
        if throttled:
            yield f"Limit found for {key.label}: {_limit_found(signing)}."
        if key.limit:
            yield f"{key.label}: {_published(key, [each for each in signing if each not in throttled])}."


def _limit_found(signing: Sequence[Measurement]) -> str:
    count, seconds = sum(each.count for each in signing), sum(each.seconds for each in signing)
    if not count:
        return "throttled during the warm-up"
    about = f"about {number(count / seconds)} per second"
    if any(each.rate for each in signing):
        refused = sum(each.errors.get(Throttled.code, 0) for each in signing)
        return f"{count:,} signatures in {duration(seconds)} succeeded ({about}), and {refused:,} were throttled"
    return f"throttled after {count:,} signatures in {duration(seconds)} ({about})"


def _published(key: Key, unthrottled: Sequence[Measurement]) -> str:
    limit = key.limit
    assert limit is not None  # noqa: S101 - checked by the caller
    text = (
        f"the {limit.scope}'s published limit is {limit.signatures:,} signatures in {limit.seconds:,g} s, "
        f"which is {limit.signatures / limit.seconds:,g} per second"
    )
    rates = [each.per_second.value for each in unthrottled if each.per_second]
    return f"{text}; measured without being throttled: {number(max(rates))} per second" if rates else text


def _prices(run: Run) -> Iterator[str]:
    for key in run.keys:
        if key.price is not None:
            yield f"{key.label}: a million signatures cost {key.price:,.2f}."
