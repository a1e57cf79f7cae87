"""Which key is faster, what has changed since an earlier run, and whether that is more than noise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from msgspec import structs

from keyvouch.bench.document import Measurement, Run
from keyvouch.bench.intervals import CONFIDENCE, Interval, median, ratio, ratio_of_pairs

_NEGLIGIBLE = 0.02
"""Smallest relative difference that is reported: two copies of a key, or two starts of a program, differ by less."""
_SPEED = ("signature", "assertion", "token", "first_signature", "open_warm", "open_cold")
"""Operations of which users ask how fast they are; the others explain them."""


@dataclass(frozen=True)
class Comparison:
    """One operation with two keys of a run, measured in the same rounds."""

    operation: str
    threads: int
    rate: float | None
    faster: Measurement
    slower: Measurement
    ratio: Interval
    """How many times as long the slower one takes."""

    @property
    def significant(self) -> bool:
        """False if the difference is within the noise."""
        return _is_significant(self.ratio)


@dataclass(frozen=True)
class Change:
    """One operation of one key in two runs."""

    old: Measurement
    new: Measurement
    ratio: Interval
    """How many times as long it takes now; includes by how much the machine's own speed differs."""

    @property
    def significant(self) -> bool:
        """False if the change is within the noise."""
        return _is_significant(self.ratio)

    def is_slower_by(self, part: float) -> bool:
        """Return True if it is slower by at least this part of the old time, and not only by chance."""
        return self.significant and self.ratio.value >= 1 + part


def compare_keys(run: Run) -> list[Comparison]:
    """Compare each key with the fastest one, for each operation; signatures only with `Run.main_algorithm`."""
    groups: dict[tuple[str, int, float | None], list[Measurement]] = defaultdict(list)
    main = {each.label: run.main_algorithm(each) for each in run.keys}
    for each in run.measurements:
        is_main = each.operation != "signature" or each.algorithm == main[each.key]
        if each.operation in _SPEED and each.rounds and is_main:
            groups[each.operation, each.threads, each.rate].append(each)
    number = sum(len(each) - 1 for each in groups.values())
    found = list[Comparison]()
    for key, measurements in groups.items():
        fastest, *others = sorted(measurements, key=lambda each: median(each.rounds).value)
        for slower in others:
            interval = ratio_of_pairs(slower.rounds, fastest.rounds, shared_confidence(number))
            found.append(Comparison(*key, faster=fastest, slower=slower, ratio=interval))
    return found


def compare_runs(new: Run, old: Run) -> list[Change]:
    """Compare each measurement with the same one of an earlier run.

    Keys are matched by URI. If no URI is in both runs, those with the same label and type are compared: a key that was
    moved to another store.
    """
    labels = _matching_labels(new, old)
    before = {each.identity: each for each in old.measurements if each.rounds}
    pairs = [
        (before[labels[each.key], *each.identity[1:]], each)
        for each in new.measurements
        if each.operation in _SPEED and each.rounds and (labels.get(each.key), *each.identity[1:]) in before
    ]
    drift = machine_drift(new, old)
    return [
        Change(was, now, ratio(now.rounds, was.rounds, shared_confidence(len(pairs))).widened(max(drift, 1 / drift)))
        for was, now in pairs
    ]


def no_longer_measured(new: Run, old: Run) -> list[Measurement]:
    """Return what the old run measured, but of which nothing succeeded in the new one, because of errors.

    The keys have their labels of the new run.
    """
    labels = {before: now for now, before in _matching_labels(new, old).items()}
    failed = {each.identity for each in new.measurements if each.errors and not each.count}
    unusable = {each.label for each in new.keys if each.error}
    found = list[Measurement]()
    for each in old.measurements:
        label = labels.get(each.key, "")
        if each.rounds and (label in unusable or (label, *each.identity[1:]) in failed):
            found.append(structs.replace(each, key=label))
    return found


def machine_drift(new: Run, old: Run) -> float:
    """Return how many times as long the same computation took in the new run: the speed of the machine itself."""
    return ratio(new.reference, old.reference).value if new.reference and old.reference else 1.0


def differences(new: Run, old: Run) -> dict[str, tuple[str, str]]:
    """Return what differs besides the times: URIs, machine and versions, each with its old and its new value."""
    labels = _matching_labels(new, old)
    moved = {f"URI of {now}": (old.key(before).uri, new.key(now).uri) for now, before in labels.items()}
    facts = [_facts(old), _facts(new)]
    names = sorted(facts[0].keys() | facts[1].keys())
    pairs = {name: (facts[0].get(name, "not installed"), facts[1].get(name, "not installed")) for name in names}
    return {name: pair for name, pair in (moved | pairs).items() if pair[0] != pair[1]}


def _facts(run: Run) -> Mapping[str, str]:
    here = run.machine
    return {"system": here.system, "processor": here.processor, "cores": str(here.cores), "python": here.python} | (
        run.versions
    )


def _matching_labels(new: Run, old: Run) -> dict[str, str]:
    by_uri = {each.uri: each.label for each in old.keys}
    found = {each.label: by_uri[each.uri] for each in new.keys if each.uri in by_uri}
    types = {each.label: each.key_type for each in old.keys}
    return found or {each.label: each.label for each in new.keys if types.get(each.label) == each.key_type}


def shared_confidence(number: int) -> float:
    """Return the confidence that each of several comparisons needs, so that all of them together have 99 %."""
    return 1 - (1 - CONFIDENCE) / max(1, number)


def _is_significant(interval: Interval) -> bool:
    return interval.excludes(1.0) and abs(interval.value - 1) >= _NEGLIGIBLE
