"""Signatures by OpenBao's transit engine: keyvouch compared with a bare urllib3 loop and with hvac's defaults.

python benchmarks/vault.py [--quick]
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import ssl
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import goals
import keyvouch
from goals import Goal, Part, relative_speed
from key_stores import openbao_server, transit_key
from keyvouch.bench import Contender, Samples, measure, units

if TYPE_CHECKING:
    from openbao import Server

ALGORITHMS = {"RSA-2048": "PS256", "P-256": "ES256"}
SPEEDS = {("RSA-2048", 1): 0.95, ("RSA-2048", 8): 0.95, ("P-256", 1): 0.88, ("P-256", 8): 0.85}
"""Smallest speed of keyvouch relative to the bare loop, by type of key and number of threads."""
THREADS = (1, 2, 8, 32)
MESSAGE = b"x" * 500
BARE, HVAC, OURS = "urllib3, bare", "hvac", "keyvouch"
INTRODUCTION = """\
OpenBao, over TLS on loopback, with its data in memory and without an audit log. The bare loop hashes, sends the
request, and reads the signature, with one urllib3 pool; hvac has its default settings. The last column is the CPU time
of the process itself, without the server."""


def request_body(algorithm: str) -> dict[str, object]:
    """Return the request's parameters other than the digest."""
    body: dict[str, object] = {"prehashed": True, "hash_algorithm": "sha2-256", "marshaling_algorithm": "jws"}
    if algorithm == "PS256":
        body |= {"signature_algorithm": "pss", "salt_length": "hash"}
    return body | {"key_version": 1}


def urllib3_signer(server: Server, token: str, kind: str) -> Callable[[], object]:
    """Return the minimal function: make a digest, send a request, and decode the signature in the response."""
    import urllib3

    trust = ssl.create_default_context(cafile=server.ca_file)
    pool = urllib3.PoolManager(maxsize=64, ssl_context=trust)
    url, body = f"{server.address}/v1/transit/sign/{kind}", request_body(ALGORITHMS[kind])
    headers = {"X-Vault-Token": token, "X-Vault-Request": "true", "Content-Type": "application/json"}

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


def hvac_signer(server: Server, token: str, kind: str) -> Callable[[], object]:
    """Return a function that signs with hvac."""
    import hvac

    client = hvac.Client(server.address, token=token, verify=str(server.ca_file))
    body = request_body(ALGORITHMS[kind])

    def sign() -> bytes:
        digest = base64.b64encode(hashlib.sha256(MESSAGE).digest()).decode()
        return signature_in(client.secrets.transit.sign_data(kind, hash_input=digest, **body))

    return sign


def signature_in(response: dict[str, dict[str, str]]) -> bytes:
    """Return the signature in a response."""
    text = response["data"]["signature"].rpartition(":")[2]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def measure_type(server: Server, kind: str, seconds: float) -> Iterator[tuple[int, dict[str, Samples]]]:
    """Yield the number of threads and what was measured with it, for one type of key."""
    uri, token = transit_key(server, kind), os.environ["VAULT_TEST_TOKEN"]
    with keyvouch.open_signer(uri) as signer:
        operations: dict[str, Callable[[], object]] = {
            BARE: urllib3_signer(server, token, kind),
            HVAC: hvac_signer(server, token, kind),
            OURS: partial(signer.sign, MESSAGE, ALGORITHMS[kind]),
        }
        for threads in THREADS:
            contenders = [Contender(name, each, threads=threads) for name, each in operations.items()]
            samples = measure(contenders, seconds=seconds)
            yield threads, {each.contender.name: each for each in samples}


def measure_subject(seconds: float) -> Part:
    """Measure both types of keys with all numbers of threads."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # hvac's pool is smaller than 32, and it warns each time
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # they would override hvac's `verify`
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory() as folder, openbao_server(Path(folder)) as server:
        results = {
            (kind, threads): found for kind in ALGORITHMS for threads, found in measure_type(server, kind, seconds)
        }
    head = ["key", "threads", "client", "signatures/s", "of the bare loop's speed", "99 % confidence", "p50, ms"]
    rows = [
        [kind, str(threads), name, *_cells(own, found[BARE])]
        for (kind, threads), found in results.items()
        for name, own in found.items()
    ]
    return Part(
        "A signature by OpenBao",
        f"{INTRODUCTION}\n\n{goals.table([*head, 'p99, ms', 'CPU ms per signature'], rows)}",
        [
            Goal(
                f"{kind}, {units.threads(threads)}: keyvouch, speed relative to a bare urllib3 loop",
                limit,
                relative_speed(results[kind, threads][OURS], results[kind, threads][BARE]),
                at_least=True,
            )
            for (kind, threads), limit in SPEEDS.items()
        ],
        {
            f"{kind}, {units.threads(threads)}": goals.documents(found.values())
            for (kind, threads), found in results.items()
        },
    )


def _cells(own: Samples, bare: Samples) -> list[str]:
    speed = relative_speed(own, bare)
    return [
        goals.figure(goals.scaled(own.rates, 1).value),
        goals.figure(speed.value),
        goals.interval(speed),
        *(goals.figure(own.latency(part) * 1e3) for part in (50, 99)),
        goals.figure(own.cpu_seconds / own.count * 1e3),
    ]


if __name__ == "__main__":
    goals.main(measure_subject)
