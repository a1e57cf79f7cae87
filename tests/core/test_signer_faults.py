"""A signer over a store that fails: lost sessions, throttling, outages, stalls, another key."""

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
    """A signature whose session was lost is made after connecting and opening the key once more."""
    with Script() as script, open_signer(script.uri) as signer:
        script.drop()
        signature = signer.sign(MESSAGE, "ES256")
        assert is_signed(signer.public_key, signature, MESSAGE, "ES256")
        assert (script.count("connect"), script.count("open"), script.count("close key")) == (2, 2, 1)


def test_session_lost_while_opening() -> None:
    """A session that is lost while the key is opened is mended too."""
    with Script() as script:
        script.fail("open", lost())
        with open_signer(script.uri) as signer:
            assert is_signed(signer.public_key, signer.sign(MESSAGE, "ES256"), MESSAGE, "ES256")
        assert script.count("connect") == 2


def test_key_is_opened_again_by_its_pinned_uri() -> None:
    """After a lost session it is the same key, even where the requested URI leads to another by now."""
    with Script() as script, open_signer(script.uri) as signer:
        old = script.newest.public_key
        script.rotate()
        script.drop()
        assert is_signed(old, signer.sign(MESSAGE, "ES256"), MESSAGE, "ES256")
        assert signer.uri == f"{script.uri};version=1"


def test_loss_is_mended_once_for_all_threads() -> None:
    """Eight threads that lose a session make one log-in, and open the key once."""
    with Script() as script, open_signer(script.uri) as signer:
        signer.sign(MESSAGE, "ES256")
        script.drop()
        for signature in in_threads(8, lambda: signer.sign(MESSAGE, "ES256")):
            assert is_signed(signer.public_key, signature, MESSAGE, "ES256")
        assert (script.count("connect"), script.count("open")) == (2, 2)


def test_loss_is_mended_once_for_all_signers() -> None:
    """Signers that share a connection make one log-in, and each opens its key."""
    with Script() as script, open_signer(script.uri) as first, open_signer(script.uri) as second:
        script.drop()
        for signer in (first, second):
            signer.sign(MESSAGE, "ES256")
        assert (script.count("connect"), script.count("open")) == (2, 4)


def test_waiting_threads_share_the_failure() -> None:
    """Where the log-in fails, those that wait for it fail with it."""
    with Script() as script, open_signer(script.uri) as signer, ThreadPoolExecutor(8) as pool:
        script.drop()
        with script.held("connect") as gate:
            script.fail("connect", refused := SecretIncorrect("no"))
            signing = [pool.submit(signer.sign, MESSAGE, "ES256") for _ in range(8)]
            until(lambda: script.count("sign") == 8)
            log_in = signer._connection._log_in
            until(lambda: len(log_in._flights["log in"].ended._cond._waiters) == 7)  # type: ignore[attr-defined]
            gate.open()
        assert all(str(each.exception()) == str(refused) for each in signing)
        assert script.count("connect") == 2


def test_store_that_is_started_anew_is_waited_for() -> None:
    """A store that cannot be reached for a moment after the loss, as while it restarts, costs time and no signature."""
    with Script() as script, open_signer(script.uri) as signer:
        script.drop()
        script.fail("connect", *[StoreUnavailable("Connection refused") for _ in range(3)])
        script.fail("open", StoreUnavailable("starting"))
        assert is_signed(signer.public_key, signer.sign(MESSAGE, "ES256"), MESSAGE, "ES256")
        assert script.count("connect") >= 4


@pytest.mark.parametrize("certified", [True, False])
def test_other_key_after_a_loss(certified: bool) -> None:
    """Where another key stands at the pinned URI afterwards, nothing is signed: KeyChanged."""
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
    """A store that knows only the certificate cannot tell that the key behind it is another: the signature does."""
    with Script() as script, open_signer(script.uri) as signer:
        signer.sign(MESSAGE, "ES256")
        script.newest.shown = signer.public_key
        script.newest.private_key = new_key("P-256", 1)
        script.drop()
        with pytest.raises(SignatureInvalid):
            signer.sign(MESSAGE, "ES256")


@pytest.mark.parametrize("error", [KeyNotFound("gone"), AccessDenied("no")])
def test_key_that_does_not_open_again(error: KeyvouchError) -> None:
    """What opening the key again raises reaches the caller, with the key's URI; later it may work again."""
    with Script() as script, open_signer(script.uri) as signer:
        script.drop()
        script.fail("open", error)
        with pytest.raises(type(error)):
            signer.sign(MESSAGE, "ES256")
        assert error.uri == signer.uri
        assert is_signed(signer.public_key, signer.sign(MESSAGE, "ES256"), MESSAGE, "ES256")


def test_session_lost_for_ever_is_unavailable() -> None:
    """At the end of the timeout a user sees StoreUnavailable, never SessionLost; log-ins were paused."""
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
    """When the old key's pinned URI leads to another key by then, it is KeyChanged."""
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
    """Fifty threads sign for two seconds while the connection drops: all are answered, with good signatures only."""
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
        assert script.count("connect") == signer._connection.generation
        assert script.count("connect") > 5


# Throttled, unavailable.


@pytest.mark.parametrize("after", [0.01, 0, None])
def test_throttled_signature_waits(after: float | None) -> None:
    """A store that asks to wait is waited for: as it says, else a second."""
    with Script() as script, open_signer(script.uri) as signer:
        script.fail("sign", Throttled("busy", retry_after=after))
        assert is_signed(signer.public_key, signer.sign(MESSAGE, "ES256"), MESSAGE, "ES256")
        assert (script.count("sign"), script.count("connect")) == (2, 1)


@pytest.mark.parametrize(("after", "timeout"), [(3600.0, 30.0), (None, 0.5)])
def test_throttled_beyond_the_timeout(after: float | None, timeout: float) -> None:
    """Where the wait would be longer than the timeout, the store's error comes at once."""
    with Script() as script, open_signer(script.uri) as signer:
        script.fail("sign", error := Throttled("busy", retry_after=after))
        with pytest.raises(Throttled) as caught:
            signer.sign(MESSAGE, "ES256", timeout=timeout)
        assert caught.value is error
        assert script.count("sign") == 1


def test_outage_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signature that the store could not make just then is tried again: after 0.1 s, doubling up to a second."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with Script() as script, open_signer(script.uri) as signer:
        script.fail("sign", *[StoreUnavailable("down") for _ in range(6)])
        assert is_signed(signer.public_key, signer.sign(MESSAGE, "ES256"), MESSAGE, "ES256")
        assert waits == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_outage_ends_with_the_timeout() -> None:
    """At the end of the timeout the store's own error is raised, with the key's URI."""
    with Script() as script, open_signer(script.uri) as signer:
        script.always["sign"] = error = StoreUnavailable("down")
        with pytest.raises(StoreUnavailable) as caught:
            signer.sign(MESSAGE, "ES256", timeout=0.5)
        assert caught.value is error
        assert error.uri == signer.uri
        assert script.count("sign") <= 3  # at 0, 0.1 and 0.3 s; the next would be at 0.7 s


@pytest.mark.parametrize("first", [True, False])
def test_stalled_try_leaves_room(first: bool) -> None:
    """A try that stalls is given a third of the timeout, so that another finds its time."""

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
    """A try is given at least a second, but never more than the caller's timeout."""
    with Script() as script, open_signer(script.uri) as signer:
        for _ in range(2):  # the first signature, and a later one
            signer.sign(MESSAGE, "ES256", timeout=timeout)
        assert all(given <= timeout for given in script.timeouts("sign"))


@pytest.mark.parametrize("error", [AccessDenied("no"), KeyUnusable("disabled")])
def test_other_errors_are_raised_at_once(error: Exception) -> None:
    """What will not heal by itself is not tried again."""
    with Script() as script, open_signer(script.uri) as signer:
        script.fail("sign", error)
        with pytest.raises(type(error)) as caught:
            signer.sign(MESSAGE, "ES256")
        assert caught.value is error
        assert script.count("sign") == 1


def test_open_fails_at_once() -> None:
    """A store that is not there when the key is opened fails at once: the address may be wrong."""
    with Script() as script:
        script.fail("connect", StoreUnavailable("no such host"))
        with pytest.raises(StoreUnavailable) as caught:
            open_signer(script.uri)
        assert caught.value.uri == script.uri
        assert (script.count("connect"), script.count("close")) == (1, 0)


def test_throttled_open_waits() -> None:
    """A store that asks to wait while the key is opened is waited for."""
    with Script() as script:
        script.fail("connect", Throttled("busy", retry_after=0.01))
        script.fail("open", Throttled("busy", retry_after=0.01))
        with open_signer(script.uri):
            assert (script.count("connect"), script.count("open")) == (2, 2)


def test_first_signature_after_trouble_is_verified() -> None:
    """The first signature is verified although it came at the second try."""
    with Script() as script, open_signer(script.uri) as signer:
        script.fail("sign", StoreUnavailable("down"))
        script.signing = lambda key, message, algorithm: b"nonsense"
        with pytest.raises(SignatureInvalid):
            signer.sign(MESSAGE, "ES256")


def test_fallback_stays_within_the_timeout() -> None:
    """PS256 and RS256 together take no longer than the caller's timeout: the second gets what the first left."""

    def refuse_late(timeout: float) -> None:
        del script.before["sign"]
        time.sleep(0.6)
        raise AlgorithmUnsupported("no PSS here")

    with Script("RSA-2048") as script, open_signer(script.uri) as signer:
        script.before["sign"] = refuse_late
        signer.sign_negotiated(lambda *_: MESSAGE, timeout=1)
        assert script.timeouts("sign")[1] <= 0.4


def test_mended_signature_leaves_one_record(caplog: pytest.LogCaptureFixture) -> None:
    """However many tries it took, a signature leaves one audit record."""
    caplog.set_level(logging.INFO, "keyvouch.audit")
    with Script() as script, open_signer(script.uri) as signer:
        script.drop()
        script.fail("sign", StoreUnavailable("down"))
        signer.sign(MESSAGE, "ES256")
    assert [json.loads(message)["outcome"] for message in caplog.messages] == ["signed"]


def test_closed_while_the_session_is_lost() -> None:
    """A signature that mends its session while the signer is closed is waited for, and leaves nothing open."""
    with Script() as script, ThreadPoolExecutor(2) as pool:
        signer = open_signer(script.uri)
        script.drop()
        with script.held("connect") as gate:
            signing = pool.submit(signer.sign, MESSAGE, "ES256")
            assert gate.entered.wait(LONG_ENOUGH)
            closing = pool.submit(signer.close)
            until(lambda: signer._closed)
            gate.open()
        closing.result()
        assert is_signed(signer.public_key, signing.result(), MESSAGE, "ES256")
        assert script.count("open") == script.count("close key")
        assert script.count("close") == 1


# Interrupts.


class Interrupted(Exception):
    """What the handler of a signal raises."""


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="there is no such signal on Windows")
def test_interrupt_while_a_key_is_closed_is_not_swallowed() -> None:
    """What the program's signal handler raises while a store closes a key reaches the program."""

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
    """An exception that a library caught and keeps, and with it all frames above, does not hold up closing."""
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
        signer._opened.retire()
        store._use.end()
        assert len(kept) >= 5
        assert signer._opened.use.over
        assert store._use.over
        signer.close()
        store.close()
