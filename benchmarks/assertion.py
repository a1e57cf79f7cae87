"""The cost of an assertion, compared with the bare signature and with other libraries using the same in-memory key.

python benchmarks/assertion.py [--quick]
"""

from __future__ import annotations

import logging
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import goals
import keyvouch
from goals import Goal, Part, difference, relative_speed, relative_time
from key_stores import pem_files
from keyvouch.algorithms import ALGORITHMS
from keyvouch.assertion import ClientAssertion
from keyvouch.bench import Contender, Samples, measure, units
from keyvouch.certificate import fingerprint
from keyvouch.local_key import sign_locally

KEYS = {"RSA-2048": "PS256", "RSA-3072": "PS256", "P-256": "ES256", "Ed25519": "EdDSA"}
CONTEXT = {"client_id": str(uuid.uuid4()), "token_endpoint": "https://login.microsoftonline.com/t/oauth2/v2.0/token"}
MESSAGE = b"x" * 500
THREADS = (1, 2, 8)
BARE, STORED, SIGNER, ASSERTION = "cryptography, bare", "StoredKey.sign", "Signer.sign", "ClientAssertion"
VERIFIED = "Signer.sign, verified"
PYJWT, JOSERFC, MSAL = "PyJWT", "joserfc", "MSAL's own"
INTRODUCTION = """\
All have the key in memory. Microseconds per assertion or signature: the median, or with several threads the wall-clock
time divided by the number. *Verified* is what the framework does with each signature of a store on a network, here with
the key in memory too. *MSAL's own* parses and checks the key for every assertion."""

ByThreads = dict[tuple[str, int], Samples]
"""What was measured with one key, by contender and number of threads."""


def contenders(uri: str, kind: str) -> Iterator[Contender]:
    """Yield what signs with one key."""
    import joserfc.jwt
    import jwt
    from cryptography.hazmat.primitives import serialization
    from joserfc.jwk import JWKRegistry
    from msal.oauth2cli.assertion import JwtAssertionCreator

    name = KEYS[kind]
    signer = keyvouch.open_signer(uri)
    pem = Path(uri.removeprefix("pem:")).read_bytes()
    private_key: Any = serialization.load_pem_private_key(pem, None)
    algorithm, stored = ALGORITHMS[name], signer._current.opened.stored  # noqa: SLF001 - compares with the layer below
    header = {"alg": name, "typ": "JWT", "x5t#S256": fingerprint(signer.chain[0]).hex()}
    jwk = JWKRegistry.import_key(pem[: pem.index(b"-----BEGIN CERT")], {"R": "RSA", "P": "EC", "E": "OKP"}[kind[0]])

    def claims() -> dict[str, object]:
        now = int(time.time())
        client, audience = CONTEXT["client_id"], CONTEXT["token_endpoint"]
        times = {"nbf": now, "iat": now, "exp": now + 600}
        return {"aud": audience, "iss": client, "sub": client, "jti": str(uuid.uuid4()), **times}

    operations: dict[str, Callable[[], object]] = {
        BARE: partial(sign_locally, private_key, MESSAGE, algorithm),
        STORED: partial(stored.sign, MESSAGE, algorithm, timeout=10),
        SIGNER: partial(signer.sign, MESSAGE, algorithm),
        ASSERTION: partial(ClientAssertion(signer), CONTEXT),
        PYJWT: lambda: jwt.encode(claims(), private_key, name, headers=header),
        JOSERFC: lambda: joserfc.jwt.encode(header, claims(), jwk, [name]),
    }
    for threads in THREADS:
        for title, operation in operations.items():
            yield Contender(title, operation, threads=threads)
    verifying = keyvouch.open_signer(uri)
    verifying._current.opened.verify_always = True  # noqa: SLF001 - as if the store were on a network
    yield Contender(VERIFIED, partial(verifying.sign, MESSAGE, algorithm))
    if kind.startswith("RSA"):
        creator = JwtAssertionCreator(pem, algorithm="PS256", sha256_thumbprint=fingerprint(signer.chain[0]).hex())
        endpoint, client = CONTEXT["token_endpoint"], CONTEXT["client_id"]
        yield Contender(MSAL, lambda: creator.create_normal_assertion(endpoint, client))


def goals_of(kind: str, found: ByThreads) -> Iterator[Goal]:
    """Yield the goals for one type of key."""
    for threads in (1, 8):
        name = f"{kind}, {units.threads(threads)}: assertion, relative to PyJWT"
        measured = relative_time(found[ASSERTION, threads], found[PYJWT, threads])
        yield Goal(name, 1.0, measured)
        if (kind, threads) == ("P-256", 1):
            yield Goal(f"{name}, stretch goal", 0.9, measured)
    overhead = difference(found[SIGNER, 1], found[STORED, 1], 1e6)
    yield Goal(f"{kind}: added by the framework to the store's signature", 2.0, overhead, unit="us")
    verified = difference(found[VERIFIED, 1], found[STORED, 1], 1e6)
    yield Goal(f"{kind}: the same for a store on a network, with verification", 2.0, verified, unit="us")
    if kind == "RSA-2048":
        bare = relative_time(found[ASSERTION, 1], found[BARE, 1])
        yield Goal(f"{kind}: assertion, relative to a bare signature", 1.1, bare)
        for title in (BARE, SIGNER, ASSERTION):
            speed = relative_speed(found[title, 2], found[title, 1])
            yield Goal(f"{kind}: {title}, speed of 2 threads relative to 1", 1.9, speed, at_least=True)


def measure_subject(seconds: float) -> Part:
    """Measure each type of key, all its contenders in turns."""
    logging.captureWarnings(capture=True)  # joserfc warns at every EdDSA signature
    results: dict[str, ByThreads] = {}
    with tempfile.TemporaryDirectory() as folder, pem_files(Path(folder)) as make:
        for kind in KEYS:
            samples = measure(list(contenders(make(kind), kind)), seconds=seconds)
            results[kind] = {(each.contender.name, each.contender.threads): each for each in samples}
    rows = [
        [
            f"{title}, {units.threads(threads)}",
            *(_microseconds(found.get((title, threads))) for found in results.values()),
        ]
        for title in (BARE, STORED, SIGNER, VERIFIED, ASSERTION, PYJWT, JOSERFC, MSAL)
        for threads in THREADS
        if (title, threads) in results["RSA-2048"]
    ]
    return Part(
        "An assertion",
        f"{INTRODUCTION}\n\n{goals.table(['us', *KEYS], rows)}",
        [goal for kind in ("RSA-2048", "P-256") for goal in goals_of(kind, results[kind])],
        {kind: goals.documents(found.values()) for kind, found in results.items()},
    )


def _microseconds(measured: Samples | None) -> str:
    return goals.figure(goals.scaled(measured.rounds, 1e6).value, 4) if measured else ""


if __name__ == "__main__":
    goals.main(measure_subject)
