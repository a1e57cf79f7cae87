"""Signatures on SoftHSM: keyvouch compared with a loop in C over the same module, and with python-pkcs11.

    python benchmarks/softhsm.py [--quick]

Requires softhsm2, cc and python-pkcs11.
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import goals
import keyvouch
import workers
from goals import Goal, Part, difference, relative_speed
from key_stores import softhsm
from keyvouch.algorithms import ALGORITHMS
from keyvouch.bench import Contender, Samples, measure

KEY_TYPES = {"RSA-2048": ("PS256", "0x0d", 64), "P-256": ("ES256", "0x1041", 640)}
"""The algorithm, its mechanism, and how many signatures a contender makes at a time: about 40 ms."""
SPEEDS = {"RSA-2048": (0.93,), "P-256": (0.75, 0.85)}
"""Smallest speed relative to C, and the stretch goal."""
MESSAGE = b"x" * 500
C, PYTHON_PKCS11, STORED, SIGNER, TWO = (
    "C",
    "python-pkcs11",
    "StoredKey.sign",
    "Signer.sign",
    "Signer.sign, 2 threads",
)
INTRODUCTION = """\
A message of 500 bytes, PS256 and ES256, hashed outside the token. The loop in C (`pkcs11.c`) gets the hash, and calls
C_SignInit and C_Sign of the same module in one session."""


def build_loop(folder: Path) -> str:
    """Build the loop in C, and return its path."""
    loop = str(folder / "loop")
    source = str(Path(__file__).with_name("pkcs11.c"))
    subprocess.run(["cc", "-O2", "-o", loop, source, "-ldl"], check=True)  # noqa: S603, S607
    return loop


def python_pkcs11(module: str, pin: str, kind: str) -> workers.Operation:
    """Return a function that signs with python-pkcs11, which initializes the module itself."""
    import pkcs11

    session = pkcs11.lib(module).get_token(token_label="bench").open(user_pin=pin)
    key = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label=kind)
    digest = hashlib.sha256
    if kind == "P-256":
        return lambda: key.sign(digest(MESSAGE).digest(), mechanism=pkcs11.Mechanism.ECDSA)
    options = {
        "mechanism": pkcs11.Mechanism.RSA_PKCS_PSS,
        "mechanism_param": (pkcs11.Mechanism.SHA256, pkcs11.MGF.SHA256, 32),
    }
    return lambda: key.sign(digest(MESSAGE).digest(), **options)


def measure_type(uri: str, kind: str, loop: str, seconds: float) -> dict[str, Samples]:
    """Measure one type of key; an operation is as many signatures as `KEY_TYPES` says."""
    from softhsm_tokens import PIN, SOFTHSM

    name, mechanism, times = KEY_TYPES[kind]
    with ExitStack() as stack:
        in_c = stack.enter_context(workers.program(loop, str(SOFTHSM), "bench", PIN, kind, mechanism, "32"))
        in_python = stack.enter_context(workers.python(python_pkcs11, str(SOFTHSM), PIN, kind))
        signer = stack.enter_context(keyvouch.open_signer(uri))
        stored = signer._current.opened.stored  # noqa: SLF001 - compares with the layer below
        sign = workers.repeated(partial(signer.sign, MESSAGE, name), times)
        sign_stored = workers.repeated(partial(stored.sign, MESSAGE, ALGORITHMS[name], timeout=30), times)
        samples = measure(
            [
                Contender(C, partial(in_c, times)),
                Contender(PYTHON_PKCS11, partial(in_python, times)),
                Contender(STORED, sign_stored),
                Contender(SIGNER, sign),
                Contender(TWO, sign, threads=2),
            ],
            seconds=2 * seconds,  # several hundred signatures per round
        )
    return {each.contender.name: each for each in samples}


def goals_of(kind: str, found: dict[str, Samples]) -> Iterator[Goal]:
    """Yield the goals for one type of key."""
    measured = relative_speed(found[SIGNER], found[C])
    for number, limit in enumerate(SPEEDS[kind]):
        yield Goal(
            f"{kind}: Signer.sign, speed relative to C{', stretch goal' if number else ''}",
            limit,
            measured,
            at_least=True,
        )
    if kind == "P-256":
        overhead = difference(found[SIGNER], found[STORED], 1e6 / KEY_TYPES[kind][2])
        yield Goal(f"{kind}: added by the framework to the store's signature", 2.0, overhead, unit="us")
    else:
        speed = relative_speed(found[TWO], found[SIGNER])
        yield Goal(f"{kind}: Signer.sign, speed of 2 threads relative to 1", 1.85, speed, at_least=True)


def measure_subject(seconds: float) -> Part:
    """Measure both types of keys."""
    with tempfile.TemporaryDirectory() as folder, softhsm(Path(folder)) as make:
        loop = build_loop(Path(folder))
        results = {kind: measure_type(make(kind), kind, loop, seconds) for kind in KEY_TYPES}
    rows = [
        [kind, name, goals.figure(goals.scaled(own.rounds, 1e6 / KEY_TYPES[kind][2]).value, 4), *_speed(own, found[C])]
        for kind, found in results.items()
        for name, own in found.items()
    ]
    head = ["key", "", "us per signature", "speed relative to C", "99 % confidence"]
    return Part(
        "A signature on SoftHSM",
        f"{INTRODUCTION}\n\n{goals.table(head, rows)}",
        [goal for kind, found in results.items() for goal in goals_of(kind, found)],
        {kind: goals.documents(found.values()) for kind, found in results.items()},
    )


def _speed(own: Samples, base: Samples) -> list[str]:
    measured = relative_speed(own, base)
    return [goals.figure(measured.value), goals.interval(measured)]


if __name__ == "__main__":
    goals.main(measure_subject)
