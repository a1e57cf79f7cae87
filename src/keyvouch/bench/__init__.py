"""Measuring: contenders are run in turns, so that what disturbs one disturbs them all."""

from keyvouch.bench.paired import Contender, Result, measure
from keyvouch.bench.report import to_json, to_table

__all__ = ["Contender", "Result", "measure", "to_json", "to_table"]
