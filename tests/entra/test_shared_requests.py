"""Threads that ask for the same token share one request; each waits no longer than its timeout."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from keyvouch.entra.msal import ConfidentialClient
from keyvouch.errors import (
    AuthorityUnavailable,
    SecretIncorrect,
    StoreUnavailable,
)
from keyvouch.testing.authority import App, Authority
from scripted_store import Script, in_threads, until
from signing_in import SCOPE, Key

OTHER = "api://other/.default"


# Many threads.


def test_waiting_threads_get_the_same_error(
    authority: Authority, app: App, client_of: Callable[..., ConfidentialClient]
) -> None:
    """If the working thread fails, all that wait for the same get its error: one signature is tried, not eight."""
    with Script("RSA-2048") as script:
        app.add_certificate(script.newest.chain[0])
        client = client_of(script.uri)
        client.access_token([OTHER])
        script.always["sign"] = SecretIncorrect("The PIN is wrong.")
        before = script.count("sign")
        with script.held("sign") as gate, ThreadPoolExecutor(1) as pool:
            pending = pool.submit(in_threads, 8, lambda: client.access_token([SCOPE]))
            gate.entered.wait()
            _until_waiting(client, 7)
            gate.open()
            results = pending.result()
        assert {type(result) for result in results} == {SecretIncorrect}
        assert script.count("sign") == before + 1
        client.close()


def test_waiting_thread_times_out(authority: Authority, app: App, client_of: Callable[..., ConfidentialClient]) -> None:
    """A thread waits for another's request no longer than its timeout, and sends no request itself."""
    with Script("RSA-2048") as script, ThreadPoolExecutor(1) as pool:
        app.add_certificate(script.newest.chain[0])
        client = client_of(script.uri)
        with script.held("sign") as gate:
            patient = pool.submit(client.access_token, [SCOPE])
            gate.entered.wait()
            with pytest.raises(AuthorityUnavailable, match=r"after 0\.05 seconds") as caught:
                client.access_token([SCOPE], timeout=0.05)
            gate.open()
        assert caught.value.transient
        assert patient.result()
        assert len(authority.exchanges) == 1
        client.close()


def test_timeout_of_one_thread_does_not_fail_another(
    authority: Authority, app: App, client_of: Callable[..., ConfidentialClient]
) -> None:
    """If a thread times out, one that waits for it and has more time starts again."""
    with Script("RSA-2048") as script, ThreadPoolExecutor(2) as pool:
        app.add_certificate(script.newest.chain[0])
        client = client_of(script.uri)
        stalled = threading.Event()

        def stall(timeout: float) -> None:
            if not stalled.is_set():
                stalled.set()
                _until_waiting(client, 1)
                time.sleep(timeout)
                raise StoreUnavailable("It does not answer.")

        script.before["sign"] = stall
        impatient = pool.submit(client.access_token, [SCOPE], timeout=0.5)
        stalled.wait()
        patient = pool.submit(client.access_token, [SCOPE])

        assert isinstance(impatient.exception(), StoreUnavailable)
        assert patient.result()
        client.close()


def _until_waiting(client: ConfidentialClient, number: int) -> None:
    """Wait until this many threads wait for another's request."""

    def waiting() -> int:
        flights = list(client._flights._flights.values())
        return sum(len(flight.ended._cond._waiters) for flight in flights)  # type: ignore[attr-defined, misc]

    until(lambda: waiting() >= number)


def test_slow_authority_times_out(
    authority: Authority, preferred: Key, client_of: Callable[..., ConfidentialClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request to an authority that does not respond ends at the caller's timeout."""
    client = client_of(preferred.uri)
    release = threading.Event()
    respond = Authority._respond

    def late(self: Authority, *arguments: Any) -> Any:
        release.wait(30)
        return respond(self, *arguments)

    monkeypatch.setattr(Authority, "_respond", late)
    try:
        with pytest.raises(AuthorityUnavailable, match="timed out"):
            client.access_token([SCOPE], timeout=0.3)
    finally:
        release.set()
