"""Paired benchmarks: contenders run in turns, so that a disturbance affects all of them."""

from keyvouch.bench.paired import Contender, Result, measure
from keyvouch.bench.report import Goal, goal_table, result_table, to_json

__all__ = ["Contender", "Goal", "Result", "goal_table", "measure", "result_table", "to_json"]
