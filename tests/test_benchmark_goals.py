"""What the benchmarks report: a goal is missed by its value, and tables show numbers that can be compared."""

from __future__ import annotations

import pytest

import goals
from keyvouch.bench import Contender, Interval, Samples


def samples(*rounds: float) -> Samples:
    return Samples(Contender("one", int), rounds=list(rounds), rates=[1 / each for each in rounds])


@pytest.mark.parametrize(
    ("value", "at_least", "reached"),
    [(1.0, False, True), (1.001, False, False), (1.0, True, True), (0.999, True, False)],
)
def test_goal_is_missed_by_its_value(value: float, *, at_least: bool, reached: bool) -> None:
    """The limit itself is within the goal; the confidence interval does not matter."""
    goal = goals.Goal("name", 1.0, Interval(value, 0.1, 10.0), at_least=at_least)
    assert goal.reached is reached
    assert goal.document()["reached"] is reached
    assert ("**MISSED**" in goals.goal_table([goal])) is not reached


def test_goal_table() -> None:
    """It shows limit, measured value and interval, with their unit."""
    shown = goals.goal_table([goals.Goal("speed", 2, Interval(1.23456, 1.1, 1.34567), unit="us")])
    assert shown.splitlines()[-1] == "| speed | <= 2 us | 1.235 us | 1.100 to 1.346 | reached |"


def test_too_few_samples() -> None:
    """Without an interval the table says why."""
    assert "too few samples" in goals.goal_table([goals.Goal("speed", 2, goals.scaled([1.0], 1))])


def test_counted_value() -> None:
    """A count has no interval, and no digits after the point."""
    shown = goals.goal_table([goals.Goal("requests", 1, goals.exactly(32))])
    assert shown.splitlines()[-1] == "| requests | <= 1 | 32 | exact | **MISSED** |"


def test_comparisons_are_within_the_rounds() -> None:
    """A disturbance of a round affects both contenders, and so neither ratio nor difference."""
    own, other = samples(2.0, 20.0, 2.0), samples(1.0, 10.0, 1.0)
    assert goals.relative_time(own, other).value == 2
    assert goals.relative_speed(own, other).value == 0.5
    assert goals.difference(own, other, 1e3).value == 1000


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (1234.5, "1,234"), (123.4, "123"), (1.2345, "1.23"), (0.012345, "0.0123")]
)
def test_figure(value: float, shown: str) -> None:
    """Three significant digits, but no digit before the point is lost."""
    assert goals.figure(value) == shown


def test_columns_of_numbers_are_aligned() -> None:
    """Except the first one, whose cells are names."""
    shown = goals.table(["key", "us", "note"], [["1", "-2.5", "x"], ["2", "", "3"]])
    assert shown.splitlines()[1] == "| --- | ---: | --- |"
