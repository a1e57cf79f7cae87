"""Processes that start at once with an empty token cache: how many requests and signatures they make, and how long.

    python benchmarks/many_processes.py [--rounds N] [--latency SECONDS] [--json FILE]

The contenders run in turns: `keyvouch token` with one cache for all processes, the same with a cache for each process,
and a script with MSAL and the cache of msal-extensions in one file. The authority is the development authority, which
responds to a token request after `--latency` seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keyvouch
from keyvouch.testing.authority import App, Authority

SCOPE = "https://graph.microsoft.com/.default"
SCRIPT = f"""\
import sys
import msal
import msal_extensions
import requests
authority, client_id, ca_file, pem, cache = sys.argv[1:]
session = requests.Session()
session.trust_env, session.verify = False, ca_file
credential = {{"private_key": open(pem).read(), "public_certificate": open(pem).read()}}
app = msal.ConfidentialClientApplication(
    client_id, authority=authority, client_credential=credential, http_client=session, instance_discovery=False,
    token_cache=msal_extensions.PersistedTokenCache(msal_extensions.FilePersistence(cache)),
)
print(app.acquire_token_for_client(["{SCOPE}"])["access_token"])
"""
PROCESSES = (1, 8, 32)


class SlowAuthority(Authority):
    """A development authority that responds to a token request as late as one on another continent."""

    latency = 0.0

    def _respond(self, endpoints: Any, request: Any) -> Any:
        if endpoints.is_token_request(request):
            time.sleep(self.latency)
        return super()._respond(endpoints, request)


@dataclass(frozen=True)
class Run:
    """What the processes of one round did."""

    contender: str
    processes: int
    tokens: int
    """Number of processes that printed a token."""
    requests: int
    signatures: int
    """Number of assertions, each of which is signed for one request."""
    seconds: float
    """From the start of the first process to the end of the last."""
    cpu_seconds: float
    """Of all the processes."""


Command = tuple[Sequence[str], Mapping[str, str]]
"""A process's arguments, and the variables that it gets in addition."""


def write_profile(folder: Path, authority: Authority) -> App:
    """Make a key, register it, and write a profile; name it in the environment."""
    uri = f"pem:{folder / 'app.pem'}"
    with keyvouch.open_store(uri) as store:
        store.generate(keyvouch.KeySpec())
    with keyvouch.open_signer(uri) as signer:
        app = authority.register(certificates=signer.chain)
    (folder / "config.toml").write_text(
        f'[profiles.n]\nauthority = "{authority.url}"\ntenant = "{app.tenant}"\nclient-id = "{app.client_id}"\n'
        f'scopes = ["{SCOPE}"]\nkeys = ["{uri}"]\nca-file = "{authority.ca_file}"\n'
    )
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # pip compiles what it installs; make a checkout behave the same
    os.environ["KEYVOUCH_CONFIG"] = str(folder / "config.toml")
    return app


class Contest:
    """The contenders, each as a function that returns the command of its n-th process."""

    def __init__(self, folder: Path, authority: Authority, app: App) -> None:
        self._authority = authority
        self._caches = folder / "caches"
        (folder / "script.py").write_text(SCRIPT)
        program = str(Path(sys.executable).parent / "keyvouch")
        own = [authority.authority, app.client_id, authority.ca_file, str(folder / "app.pem")]
        script = [sys.executable, str(folder / "script.py"), *own]
        self.contenders: dict[str, Callable[[int], Command]] = {
            "keyvouch token": lambda _: ([program, "token"], {"CACHE_DIRECTORY": str(self._caches)}),
            "a cache for each": lambda number: (
                [program, "token"],
                {"CACHE_DIRECTORY": str(self._caches / str(number))},
            ),
            "MSAL, one cache": lambda _: ([*script, str(self._caches / "msal.json")], {}),
        }

    def run(self, contender: str, processes: int) -> Run:
        """Run so many processes, with empty caches."""
        shutil.rmtree(self._caches, ignore_errors=True)
        self._caches.mkdir()
        before = len(self._authority.exchanges)
        begin, cpu = time.perf_counter(), cpu_of_children()
        started = list(self._start(contender, processes))
        outputs = [process.communicate()[0] for process in started]
        seconds = time.perf_counter() - begin
        exchanges = self._authority.exchanges[before:]
        return Run(
            contender,
            processes,
            sum(output.startswith(b"ey") for output in outputs),
            len(exchanges),
            len({(exchange.claims or {}).get("jti") for exchange in exchanges}),
            seconds,
            cpu_of_children() - cpu,
        )

    def _start(self, contender: str, processes: int) -> Iterator[subprocess.Popen[bytes]]:
        for number in range(processes):
            command, variables = self.contenders[contender](number)
            yield subprocess.Popen(  # noqa: S603
                command,
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )


def cpu_of_children() -> float:
    """Return the seconds that processes which have ended spent on a CPU."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def line(runs: Sequence[Run]) -> str:
    """Return the line of a table for the rounds of one contender: medians, and the most requests of a round."""
    first = runs[0]
    requests = [run.requests for run in runs]
    numbers = [
        min(run.tokens for run in runs),
        f"{statistics.median(requests):.0f} (at most {max(requests)})",
        f"{statistics.median(run.signatures for run in runs):.0f}",
        f"{statistics.median(run.seconds for run in runs):.2f}",
        f"{statistics.median(run.cpu_seconds for run in runs):.2f}",
    ]
    return f"| {first.processes} | {first.contender} | {' | '.join(map(str, numbers))} |"


def main() -> None:
    """Run the benchmark and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds, default %(default)s")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    runs: list[Run] = []
    print("| processes | | tokens | requests | signatures | s | CPU s |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as name, SlowAuthority() as authority:
        authority.latency = options.latency
        contest = Contest(Path(name), authority, write_profile(Path(name), authority))
        for processes in PROCESSES:
            rounds = [
                [contest.run(contender, processes) for contender in contest.contenders] for _ in range(options.rounds)
            ]
            for of_one in zip(*rounds, strict=True):
                print(line(of_one), flush=True)
                runs += of_one
    if options.json:
        options.json.write_text(json.dumps([asdict(run) for run in runs], indent=2) + "\n")


if __name__ == "__main__":
    main()
