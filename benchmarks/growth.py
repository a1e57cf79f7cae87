"""The cost of the next call when there is already a lot: tokens, assertions, signers, installed stores.

    python benchmarks/growth.py [--quick]

Each pair compares the same call with few and with many entries. Memory is the increase in Python's allocator, per
entry.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pytest

import goals
import keyvouch
import workers
from goals import Goal, Part, relative_time
from key_stores import pem_files
from keyvouch._core import registry
from keyvouch.assertion import ClientAssertion
from keyvouch.bench import Contender, Samples, measure
from keyvouch.bench.units import duration
from keyvouch.entra.msal import ConfidentialClient
from keyvouch.testing.authority import Authority

ENTRIES, SIGNERS, PLUGINS = 10_000, 1_000, 200
MOST = 1.1
"""How many times as long the next call may take with many entries."""
SIGNATURES, FORKS = 500, 5
"""How often a worker repeats an operation at a time."""
MESSAGE = b"x" * 500
INTRODUCTION = (
    "The cost of the next call does not depend on how much there is already; nothing grows faster than linearly."
)
COSTS = "The cost of each additional item, with the time while allocations are traced:"
LINEAR = "The times of a fork and of the search for plugins grow linearly with the signers and plugins."

Pair = tuple[str, Samples, Samples, float]
"""A call, measured with few and with many entries, and how many calls an operation is."""


def cost(title: str, number: int, add_entries: Callable[[], object]) -> str:
    """Run `add_entries`, and return a line with memory and time per entry."""
    gc.collect()
    tracemalloc.start()
    begin = time.perf_counter()
    entries = add_entries()
    seconds = time.perf_counter() - begin
    gc.collect()
    allocated = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del entries
    return f"- {title}: {allocated / number:,.0f} bytes and {duration(seconds / number)} for each of {number:,}."


def tokens(uri: str, seconds: float) -> tuple[list[Pair], str]:
    """Cached tokens of one client: getting a cached token with one entry and with ten thousand."""
    with Authority(algorithms=["ES256"]) as authority, keyvouch.open_signer(uri) as signer:
        app = authority.register(certificates=signer.chain)
        few, many = (
            ConfidentialClient(
                app.client_id,
                [signer],
                authority=authority.authority,
                ca_file=authority.ca_file,
                instance_discovery=False,
            )
            for _ in range(2)
        )
        with contextlib.closing(few), contextlib.closing(many):
            for each in (few, many):
                each.access_token(["api://0/.default"])
            line = cost("tokens", ENTRIES, lambda: _fill(many, app.client_id))
            calls = [partial(each.access_token, ["api://0/.default"]) for each in (few, many)]
            last = partial(many.access_token, [f"api://{ENTRIES - 1}/.default"])
            own, other, latest = measure(_contenders([*calls, last]), seconds=seconds)
    name = f"a token from the cache, of 1 and of {ENTRIES:,}"
    return [(name, own, other, 1), (f"{name}, the last one", own, latest, 1)], line


def _fill(client: ConfidentialClient, client_id: str) -> None:
    for number in range(1, ENTRIES):
        client.token_cache.add(
            {
                "client_id": client_id,
                "scope": [f"api://{number}/.default"],
                "token_endpoint": client.authority.token_endpoint,
                "response": {"access_token": "e30." * 300, "expires_in": 3600, "token_type": "Bearer"},
            }
        )


def assertions(uri: str, seconds: float) -> tuple[list[Pair], str]:
    """Assertions for ten thousand clients, of which a bounded number is kept for reuse."""
    with keyvouch.open_signer(uri) as signer:
        few, many = ClientAssertion(signer, reuse=500), ClientAssertion(signer, reuse=500)
        first = {"client_id": "0", "token_endpoint": "https://login.microsoftonline.com/0/oauth2/v2.0/token"}

        def fill() -> None:
            for number in range(ENTRIES):
                many({**first, "client_id": str(number)})

        line = cost(
            "clients whose assertions are reused, of which a bounded number is kept; with the signature", ENTRIES, fill
        )
        own, other = measure(_contenders([partial(few, first), partial(many, first)]), seconds=seconds)
    return [(f"a reused assertion, of 1 and of {ENTRIES:,} clients", own, other, 1)], line


def signers(uri: str, seconds: float) -> tuple[list[Pair], str]:
    """A signature and a fork, in a process with one open signer and in one with a thousand."""
    opened: list[keyvouch.Signer] = []
    line = cost("signers", SIGNERS, lambda: opened.extend(keyvouch.open_signer(uri) for _ in range(SIGNERS)))
    begin = time.perf_counter()
    for each in opened:
        each.close()
    line += f" Closing them takes {duration((time.perf_counter() - begin) / SIGNERS)} each."
    pairs = list[Pair]()
    for name, make, times in (("a P-256 signature", signing, SIGNATURES), ("a fork", forking, FORKS)):
        with workers.python(make, uri, 1) as few, workers.python(make, uri, SIGNERS) as many:
            own, other = measure(_contenders([partial(each, times) for each in (few, many)]), seconds=seconds)
        pairs.append((f"{name}, with 1 and {SIGNERS:,} signers", own, other, times))
    return pairs, line


def signing(uri: str, number: int) -> workers.Operation:
    """Open the key this many times, and return what signs with the last one."""
    opened = [keyvouch.open_signer(uri) for _ in range(number)]
    return lambda: opened[-1].sign(MESSAGE, "ES256")


def forking(uri: str, number: int) -> workers.Operation:
    """Open the key this many times, and return what forks."""
    opened = [keyvouch.open_signer(uri) for _ in range(number)]

    def fork(_: object = opened) -> None:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)

    return fork


def plugins(folder: Path, seconds: float) -> tuple[list[Pair], str]:
    """Finding a store among the installed ones, and among two hundred others."""
    for number in range(PLUGINS):
        info = folder / "site" / f"keyvouch_store{number}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: keyvouch-store{number}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            f"[{registry.GROUP}]\nstore{number} = not_there{number}:Store [contract1]\n"
        )

    def find(*more: str) -> object:
        registry.store_class.cache_clear()
        sys.path.extend(more)
        try:
            return registry.store_class("pfx")
        finally:
            del sys.path[len(sys.path) - len(more) :]

    own, other = measure(_contenders([find, partial(find, str(folder / "site"))]), seconds=seconds)
    more = goals.difference(other, own, 1 / PLUGINS).value
    name = f"finding a store, with 0 and {PLUGINS} more plugins; once per process"
    return [(name, own, other, 1)], f"- plugins: {duration(more)} more for each of {PLUGINS}, once per process."


def measure_subject(seconds: float) -> Part:
    """Measure everything that grows."""
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
        pem_files(Path(folder)) as make,
    ):
        patch.setenv("STATE_DIRECTORY", folder)
        uri = make("P-256")
        found = [each(uri, seconds) for each in (tokens, assertions, signers)]
        found.append(plugins(Path(folder), seconds))
    pairs = [pair for own, _ in found for pair in own]
    table = goals.table(["", "with few", "with many", "ratio", "99 % confidence"], [_row(each) for each in pairs])
    lines = "\n".join(line for _, line in found)
    return Part(
        "Growth",
        f"{INTRODUCTION}\n\n{table}\n\n{COSTS}\n\n{lines}\n\n{LINEAR}",
        [
            Goal(f"{name}: many relative to few", MOST, relative_time(many, few))
            for name, few, many, _ in pairs
            if not name.startswith(("a fork", "finding"))
        ],
        {name: goals.documents([few, many]) for name, few, many, _ in pairs},
    )


def _contenders(operations: Iterable[Callable[[], object]]) -> list[Contender]:
    return [Contender(name, each) for name, each in zip(("few", "many", "last"), operations, strict=False)]


def _row(pair: Pair) -> list[str]:
    name, few, many, times = pair
    cells = [duration(goals.scaled(each.rounds, 1 / times).value) for each in (few, many)]
    measured = relative_time(many, few)
    return [name, *cells, goals.figure(measured.value), goals.interval(measured)]


if __name__ == "__main__":
    goals.main(measure_subject)
