"""Many threads sign with a service that fails now and then, and no caller notices."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import pytest

import azure_simulator
import keyvouch
from azure_simulator import Vault
from keyvouch.entra.msal import ConfidentialClient
from keyvouch.testing.authority import Authority
from keyvouch_azure_keyvault.testing import Drop, Fault, Refusal, Stall, refusals
from scripted_store import is_signed

THREADS = 8
FAILURES: dict[float, Fault | Refusal] = {
    0.01: refusals.throttled(1),
    0.02: refusals.throttled(),
    0.03: refusals.failing(503),
    0.04: Drop(),
    0.045: Stall(20),
}
"""The fault for a random number between 0 and 1: the first whose bound is greater."""


@pytest.fixture
def flaky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    """A vault with 2 % of 429 (half without Retry-After), 1 % of 503, 1 % of dropped connections, 0.5 % of stalls."""
    with azure_simulator.running(tmp_path_factory.mktemp("flaky")) as vault:
        generator = random.Random(1)

        def fail_sometimes(permission: str) -> Fault | Refusal | None:
            if permission != "keys/sign":
                return None
            number = generator.random()
            for bound, failure in FAILURES.items():
                if number < bound:
                    return failure
            return None

        vault.disturb = fail_sometimes
        yield vault


def test_callers_notice_nothing(flaky: Vault, *, soak: bool) -> None:
    """Eight threads get all their signatures, and all are valid, whatever faults the service has."""
    wanted = 20_000 if soak else 400
    uri = flaky.make("soak", "P-256")
    failures: list[BaseException] = []
    signed: list[int] = []
    with keyvouch.open_signer(uri) as signer:

        def sign(thread: int) -> None:
            try:
                for number in range(wanted // THREADS):
                    message = b"%d %d" % (thread, number)
                    signature = signer.sign(message, "ES256", timeout=60)
                    assert is_signed(signer.public_key, signature, message, "ES256")
                    signed.append(number)
            except BaseException as error:  # noqa: BLE001 - the test reports it
                failures.append(error)

        threads = [threading.Thread(target=sign, args=(number,)) for number in range(THREADS)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert not failures
    assert len(signed) == wanted


def test_second_vault_takes_over(flaky: Vault, authority: Authority) -> None:
    """If one of two vaults is down, the client signs in with the key in the other."""
    first = flaky.make("standby", "RSA-2048").replace("https://localhost", "https://127.0.0.1")
    down = first.replace(str(flaky.port), "1")
    with keyvouch.open_signer(first) as signer:
        app = authority.register(certificates=[signer.chain[0]])
    with ConfidentialClient(
        app.client_id,
        [down, first],
        authority=authority.authority,
        ca_file=authority.ca_file,
        instance_discovery=False,
    ) as client:
        assert client.access_token(["https://graph.microsoft.com/.default"])
    assert authority.exchanges[-1].claims is not None
