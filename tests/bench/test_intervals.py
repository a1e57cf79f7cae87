"""Confidence intervals of medians."""

from __future__ import annotations

import random

import pytest

from keyvouch.bench.intervals import Interval, median, ratio, ratio_of_pairs


@pytest.mark.parametrize("count", [1, 2, 7])
def test_too_few_values(count: int) -> None:
    """Fewer than eight values cannot exclude anything at 99 %."""
    found = median([1.0] * count)
    assert (found.value, found.low, found.high) == (1.0, None, None)
    assert not found.excludes(5.0)


def test_eight_values() -> None:
    """Eight values exclude only what is outside all of them: 2 / 2**8 is below 1 %."""
    found = median([1.0, 2, 3, 4, 5, 6, 7, 8])
    assert (found.value, found.low, found.high) == (4.5, 1.0, 8.0)


def test_coverage() -> None:
    """The interval contains the true median in at least 99 of 100 samples, whatever the distribution."""
    source = random.Random(1)
    draws = [median([source.lognormvariate(0, 1) for _ in range(40)]) for _ in range(2000)]
    missed = sum(each.excludes(1.0) for each in draws)
    assert missed <= 2000 * 0.01 * 1.5


def test_outliers_do_not_move_it() -> None:
    """A stall in a few rounds affects neither the median nor the interval."""
    values = [1.0 + number / 1000 for number in range(60)]
    calm, stalled = median(values), median([*values[:-3], 1000.0, 1000.0, 1000.0])
    assert calm == stalled


def test_pairs_cancel_what_disturbed_both() -> None:
    """If the machine's speed changes between rounds, the ratio within the rounds does not."""
    source = random.Random(2)
    speeds = [source.uniform(1, 3) for _ in range(40)]
    found = ratio_of_pairs([1.1 * each for each in speeds], speeds)
    assert (found.value, found.low, found.high) == pytest.approx((1.1, 1.1, 1.1))


def test_ratio_of_two_runs() -> None:
    """Without pairs, the interval follows from the extremes of both medians."""
    found = ratio([2.0] * 20, [1.0] * 20)
    assert found == Interval(2.0, 2.0, 2.0)
    assert ratio([2.0], [1.0]) == Interval(2.0, None, None)


def test_widened() -> None:
    """A factor is applied in both directions."""
    assert Interval(2.0, 1.0, 4.0).widened(2) == Interval(2.0, 0.5, 8.0)
    assert Interval(2.0, None, None).widened(2) == Interval(2.0, None, None)
