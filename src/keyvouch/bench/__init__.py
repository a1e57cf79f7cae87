"""Paired benchmarks: contenders run in turns, so that a disturbance affects all of them."""

from keyvouch.bench.paired import Contender, Result, measure
from keyvouch.bench.report import Goal, to_goals, to_json, to_table

__all__ = ["Contender", "Goal", "Result", "measure", "to_goals", "to_json", "to_table"]
