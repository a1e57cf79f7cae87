"""What can be sent as a token, what a token endpoint may return, and which thread renews a token."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings

import malformed
from keyvouch.errors import SecretIncorrect, StoreUnavailable
from keyvouch.tokens import TokenRenewal, describe_flaw, is_token, require_token

GOOD = {"access_token": "a.b.c", "expires_in": 3599}


@pytest.mark.parametrize("value", ["a", "a.b-c_d~e+f/g==", "!~"])
def test_tokens(value: str) -> None:
    """Any printable ASCII text is accepted."""
    assert is_token(value)
    require_token(value, "token", "env:TOKEN")


@pytest.mark.parametrize(
    "value", ["", " ", "a b", "a\n", "\na", "a\r", "a\0", "a\x7f", "\u00e9", "\u20ac", None, 5, b"a", []]
)
def test_invalid_tokens(value: object) -> None:
    """Spaces, control characters, non-ASCII letters and values that are not text are refused."""
    assert not is_token(value)


def test_error_names_the_reference_only() -> None:
    """The value is in neither the error nor its causes."""
    with pytest.raises(SecretIncorrect, match="The token from env:TOKEN") as caught:
        require_token("marker\n", "token", "env:TOKEN")
    assert "marker" not in f"{caught.value!r}{caught.value}"
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"expires_in": "3599", "ext_expires_in": 0, "refresh_in": "1", "expires_on": "06/20/2017 02:57:58 +00:00"},
        {"refresh_token": None, "id_token": None, "error": {"code": 5}, "unknown": [[]]},
        {"issuer": "https://i", "token_endpoint": "https://t", "metadata": []},
    ],
)
def test_valid_responses(changes: dict[str, object]) -> None:
    """Numbers may be strings, as old servers send them; unused fields may be anything."""
    assert describe_flaw(json.dumps(GOOD | changes).encode()) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"access_token": 5},
        {"access_token": "a\nb"},
        {"access_token": ""},
        {"expires_in": -1},
        {"expires_in": 10**10},
        {"expires_in": "-1"},
        {"expires_in": "10000000000"},
        {"expires_in": "5 "},
        {"expires_in": 1.5},
        {"expires_in": None},
        {"expires_in": True},
        {"expires_on": -1},
        {"expires_on": 10**12},
        {"expires_on": "9" * 41},
        {"scope": None},
        {"scope": []},
        {"token_endpoint": 5},
        {"metadata": [5]},
    ],
)
def test_invalid_responses(changes: dict[str, object]) -> None:
    """The error says what is wrong, without the value."""
    flaw = describe_flaw(json.dumps(GOOD | changes).encode())
    assert flaw
    assert "\n" not in flaw


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"5", b"{", b"\xff", b"NaN", b"[" * 10_000, b'{"expires_in": NaN}']
)
def test_bodies_that_are_not_json_objects(body: bytes) -> None:
    """A body that is not JSON, or not an object, is refused."""
    assert describe_flaw(body)


@settings(max_examples=100, deadline=None)
@given(body=malformed.fuzzed(("access_token", "expires_in", "scope", "metadata", "token_endpoint")))
def test_arbitrary_json(body: bytes) -> None:
    """Any JSON is either valid or gives an error text."""
    assert describe_flaw(body) != ""


class Owner:
    """Has a token that is due for renewal after 10 seconds and expires after 20, and a clock that tests set."""

    def __init__(self) -> None:
        self.now = 100.0
        self.renewals = 0
        self.error: Exception | None = None
        self.renewal = TokenRenewal(retry_after=3, clock=lambda: self.now)

    def renew(self) -> None:
        self.renewals += 1
        if self.error:
            raise self.error
        self.renewal.schedule(self.now + 10, self.now + 20)

    def use_token(self) -> None:
        self.renewal.renew_if_due(self.renew, timeout=30, errors=(ValueError,))


def test_token_is_renewed_when_due() -> None:
    """The first use fetches a token; the next renewal is at the scheduled time."""
    owner = Owner()
    for now, renewals in ((100.0, 1), (109.9, 1), (110.0, 2), (119.9, 2), (135.0, 3)):
        owner.now = now
        owner.use_token()
        assert owner.renewals == renewals


def test_failed_renewal_is_tried_again_later() -> None:
    """While the token is valid, a failure only delays the renewal; once it has expired, it is raised."""
    owner = Owner()
    owner.use_token()
    owner.error = ValueError("not now")
    for now, renewals in ((110.0, 2), (112.9, 2), (113.0, 3), (117.0, 4)):
        owner.now = now
        owner.use_token()
        assert owner.renewals == renewals
    owner.now = 120.0
    with pytest.raises(ValueError, match="not now"):
        owner.use_token()
    owner.error = None
    owner.use_token()
    assert not owner.renewal.expired


def test_other_errors_of_a_renewal_propagate() -> None:
    """An exception that is not in `errors`, such as a signal handler's, reaches the caller at once."""
    owner = Owner()
    owner.use_token()
    owner.now, owner.error = 110.0, RuntimeError("from a signal handler")
    with pytest.raises(RuntimeError):
        owner.use_token()


def test_one_thread_renews_a_valid_token() -> None:
    """The others use the valid token; if it has expired, they wait for the renewal, or until their timeout."""
    owner = Owner()
    owner.use_token()
    started, proceed = threading.Event(), threading.Event()

    def slow() -> None:
        started.set()
        assert proceed.wait(30)
        owner.renew()

    def start_slow_renewal() -> None:
        owner.renewal.renew_if_due(slow, timeout=30, errors=())

    owner.now = 110.0
    with ThreadPoolExecutor(2) as threads:
        renewing = threads.submit(start_slow_renewal)
        assert started.wait(30)
        owner.use_token()  # does not wait
        owner.now = 120.0
        with pytest.raises(StoreUnavailable, match="Timed out"):
            owner.renewal.renew_if_due(owner.renew, timeout=0, errors=())
        waiting = threads.submit(owner.use_token)
        proceed.set()
        renewing.result(30)
        waiting.result(30)
    assert owner.renewals == 2
