"""A signer on a store that fails: lost sessions, throttling, outages, stalls, a different key."""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from keyvouch import open_signer, open_store
from keyvouch.errors import (
    AccessDenied,
    AlgorithmUnsupported,
    KeyChanged,
    KeyNotFound,
    KeyUnusable,
    KeyvouchError,
    SecretIncorrect,
    SessionLost,
    SignatureInvalid,
    StoreUnavailable,
    Throttled,
)
from scripted_store import LONG_ENOUGH, MESSAGE, Member, Script, certify, in_threads, is_signed, new_key, until


def lost() -> SessionLost:
    return SessionLost("The session is gone.", hint="Connect again.")


# A lost session.


def test_lost_session_is_mended() -> None:
    """A signature whose session was lost is made after reconnecting and reopening the key once."""
    with Script() as script, open_signer(script.uri) as signer:
        script.drop()
        signature = signer.sign(MESSAGE, "ES256")
        assert is_signed(signer.public_key, signature, MESSAGE, "ES256")
        assert (script.count("connect"), script.count("open"), script.count("close key")) == (2, 2, 1)


def test_session_lost_while_opening() -> None:
    """If the session is lost while the key is opened, the signer recovers too."""
    with Script() as script:
        script.fail("open", lost())
        with open_signer(script.uri) as signer:
            assert is_signed(signer.public_key, signer.sign(MESSAGE, "ES256"), MESSAGE, "ES256")
        assert script.count("connect") == 2


def test_key_is_opened_again_by_its_pinned_uri() -> None:
    """After a lost session the same key is used, even if the requested URI now leads to another."""
    with Script() as script, open_signer(script.uri) as signer:
        old = script.newest.public_key
        script.rotate()
        script.drop()
        assert is_signed(old, signer.sign(MESSAGE, "ES256"), MESSAGE, "ES256")
        assert signer.uri == f"{script.uri};version=1"


def test_loss_is_mended_once_for_all_threads() -> None:
    """Eight threads that lose a session cause one login, and open the key once."""
    with Script() as script, open_signer(script.uri) as signer:
        signer.sign(MESSAGE, "ES256")
        script.drop()
        for signature in in_threads(8, lambda: signer.sign(MESSAGE, "ES256")):
            assert is_signed(signer.public_key, signature, MESSAGE, "ES256")
        assert (script.count("connect"), script.count("open")) == (2, 2)


def test_loss_is_mended_once_for_all_signers() -> None:
    """Signers that share a connection cause one login, and each opens its key."""
    with Script() as script, open_signer(script.uri) as first, open_signer(script.uri) as second:
        script.drop()
        for signer in (first, second):
            signer.sign(MESSAGE, "ES256")
        assert (script.count("connect"), script.count("open")) == (2, 4)


def test_waiting_threads_share_the_failure() -> None:
    """If the login fails, all threads that wait for it fail with it."""
    with Script() as script, open_signer(script.uri) as signer, ThreadPoolExecutor(8) as pool:
        script.drop()
        with script.held("connect") as gate:
            script.fail("connect", refused := SecretIncorrect("no"))
            signing = [pool.submit(signer.sign, MESSAGE, "ES256") for _ in range(8)]
            until(lambda: script.count("sign") == 8)
            log_in = signer._current.connection._log_in
            until(lambda: len(log_in._flights["log in"].ended._cond._waiters) == 7)  # type: ignore[attr-defined]
            gate.open()
        assert all(str(each.exception()) == str(refused) for each in signing)
        assert script.count("connect") == 2


def test_store_that_is_started_anew_is_waited_for() -> None:
    """If a store cannot be reached briefly after the loss, as during a restart, the signature is late but succeeds."""
    with Script() as script, open_signer(script.uri) as signer:
        script.drop()
        script.fail("connect", *[StoreUnavailable("Connection refused") for _ in range(3)])
        script.fail("open", StoreUnavailable("starting"))
        assert is_signed(signer.public_key, signer.sign(MESSAGE, "ES256"), MESSAGE, "ES256")
        assert script.count("connect") >= 4


@pytest.mark.parametrize("certified", [True, False])
def test_other_key_after_a_loss(certified: bool) -> None:
    """If the pinned URI leads to another key afterwards, nothing is signed: KeyChanged."""
    with Script(chain=None if certified else ()) as script, open_signer(script.uri) as signer:
        other = new_key("P-256", 1)
        script.keys["app"][0] = Member(other, (certify(other),) if certified else ())
        script.drop()
        for _ in range(2):
            with pytest.raises(KeyChanged) as caught:
                signer.sign(MESSAGE, "ES256")
            assert caught.value.uri == f"{script.uri};version=1"
        assert script.count("open") == 1 + script.count("close key")


def test_key_behind_the_certificate_changed() -> None:
    """A store that knows only the certificate cannot detect that its key changed; the signature does."""
    with Script() as script, open_signer(script.uri) as signer:
        signer.sign(MESSAGE, "ES256")
        script.newest.shown = signer.public_key
        script.newest.private_key = new_key("P-256", 1)
        script.drop()
        with pytest.raises(SignatureInvalid):
            signer.sign(MESSAGE, "ES256")


@pytest.mark.parametrize("error", [KeyNotFound("gone"), AccessDenied("no")])
def test_key_that_does_not_open_again(error: KeyvouchError) -> None:
    """An error from reopening the key reaches the caller, with the key's URI; a later call may succeed."""
    with Script() as script, open_signer(script.uri) as signer:
        script.drop()
        script.fail("open", error)
        with pytest.raises(type(error)):
            signer.sign(MESSAGE, "ES256")
        assert error.uri == signer.uri
        assert is_signed(signer.public_key, signer.sign(MESSAGE, "ES256"), MESSAGE, "ES256")


def test_session_lost_for_ever_is_unavailable() -> None:
    """At the timeout a user gets StoreUnavailable, never SessionLost; there were pauses between logins."""
    with Script() as script, open_signer(script.uri) as signer:
        script.always["sign"] = lost()
        with pytest.raises(StoreUnavailable, match="session is gone") as caught:
            signer.sign(MESSAGE, "ES256", timeout=0.5)
        assert type(caught.value) is StoreUnavailable
        assert isinstance(caught.value.__cause__, SessionLost)
        assert script.count("connect") <= 5


def test_old_key_signs_what_names_it() -> None:
    """A message that names the old certificate is signed by the old key, though it was replaced and lost meanwhile."""
    with Script() as script, open_signer(script.uri) as signer, ThreadPoolExecutor(1) as pool:
        old = script.newest.public_key
        with script.held("sign") as gate:
            signing = pool.submit(signer.sign, MESSAGE, "ES256")
            assert gate.entered.wait(LONG_ENOUGH)
            script.rotate()
            signer.reload()
            script.drop()
        assert is_signed(old, signing.result(), MESSAGE, "ES256")
        assert script.count("connect") == 2
        assert is_signed(script.newest.public_key, signer.sign(MESSAGE, "ES256"), MESSAGE, "ES256")


def test_old_key_that_is_another_signs_nothing() -> None:
    """If the old key's pinned URI now leads to another key, KeyChanged is raised."""
    with Script(chain=()) as script, open_signer(script.uri) as signer, ThreadPoolExecutor(1) as pool:
        with script.held("sign") as gate:
            signing = pool.submit(signer.sign, MESSAGE, "ES256")
            assert gate.entered.wait(LONG_ENOUGH)
            script.rotate(chain=())
            signer.reload()
            script.keys["app"][0] = Member(new_key("P-256", 2))
            script.drop()
        assert isinstance(signing.exception(), KeyChanged)


def test_recovery_in_a_storm() -> None:
    """Fifty threads sign for two seconds while connections drop: every call returns, and with valid signatures only."""
    with Script() as script, open_signer(script.uri) as signer:
        public_key, end = signer.public_key, time.monotonic() + 2

        def sign() -> int:
            number = 0
            while time.monotonic() < end:
                message = f"{threading.get_ident()} {number}".encode()
                assert is_signed(public_key, signer.sign(message, "ES256", timeout=LONG_ENOUGH), message, "ES256")
                number += 1
            return number

        def drop() -> None:
            while time.monotonic() < end:
                script.drop()
                time.sleep(0.004)

        with ThreadPoolExecutor(1) as pool:
            dropping = pool.submit(drop)
            answers = in_threads(50, sign)
            dropping.result()
        assert all(isinstance(answer, int) for answer in answers), answers
        assert script.count("connect") == signer._current.connection.generation
        assert script.count("connect") > 5


# Throttled, unavailable.


@pytest.mark.parametrize("after", [0.01, 0, None])
def test_throttled_signature_waits(after: float | None) -> None:
    """A signature waits as long as the store asks, or a second by default."""
    with Script() as script, open_signer(script.uri) as signer:
        script.fail("sign", Throttled("busy", retry_after=after))
        assert is_signed(signer.public_key, signer.sign(MESSAGE, "ES256"), MESSAGE, "ES256")
        assert (script.count("sign"), script.count("connect")) == (2, 1)


@pytest.mark.parametrize(("after", "timeout"), [(3600.0, 30.0), (None, 0.5)])
def test_throttled_beyond_the_timeout(after: float | None, timeout: float) -> None:
    """If the wait would exceed the timeout, the store's error is raised at once."""
    with Script() as script, open_signer(script.uri) as signer:
        script.fail("sign", error := Throttled("busy", retry_after=after))
        with pytest.raises(Throttled) as caught:
            signer.sign(MESSAGE, "ES256", timeout=timeout)
        assert caught.value is error
        assert script.count("sign") == 1


def test_outage_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the store is temporarily unavailable, signing is retried: after 0.1 s, doubling up to a second."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with Script() as script, open_signer(script.uri) as signer:
        script.fail("sign", *[StoreUnavailable("down") for _ in range(6)])
        assert is_signed(signer.public_key, signer.sign(MESSAGE, "ES256"), MESSAGE, "ES256")
        assert waits == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_outage_ends_with_the_timeout() -> None:
    """At the timeout the store's own error is raised, with the key's URI."""
    with Script() as script, open_signer(script.uri) as signer:
        script.always["sign"] = error = StoreUnavailable("down")
        with pytest.raises(StoreUnavailable) as caught:
            signer.sign(MESSAGE, "ES256", timeout=0.5)
        assert caught.value is error
        assert error.uri == signer.uri
        assert script.count("sign") <= 3  # at 0, 0.1 and 0.3 s; the next would be at 0.7 s


@pytest.mark.parametrize("first", [True, False])
def test_stalled_try_leaves_room(first: bool) -> None:
    """An attempt that stalls gets a third of the timeout, so that there is time for another."""

    def stall(timeout: float) -> None:
        del script.before["sign"]
        time.sleep(timeout)
        raise StoreUnavailable("no answer in time")

    with Script() as script, open_signer(script.uri) as signer:
        if not first:
            signer.sign(MESSAGE, "ES256")
        script.before["sign"] = stall
        assert is_signed(signer.public_key, signer.sign(MESSAGE, "ES256", timeout=3), MESSAGE, "ES256")
        assert all(0 < given <= 1 for given in script.timeouts("sign")[-2:])


@pytest.mark.parametrize("timeout", [0.2, 0.9])
def test_try_never_exceeds_the_timeout(timeout: float) -> None:
    """An attempt gets at least a second, but never more than the caller's timeout."""
    with Script() as script, open_signer(script.uri) as signer:
        for _ in range(2):  # the first signature, and a later one
            signer.sign(MESSAGE, "ES256", timeout=timeout)
        assert all(given <= timeout for given in script.timeouts("sign"))


@pytest.mark.parametrize("error", [AccessDenied("no"), KeyUnusable("disabled")])
def test_other_errors_are_raised_at_once(error: Exception) -> None:
    """Permanent errors are not retried."""
    with Script() as script, open_signer(script.uri) as signer:
        script.fail("sign", error)
        with pytest.raises(type(error)) as caught:
            signer.sign(MESSAGE, "ES256")
        assert caught.value is error
        assert script.count("sign") == 1


def test_open_fails_at_once() -> None:
    """If the store is unavailable when the key is opened, it fails at once: the address may be wrong."""
    with Script() as script:
        script.fail("connect", StoreUnavailable("no such host"))
        with pytest.raises(StoreUnavailable) as caught:
            open_signer(script.uri)
        assert caught.value.uri == script.uri
        assert (script.count("connect"), script.count("close")) == (1, 0)


def test_throttled_open_waits() -> None:
    """A store that asks to wait while the key is opened gets that wait."""
    with Script() as script:
        script.fail("connect", Throttled("busy", retry_after=0.01))
        script.fail("open", Throttled("busy", retry_after=0.01))
        with open_signer(script.uri):
            assert (script.count("connect"), script.count("open")) == (2, 2)


def test_first_signature_after_trouble_is_verified() -> None:
    """The first signature is verified even if it took a second attempt."""
    with Script() as script, open_signer(script.uri) as signer:
        script.fail("sign", StoreUnavailable("down"))
        script.signing = lambda key, message, algorithm: b"nonsense"
        with pytest.raises(SignatureInvalid):
            signer.sign(MESSAGE, "ES256")


def test_fallback_stays_within_the_timeout() -> None:
    """PS256 and RS256 together stay within the caller's timeout: the second gets what the first left."""

    def refuse_late(timeout: float) -> None:
        del script.before["sign"]
        time.sleep(0.6)
        raise AlgorithmUnsupported("no PSS here")

    with Script("RSA-2048") as script, open_signer(script.uri) as signer:
        script.before["sign"] = refuse_late
        signer.sign_negotiated(lambda *_: MESSAGE, timeout=1)
        assert script.timeouts("sign")[1] <= 0.4


def test_mended_signature_leaves_one_record(caplog: pytest.LogCaptureFixture) -> None:
    """However many attempts it took, a signature leaves one audit record."""
    caplog.set_level(logging.INFO, "keyvouch.audit")
    with Script() as script, open_signer(script.uri) as signer:
        script.drop()
        script.fail("sign", StoreUnavailable("down"))
        signer.sign(MESSAGE, "ES256")
    assert [json.loads(message)["outcome"] for message in caplog.messages] == ["signed"]


def test_closed_while_the_session_is_lost() -> None:
    """If the signer is closed while a signature reconnects, closing waits, and nothing stays open."""
    with Script() as script, ThreadPoolExecutor(2) as pool:
        signer = open_signer(script.uri)
        script.drop()
        with script.held("connect") as gate:
            signing = pool.submit(signer.sign, MESSAGE, "ES256")
            assert gate.entered.wait(LONG_ENOUGH)
            closing = pool.submit(signer.close)
            until(lambda: signer._current.closed)
            gate.open()
        closing.result()
        assert is_signed(signer.public_key, signing.result(), MESSAGE, "ES256")
        assert script.count("open") == script.count("close key")
        assert script.count("close") == 1


# Interrupts.


class Interrupted(Exception):
    """Raised by the signal handler."""


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="there is no such signal on Windows")
def test_interrupt_while_a_key_is_closed_is_not_swallowed() -> None:
    """An exception from the program's signal handler while a store closes a key reaches the program."""

    def interrupt(*_: object) -> None:
        raise Interrupted

    former = signal.signal(signal.SIGALRM, interrupt)
    try:
        with Script() as script, open_signer(script.uri) as signer:
            script.before["close key"] = lambda _: signal.raise_signal(signal.SIGALRM)
            with pytest.raises(Interrupted):
                signer.reload()
            del script.before["close key"]
            assert is_signed(signer.public_key, signer.sign(MESSAGE, "ES256"), MESSAGE, "ES256")
    finally:
        signal.signal(signal.SIGALRM, former)


def test_kept_exception_keeps_nothing_in_use() -> None:
    """An exception that a library caught and keeps, with all its frames, does not delay closing."""
    kept: list[Exception] = []

    def keep(_: float) -> None:
        try:
            raise KeyError  # noqa: TRY301
        except KeyError as error:
            kept.append(error)

    with Script() as script:
        signer, store = open_signer(script.able_uri), open_store(script.able_uri)
        for step in ("connect", "open", "sign", "readers"):
            script.before[step] = keep
        signer.sign(MESSAGE, "ES256")
        script.drop()
        signer.sign_negotiated(lambda *_: MESSAGE)
        store.readers()
        signer._current.opened.retire()
        store._use.end()
        assert len(kept) >= 5
        assert signer._current.opened.use.has_ended
        assert store._use.has_ended
        signer.close()
        store.close()
