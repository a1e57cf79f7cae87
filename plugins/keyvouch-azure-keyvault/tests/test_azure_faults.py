"""What the service, the network and the log-in do wrong, and what a caller is told."""

from __future__ import annotations

import datetime as dt
import threading
import traceback
from email.utils import format_datetime

import pytest

import keyvouch
from azure_fixtures import vault  # noqa: F401 - a fixture
from azure_http import Refusal, Trickle
from azure_opened import connected, no_longer_than, opened, parsed, refused
from azure_vault import CUT, Vault, missing_role
from keyvouch.algorithms import find_algorithm
from keyvouch.errors import (
    AccessDenied,
    AlgorithmUnsupported,
    ConfigurationError,
    KeyUnusable,
    KeyvouchError,
    SecretIncorrect,
    SecretRequired,
    SessionLost,
    StoreUnavailable,
    Throttled,
)

PS256 = find_algorithm("PS256")


def too_many(**headers: str) -> Refusal:
    said = "Request was not processed because too many requests were received. Reason: VaultRequestTypeLimitReached"
    return Refusal(429, "Throttled", said, **headers)


def failing(status: int = 503) -> Refusal:
    return Refusal(status, "InternalServerError", "An internal error has occurred.")


@pytest.fixture
def uri(vault: Vault) -> str:
    if "faults" not in vault.api.keys:
        vault.make("faults")
    return vault.uri("certificate=faults")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry_After": "7"}, 7.0),
        ({"retry_after_ms": "250"}, 0.25),
        ({"x_ms_retry_after_ms": "1500"}, 1.5),
        ({}, None),
    ],
)
def test_throttled_carries_what_was_said(
    vault: Vault,
    uri: str,
    headers: dict[str, str],
    seconds: float | None,
) -> None:
    """A store raises Throttled at once, with the service's time and words."""
    with opened(uri) as key:
        vault.fail("keys/sign", too_many(**headers))
        with no_longer_than(3):
            error = refused(Throttled, lambda: key.sign(b"x", PS256, timeout=20))
    assert error.retry_after == seconds
    assert "VaultRequestTypeLimitReached" in error.message
    assert "reuse" in error.hint


def test_time_to_wait_may_be_a_date(vault: Vault, uri: str) -> None:
    """Retry-After is also a moment (RFC 9110, section 10.2.3)."""
    with opened(uri) as key:
        vault.fail(
            "keys/sign", too_many(Retry_After=format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=60)))
        )
        error = refused(Throttled, lambda: key.sign(b"x", PS256, timeout=20))
    assert error.retry_after is not None
    assert 50 < error.retry_after <= 60


def test_caller_waits_and_gets_a_signature(vault: Vault, uri: str) -> None:
    """429 in each form, 5xx and dropped connections never reach the caller while there is time."""
    with keyvouch.open_signer(uri) as signer:
        for fault in (
            too_many(Retry_After="1"),
            too_many(retry_after_ms="100"),
            too_many(),
            failing(500),
            failing(),
            CUT,
        ):
            vault.fail("keys/sign", fault)
            before = vault.count("POST keys/sign")
            assert signer.sign(b"message", "PS256", timeout=20)
            assert vault.count("POST keys/sign") == before + 2


def test_long_wait_ends_with_the_callers_time(vault: Vault, uri: str) -> None:
    """A Retry-After beyond the caller's timeout is not waited for."""
    with keyvouch.open_signer(uri) as signer:
        vault.fail("keys/sign", too_many(Retry_After="300"))
        with no_longer_than(5):
            error = refused(Throttled, lambda: signer.sign(b"message", "PS256", timeout=2))
    assert error.retry_after == 300


def test_stall_ends_with_the_callers_time(vault: Vault, uri: str) -> None:
    """A server that answers nothing is StoreUnavailable when the time is over."""
    with opened(uri) as key:
        vault.stalled.clear()
        try:
            with no_longer_than(4):
                refused(StoreUnavailable, lambda: key.sign(b"x", PS256, timeout=1))
        finally:
            vault.stalled.set()
        assert key.sign(b"x", PS256, timeout=10)


DISABLED = Refusal(403, "Forbidden", "Operation sign is not allowed on a disabled key.", "KeyDisabled")
EXPIRED = Refusal(403, "Forbidden", "Operation sign is not allowed on an expired key.", "KeyExpired")
EARLY = Refusal(403, "Forbidden", "Operation sign is not allowed on a key that is not yet valid.", "KeyNotYetValid")
FIREWALL = Refusal(
    403, "Forbidden", "Client address is not authorized and caller is not a trusted service.", "ForbiddenByFirewall"
)
PRIVATE = Refusal(403, "Forbidden", "Public network access is disabled.", "ForbiddenByConnection")
POLICY = Refusal(
    403,
    "Forbidden",
    "The user, group or application 'appid=1;oid=2' does not have keys sign permission on key vault 'contoso'.",
    "ForbiddenByPolicy",
)
OPERATION = Refusal(400, "BadParameter", "Key and signing algorithm are incompatible.")
REDIRECT = Refusal(307, "Moved", "elsewhere", Location="https://example.invalid/")


@pytest.mark.parametrize(
    ("answer", "kind", "hint"),
    [
        (missing_role("keys/sign"), AccessDenied, "az role assignment create --role"),
        (POLICY, AccessDenied, "az keyvault set-policy --name VAULT --certificate-permissions sign"),
        (FIREWALL, AccessDenied, "az keyvault network-rule add"),
        (PRIVATE, AccessDenied, "private endpoint"),
        (DISABLED, KeyUnusable, "az keyvault certificate set-attributes --enabled true"),
        (EXPIRED, KeyUnusable, "keyvouch new --further"),
        (EARLY, KeyUnusable, "Wait until then"),
        (OPERATION, AlgorithmUnsupported, "algorithm"),
        (failing(500), StoreUnavailable, "later"),
        (failing(504), StoreUnavailable, "later"),
        (REDIRECT, StoreUnavailable, "own address"),
        (CUT, StoreUnavailable, "network"),
        (Refusal(409, "Conflict", "There is a pending operation."), Throttled, "later"),
        (
            Refusal(404, "KeyNotFound", "A key with (name/id) app was not found in this key vault."),
            KeyUnusable,
            "recover",
        ),
    ],
    ids=lambda each: each.__name__ if isinstance(each, type) else None,
)
def test_each_answer_is_told(
    vault: Vault,
    uri: str,
    answer: Exception,
    kind: type[KeyvouchError],
    hint: str,
) -> None:
    """Each status and body of the service is an error of its own, that says what to do."""
    with opened(uri) as key:
        vault.fail("keys/sign", answer)
        assert hint in refused(kind, lambda: key.sign(b"x", PS256, timeout=10)).hint


def test_dead_token_is_a_lost_session(vault: Vault, uri: str) -> None:
    """401 after the SDK's own second try ends the session; the core logs in anew, and the caller sees nothing."""
    dead = Refusal(401, "Unauthorized", "AKV10005: Token validation failed.")
    with opened(uri) as key:
        vault.fail("keys/sign", dead)
        assert refused(SessionLost, lambda: key.sign(b"x", PS256, timeout=10)).performed is False
    with keyvouch.open_signer(uri) as signer:
        vault.fail("keys/sign", dead)
        assert signer.sign(b"x", "PS256", timeout=10)


def test_missing_reading_role_is_told_at_opening(vault: Vault, uri: str) -> None:
    """Who may not read certificates is told so, with the role that may."""
    vault.deny.add("certificates/list")
    try:
        error = refused(AccessDenied, lambda: keyvouch.open_signer(uri))
    finally:
        vault.deny.clear()
    assert "Key Vault Reader" in error.hint


def test_signing_needs_no_permission_to_list_or_get_keys(vault: Vault, uri: str) -> None:
    """The least a log-in needs is keys/sign, certificates/get and certificates/list."""
    vault.deny |= {"keys/list", "keys/get"}
    try:
        with keyvouch.open_signer(uri) as signer:
            assert signer.sign(b"x", "PS256")
    finally:
        vault.deny.clear()


def test_firewall_is_told_when_connecting(vault: Vault, uri: str) -> None:
    """A log-in that the firewall keeps out is no missing permission to list."""
    vault.refusal = FIREWALL
    try:
        assert "firewall" in refused(AccessDenied, lambda: keyvouch.open_signer(uri)).message
    finally:
        vault.refusal = None


def test_untrusted_server_is_a_configuration_error(vault: Vault, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS that cannot be verified says that ca-file= is to be given."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    bare = uri.replace(f"&ca-file={vault.ca_file}", "")
    assert "ca-file" in refused(ConfigurationError, lambda: keyvouch.open_signer(bare, timeout=5)).hint


def test_given_ca_wins_over_the_environments(vault: Vault, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ca-file= is trusted, whatever REQUESTS_CA_BUNDLE says."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(vault.ca_file.with_name("server.pem")))
    with keyvouch.open_signer(uri) as signer:
        assert signer.sign(b"x", "PS256")


def test_token_for_something_else_is_not_asked_for(vault: Vault, uri: str) -> None:
    """A server on this machine that demands a token for another service gets none."""
    vault.resource = "https://graph.microsoft.com"
    before = len(vault.authority.exchanges)
    other = vault.uri("certificate=faults").replace("localhost", "127.0.0.1")  # the SDK remembers each host's demand
    try:
        refused(ConfigurationError, lambda: keyvouch.open_signer(other, timeout=5))
    finally:
        vault.resource = "https://vault.azure.net"
    assert len(vault.authority.exchanges) == before


def test_absent_log_in_is_told(vault: Vault, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the environment has no credential, the hint says which variables."""
    monkeypatch.delenv("AZURE_CLIENT_CERTIFICATE_PATH")
    assert "AZURE_CLIENT_ID" in refused(SecretRequired, lambda: keyvouch.open_signer(uri, timeout=5)).hint


def test_refused_log_in_is_told(vault: Vault, uri: str) -> None:
    """What the authority refuses is told with its code."""
    certificate = vault.app.certificates[0]
    vault.app.remove_certificate(certificate)
    try:
        error = refused(SecretIncorrect, lambda: keyvouch.open_signer(uri, timeout=5))
    finally:
        vault.app.add_certificate(certificate)
    assert "AADSTS700027" in error.message


def test_authority_that_fails_is_unavailable(vault: Vault, uri: str) -> None:
    """A 503 of the authority is not told as a wrong secret."""
    vault.authority.answer_next(503, '{"error": "temporarily_unavailable"}', {"Content-Type": "application/json"})
    error = refused(StoreUnavailable, lambda: keyvouch.open_signer(uri, timeout=5))
    assert "authority" in error.message


def test_threads_share_one_token(vault: Vault, uri: str) -> None:
    """However many threads sign, the authority is asked once for a log-in."""
    with connected(uri) as store:
        before = len(vault.authority.exchanges)
        key = store.open(parsed(uri), timeout=10)
        failures: list[BaseException] = []

        def sign() -> None:
            try:
                for _ in range(5):
                    key.sign(b"x", PS256, timeout=10)
            except BaseException as error:  # noqa: BLE001 - the test tells
                failures.append(error)

        threads = [threading.Thread(target=sign) for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert not failures
    assert len(vault.authority.exchanges) == before


def test_answer_that_does_not_end_is_given_up(vault: Vault, uri: str) -> None:
    """A server that sends an octet now and then holds nobody longer than the timeout."""
    with opened(uri) as key:
        vault.fail("keys/sign", Trickle())
        with no_longer_than(4):
            refused(StoreUnavailable, lambda: key.sign(b"x", PS256, timeout=1))
        assert key.sign(b"x", PS256, timeout=10)


def test_nothing_of_the_token_is_told(vault: Vault, uri: str) -> None:
    """No error, cause or representation holds the bearer token."""
    with connected(uri) as store:
        key = store.open(parsed(uri), timeout=10)
        vault.fail("keys/sign", missing_role("keys/sign"))
        error = refused(AccessDenied, lambda: key.sign(b"x", PS256, timeout=10))
        told = "".join(traceback.format_exception(error)) + repr(store) + repr(key) + repr(vars(store))
    assert "Bearer " not in told
    assert "eyJ" not in told
