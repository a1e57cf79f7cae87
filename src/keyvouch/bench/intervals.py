"""Medians with a confidence interval that assumes nothing about how the values are distributed.

The interval lies between two of the ordered values: how many of n independent values are below the true median follows
a binomial distribution (Conover, Practical Nonparametric Statistics, section 3.2). A stall that affects a few rounds
moves neither the median nor the interval.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_EXACT = 500
"""Number of values up to which the binomial distribution is computed exactly."""
CONFIDENCE = 0.99
"""The probability with which an interval contains the true value. Comparisons in one table share the remainder."""


@dataclass(frozen=True)
class Interval:
    """A median and the interval in which the true one lies; `low` and `high` are None if there are too few values."""

    value: float
    low: float | None
    high: float | None

    def excludes(self, value: float) -> bool:
        """Return True if the true median is certainly not this value, at the interval's confidence."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high

    def widened(self, factor: float) -> Interval:
        """Return the interval extended by a factor of at least 1 in both directions."""
        if self.low is None or self.high is None:
            return self
        return Interval(self.value, self.low / factor, self.high * factor)


def median(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the median of these values, at least one, with its confidence interval."""
    ordered = sorted(values)
    below = _most_below(len(ordered), confidence)
    middle = statistics.median(ordered)
    if below is None:
        return Interval(middle, None, None)
    return Interval(middle, ordered[below], ordered[-1 - below])


def ratio_of_pairs(values: Sequence[float], others: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the median ratio of values that were measured in the same rounds: what disturbed a round affects both."""
    return median([each / other for each, other in zip(values, others, strict=False) if other], confidence)


def ratio(values: Sequence[float], others: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the ratio of two medians measured at different times.

    Each interval has half of the remaining probability, so the extremes of both contain the true ratio.
    """
    own, other = (median(each, 1 - (1 - confidence) / 2) for each in (values, others))
    if own.low is None or own.high is None or not other.low or not other.high:
        return Interval(own.value / other.value, None, None)
    return Interval(own.value / other.value, own.low / other.high, own.high / other.low)


def _most_below(count: int, confidence: float) -> int | None:
    """Return how many values can be left out at each end of `count` ordered ones; None if not even all suffice."""
    if count > _EXACT:  # the normal approximation, rounded to the wider side
        deviations = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
        return max(0, math.floor((count - deviations * math.sqrt(count)) / 2) - 1)
    tail, most = 0.0, None
    for number in range(count // 2):
        tail += math.comb(count, number) / 2**count
        if 2 * tail > 1 - confidence:
            break
        most = number
    return most
