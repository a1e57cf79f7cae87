"""Processes that start at once with an empty token cache: how many requests and signatures they make, and how long.

    python benchmarks/many_processes.py [--quick]

The authority is the development authority, which responds to a token request after `LATENCY` seconds.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import goals
from commands import SCRIPT, write_files
from goals import Goal, Part
from keyvouch.bench import Contender, Samples, measure
from keyvouch.bench.intervals import median
from keyvouch.bench.rounds import Operation
from keyvouch.testing.authority import App, Authority

PROCESSES = (1, 8, 32)
LATENCY = 0.2
"""Seconds, as of an authority on another continent."""
OURS, SEPARATE, MSAL = "keyvouch token", "keyvouch token, a cache for each", "MSAL, one cache"
_CACHE = "msal_extensions.PersistedTokenCache(msal_extensions.FilePersistence(sys.argv.pop()))"
MSAL_SCRIPT = "import msal_extensions\n" + SCRIPT.replace(
    "authority, client_id", f"import sys\ncache = {_CACHE}\nauthority, client_id", 1
).replace("http_client=session,", "http_client=session, token_cache=cache,")
INTRODUCTION = f"""\
Processes that start at once, with an empty token cache in a file: tokens printed, and token requests and signatures, in
the worst round; the seconds from the start of the first process to the end of the last; and the CPU time of all in the
worst round. The authority takes {LATENCY} s to respond."""
HEAD = ["processes", "", "tokens", "requests", "signatures", "s", "CPU s"]

Command = tuple[Sequence[str], Mapping[str, str]]
"""A process's arguments, and the variables that it gets in addition."""


class SlowAuthority(Authority):
    """A development authority that takes its time to respond to a token request."""

    def _respond(self, endpoints: Any, request: Any) -> Any:
        if endpoints.is_token_request(request):
            time.sleep(LATENCY)
        return super()._respond(endpoints, request)


@dataclass(frozen=True)
class Outcome:
    """What the processes of one round did."""

    tokens: int
    """Number of processes that printed a token."""
    requests: int
    signatures: int
    """Number of assertions, each of which is signed once."""
    cpu_seconds: float
    """Of all processes together."""


class Contest:
    """Runs the contenders, each of which is a function that returns the command of its n-th process."""

    def __init__(self, folder: Path, authority: Authority, app: App) -> None:
        self._authority = authority
        self._caches = folder / "caches"
        (folder / "cached.py").write_text(MSAL_SCRIPT)
        program = str(Path(sys.executable).with_name("keyvouch"))
        script, *files = [str(folder / name) for name in ("cached.py", "app.key", "app.crt")]
        msal = [sys.executable, script, authority.authority, app.client_id, *files, str(authority.ca_file)]
        self.commands: dict[str, Callable[[int], Command]] = {
            OURS: lambda _: ([program, "token"], {"CACHE_DIRECTORY": str(self._caches)}),
            SEPARATE: lambda number: ([program, "token"], {"CACHE_DIRECTORY": str(self._caches / str(number))}),
            MSAL: lambda _: ([*msal, str(self._caches / "msal.json")], {}),
        }
        self.outcomes: dict[tuple[str, int], list[Outcome]] = {}

    @contextlib.contextmanager
    def each(self, name: str, processes: int) -> Iterator[Operation]:
        """Empty the caches, run so many processes, and count what they did."""
        shutil.rmtree(self._caches, ignore_errors=True)
        self._caches.mkdir()
        before, cpu, outputs = len(self._authority.exchanges), _cpu_of_children(), list[bytes]()
        yield lambda: outputs.extend(self._run(name, processes))
        exchanges = self._authority.exchanges[before:]
        outcome = Outcome(
            sum(each.startswith(b"ey") for each in outputs),
            len(exchanges),
            len({(each.claims or {}).get("jti") for each in exchanges}),
            _cpu_of_children() - cpu,
        )
        self.outcomes.setdefault((name, processes), []).append(outcome)

    def _run(self, name: str, processes: int) -> list[bytes]:
        started = [self._start(*self.commands[name](number)) for number in range(processes)]
        return [each.communicate()[0] for each in started]

    @staticmethod
    def _start(command: Sequence[str], variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603
            command,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the fewest tokens, and the most of everything else, of these rounds."""
    return Outcome(
        min(each.tokens for each in outcomes),
        max(each.requests for each in outcomes),
        max(each.signatures for each in outcomes),
        max(each.cpu_seconds for each in outcomes),
    )


def goals_of(outcome: Outcome, processes: int) -> list[Goal]:
    """Return the goals for so many processes with one cache."""
    return [
        Goal(f"{processes} cold processes: token requests", 1, goals.exactly(outcome.requests)),
        Goal(f"{processes} cold processes: signatures", 1, goals.exactly(outcome.signatures)),
        Goal(f"{processes} cold processes: tokens", processes, goals.exactly(outcome.tokens), at_least=True),
    ]


def measure_subject(seconds: float) -> Part:
    """Run the contenders in turns, with each number of processes."""
    rounds, numbers = (3, PROCESSES) if seconds >= 1 else (1, PROCESSES[:2])
    samples = list[Samples]()
    with tempfile.TemporaryDirectory() as name, SlowAuthority() as authority:
        contest = Contest(Path(name), authority, write_files(Path(name), authority))
        for processes in numbers:
            contenders = [
                Contender(title, each=partial(contest.each, title, processes), most=rounds)
                for title in contest.commands
            ]
            samples += measure(contenders, seconds=600)
    found = {key: worst(outcomes) for key, outcomes in contest.outcomes.items()}
    rows = list[list[str]]()
    for (processes, title), own in zip(itertools.product(numbers, contest.commands), samples, strict=True):
        counts = found[title, processes]
        cells = map(str, (counts.tokens, counts.requests, counts.signatures))
        times = map(goals.figure, (median(own.rounds).value, counts.cpu_seconds))
        rows.append([str(processes), title, *cells, *times])
    return Part(
        "Many processes",
        f"{INTRODUCTION}\n\n{goals.table(HEAD, rows)}",
        [goal for number in numbers[1:] for goal in goals_of(found[OURS, number], number)],
        {"processes": goals.documents(samples)},
    )


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    goals.main(measure_subject)
