"""Signatures in Key Vault: keyvouch compared with the SDK's client and a bare POST with urllib3.

python benchmarks/azure_key_vault.py [--quick]
"""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import goals
import keyvouch
from goals import Goal, Part, relative_time
from key_stores import KeyVault, key_vault_simulator
from keyvouch.bench import Contender, Interval, Samples, measure, units
from keyvouch.bench.intervals import median

THREADS = (1, 8)
API = "api-version=2025-07-01"
MESSAGE = b"message"
SDK, BARE, HTTPS, PIPELINE, CLIENT, OURS = (
    "azure-keyvault-keys",
    "urllib3, a bare POST",
    "-- keyvouch.https",
    "-- the SDK's pipeline",
    "-- the SDK's client",
    "keyvouch",
)
INTRODUCTION = """\
ES256, with the Key Vault simulator on loopback in a process of its own, which takes most of the time: the table shows
what each client adds. The lines that begin with `--` are keyvouch's own layers, each including the ones above it. With
several threads, the time is the wall-clock time divided by the number of signatures."""


def operations(vault: KeyVault) -> dict[str, Callable[[], object]]:
    """Return what makes one signature, by name."""
    import urllib3
    from azure.core.rest import HttpRequest
    from azure.identity import EnvironmentCredential
    from azure.keyvault.keys.crypto import CryptographyClient, SignatureAlgorithm

    from keyvouch._core.opening import parse
    from keyvouch.https import Limits, Pools
    from keyvouch.secrets import SecretResolver
    from keyvouch_azure_keyvault.session import Session

    uri, key_id = vault.make("P-256")
    digest = hashlib.sha256(MESSAGE).digest()
    credential = EnvironmentCredential(connection_verify=vault.ca_file, disable_instance_discovery=True)
    sdk = CryptographyClient(key_id, credential, verify_challenge_resource=False, connection_verify=vault.ca_file)
    signer = keyvouch.open_signer(uri)
    pool = urllib3.PoolManager(maxsize=8, ssl_context=ssl.create_default_context(cafile=vault.ca_file))
    token = credential.get_token("https://vault.azure.net/.default").token
    fields = {"alg": "ES256", "value": base64.urlsafe_b64encode(digest).rstrip(b"=").decode()}
    body, address = json.dumps(fields).encode(), f"{key_id}/sign?{API}"
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def bare() -> bytes:
        answer = pool.request("POST", address, body=body, headers=headers)
        return base64.urlsafe_b64decode(answer.json()["value"] + "==")

    # The layers of keyvouch, bottom up: its connections, the SDK's pipeline, the SDK's client.
    session = Session(parse(uri), SecretResolver())
    session.log_in(30)
    client = session.signing_client(session.keys.get_key("P-256"))
    pools = Pools(Limits(), ca_file=vault.ca_file)
    return {
        SDK: partial(sdk.sign, SignatureAlgorithm.es256, digest),
        BARE: bare,
        HTTPS: partial(pools.request, "POST", address, body, headers),
        PIPELINE: lambda: client.send_request(HttpRequest("POST", address, json=fields)).json(),
        CLIENT: partial(client.sign, SignatureAlgorithm.es256, digest),
        OURS: partial(signer.sign, MESSAGE, "ES256"),
    }


def part_of_overhead(found: dict[str, Samples]) -> Interval:
    """Return what keyvouch adds to a bare POST, as a part of what the SDK adds."""
    rounds = zip(found[OURS].rounds, found[SDK].rounds, found[BARE].rounds, strict=False)
    return median([(ours - bare) / (sdk - bare) for ours, sdk, bare in rounds if sdk != bare])


def measure_subject(seconds: float) -> Part:
    """Measure with each number of threads."""
    results: dict[int, dict[str, Samples]] = {}
    with tempfile.TemporaryDirectory() as folder, key_vault_simulator(Path(folder)) as vault:
        made = operations(vault)
        for threads in THREADS:
            contenders = [Contender(name, each, threads=threads) for name, each in made.items()]
            samples = measure(contenders, seconds=seconds)
            results[threads] = {each.contender.name: each for each in samples}
    rows, wanted = list[list[str]](), list[Goal]()
    for threads, found in results.items():
        name = units.threads(threads)
        for title, own in found.items():
            measured = relative_time(own, found[SDK])
            time = goals.figure(goals.scaled(own.rounds, 1e3).value)
            rows.append([str(threads), title, time, goals.figure(measured.value), goals.interval(measured)])
        ours = relative_time(found[OURS], found[SDK])
        wanted.append(Goal(f"{name}: keyvouch, relative to the SDK's CryptographyClient", 1.03, ours))
        wanted.append(
            Goal(f"{name}: added to a bare POST, relative to the SDK, stretch goal", 0.5, part_of_overhead(found))
        )
    head = ["threads", "client", "ms per signature", "relative to the SDK", "99 % confidence"]
    return Part(
        "A signature in Key Vault",
        f"{INTRODUCTION}\n\n{goals.table(head, rows)}",
        wanted,
        {units.threads(threads): goals.documents(found.values()) for threads, found in results.items()},
    )


if __name__ == "__main__":
    goals.main(measure_subject)
