"""The stores of a process: shared, counted, connected by one thread, closed by the last user."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from keyvouch._core import connections, opening, registry
from keyvouch._core.connections import Connection, acquire, release
from keyvouch._core.retries import Backoff, Deadline
from keyvouch.errors import (
    ConfigurationError,
    KeyNotFound,
    KeyvouchError,
    SessionLost,
    StoreUnavailable,
    Throttled,
)
from keyvouch.secrets import SecretResolver
from scripted_store import LONG_ENOUGH, Script, ScriptedStore, in_threads, until


def acquire_for(uri: str, secrets: SecretResolver | None = None) -> Connection:
    parsed = opening.parse(uri)
    return acquire(parsed, secrets or SecretResolver())


def connected(script: Script) -> Connection:
    connection = acquire_for(script.uri)
    connection.connect(Deadline(LONG_ENOUGH))
    return connection


def waiting_to_connect(connection: Connection) -> int:
    """The number of threads waiting for the one that connects."""
    flight = connection._log_in._flights.get("log in")
    return len(flight.ended._cond._waiters) if flight else 0  # type: ignore[attr-defined]


# Sharing and counting.


def test_equal_connections_share_a_store() -> None:
    """URIs that agree in the connection attributes share one KeyStore, whatever their key and query."""
    with Script() as script:
        first, second = acquire_for(script.uri), acquire_for(f"scripted:server={script.number};key=other?speed=1")
        assert first is second
        release(first)
        release(second)
    assert script.count("init") == 1


@pytest.mark.parametrize("query", ["?account=a", "?pin=env:PIN"])
def test_other_connections_get_their_own(query: str) -> None:
    """A URI that differs in a connection attribute gets another KeyStore."""
    with Script() as script:
        first, second = acquire_for(script.uri), acquire_for(script.uri + query)
        assert first.store is not second.store
        release(first)
        release(second)


@pytest.mark.parametrize("rule", ["interactive", "any_reader", "commands"])
def test_other_secret_rules_get_their_own(rule: str) -> None:
    """A caller with more permissions for secrets does not share a connection with one that has fewer."""
    rules: dict[str, Any] = {rule: True}
    with Script() as script:
        first, second = acquire_for(script.uri), acquire_for(script.uri, SecretResolver(**rules))
        assert first is not second
        release(first)
        release(second)


def test_last_one_out_closes() -> None:
    """A store is closed once, when its last user releases it."""
    with Script() as script:
        first, second = connected(script), connected(script)
        release(first)
        assert script.count("close") == 0
        release(second)
        assert script.count("close") == 1


def test_opener_after_the_last_gets_a_new_one() -> None:
    """A store that was closed is not handed out again."""
    with Script() as script:
        release(connected(script))
        release(connected(script))
        assert (script.count("init"), script.count("close")) == (2, 2)


def test_unconnected_store_is_not_closed() -> None:
    """A store that never connected is not closed."""
    with Script() as script:
        release(acquire_for(script.uri))
        assert script.count("close") == 0


def test_store_that_refuses_leaves_nothing() -> None:
    """A KeyStore whose `__init__` raises is not kept."""
    with Script() as script:
        script.fail("init", ConfigurationError("no"))
        with pytest.raises(ConfigurationError):
            acquire_for(script.uri)
        release(acquire_for(script.uri))


# Closing.


def test_opener_waits_for_closing() -> None:
    """While a store is being closed, none is created beside it: an opener waits, then gets its own."""
    with Script() as script, ThreadPoolExecutor(2) as pool, script.held("close") as gate:
        closer = pool.submit(release, connected(script))
        assert gate.entered.wait(LONG_ENOUGH)
        opener = pool.submit(acquire_for, script.uri)
        until(lambda: connections._open.changed._waiters)  # type: ignore[attr-defined]
        assert script.count("init") == 1
        gate.open()
        closer.result()
        release(opener.result())
        assert script.count("init") == 2


def test_opener_gives_up_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """An opener does not wait forever for a store that does not close."""
    monkeypatch.setattr(connections, "_OPENER_WAITS", 0.01)
    with Script() as script, ThreadPoolExecutor(1) as pool, script.held("close") as gate:
        closer = pool.submit(release, connected(script))
        assert gate.entered.wait(LONG_ENOUGH)
        with pytest.raises(StoreUnavailable, match="waiting for the store to close"):
            acquire_for(script.uri)
        gate.open()
        closer.result()


def test_hanging_close_is_left_behind(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A store that does not close in time is abandoned with one log line, and the next opener gets a new one."""
    monkeypatch.setattr(connections, "CLOSING_TIMEOUT", 0.01)
    with Script() as script, script.held("close"):
        release(connected(script))
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        connection = acquire_for(script.uri)
        assert script.count("init") == 2
        release(connection)


def test_failing_close_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A store that raises while closing, against the contract, affects nobody."""
    with Script() as script:
        script.fail("close", RuntimeError("what the module said"))
        release(connected(script))
    assert caplog.messages == ["Failed to close a store: RuntimeError"]


def test_close_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """At interpreter shutdown no thread can be started: the store is closed nevertheless."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with Script() as script:
        connection = connected(script)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            release(connection)
        assert script.count("close") == 1


def test_opening_races_the_last_close() -> None:
    """Threads that open and close concurrently never get a closed store, and never have two."""
    with Script() as script:
        alive: list[None] = []
        overlaps: list[None] = []

        def begin(_: float) -> None:
            overlaps.extend(alive)
            alive.append(None)

        script.before = {"init": begin, "close": lambda _: alive.pop()}

        def open_and_close() -> None:
            for _ in range(500):
                connection = acquire_for(script.uri)
                connection.call(lambda timeout: None, Deadline(LONG_ENOUGH))
                release(connection)

        assert in_threads(4, open_and_close) == [None] * 4
        assert not overlaps
        assert not alive
        assert script.count("connect") == script.count("close") >= 1


# Connecting.


def test_eight_threads_connect_once() -> None:
    """The first thread connects, the others wait for it."""
    with Script() as script:
        connection = acquire_for(script.uri)
        with ThreadPoolExecutor(8) as pool, script.held("connect") as gate:
            answers = [pool.submit(connection.connect, Deadline(LONG_ENOUGH)) for _ in range(8)]
            until(lambda: waiting_to_connect(connection) == 7)
            gate.open()
            assert [answer.result() for answer in answers] == [1] * 8
        release(connection)
        assert script.count("connect") == 1


def test_lost_generation_is_mended_once() -> None:
    """However many threads report a lost generation, and however late, it is reconnected once."""
    with Script() as script:
        connection = connected(script)
        assert in_threads(8, lambda: connection.connect(Deadline(LONG_ENOUGH), lost=1)) == [2] * 8
        assert script.count("connect") == 2
        assert in_threads(8, lambda: connection.connect(Deadline(LONG_ENOUGH), lost=2)) == [3] * 8
        assert connection.connect(Deadline(1), lost=1) == 3
        release(connection)
        assert script.count("connect") == 3


def test_eight_threads_share_a_failure() -> None:
    """Threads that wait for a connection get the error of the one that tried: seven more attempts would not help."""
    with Script() as script:
        connection, error = connected(script), StoreUnavailable("down")
        with ThreadPoolExecutor(8) as pool, script.held("connect") as gate:
            script.fail("connect", error)
            answers = [pool.submit(connection.connect, Deadline(LONG_ENOUGH), 1) for _ in range(8)]
            until(lambda: waiting_to_connect(connection) == 7)
            gate.open()
            assert all(str(answer.exception()) == str(error) for answer in answers)
        assert script.count("connect") == 2
        assert connection.connect(Deadline(1), lost=1) == 2
        release(connection)


def test_interrupted_connect_lets_another_lead() -> None:
    """If the connecting thread is interrupted, the others still get a connection."""
    with Script() as script:
        connection = acquire_for(script.uri)
        with ThreadPoolExecutor(8) as pool, script.held("connect") as gate:
            script.fail("connect", KeyboardInterrupt())
            answers = [pool.submit(connection.connect, Deadline(LONG_ENOUGH)) for _ in range(8)]
            until(lambda: waiting_to_connect(connection) == 7)
            gate.open()
            errors = [type(error) for answer in answers if (error := answer.exception())]
        assert errors == [KeyboardInterrupt]
        assert script.count("connect") == 2
        release(connection)


def test_waiting_for_a_connection_ends() -> None:
    """A caller that waits for another thread's connection waits no longer than its own timeout."""
    with Script() as script:
        connection = acquire_for(script.uri)
        with ThreadPoolExecutor(1) as pool, script.held("connect") as gate:
            first = pool.submit(connection.connect, Deadline(LONG_ENOUGH))
            assert gate.entered.wait(LONG_ENOUGH)
            with pytest.raises(StoreUnavailable, match="Timed out waiting for the connection"):
                connection.connect(Deadline(0.01))
            gate.open()
            first.result()
        release(connection)


def test_throttled_log_in_waits() -> None:
    """If a store asks to wait before the login, the caller waits."""
    with Script() as script:
        script.fail("connect", Throttled("later", retry_after=0.01), Throttled("later", retry_after=0.01))
        connection = connected(script)
        assert (script.count("connect"), connection.generation) == (3, 1)
        release(connection)


def test_secret_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """The secret is looked up again at each login: it may have been replaced."""
    with Script() as script:
        connection = acquire_for(f"{script.uri}?pin=env:PIN")
        for generation, pin in enumerate(("old", "new")):
            monkeypatch.setenv("PIN", pin)
            connection.connect(Deadline(1), lost=generation)
        release(connection)
        assert script.secrets == ["old", "new"]


# Calling a store.


def failing(*errors: Exception) -> tuple[Callable[[float], str], list[float]]:
    """An action that raises the given errors, one per attempt, then succeeds; and the seconds given to each attempt."""
    left, tries = list(errors), []

    def action(timeout: float) -> str:
        tries.append(timeout)
        if left:
            raise left.pop(0)
        return "done"

    return action, tries


@pytest.mark.parametrize("error", [SessionLost("gone"), Throttled("busy", retry_after=0.01)])
def test_call_is_repeated(error: StoreUnavailable) -> None:
    """A call that lost its session or was throttled is repeated."""
    with Script() as script:
        connection, (action, tries) = connected(script), failing(error)
        assert connection.call(action, Deadline(LONG_ENOUGH))[0] == "done"
        assert len(tries) == 2
        release(connection)


@pytest.mark.parametrize("error", [StoreUnavailable("wrong address"), KeyNotFound("none")])
def test_call_fails_at_once(error: KeyvouchError) -> None:
    """Nothing else is repeated: a wrong address fails at once."""
    with Script() as script:
        connection, (action, tries) = connected(script), failing(error)
        with pytest.raises(type(error)) as caught:
            connection.call(action, Deadline(LONG_ENOUGH))
        assert caught.value is error
        assert len(tries) == 1
        release(connection)


def test_call_tells_its_generation() -> None:
    """The result of a call belongs to the generation in which it succeeded."""
    with Script() as script:
        connection, (action, _) = connected(script), failing(SessionLost("gone"))
        assert connection.call(action, Deadline(LONG_ENOUGH)) == ("done", 2)
        release(connection)


def test_change_that_was_not_made_is_repeated() -> None:
    """A change is repeated if the store was certainly not changed."""
    with Script() as script:
        connection, (action, _) = connected(script), failing(SessionLost("gone", performed=False))
        assert connection.call(action, Deadline(LONG_ENOUGH), repeatable=False)[0] == "done"
        release(connection)


def test_change_that_may_be_made_is_not_repeated() -> None:
    """A change that may have happened is never repeated; the user gets an error other than SessionLost."""
    with Script() as script:
        connection, (action, tries) = connected(script), failing(SessionLost("gone", performed=True))
        with pytest.raises(StoreUnavailable) as caught:
            connection.call(action, Deadline(LONG_ENOUGH), repeatable=False)
        assert type(caught.value) is StoreUnavailable
        assert len(tries) == 1
        release(connection)


def test_session_lost_ends_as_unavailable() -> None:
    """A user never sees SessionLost: at the timeout it becomes StoreUnavailable, with the cause kept."""
    with Script() as script:
        connection, lost = connected(script), SessionLost("gone", hint="Look at the cable.")

        def always_lost(timeout: float) -> None:
            raise lost

        with pytest.raises(StoreUnavailable, match="gone") as caught:
            connection.call(always_lost, Deadline(0.3))
        assert (type(caught.value), caught.value.hint) == (StoreUnavailable, "Look at the cable.")
        assert caught.value.__cause__ is lost
        release(connection)


def test_repeated_losses_are_paused() -> None:
    """A store that loses each new session is not logged in to again without a pause."""
    with Script() as script:
        connection = connected(script)
        action, tries = failing(*[SessionLost("gone")] * 10_000)
        with pytest.raises(StoreUnavailable):
            connection.call(action, Deadline(0.5))
        assert len(tries) <= 4
        release(connection)


def test_lost_while_connecting_is_unavailable() -> None:
    """A SessionLost raised by `connect` is not shown to the user either, and is not repeated."""
    with Script() as script:
        script.fail("connect", SessionLost("gone at once"))
        connection = acquire_for(script.uri)
        with pytest.raises(StoreUnavailable) as caught:
            connection.connect(Deadline(LONG_ENOUGH))
        assert type(caught.value) is StoreUnavailable
        release(connection)


def test_throttled_longer_than_the_timeout() -> None:
    """If the store asks to wait beyond the timeout, its own error is raised at once."""
    with Script() as script:
        connection, error = connected(script), Throttled("busy", retry_after=3600)
        with pytest.raises(Throttled) as caught:
            connection.call(failing(error)[0], Deadline(5))
        assert caught.value is error
        release(connection)


def test_other_keys_live_on_while_connecting() -> None:
    """No lock is held while a thread waits for the store: another connection can open and close meanwhile."""
    with Script() as script, Script() as other, ThreadPoolExecutor(1) as pool, script.held("connect") as gate:
        waiting = pool.submit(connected, script)
        assert gate.entered.wait(LONG_ENOUGH)
        release(connected(other))
        gate.open()
        release(waiting.result())


# Timing.


@pytest.mark.parametrize(("timeout", "share"), [(300, 100), (30, 10), (3, 1), (2, 1)])
def test_one_try_takes_a_third(timeout: float, share: float) -> None:
    """An attempt gets a third of the timeout, at least a second."""
    assert Deadline(timeout).attempt_timeout() == share


def test_one_try_takes_what_is_left() -> None:
    """An attempt never gets more than what is left."""
    assert 0 < Deadline(0.5).attempt_timeout() <= 0.5


def test_try_after_the_end_gets_a_little() -> None:
    """Stores never get a timeout of zero or less."""
    assert Deadline(-5).attempt_timeout() > 0


def test_backoff_doubles() -> None:
    """Without advice from the store, waits double from 0.1 s to 1 s, or from 1 s with jitter for throttling."""
    backoff = Backoff()
    assert [backoff.delay_after(StoreUnavailable("down")) for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    for wanted in (1, 2, 4):
        assert wanted * 0.9 <= backoff.delay_after(Throttled("busy")) <= wanted * 1.1


@pytest.mark.parametrize(("told", "waited"), [(7.5, 7.5), (0, 0.1), (-3, 0.1)])
def test_backoff_does_as_told(told: float, waited: float) -> None:
    """The store's advice is followed, but there is always a pause."""
    assert Backoff().delay_after(Throttled("busy", retry_after=told)) == waited


def test_scripted_store_is_found_by_its_entry_point() -> None:
    """These tests use the real registry."""
    with Script():
        assert registry.store_class("scripted") is ScriptedStore
