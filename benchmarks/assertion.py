"""The cost of an assertion, compared with the bare signature and with other libraries using the same in-memory key.

python benchmarks/assertion.py [--rounds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import joserfc.jwt
import jwt
from cryptography.hazmat.primitives import serialization
from joserfc.jwk import JWKRegistry
from msal.oauth2cli.assertion import JwtAssertionCreator

import keyvouch
from keyvouch.algorithms import ALGORITHMS
from keyvouch.assertion import ClientAssertion
from keyvouch.bench import Contender, Goal, Result, goal_table, measure, result_table, to_json
from keyvouch.certificate import fingerprint
from keyvouch.local_key import sign_locally

KEYS = {"RSA-2048": "PS256", "RSA-3072": "PS256", "P-256": "ES256", "Ed25519": "EdDSA"}
CONTEXT = {"client_id": str(uuid.uuid4()), "token_endpoint": "https://login.microsoftonline.com/t/oauth2/v2.0/token"}
MESSAGE = b"x" * 500
BARE_SIGNATURE = "cryptography, bare"


def contenders(kind: str, folder: Path) -> Iterator[Contender]:
    """Yield what signs with one key: the bare signature first, then what is built on it."""
    name = KEYS[kind]
    uri = f"pem:{folder / kind}.pem"
    if not (folder / f"{kind}.pem").exists():
        with keyvouch.open_store(uri) as store:
            store.generate(keyvouch.KeySpec(key_type=kind))
    signer = keyvouch.open_signer(uri)
    pem = (folder / f"{kind}.pem").read_bytes()
    private_key = serialization.load_pem_private_key(pem, None)
    algorithm, stored = ALGORITHMS[name], signer._current.opened.stored  # noqa: SLF001 - compares with the layer below
    header = {"alg": name, "typ": "JWT", "x5t#S256": fingerprint(signer.chain[0]).hex()}
    assertion = ClientAssertion(signer)
    jwk = JWKRegistry.import_key(pem[: pem.index(b"-----BEGIN CERT")], _jwk_type(kind))

    def claims() -> dict[str, object]:
        now = int(time.time())
        client, audience = CONTEXT["client_id"], CONTEXT["token_endpoint"]
        times = {"nbf": now, "iat": now, "exp": now + 600}
        return {"aud": audience, "iss": client, "sub": client, "jti": str(uuid.uuid4()), **times}

    yield Contender(BARE_SIGNATURE, lambda: sign_locally(private_key, MESSAGE, algorithm))  # type: ignore[arg-type]
    yield Contender("StoredKey.sign", lambda: stored.sign(MESSAGE, algorithm, timeout=10))
    yield Contender("Signer.sign", lambda: signer.sign(MESSAGE, algorithm))
    yield Contender("ClientAssertion", lambda: assertion(CONTEXT))
    yield Contender("PyJWT", lambda: jwt.encode(claims(), private_key, name, headers=header))  # type: ignore[arg-type]
    yield Contender("joserfc", lambda: joserfc.jwt.encode(header, claims(), jwk, [name]))
    if kind.startswith("RSA"):
        creator = JwtAssertionCreator(pem, algorithm="PS256", sha256_thumbprint=fingerprint(signer.chain[0]).hex())
        endpoint, client = CONTEXT["token_endpoint"], CONTEXT["client_id"]
        yield Contender("MSAL's own", lambda: creator.create_normal_assertion(endpoint, client))


def _jwk_type(kind: str) -> str:
    return {"R": "RSA", "P": "EC", "E": "OKP"}[kind[0]]


def goals(folder: Path, rounds: int) -> Iterator[Goal]:
    """Measure in pairs and yield the goals with their results."""
    for kind, threads in itertools.product(("RSA-2048", "P-256"), (1, 8)):
        by_name = {each.name: each for each in contenders(kind, folder)}

        def ratio(first: str, second: str, threads: int = threads, by_name: dict[str, Contender] = by_name) -> Result:
            return measure([by_name[first], by_name[second]], threads=threads, rounds=rounds)[1]

        name = f"{kind}, {threads} threads"
        yield Goal(f"{name}: assertion, relative to PyJWT", 1.0, ratio("PyJWT", "ClientAssertion").ratio)
        if kind == "P-256" and threads == 1:
            yield Goal(f"{name}: the same, stretch goal", 0.9, ratio("PyJWT", "ClientAssertion").ratio)
        if kind == "RSA-2048" and threads == 1:
            yield Goal(
                f"{name}: assertion, relative to a bare signature", 1.1, ratio(BARE_SIGNATURE, "ClientAssertion").ratio
            )
        if threads == 1:
            difference = ratio("StoredKey.sign", "Signer.sign").difference * 1e6
            yield Goal(f"{name}: Signer.sign minus StoredKey.sign, us", 2.0, difference)
        if kind == "RSA-2048" and threads == 1:
            for title in (BARE_SIGNATURE, "Signer.sign", "ClientAssertion"):
                yield Goal(
                    f"{kind}: {title}, speed of 2 threads relative to 1",
                    1.9,
                    scaling(by_name[title], rounds),
                    at_least=True,
                )


def scaling(contender: Contender, rounds: int) -> float:
    """Return the speed of two threads relative to one: the median of adjacent runs of half a second.

    Shorter runs would mostly measure the start and end of the threads.
    """
    ratios = [
        measure([contender], rounds=1, seconds=0.5)[0].median
        / measure([contender], threads=2, rounds=1, seconds=0.5)[0].median
        for _ in range(max(3, rounds // 3))
    ]
    return statistics.median(ratios)


def main() -> None:
    """Run the benchmark and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.captureWarnings(capture=True)  # joserfc warns at every EdDSA signature
    results: dict[str, list[Result]] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.umask(0o077)
        for kind, threads in itertools.product(KEYS, (1, 2, 8)):
            key_folder = Path(folder, str(threads))
            key_folder.mkdir(exist_ok=True)
            title = f"{kind}, {threads} threads"
            results[title] = measure(list(contenders(kind, key_folder)), threads=threads, rounds=options.rounds)
            print(result_table(title, results[title]), end="\n\n", flush=True)
        measured_goals = list(goals(Path(folder, "1"), options.rounds))
    print(goal_table(measured_goals))
    if options.json:
        options.json.write_text(to_json(results))


if __name__ == "__main__":
    main()
