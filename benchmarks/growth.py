"""The cost of the next call when there is already a lot: tokens, assertions, signers, installed stores.

    python benchmarks/growth.py [--rounds N] [--json FILE]

Each table compares the same call with few and with many entries; its ratio should be close to 1 and must not exceed the
growth. Memory is the increase in Python's allocator, per entry.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import keyvouch
from keyvouch._core import registry
from keyvouch.assertion import ClientAssertion
from keyvouch.bench import Contender, Result, measure, result_table, to_json
from keyvouch.entra.msal import ConfidentialClient
from keyvouch.testing.authority import Authority

ENTRIES, SIGNERS, PLUGINS = 10_000, 1_000, 200
MESSAGE = b"x" * 500


def measure_growth(title: str, number: int, add_entries: Callable[[], object]) -> str:
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
    per_entry = f"{allocated / number:,.0f} bytes and {seconds / number * 1e6:,.0f} us"
    return f"{title}: {per_entry} for each of {number:,}."


def make_key(folder: Path, name: str) -> str:
    """Make a P-256 key in a PEM file."""
    uri = f"pem:{folder / name}.pem"
    with keyvouch.open_store(uri) as store:
        store.generate(keyvouch.KeySpec(key_type="P-256"))
    return uri


def tokens(folder: Path, rounds: int) -> tuple[str, dict[str, list[Result]]]:
    """Cached tokens of one client: getting a cached token with one entry and with ten thousand."""
    with Authority(algorithms=["ES256"]) as authority, keyvouch.open_signer(make_key(folder, "tokens")) as signer:
        app = authority.register(certificates=signer.chain)

        def client() -> ConfidentialClient:
            return ConfidentialClient(
                app.client_id,
                [signer],
                authority=authority.authority,
                ca_file=authority.ca_file,
                instance_discovery=False,
            )

        few, many = client(), client()
        for each in (few, many):
            each.access_token(["api://0/.default"])

        def fill() -> None:
            for number in range(1, ENTRIES):
                many.token_cache.add(
                    {
                        "client_id": app.client_id,
                        "scope": [f"api://{number}/.default"],
                        "token_endpoint": many.authority.token_endpoint,
                        "response": {"access_token": "e30." * 300, "expires_in": 3600, "token_type": "Bearer"},
                    }
                )

        line = measure_growth("tokens", ENTRIES, fill)
        results = measure(
            [
                Contender("a cached token, of 1", lambda: few.access_token(["api://0/.default"])),
                Contender(f"a cached token, of {ENTRIES:,}", lambda: many.access_token(["api://0/.default"])),
                Contender(f"the last one of {ENTRIES:,}", lambda: many.access_token([f"api://{ENTRIES - 1}/.default"])),
            ],
            rounds=rounds,
        )
        few.close()
        many.close()
    return line, {"tokens": results}


def assertions(folder: Path, rounds: int) -> tuple[str, dict[str, list[Result]]]:
    """Assertions for ten thousand clients, cached for reuse."""
    with keyvouch.open_signer(make_key(folder, "assertions")) as signer:
        few, many = ClientAssertion(signer, reuse=500), ClientAssertion(signer, reuse=500)
        first = {"client_id": "0", "token_endpoint": "https://login.microsoftonline.com/0/oauth2/v2.0/token"}
        few(first)

        def fill() -> None:
            for number in range(ENTRIES):
                many({**first, "client_id": str(number)})

        line = measure_growth("assertions cached for reuse", ENTRIES, fill)
        fresh = ClientAssertion(signer)
        results = measure(
            [
                Contender("a cached assertion, of 1", lambda: few(first)),
                Contender(f"a cached assertion, of {ENTRIES:,}", lambda: many(first)),
                Contender("a new assertion, with all these cached", lambda: fresh(first)),
            ],
            rounds=rounds,
        )
    return line, {"assertions": results}


def signers(folder: Path, rounds: int) -> tuple[str, dict[str, list[Result]]]:
    """A signature with one open signer and with a thousand; and a fork with them."""
    with keyvouch.open_signer(make_key(folder, "first")) as first:
        opened: list[keyvouch.Signer] = []
        contenders = [Contender("a signature", lambda: first.sign(MESSAGE, "ES256")), Contender("a fork", _fork)]
        with_one = measure(contenders, rounds=rounds)
        uri = make_key(folder, "many")
        line = measure_growth(
            "signers", SIGNERS, lambda: opened.extend(keyvouch.open_signer(uri) for _ in range(SIGNERS))
        )
        last = opened[-1]
        with_many = measure(
            [*contenders, Contender("a signature with the last one", lambda: last.sign(MESSAGE, "ES256"))],
            rounds=rounds,
        )
        begin = time.perf_counter()
        for each in opened:
            each.close()
        line += f" Closing them: {(time.perf_counter() - begin) / SIGNERS * 1e6:,.0f} us each."
    return line, {"with 1 signer": with_one, f"with {SIGNERS:,} signers": with_many}


def _fork() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def plugins(folder: Path, rounds: int) -> tuple[str, dict[str, list[Result]]]:
    """Finding a store among the installed ones, and among two hundred others."""
    for number in range(PLUGINS):
        info = folder / "site" / f"keyvouch_store{number}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: keyvouch-store{number}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            f"[{registry.GROUP}]\nstore{number} = not_there{number}:Store [contract1]\n"
        )

    def find(*more: str) -> Callable[[], object]:
        def benchmark() -> object:
            registry.store_class.cache_clear()
            sys.path.extend(more)
            try:
                return registry.store_class("pfx")
            finally:
                del sys.path[len(sys.path) - len(more) :]

        return benchmark

    uri = make_key(folder, "plugins")
    with keyvouch.open_signer(uri) as signer:
        results = measure(
            [
                Contender("finding a store", find()),
                Contender(f"finding a store among {PLUGINS} others", find(str(folder / "site"))),
                Contender("a signature, after that", lambda: signer.sign(MESSAGE, "ES256")),
            ],
            rounds=rounds,
        )
    more = (results[1].median - results[0].median) / PLUGINS
    return f"plugins: {more * 1e6:,.0f} us more for each of {PLUGINS}, once per process.", {"plugins": results}


def main() -> None:
    """Run the benchmark and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tables_by_title: dict[str, list[Result]] = {}
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        os.umask(0o077)
        os.environ["STATE_DIRECTORY"] = folder
        for benchmark in (tokens, assertions, signers, plugins):
            line, tables = benchmark(Path(folder), options.rounds)
            lines.append(line)
            tables_by_title |= tables
            print(*(result_table(*each) for each in tables.items()), line, sep="\n\n", end="\n\n", flush=True)
    if options.json:
        options.json.write_text(
            json.dumps({"growth": lines, "results": json.loads(to_json(tables_by_title))}, indent=2)
        )


if __name__ == "__main__":
    main()
