"""Measure keys in their stores, and compare them.

    from keyvouch import bench

    run = bench.measure_keys(["pem:/etc/keyvouch/app.pem", "mystore:key=app"], bench.Plan(seconds=2))
    print(bench.as_text(run))

`measure` does the same for functions: contenders run in turns of a few milliseconds, so that a disturbance of the
machine affects all of them. Requires the extra `bench`.
"""

try:
    import hdrh  # noqa: F401 - both are imported here only for the error
    import psutil  # noqa: F401
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError(
        f"keyvouch.bench requires the extra bench: {_error.name} is not installed.", name=_error.name
    ) from None

from keyvouch.bench.comparison import Change, Comparison, compare_keys, compare_runs, no_longer_measured
from keyvouch.bench.document import Key, Machine, Measurement, Run, read_run
from keyvouch.bench.harness import Samples, measure
from keyvouch.bench.intervals import Interval
from keyvouch.bench.json_document import as_json
from keyvouch.bench.keys import measure_keys
from keyvouch.bench.knee import Knee, find_knees
from keyvouch.bench.plan import Plan, Target
from keyvouch.bench.rounds import Contender
from keyvouch.bench.text import as_text, changes_as_text, name_of

__all__ = [
    "Change",
    "Comparison",
    "Contender",
    "Interval",
    "Key",
    "Knee",
    "Machine",
    "Measurement",
    "Plan",
    "Run",
    "Samples",
    "Target",
    "as_json",
    "as_text",
    "changes_as_text",
    "compare_keys",
    "compare_runs",
    "find_knees",
    "measure",
    "measure_keys",
    "name_of",
    "no_longer_measured",
    "read_run",
]
