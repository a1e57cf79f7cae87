"""Signatures in Key Vault: keyvouch compared with the SDK's client and a bare POST with urllib3.

    python benchmarks/azure_key_vault.py [--rounds N]

The vault is the Key Vault simulator, on loopback in a separate process, so that the results show the cost of each
client, not of the service. Contenders sign in turns, and a ratio is the median of the ratios of all rounds. 1 and 8
threads.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import multiprocessing
import os
import ssl
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import urllib3

import keyvouch

TESTS = Path(__file__).parent.parent / "plugins" / "keyvouch-azure-keyvault" / "tests"
SIGNATURES = 200
"""Number of signatures per contender in one round."""


def serve(folder: str, pipe: Any) -> None:
    """Run the vault until the pipe is closed; send the URI, the key id, the CA file and the environment."""
    sys.path.insert(0, str(TESTS))
    import azure_simulator

    with azure_simulator.running(Path(folder)) as vault:
        uri = vault.make("bench", "P-256")
        key_id = f"{vault.address}/keys/bench/{vault.keys['bench'].newest.version}"
        told = {name: value for name, value in os.environ.items() if name.startswith("AZURE_")}
        pipe.send((uri, key_id, str(vault.ca_file), told))
        pipe.recv()


def contenders(uri: str, key_id: str, ca_file: str) -> dict[str, Callable[[], object]]:
    """Return each contender's function for one signature; each has already signed once."""
    from azure.core.rest import HttpRequest
    from azure.identity import EnvironmentCredential
    from azure.keyvault.keys.crypto import CryptographyClient, SignatureAlgorithm

    from keyvouch._core.opening import parse
    from keyvouch.https import Limits, Pools
    from keyvouch.secrets import SecretResolver
    from keyvouch_azure_keyvault.session import Session

    digest = hashlib.sha256(b"message").digest()
    credential = EnvironmentCredential(connection_verify=ca_file, disable_instance_discovery=True)
    sdk = CryptographyClient(key_id, credential, verify_challenge_resource=False, connection_verify=ca_file)
    signer = keyvouch.open_signer(uri)
    pool = urllib3.PoolManager(maxsize=8, ssl_context=ssl.create_default_context(cafile=ca_file))
    token = credential.get_token("https://vault.azure.net/.default").token
    body = json.dumps({"alg": "ES256", "value": base64.urlsafe_b64encode(digest).rstrip(b"=").decode()}).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def bare() -> bytes:
        answer = pool.request("POST", f"{key_id}/sign?api-version=2025-07-01", body=body, headers=headers)
        return base64.urlsafe_b64decode(answer.json()["value"] + "==")

    # The layers of keyvouch, bottom up: its connections, the SDK's pipeline, the SDK's client, the signer.
    session = Session(parse(uri), SecretResolver())
    session.log_in(30)
    client = session.signing_client(session.keys.get_key("bench"))
    pools = Pools(Limits(), ca_file=ca_file)
    address = f"{key_id}/sign?api-version=2025-07-01"

    made: dict[str, Callable[[], object]] = {
        "azure-keyvault-keys": lambda: sdk.sign(SignatureAlgorithm.es256, digest),
        "urllib3": bare,
        "  keyvouch.https": lambda: pools.request("POST", address, body, headers),
        "  the SDK's pipeline": lambda: client.send_request(HttpRequest("POST", address, json=json.loads(body))).json(),
        "  the SDK's client": lambda: client.sign(SignatureAlgorithm.es256, digest),
        "keyvouch": lambda: signer.sign(b"message", "ES256"),
    }
    for each in made.values():
        each()
    return made


def timed(sign: Callable[[], object], threads: int) -> float:
    """Return the milliseconds per signature, for many signatures in this many threads."""

    def work() -> None:
        for _ in range(SIGNATURES // threads):
            sign()

    running = [threading.Thread(target=work) for _ in range(threads)]
    began = time.perf_counter()
    for each in running:
        each.start()
    for each in running:
        each.join()
    return (time.perf_counter() - began) * 1000 / SIGNATURES


def main() -> None:
    """Print a line for each contender and number of threads."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        server = context.Process(target=serve, args=(folder, theirs))
        server.start()
        try:
            uri, key_id, ca_file, environment = ours.recv()
            os.environ |= environment
            made = contenders(uri, key_id, ca_file)
            for threads in (1, 8):
                taken = [{name: timed(sign, threads) for name, sign in made.items()} for _ in range(rounds)]
                for name in made:
                    middle = statistics.median(each[name] for each in taken)
                    ratio = statistics.median(each[name] / each["azure-keyvault-keys"] for each in taken)
                    print(f"{threads} threads  {name:22} {middle:6.2f} ms  {ratio:5.2f} of the SDK's")
        finally:
            ours.send(None)
            server.join(10)


if __name__ == "__main__":
    main()
