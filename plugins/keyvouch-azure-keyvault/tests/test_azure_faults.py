"""Faults of the service, the network and the login, and the errors that callers get."""

from __future__ import annotations

import datetime as dt
import threading
import traceback
from pathlib import Path

import pytest

import keyvouch
from azure_fixtures import vault  # noqa: F401 - a fixture
from azure_simulator import Vault
from bare_azure_store import assert_raises, connected_store, no_longer_than, opened_key, parse_uri
from keyvouch.algorithms import find_algorithm
from keyvouch.errors import (
    AccessDenied,
    ConfigurationError,
    SessionLost,
    StoreUnavailable,
    Throttled,
)
from keyvouch.testing.authority.tls import make_context
from keyvouch_azure_keyvault.testing import Cut, Drop, Fault, Refusal, Stall, Trickle, refusals
from servers.drips import DRIPS, dripping

PS256 = find_algorithm("PS256")


@pytest.fixture
def uri(vault: Vault) -> str:
    if "faults" not in vault.keys:
        vault.make("faults")
    return vault.uri("certificate=faults")


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (refusals.throttled(7), 7.0),
        (refusals.throttled(250, header="retry-after-ms"), 0.25),
        (refusals.throttled(1500, header="x-ms-retry-after-ms"), 1.5),
        (refusals.throttled(), None),
    ],
)
def test_throttled_has_the_services_delay_and_text(
    vault: Vault,
    uri: str,
    answer: Refusal,
    seconds: float | None,
) -> None:
    """A store raises Throttled immediately, with the service's waiting time and text."""
    with opened_key(uri) as key:
        vault.fail("keys/sign", answer)
        with no_longer_than(3):
            error = assert_raises(Throttled, lambda: key.sign(b"x", PS256, timeout=20))
    assert error.retry_after == seconds
    assert "VaultRequestTypeLimitReached" in error.message
    assert "reuse" in error.hint


def test_retry_after_may_be_a_date(vault: Vault, uri: str) -> None:
    """Retry-After can also be a date (RFC 9110, section 10.2.3)."""
    with opened_key(uri) as key:
        vault.fail("keys/sign", refusals.throttled(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=60)))
        error = assert_raises(Throttled, lambda: key.sign(b"x", PS256, timeout=20))
    assert error.retry_after is not None
    assert 50 < error.retry_after <= 60


def test_caller_waits_and_gets_a_signature(vault: Vault, uri: str) -> None:
    """429 in each form, 5xx and dropped connections do not reach the caller before the timeout."""
    with keyvouch.open_signer(uri) as signer:
        failures: tuple[Refusal | Fault, ...] = (
            refusals.throttled(1),
            refusals.throttled(100, header="retry-after-ms"),
            refusals.throttled(),
            refusals.failing(500),
            refusals.failing(),
            Drop(),
            Cut(),
        )
        for failure in failures:
            vault.fail("keys/sign", failure)
            before = vault.count("POST keys/sign")
            assert signer.sign(b"message", "PS256", timeout=20)
            assert vault.count("POST keys/sign") == before + 2


def test_long_wait_ends_at_the_timeout(vault: Vault, uri: str) -> None:
    """The caller does not wait for a Retry-After beyond its timeout."""
    with keyvouch.open_signer(uri) as signer:
        vault.fail("keys/sign", refusals.throttled(300))
        with no_longer_than(5):
            error = assert_raises(Throttled, lambda: signer.sign(b"message", "PS256", timeout=2))
    assert error.retry_after == 300


def test_stall_ends_at_the_timeout(vault: Vault, uri: str) -> None:
    """A server that does not respond is StoreUnavailable when the timeout expires."""
    with opened_key(uri) as key:
        vault.fail("keys/sign", Stall())
        with no_longer_than(4):
            assert_raises(StoreUnavailable, lambda: key.sign(b"x", PS256, timeout=1))
        vault.resume()
        assert key.sign(b"x", PS256, timeout=10)


@pytest.mark.parametrize("dripping_server", ["vault", "authority"])
@pytest.mark.parametrize("drip", DRIPS)
def test_drip_ends_at_the_timeout(
    vault: Vault, uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, drip: str, dripping_server: str
) -> None:
    """No part of a response outlasts the timeout for opening, whether from the vault or from the authority."""
    context, ca_file = make_context(tmp_path)
    both = tmp_path / "both.pem"
    both.write_bytes(ca_file.read_bytes() + Path(vault.ca_file).read_bytes())
    uri = uri.replace(str(vault.ca_file), str(both))
    with dripping(drip, context) as server:
        address = f"https://localhost:{server.port}"
        if dripping_server == "vault":
            uri = uri.replace(vault.address, address)
        else:
            monkeypatch.setenv("AZURE_AUTHORITY_HOST", address)
        with no_longer_than(5), pytest.raises(StoreUnavailable):
            keyvouch.open_signer(uri, timeout=1)
        assert server.asked


def test_refused_token_is_session_lost(vault: Vault, uri: str) -> None:
    """401 after the SDK's own retry ends the session, without a signature."""
    with opened_key(uri) as key:
        vault.fail("keys/sign", vault.unauthorised(), vault.unauthorised())
        assert assert_raises(SessionLost, lambda: key.sign(b"x", PS256, timeout=10)).performed is False


def test_missing_reader_role_when_opening(vault: Vault, uri: str) -> None:
    """If the login may not read certificates, the hint names the role that may."""
    vault.deny.add("certificates/list")
    try:
        error = assert_raises(AccessDenied, lambda: keyvouch.open_signer(uri))
    finally:
        vault.deny.clear()
    assert "Key Vault Reader" in error.hint


def test_signing_needs_no_permission_to_list_or_get_keys(vault: Vault, uri: str) -> None:
    """A login needs only keys/sign, certificates/get and certificates/list."""
    vault.deny |= {"keys/list", "keys/get"}
    try:
        with keyvouch.open_signer(uri) as signer:
            assert signer.sign(b"x", "PS256")
    finally:
        vault.deny.clear()


def test_ca_file_overrides_the_environment(vault: Vault, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ca-file= is trusted, whatever the value of REQUESTS_CA_BUNDLE."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(vault.authority.ca_file))
    with keyvouch.open_signer(uri) as signer:
        assert signer.sign(b"x", "PS256")


def test_token_for_another_service_is_not_requested(vault: Vault, uri: str) -> None:
    """A server on this machine that requests a token for another service gets none."""
    vault.resource = "https://graph.microsoft.com"
    before = len(vault.authority.exchanges)
    other = vault.uri("certificate=faults").replace("localhost", "127.0.0.1")  # the SDK remembers each host's challenge
    try:
        assert_raises(ConfigurationError, lambda: keyvouch.open_signer(other, timeout=5))
    finally:
        vault.resource = "https://vault.azure.net"
    assert len(vault.authority.exchanges) == before


def test_failing_authority_is_unavailable(vault: Vault, uri: str) -> None:
    """A 503 from the authority is not reported as a wrong secret."""
    vault.authority.answer_next(503, '{"error": "temporarily_unavailable"}', {"Content-Type": "application/json"})
    error = assert_raises(StoreUnavailable, lambda: keyvouch.open_signer(uri, timeout=5))
    assert "authority" in error.message


def test_threads_share_one_token(vault: Vault, uri: str) -> None:
    """However many threads sign, a login sends one request to the authority."""
    with connected_store(uri) as store:
        before = len(vault.authority.exchanges)
        key = store.open(parse_uri(uri), timeout=10)
        failures: list[BaseException] = []

        def sign() -> None:
            try:
                for _ in range(5):
                    key.sign(b"x", PS256, timeout=10)
            except BaseException as error:  # noqa: BLE001 - the test reports it
                failures.append(error)

        threads = [threading.Thread(target=sign) for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert not failures
    assert len(vault.authority.exchanges) == before


def test_endless_response_ends_at_the_timeout(vault: Vault, uri: str) -> None:
    """A server that sends a byte now and then cannot delay a caller beyond the timeout."""
    with opened_key(uri) as key:
        vault.fail("keys/sign", Trickle())
        with no_longer_than(4):
            assert_raises(StoreUnavailable, lambda: key.sign(b"x", PS256, timeout=1))
        assert key.sign(b"x", PS256, timeout=10)


def test_errors_do_not_contain_the_token(vault: Vault, uri: str) -> None:
    """No error, cause or representation contains the bearer token."""
    with connected_store(uri) as store:
        key = store.open(parse_uri(uri), timeout=10)
        vault.fail("keys/sign", refusals.missing_role("keys/sign"))
        error = assert_raises(AccessDenied, lambda: key.sign(b"x", PS256, timeout=10))
        text = "".join(traceback.format_exception(error)) + repr(store) + repr(key) + repr(vars(store))
    assert "Bearer " not in text
    assert "eyJ" not in text
