"""A run as a document: what was measured, on which machine, with which versions.

Reports and comparisons read only this.
The JSON form is stable: fields may be added, but none is removed or changes its meaning within a version of `format`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec
from hdrh.histogram import HdrHistogram

from keyvouch._system import files, text
from keyvouch.bench.intervals import Interval
from keyvouch.errors import ConfigurationError

FORMAT = "keyvouch-bench-1"
BUSY = "The machine was busy when the run began (load {machine.load:g} on {machine.cores} cores): expect more noise."
OPERATIONS = {
    "open_cold": "Open, connecting to the store",
    "open_warm": "Open, already connected",
    "first_signature": "First signature",
    "signature": "Signature",
    "assertion": "Client assertion",
    "token": "Access token",
    "stored_key": "Signature by the store's plugin, without the framework",
    "peer": "Signature by the bare library",
}
"""The operations that are measured, with a title for each, in the order in which to show them."""


Positive = Annotated[float, msgspec.Meta(gt=1e-12, lt=1e9)]
"""A time in seconds whose ratio to another one is a usual number."""
_HINT = "Give a file that keyvouch bench --output json has written."
_LATENCIES = {"min", "mean", "p50", "p90", "p99", "p99.9", "max"}


class Machine(msgspec.Struct, frozen=True):
    """The machine on which a run was measured."""

    system: str
    """Operating system and its release."""
    processor: str
    cores: int
    """CPUs that the process may use."""
    memory: int
    """Bytes of RAM."""
    python: str
    """Implementation and version."""
    load: float | None = None
    """Load average of the last minute when the run began; None on systems without one."""

    @property
    def was_busy(self) -> bool:
        """True if other programs used the machine when the run began."""
        return self.load is not None and self.load > self.cores


class Limit(msgspec.Struct, frozen=True):
    """A limit on signatures that the store's service publishes."""

    signatures: int
    seconds: float
    scope: str
    """What shares the limit, such as "vault"."""
    source: str
    """URL of the page."""


class Key(msgspec.Struct, frozen=True):
    """A key that was measured."""

    label: str
    """A letter, as in the tables."""
    uri: str
    """As requested, without secrets."""
    scheme: str
    key_type: str
    """As in `keyvouch.algorithms.key_type`."""
    preferred: str
    """The algorithm that assertions use."""
    plugin: str
    """The distribution that the store is from, with its version."""
    profile: str | None = None
    module: str | None = None
    """Maker and model of the token or module, if the store knows them."""
    memory: int | None = None
    """Bytes by which the process grew when the key was opened and first used, including the plugin's libraries."""
    limit: Limit | None = None
    price: float | None = None
    """Price of a million signatures."""
    unsupported: tuple[str, ...] = ()
    """Algorithms that fit the key but that the store does not support."""
    error: str | None = None
    """Why the key was not measured."""


class Measurement(msgspec.Struct, frozen=True):
    """One operation of one key. Times are in seconds."""

    key: str
    """The key's label."""
    operation: str
    """One of `OPERATIONS`."""
    threads: int
    count: int
    """Number of operations that succeeded."""
    errors: dict[str, int]
    """Number of operations that failed, by error code; "throttled" is a limit of the store."""
    seconds: float
    """Wall-clock time, with all rounds and without the warm-up."""
    cpu_seconds: float
    """CPU time of this process."""
    algorithm: str | None = None
    rate: float | None = None
    """Operations per second that were requested, in an open loop: latency begins when each was intended to start."""
    latency: dict[str, float] = {}
    """"min", "mean", "p50", "p90", "p99", "p99.9" and "max"."""
    per_second: Interval | None = None
    """Median over the rounds, with its confidence interval."""
    rounds: tuple[Positive, ...] = ()
    """For each round the median latency, or with several threads in a closed loop the time per operation."""
    rates: tuple[Positive, ...] = ()
    """For each round the operations per second, of all threads together."""
    histogram: str | None = None
    """All latencies in nanoseconds, in HdrHistogram's compressed form (V2) and base64."""
    stopped: bool = False
    """True if it ended early because of errors."""
    error: str | None = None
    """Message of the first error; None for an exception of a library, whose text may contain a secret."""

    def decoded_histogram(self) -> HdrHistogram | None:
        """Return the latencies in nanoseconds."""
        return HdrHistogram.decode(self.histogram) if self.histogram else None

    @property
    def identity(self) -> tuple[str, str, str | None, int, float | None]:
        """What distinguishes it from the other measurements of the run."""
        return self.key, self.operation, self.algorithm, self.threads, self.rate


class Run(msgspec.Struct, frozen=True):
    """Everything that one run has measured."""

    started: str
    """UTC, RFC 3339."""
    machine: Machine
    versions: dict[str, str]
    """Versions of Python's packages, by name, and of OpenSSL."""
    seconds: float
    """Seconds for which each measurement was to run; with a count, the longest possible."""
    keys: tuple[Key, ...]
    measurements: tuple[Measurement, ...]
    reference: tuple[Positive, ...] = ()
    """Seconds that the same computation took in each round, to compare the speed of the machine between two runs."""
    interrupted: bool = False
    count: int | None = None
    """Maximum number of operations in each measurement, if that was given instead of the seconds."""
    format: str = FORMAT

    def main_algorithm(self, key: Key) -> str | None:
        """Return the algorithm that assertions use if signatures with it were measured, otherwise the first one."""
        found = [each.algorithm for each in self.measurements if (each.key, each.operation) == (key.label, "signature")]
        return key.preferred if key.preferred in found else next(iter(found), None)

    def key(self, label: str) -> Key:
        """Return the key with this label."""
        return next(each for each in self.keys if each.label == label)


def read_run(path: str | os.PathLike[str]) -> Run:
    """Read a document that `as_json` has written. Raises `ConfigurationError`."""
    path = Path(path)
    try:
        data = files.read(path)
    except OSError as error:
        raise ConfigurationError(f"Cannot read {path}: {error.strerror}.", hint=_HINT) from None
    try:
        run = msgspec.json.decode(text.decode(data), type=Run)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(
            f"{path} is not the result of a benchmark: {error}.", hint=text.advice(data, path, "") or _HINT
        ) from None
    if fault := _fault(run):
        raise ConfigurationError(f"{path} is not the result of a benchmark: {fault}.", hint=_HINT)
    if run.format != FORMAT:
        raise ConfigurationError(
            f"{path} has the format {run.format!r}, which this version does not read.",
            hint=f"Measure again; this version writes {FORMAT}.",
        )
    return run


def _fault(run: Run) -> str | None:
    """Return what is wrong with a document that has all fields; None if it is complete."""
    labels = [each.label for each in run.keys]
    if len(labels) != len(set(labels)):
        return "two keys have the same label"
    for each in run.measurements:
        if each.key not in labels:
            return f"a measurement is of a key {each.key!r}, which is not in the list"
        if (each.count or each.rounds) and not each.latency.keys() >= _LATENCIES:
            return "a measurement has no p50, or no other percentile"
        if each.per_second and each.per_second.value <= 0:
            return "a throughput is not a positive number"
    return None
