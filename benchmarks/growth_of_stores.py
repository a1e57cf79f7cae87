"""Opening a key, and signing with it, among 10, 100 and 4,000 keys in one store.

    python benchmarks/growth_of_stores.py [--quick]

Next to each store is what its own library takes for the same: a search in C (`pkcs11.c`), a GET with urllib3, the SDK's
get_certificate, and reading the file with `cryptography`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import ssl
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import goals
import key_stores
import keyvouch
import workers
from goals import Goal, Part, relative_time
from keyvouch._core.opening import parse
from keyvouch.bench import Contender, Interval, Samples, measure
from keyvouch.bench.intervals import ratio_of_pairs
from keyvouch.bench.rounds import Operation
from keyvouch.certificate import self_signed
from keyvouch.local_key import make_key
from keyvouch.secrets import Secret, SecretResolver
from keyvouch.stores import pem
from softhsm import build_loop

KEYS = (10, 100, 4000)
FLAT = 1.1
"""How many times as long a signature may take among the most keys as with a key that is alone."""
MESSAGE = b"x" * 500
BARE, OPEN, OPEN_SIGNER, SIGN = "its library", "KeyStore.open", "open_signer", "signature"
SOFTHSM, OPENBAO, KEY_VAULT = "PKCS#11, SoftHSM", "OpenBao", "Key Vault simulator"
INTRODUCTION = """\
P-256. `KeyStore.open` uses a connection; `open_signer` also connects, logs in, and checks the key. In a family the
newest of all files is opened. The goals about signatures compare, in turns, with a key in a store without others."""
_FEW, _MANY = 10, 1000
_TIMEOUT = 30.0
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
_FAST_FOLDER = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
"""Where tokens create thousands of keys in seconds; on a disk they wait for each."""


@dataclass(frozen=True)
class Case:
    """A store, with one of the ways to select a key, while the number of keys grows."""

    name: str
    uri: str
    bare: workers.Repeat
    """Opens the key with only the store's library, as many times."""
    alone: str
    """URI of a key in a store of the same kind that has no other."""
    fill: Callable[[int, int], object]
    """Adds the keys from one number to another."""
    searching: bool = False
    """True if its library reads all keys to find one: quick among few, and slow among many."""

    def times(self, keys: int) -> int:
        """Return how many openings an operation is: enough that messages to another process do not matter."""
        return 20 if self.searching and keys <= _FEW else 1

    def seconds(self, keys: int, seconds: float) -> float:
        """Return how long to measure: at least eight rounds are needed."""
        return 10 * seconds if self.searching and keys >= _MANY else seconds


@contextlib.contextmanager
def token() -> Iterator[list[Case]]:
    """A SoftHSM token; each key has a private and a public key and a certificate."""
    from softhsm_tokens import PIN, make_token
    from softhsm_tokens import SOFTHSM as MODULE

    with tempfile.TemporaryDirectory(dir=_FAST_FOLDER) as folder, key_stores.softhsm(Path(folder)) as make:
        make_token("alone")
        uri, loop = make("P-256"), build_loop(Path(folder))
        alone = uri.replace("token=bench", "token=alone")
        with keyvouch.open_store(alone) as store:
            store.generate(keyvouch.KeySpec("P-256"))
        with workers.program(loop, str(MODULE), "bench", PIN, "P-256", "0x1041", "32") as search:
            yield [Case(SOFTHSM, uri, lambda times: search(-times), alone, partial(fill_token, uri), searching=True)]


def fill_token(uri: str, begin: int, end: int) -> None:
    """Import one key under many labels."""
    from keyvouch_pkcs11 import templates
    from keyvouch_pkcs11.module import load_module
    from keyvouch_pkcs11.module_lookup import find_module

    key = make_key("P-256")
    certificate = self_signed(key, "CN=other", 30)
    private, public = templates.imported_key(key)
    with keyvouch.open_signer(uri), load_module(find_module(parse(uri))) as functions:
        slot = next(each for each in functions.slots() if functions.token_info(each).label.startswith(b"bench"))
        session = functions.open_session(slot, writable=True)  # logged in, as the whole process is
        for number in range(begin, end):
            identifiers = templates.KeyIdentifiers(b"%d" % number, b"other-%d" % number)
            functions.create_object(session, templates.private_key_template(identifiers, private, exportable=False))
            functions.create_object(session, templates.public_key_template(identifiers, public))
            functions.create_object(session, templates.certificate_template(certificate, identifiers))
        functions.close_session(session)


@contextlib.contextmanager
def mount() -> Iterator[list[Case]]:
    """A transit mount of an OpenBao server."""
    import urllib3
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    from openbao import KEYS_POLICY

    with tempfile.TemporaryDirectory() as folder, key_stores.openbao_server(Path(folder)) as server:
        uri = key_stores.transit_key(server, "P-256")
        policies = [KEYS_POLICY, KEYS_POLICY.replace("transit", "alone")]
        server.write("sys/policies/acl/keys", policy="\n".join(policies))
        server.write("sys/mounts/alone", type="transit")
        server.write("alone/keys/P-256", type="ecdsa-p256")
        alone = uri.replace(";key=", ";mount=alone;key=")
        address, headers = f"{server.address}/v1/transit/keys/P-256", {"X-Vault-Token": os.environ["VAULT_TEST_TOKEN"]}
        pool = urllib3.PoolManager(ssl_context=ssl.create_default_context(cafile=server.ca_file))

        def get() -> object:
            response = pool.request("GET", address, headers=headers)
            return load_pem_public_key(json.loads(response.data)["data"]["keys"]["1"]["public_key"].encode())

        def fill(begin: int, end: int) -> None:
            for number in range(begin, end):
                server.write(f"transit/keys/other-{number}", type="ecdsa-p256")

        yield [Case(OPENBAO, uri, repeating(get), alone, fill)]


@contextlib.contextmanager
def vault() -> Iterator[list[Case]]:
    """The Key Vault simulator."""
    from azure.identity import EnvironmentCredential
    from azure.keyvault.certificates import CertificateClient

    with tempfile.TemporaryDirectory() as folder, key_stores.key_vault_simulator(Path(folder)) as simulator:
        (uri, key_id), (alone, _) = simulator.make("P-256"), simulator.make("P-256", elsewhere=True)
        trust = {"connection_verify": simulator.ca_file}
        credential = EnvironmentCredential(**trust, disable_instance_discovery=True)
        client = CertificateClient(key_id.partition("/keys/")[0], credential, verify_challenge_resource=False, **trust)
        get = partial(client.get_certificate, "P-256")
        yield [Case(KEY_VAULT, uri, repeating(get), alone, partial(simulator.copy, "P-256"))]


@contextlib.contextmanager
def folders() -> Iterator[list[Case]]:
    """Folders with PFX and PEM files, opened by name and as a family whose newest member is used."""
    from keyvouch.private_key import to_pfx

    key = make_key("P-256")
    chain = [self_signed(key, "CN=app", 30)]
    contents = {
        "pfx": (to_pfx(key, chain, Secret(key_stores.PASSWORD), "app"), "?password=env:BENCH_PASSWORD"),
        "pem": (pem.write(key, chain, None, "app"), "?"),
    }
    os.environ["BENCH_PASSWORD"] = key_stores.PASSWORD
    with tempfile.TemporaryDirectory() as root:
        cases = list[Case]()
        for scheme, (data, query) in contents.items():
            folder, other = Path(root) / scheme, Path(root) / f"{scheme}-alone"
            for each in (folder, other):
                each.mkdir(mode=0o700)
                add_files(each, scheme, data, 0, 1)
            newest = next(folder.iterdir())
            by_name = repeating(partial(read_with_cryptography, newest))
            by_listing = repeating(partial(read_newest_with_cryptography, folder))
            fill = partial(add_files, folder, scheme, data)
            by_path = f"{scheme}:{newest}{query}".rstrip("?")
            family = f"{scheme}:{folder}/app-*.{scheme}{query}&select=newest".replace("?&", "?")
            alone = f"{scheme}:{next(other.iterdir())}{query}".rstrip("?")
            cases += [
                Case(scheme.upper(), by_path, by_name, alone, fill),
                Case(f"{scheme.upper()}, family", family, by_listing, alone, lambda *_: None),
            ]
        yield cases


def add_files(folder: Path, suffix: str, data: bytes, begin: int, end: int) -> None:
    """Write files with the times of their creation in their names, the first one an hour ago, the others before it."""
    now = dt.datetime.now(dt.UTC)
    for number in range(begin, end):
        created = now - dt.timedelta(hours=1 + number)
        path = folder / f"app-{created:%Y%m%dT%H%M%S%fZ}.{suffix}"
        path.touch(mode=0o600)
        path.write_bytes(data)


def read_with_cryptography(path: Path) -> object:
    """Return what `cryptography` reads from a file."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12
    from cryptography.x509 import load_pem_x509_certificate

    data = path.read_bytes()
    if path.suffix == ".pfx":
        return load_pkcs12(data, key_stores.PASSWORD.encode())
    return load_pem_private_key(data, None), load_pem_x509_certificate(data)


def read_newest_with_cryptography(folder: Path) -> object:
    """Return what `cryptography` reads from the file whose name is the last one."""
    return read_with_cryptography(max(folder.iterdir()))


def repeating(operation: Operation) -> workers.Repeat:
    """Return a function that repeats an operation in this process."""
    return lambda times: workers.repeated(operation, times)()


def measure_case(case: Case, keys: int, seconds: float) -> dict[str, Samples]:
    """Measure with so many keys; an operation is `times` openings or signatures."""
    times = case.times(keys)
    uri = parse(case.uri)
    store = uri.store_class(uri, SecretResolver())
    store.connect(timeout=_TIMEOUT)
    with contextlib.closing(store):
        operations: dict[str, Operation] = {
            OPEN: lambda: store.open(uri, timeout=_TIMEOUT).close(),
            OPEN_SIGNER: lambda: keyvouch.open_signer(case.uri).close(),
        }
        openings = [Contender(name, workers.repeated(each, times)) for name, each in operations.items()]
        contenders = [Contender(BARE, partial(case.bare, times)), *openings]
        samples = measure(contenders, seconds=case.seconds(keys, seconds))
    with keyvouch.open_signer(case.uri) as signer:
        sign = workers.repeated(partial(signer.sign, MESSAGE, "ES256"), times)
        samples += measure([Contender(SIGN, sign)], seconds=seconds)
    return {each.contender.name: each for each in samples}


def measure_signatures(case: Case, seconds: float) -> Interval:
    """Return how many times as long a signature takes as with a key that is alone."""
    with keyvouch.open_signer(case.uri) as own, keyvouch.open_signer(case.alone) as other:
        contenders = [Contender(str(each.uri), partial(each.sign, MESSAGE, "ES256")) for each in (own, other)]
        return relative_time(*measure(contenders, seconds=seconds))


Results = dict[tuple[str, int], dict[str, list[float]]]
"""Seconds of one opening or signature in each round, by store, number of keys, and what was done."""


def measure_all(numbers: Sequence[int], seconds: float) -> tuple[Results, dict[str, Interval]]:
    """Measure each store with these numbers of keys; return also, by store, how much longer a signature then takes."""
    results, signatures = Results(), dict[str, Interval]()
    for store in (token, mount, vault, folders):
        with store() as cases:
            existing = 1
            for keys in numbers:
                for case in cases:
                    case.fill(existing, keys)
                for case in cases:
                    times, found = case.times(keys), measure_case(case, keys, seconds)
                    results[case.name, keys] = {
                        name: [value / times for value in each.rounds] for name, each in found.items()
                    }
                existing = keys
            signatures |= {case.name: measure_signatures(case, 2 * seconds) for case in cases}
    return results, signatures


def goals_of(results: Results, signatures: dict[str, Interval], few: int, many: int) -> Iterator[Goal]:
    """Yield the goals, which are about the smallest and the largest number of keys."""
    for keys, limit in ((few, 3.0), (many, 1.3)):
        found = results[SOFTHSM, keys]
        name = f"{SOFTHSM}: opening one of {keys:,} keys, relative to a search in C"
        yield Goal(name, limit, ratio_of_pairs(found[OPEN], found[BARE]))
    for store, measured in signatures.items():
        yield Goal(f"{store}: a signature, among {many:,} keys relative to a key alone", FLAT, measured)


def row(found: dict[str, list[float]]) -> list[str]:
    """Return the cells of a row."""
    milliseconds = [goals.figure(goals.scaled(found[name], 1e3).value) for name in (BARE, OPEN, OPEN_SIGNER)]
    measured, signature = ratio_of_pairs(found[OPEN], found[BARE]), goals.scaled(found[SIGN], 1e6)
    return [*milliseconds, goals.figure(measured.value), goals.interval(measured), goals.figure(signature.value)]


def measure_subject(seconds: float) -> Part:
    """Measure all stores."""
    numbers = KEYS if seconds >= 1 else KEYS[:2]
    results, signatures = measure_all(numbers, seconds / 2)
    head = ["store", "keys", f"{BARE}, ms", f"{OPEN}, ms", f"{OPEN_SIGNER}, ms", f"{OPEN}, relative", "99 % confidence"]
    rows = [[store, f"{keys:,}", *row(found)] for (store, keys), found in results.items()]
    return Part(
        "Growth of stores",
        f"{INTRODUCTION}\n\n{goals.table([*head, 'a signature, us'], rows)}",
        list(goals_of(results, signatures, numbers[0], numbers[-1])),
        {f"{store}, {keys} keys": found for (store, keys), found in results.items()},
    )


if __name__ == "__main__":
    goals.main(measure_subject)
