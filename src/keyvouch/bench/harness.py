"""Interleaved measurements: in each round every contender runs for a moment, in random order.

On a shared machine, two long runs one after the other mostly compare what else the machine did in the meantime. Here a
disturbance affects all contenders, and a comparison uses the ratios within the rounds.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from hdrh.histogram import HdrHistogram

from keyvouch.bench.rounds import Contender, Round, is_refusal, run_round
from keyvouch.bench.workers import Workers

ROUND_SECONDS = 0.05
"""How long a contender runs in one round, if its operations are short."""
_FEWEST_ROUNDS = 20
"""Below eight there is no confidence interval; several comparisons at once need more."""
_FEWEST_LONG_ROUNDS = 12
"""The same for rounds in which each of several threads should perform many operations."""
_MOST_ROUNDS = 500
"""In long runs, rounds are longer: more of them would only make the document larger."""
_LONGEST_ROUND = 1.0
"""Seconds of an open loop that an interrupt can lose, unless its rate is low."""
_FEWEST_IN_OPEN_LOOP = 5
"""Operations in a round of an open loop: with fewer, it is not seen whether a slow store keeps up."""
_OPERATIONS_PER_ROUND = 20
"""Operations that each of several threads should perform in one round, since at its end some threads are idle."""
_MOST_FAILED_ROUNDS = 3
"""Rounds in succession in which everything fails, until a contender is given up: a round may be one operation."""
_WARM_UP_SECONDS = 0.3
_HIGHEST = 3_600_000_000_000
"""Nanoseconds: an hour."""

Progress = Callable[[float], None]
"""Called between rounds with the part that is done, from 0 to 1."""


@dataclass
class Samples:
    """What the rounds of one contender have measured. Times are in seconds."""

    contender: Contender
    stopped: bool = False
    """True if it was not measured to the end, because of errors."""
    rounds: list[float] = field(default_factory=list)
    """For each round the median latency, or with several threads in a closed loop the time per operation."""
    rates: list[float] = field(default_factory=list)
    """Operations per second in each round."""
    errors: Counter[str] = field(default_factory=Counter)
    first_error: Exception | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    count: int = 0
    """Operations that succeeded."""
    total: float = 0.0
    """The sum of their latencies."""
    warm_up_latency: float = 0.0
    """Mean of the warm-up."""
    round_seconds: float = 0.0
    failed_rounds: int = 0
    """Number of the last rounds in which no operation succeeded."""

    @property
    def attempts(self) -> int:
        """Number of operations, also those that failed."""
        return self.count + self.errors.total()

    @property
    def refused(self) -> bool:
        """True if the store limited the rate, or refused the PIN, and must be left in peace."""
        return is_refusal(self.errors)

    @cached_property
    def histogram(self) -> HdrHistogram:
        """The latencies in nanoseconds, with three significant digits."""
        return HdrHistogram(1, _HIGHEST, 3)

    def add(self, made: Round) -> None:
        """Add what a round has measured."""
        for each in made.latencies:
            self.histogram.record_value(min(max(1, each), _HIGHEST))
        self.total += sum(made.latencies) / 1e9
        self.errors += made.errors
        self.first_error = self.first_error or made.first_error
        self.seconds += made.seconds
        self.cpu_seconds += made.cpu_seconds
        self.count += len(made.latencies)
        if made.latencies and made.per_second:
            one_by_one = self.contender.threads == 1 or self.contender.rate
            self.rounds.append(statistics.median(made.latencies) / 1e9 if one_by_one else 1 / made.per_second)
            self.rates.append(made.per_second)

    def latency(self, percentile: float) -> float:
        """Return a percentile of the latencies in seconds."""
        return float(self.histogram.get_value_at_percentile(percentile)) / 1e9


def measure(
    contenders: Sequence[Contender],
    *,
    seconds: float = 3.0,
    progress: Progress | None = None,
    samples: list[Samples] | None = None,
) -> list[Samples]:
    """Warm up, then run the contenders in turns, each for `seconds` in all, or until it has made `most` operations.

    A contender of which three whole rounds in succession fail is not run again, one that needs a preparation not after
    its first failure: it may be a login. Nor is one whose store limits its rate or refuses the PIN, or others of its
    group. The results are also appended to `samples`, where an interrupt leaves them; those that it already contains
    count for their groups.
    """
    samples = [] if samples is None else samples
    refused = {each.contender.group for each in samples if each.refused}
    own = [Samples(each, stopped=each.group in refused and each.group != "") for each in contenders]
    samples += own
    workers = Workers()
    try:
        # Few threads come first: a limit that is found with many does not prevent what can be measured below it.
        for each in sorted(own, key=lambda samples: samples.contender.threads):
            if not each.stopped:
                _warm_up(each, seconds, own, workers)
                _run(each, own, workers)
        while running := [each for each in own if not _is_done(each, seconds)]:
            random.shuffle(running)
            for each in running:
                _run(each, own, workers)
            if progress:
                progress(statistics.fmean(_part_done(each, seconds) for each in own))
    finally:
        workers.close()
    return own


def _warm_up(own: Samples, seconds: float, samples: Sequence[Samples], workers: Workers) -> None:
    """Perform operations that are not counted: one, and if it is quick, some in all threads."""
    contender = own.contender
    made = _round(replace(contender, threads=1, rate=None), 0.0, 1, workers)
    works = bool(made.latencies)
    own.warm_up_latency = made.latencies[0] / 1e9 if works else 0.0
    if works and own.warm_up_latency < _WARM_UP_SECONDS:
        most = contender.most and contender.threads
        made = _round(contender, min(_WARM_UP_SECONDS, seconds / 4), most, workers)
        own.warm_up_latency = statistics.fmean(made.latencies or [0]) / 1e9  # not the median: some threads may starve
    works = works and (bool(made.latencies) or not contender.each)
    if not works or (made.refused and not (contender.rate and made.throttled)):
        own.errors, own.first_error = made.errors, made.first_error
        _stop(own, samples)
    own.round_seconds = _round_seconds(own, seconds)


def _round(contender: Contender, seconds: float, most: int | None, workers: Workers) -> Round:
    """Run a round; if its threads cannot be started, that is its error."""
    try:
        return run_round(contender, seconds, most, workers=workers)
    except RuntimeError as error:
        return Round(errors=Counter({type(error).__name__: 1}), first_error=error)


def _round_seconds(own: Samples, seconds: float) -> float:
    contender = own.contender
    if contender.rate:
        usual = min(_LONGEST_ROUND, seconds / _FEWEST_LONG_ROUNDS)
        return min(max(usual, _FEWEST_IN_OPEN_LOOP / contender.rate), seconds)
    if contender.each:  # expensive, so each round is one operation
        return 0.0
    usual = max(ROUND_SECONDS, seconds / _MOST_ROUNDS) if contender.most is None else ROUND_SECONDS
    if contender.threads == 1:
        return min(usual, seconds / _FEWEST_ROUNDS)
    return min(max(usual, own.warm_up_latency * _OPERATIONS_PER_ROUND), seconds / _FEWEST_LONG_ROUNDS)


def _is_done(own: Samples, seconds: float) -> bool:
    most = own.contender.most
    return own.stopped or own.seconds >= seconds * 0.999 or (most is not None and own.attempts >= most)


def _run(own: Samples, samples: Sequence[Samples], workers: Workers) -> None:
    if own.stopped:
        return
    made = _round(own.contender, own.round_seconds, _share(own), workers)
    own.add(made)
    own.failed_rounds = 0 if made.latencies else own.failed_rounds + 1
    if own.failed_rounds >= (1 if own.contender.each else _MOST_FAILED_ROUNDS) or own.refused:
        _stop(own, samples)


def _share(own: Samples) -> int | None:
    """Return the maximum number of operations in the next round: enough to occupy all threads of a closed loop."""
    contender = own.contender
    if contender.most is None:
        return None
    fewest = _FEWEST_IN_OPEN_LOOP if contender.rate else contender.threads
    share, left = max(fewest, math.ceil(contender.most / _FEWEST_ROUNDS)), contender.most - own.attempts
    return left if left < share + fewest else share


def _stop(own: Samples, samples: Sequence[Samples]) -> None:
    """Do not run the contender again, nor others of its group if the store must be left in peace."""
    for each in samples:
        if each is own or (own.refused and own.contender.group and each.contender.group == own.contender.group):
            each.stopped = True


def _part_done(own: Samples, seconds: float) -> float:
    most = own.contender.most
    return 1.0 if _is_done(own, seconds) else max(own.seconds / seconds, own.attempts / most if most else 0.0)
