"""Keys on SoftHSM: keyvouch compared with a C loop over the same module, with python-pkcs11 and with pkcs11-tool.

    python benchmarks/pkcs11.py [--rounds N]

Signatures, opening a key among few and many objects, and whole commands. Requires softhsm2, cc, pkcs11-tool and
python-pkcs11. Contenders sign in turns, and a ratio is the median of the ratios of all rounds.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import keyvouch
from keyvouch._core.opening import parse
from keyvouch.algorithms import ALGORITHMS, Algorithm
from keyvouch.secrets import SecretResolver
from keyvouch_pkcs11 import cryptoki as ck
from keyvouch_pkcs11.module import load_module
from keyvouch_pkcs11.module_lookup import find_module
from keyvouch_pkcs11.store import Pkcs11Store

MODULE, PIN = "/usr/lib/softhsm/libsofthsm2.so", "1234"
KEY_TYPES = {"RSA-2048": ("PS256", "0x0d", 150), "P-256": ("ES256", "0x1041", 1500)}
"""The algorithm, its mechanism, and the number of signatures per round."""
_TIMEOUT = 30.0
_KEY_OBJECTS = 3 * len(KEY_TYPES)
"""A private key, a public key and a certificate each."""
_MANY_OBJECTS = 1000


def prepare(folder: Path) -> Path:
    """Create a token with a key of each type, and build the C loop; return its path."""
    configuration, tokens = folder / "softhsm2.conf", folder / "tokens"
    tokens.mkdir()
    configuration.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    os.environ |= {"SOFTHSM2_CONF": str(configuration), "BENCH_PIN": PIN}
    command = ["softhsm2-util", "--init-token", "--free", "--label", "bench", "--so-pin", "12345678", "--pin", PIN]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603
    for kind in KEY_TYPES:
        with keyvouch.open_store(uri_of(kind)) as store:
            store.generate(keyvouch.KeySpec(kind))
    program = folder / "loop"
    source = Path(__file__).with_suffix(".c")
    subprocess.run(["cc", "-O2", "-o", str(program), str(source), "-ldl"], check=True)  # noqa: S603, S607
    return program


def uri_of(kind: str) -> str:
    """Return the URI of the key of this type."""
    return f"pkcs11:token=bench;object={kind}?module-path={MODULE}&pin-source=env:BENCH_PIN"


def seconds(function: Callable[[], object], times: int) -> float:
    """Return the number of seconds that this many calls take."""
    begin = time.perf_counter()
    for _ in range(times):
        function()
    return time.perf_counter() - begin


def python_pkcs11_signing(kind: str, message: bytes) -> Callable[[], object]:
    """Return a function that makes the same signature with python-pkcs11, which initializes the module itself."""
    import pkcs11

    session = pkcs11.lib(MODULE).get_token(token_label="bench").open(user_pin=PIN)
    key = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label=kind)
    if kind == "P-256":
        return lambda: key.sign(hashlib.sha256(message).digest(), mechanism=pkcs11.Mechanism.ECDSA)
    parameters = (pkcs11.Mechanism.SHA256, pkcs11.MGF.SHA256, 32)
    digest = hashlib.sha256
    return lambda: key.sign(
        digest(message).digest(), mechanism=pkcs11.Mechanism.RSA_PKCS_PSS, mechanism_param=parameters
    )


def run_python_pkcs11(kind: str) -> None:
    """Sign as often as each number on standard input says, as the C loop does."""
    del sys.path[0]  # where this file would shadow the library
    sign = python_pkcs11_signing(kind, b"x" * 500)
    for line in sys.stdin:
        print(seconds(sign, int(line)), flush=True)


def child_seconds(process: subprocess.Popen[str], times: int) -> float:
    """Let a process sign, and return the seconds taken."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{times}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def threads_seconds(function: Callable[[], object], times: int, threads: int) -> float:
    """Return the seconds that several threads take for this many signatures each."""
    running = [threading.Thread(target=lambda: seconds(function, times)) for _ in range(threads)]
    begin = time.perf_counter()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return time.perf_counter() - begin


def compare(kind: str, program: Path, rounds: int) -> None:
    """Print a table for one type of key."""
    name, mechanism, times = KEY_TYPES[kind]
    algorithm: Algorithm = ALGORITHMS[name]
    message = b"x" * 500
    command = [str(program), MODULE, "bench", PIN, kind, mechanism, "32"]
    python_command = [sys.executable, __file__, "--child", kind]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as c_loop,  # noqa: S603
        subprocess.Popen(python_command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as python_pkcs11,  # noqa: S603
        keyvouch.open_signer(uri_of(kind)) as signer,
    ):
        uri = parse(uri_of(kind))
        store = Pkcs11Store(uri, SecretResolver())
        store.connect(timeout=_TIMEOUT)
        key = store.open(uri, timeout=_TIMEOUT)
        contenders: dict[str, Callable[[], float]] = {
            "C": lambda: child_seconds(c_loop, times),
            "python-pkcs11": lambda: child_seconds(python_pkcs11, times),
            "StoredKey.sign": lambda: seconds(lambda: key.sign(message, algorithm, timeout=_TIMEOUT), times),
            "Signer.sign": lambda: seconds(lambda: signer.sign(message, algorithm), times),
            "Signer.sign, 2 threads": lambda: threads_seconds(lambda: signer.sign(message, algorithm), times, 2) / 2,
        }
        taken: dict[str, list[float]] = {each: [] for each in contenders}
        for number in range(rounds + 1):
            for each, measure in contenders.items():
                spent = measure() / times * 1e6
                if number:  # the first round warms up
                    taken[each].append(spent)
        key.close()
        store.close()
        print(f"\n### {kind}\n\n| | us | of C's speed |\n| --- | ---: | ---: |")
        for each, spent_all in taken.items():
            ratio = statistics.median(first / own for first, own in zip(taken["C"], spent_all, strict=True))
            print(f"| {each} | {statistics.median(spent_all):.1f} | {ratio:.3f} |")
        for process in (c_loop, python_pkcs11):
            assert process.stdin is not None
            process.stdin.close()


def fill(count: int) -> None:
    """Add this many data objects to the token."""
    uri = parse(uri_of("P-256"))
    store = Pkcs11Store(uri, SecretResolver())
    store.connect(timeout=_TIMEOUT)
    store.open(uri, timeout=_TIMEOUT)
    with load_module(find_module(uri)) as functions:
        session = functions.open_session(functions.slots()[0], writable=True)  # logged in to, as the whole process is
        for number in range(count):
            functions.create_object(session, {ck.CKA_CLASS: 0, ck.CKA_TOKEN: True, ck.CKA_LABEL: b"%d" % number})
        functions.close_session(session)
    store.close()


def compare_opening(program: Path, rounds: int) -> None:
    """Print the cost of opening a key among few and many objects, and of signing, which should not change."""
    print("\n### Opening a P-256 key by its label\n")
    print(
        "| objects | the search in C, ms | open, ms | of C's | a signature, us |\n| ---: | ---: | ---: | ---: | ---: |"
    )
    existing = _KEY_OBJECTS
    for wanted in (10, 4000):
        fill(wanted - existing)
        existing = wanted
        command = [str(program), MODULE, "bench", PIN, "P-256", "0x1041", "32"]
        uri = parse(uri_of("P-256"))
        store = Pkcs11Store(uri, SecretResolver())
        store.connect(timeout=_TIMEOUT)
        key = store.open(uri, timeout=_TIMEOUT)
        times = 20 if wanted < _MANY_OBJECTS else 2
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as c_loop:  # noqa: S603
            searches, opened, signed = [], [], []
            for _ in range(rounds):
                searches.append(child_seconds(c_loop, -times) / times * 1e3)
                opened.append(seconds(lambda: store.open(uri, timeout=_TIMEOUT).close(), times) / times * 1e3)  # noqa: B023 - called immediately
                signed.append(seconds(lambda: key.sign(b"x", ALGORITHMS["ES256"], timeout=_TIMEOUT), 100) / 100 * 1e6)  # noqa: B023 - called immediately
            assert c_loop.stdin is not None
            c_loop.stdin.close()
        store.close()
        ratio = statistics.median(own / first for own, first in zip(opened, searches, strict=True))
        medians = [statistics.median(each) for each in (searches, opened, signed)]
        print(f"| {wanted} | {medians[0]:.2f} | {medians[1]:.2f} | {ratio:.3f} | {medians[2]:.1f} |")


def compare_commands(folder: Path, rounds: int) -> None:
    """Print the total cost of signing with a command."""
    message = folder / "message"
    message.write_bytes(b"x" * 32)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # pip compiles what it installs; make a checkout behave the same
    tool = ["pkcs11-tool", "--module", MODULE, "--token-label", "bench", "--login", "--pin", PIN, "--sign"]
    tool += [
        "--label",
        "RSA-2048",
        "--mechanism",
        "RSA-PKCS",
        "--input-file",
        str(message),
        "--output-file",
        os.devnull,
    ]
    program = str(Path(sys.executable).with_name("keyvouch"))
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "pkcs11-tool --sign": tool,
        "keyvouch sign": [program, "sign", "--key", uri_of("RSA-2048"), "--algorithm", "RS256", str(message)],
    }
    print("\n### Whole commands, RSA-2048\n\n| | ms |\n| --- | ---: |")
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            taken[name].append(
                seconds(lambda: subprocess.run(command, check=True, capture_output=True), 1) * 1e3  # noqa: B023, S603
            )
    for name, spent in taken.items():
        print(f"| {name} | {statistics.median(spent):.0f} |")


def main() -> None:
    """Run all comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        run_python_pkcs11(arguments.child)
        return
    with tempfile.TemporaryDirectory() as folder:
        program = prepare(Path(folder))
        for kind in KEY_TYPES:
            compare(kind, program, arguments.rounds)
        compare_commands(Path(folder), arguments.rounds)
        compare_opening(program, arguments.rounds)


if __name__ == "__main__":
    main()
