"""Faults that the Key Vault simulator produces on demand, as a client sees them."""

from __future__ import annotations

import contextlib
import datetime as dt
import email.utils
import threading
from collections.abc import Callable, Iterator

import pytest
import requests
from azure.core.exceptions import HttpResponseError
from azure.keyvault.keys import KeyClient

from keyvouch_azure_keyvault.testing import Cut, Drop, KeyVault, Refusal, Stall, Trickle, refusals
from keyvouch_azure_keyvault.testing.fixtures import key_vault  # noqa: F401 - a fixture
from simulator_clients import Raw, sdk_of


@pytest.fixture
def raw(key_vault: KeyVault) -> Iterator[Raw]:
    with Raw(key_vault) as client:
        yield client


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (refusals.missing_role("keys/list"), 403, "ForbiddenByRbac"),
        (refusals.missing_policy("keys/list"), 403, "ForbiddenByPolicy"),
        (refusals.firewall(), 403, "ForbiddenByFirewall"),
        (refusals.private_link(), 403, "ForbiddenByConnection"),
        (refusals.disabled(), 403, "KeyDisabled"),
        (refusals.expired(), 403, "KeyExpired"),
        (refusals.not_yet_valid(), 403, "KeyNotYetValid"),
        (refusals.not_permitted(), 403, "KeyOperationForbidden"),
        (refusals.throttled(), 429, "Throttled"),
        (refusals.failing(500), 500, "InternalServerError"),
        (refusals.failing(503), 503, "ServiceUnavailable"),
        (refusals.failing(504), 504, "GatewayTimeout"),
    ],
    ids=str,
)
def test_refusal_affects_one_request(raw: Raw, key_vault: KeyVault, refusal: Refusal, status: int, code: str) -> None:
    """A refusal has the service's status and code, and affects one request."""
    key_vault.fail("keys/list", refusal)
    assert raw.refused("GET", "keys")[:2] == (status, code)
    assert raw.ask("GET", "keys").status_code == 200


def test_faults_affect_only_their_operation(raw: Raw, key_vault: KeyVault) -> None:
    """Faults apply only to their operation, in order, one for each request with a valid token."""
    key_vault.fail("keys/create", refusals.failing(), refusals.firewall())
    assert raw.ask("GET", "keys").status_code == 200
    assert raw.ask("POST", "keys/app/create", {"kty": "EC"}, token="").status_code == 401
    found = [raw.ask("POST", "keys/app/create", {"kty": "EC"}).status_code for _ in range(3)]
    assert found == [503, 403, 200]
    assert key_vault.calls == ["GET keys/list", *["POST keys/create"] * 3]
    assert key_vault.count("POST keys/create") == 3


def test_retry_delay_in_each_form(raw: Raw, key_vault: KeyVault) -> None:
    """Retry-After is in seconds, a date (RFC 9110, section 10.2.3), in milliseconds, or missing."""
    moment = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)
    key_vault.fail(
        "keys/list",
        refusals.throttled(7),
        refusals.throttled(moment),
        refusals.throttled(250, header="retry-after-ms"),
        refusals.throttled(),
    )
    answers = [raw.ask("GET", "keys").headers for _ in range(4)]
    assert answers[0]["Retry-After"] == "7"
    assert email.utils.parsedate_to_datetime(answers[1]["Retry-After"]) == moment
    assert answers[2]["retry-after-ms"] == "250"
    assert not [each for each in answers[2:] if "Retry-After" in each]


def test_denied_permission_is_a_missing_role(raw: Raw, key_vault: KeyVault) -> None:
    """A denied permission stays denied until it is allowed again."""
    key_vault.deny.add("keys/list")
    for _ in range(2):
        assert raw.refused("GET", "keys")[:2] == (403, "ForbiddenByRbac")
    key_vault.deny.clear()
    assert raw.ask("GET", "keys").status_code == 200


def test_every_request_can_be_disturbed(raw: Raw, key_vault: KeyVault) -> None:
    """For each request a function, which gets the required permission, decides about a fault."""
    key_vault.disturb = lambda permission: refusals.firewall() if permission == "keys/list" else None
    assert raw.refused("GET", "keys")[1] == "ForbiddenByFirewall"
    assert raw.ask("POST", "keys/app/create", {"kty": "EC"}).status_code == 200


@pytest.mark.parametrize("fault", [Drop(), Cut()], ids=["drop", "cut"])
def test_connection_ends(raw: Raw, key_vault: KeyVault, fault: Drop | Cut) -> None:
    """A connection ends before or during the response; the next request is answered."""
    key_vault.fail("keys/list", fault)
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        raw.ask("GET", "keys")
    assert raw.ask("GET", "keys").status_code == 200


def test_stalled_request_gets_its_response(raw: Raw, key_vault: KeyVault) -> None:
    """A stalled request gets its response when the vault resumes; others are served meanwhile."""
    key_vault.fail("keys/create", Stall())
    answers: list[int] = []
    thread = start(lambda: answers.append(raw.ask("POST", "keys/app/create", {"kty": "EC"}).status_code))
    with Raw(key_vault) as other:
        wait_for_call(key_vault, "POST keys/create")
        assert other.ask("GET", "keys").json()["value"] == []
    assert not answers
    key_vault.resume()
    thread.join(10)
    assert answers == [200]


def test_short_stall_ends_by_itself(raw: Raw, key_vault: KeyVault) -> None:
    """A stall may be limited to some seconds."""
    key_vault.fail("keys/list", Stall(0.01))
    assert raw.ask("GET", "keys").status_code == 200


def test_trickle_never_ends(raw: Raw, key_vault: KeyVault) -> None:
    """A byte comes now and then, so that no read ever times out."""
    key_vault.fail("keys/list", Trickle())
    with raw.ask("GET", "keys", stream=True) as answer:
        pieces = answer.iter_content(1)
        assert [next(pieces) for _ in range(3)] == [b" "] * 3
    key_vault.resume()


def test_closing_ends_stalls(key_vault: KeyVault) -> None:
    """Closing the vault ends stalled clients and threads."""
    with Raw(key_vault) as raw:
        key_vault.fail("keys/list", Stall(), Trickle())
        threads = [start(lambda: ignoring(lambda: raw.ask("GET", "keys"))) for _ in range(2)]
        for number in range(1, 3):
            wait_for_call(key_vault, "GET keys/list", number)
        key_vault.close()
        for each in threads:
            each.join(10)
            assert not each.is_alive()


def test_moved_vault_requires_a_token_from_its_new_tenant(key_vault: KeyVault) -> None:
    """401 with another tenant: the SDK requests a token from that tenant, and continues."""
    with sdk_of(key_vault) as sdk:
        keys: KeyClient = sdk.keys
        assert list(keys.list_properties_of_keys()) == []
        client_id = key_vault.authority.exchanges[-1].claims or {}
        registered = key_vault.authority.register(str(client_id["iss"]), "fabrikam.example", certificates=sdk.certified)
        key_vault.tenant = registered.tenant
        assert list(keys.list_properties_of_keys()) == []
    assert key_vault.authority.exchanges[-1].tenant == registered.tenant


def test_sdk_parses_the_refusal(key_vault: KeyVault) -> None:
    """The SDK can parse a refusal's body."""
    with sdk_of(key_vault) as sdk:
        key_vault.fail("keys/list", refusals.private_link())
        with pytest.raises(HttpResponseError) as caught:
            list(sdk.keys.list_properties_of_keys())
    assert caught.value.error is not None
    assert caught.value.error.innererror == {"code": "ForbiddenByConnection"}


def start(do: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    return thread


def ignoring(do: Callable[[], object]) -> None:
    with contextlib.suppress(requests.RequestException):
        do()


def wait_for_call(vault: KeyVault, call: str, number: int = 1) -> None:
    """Wait until the vault has received this call `number` times."""
    pause = threading.Event()
    for _ in range(1000):
        if vault.count(call) >= number:
            return
        pause.wait(0.01)
    raise AssertionError(f"{call} did not come")
