"""A signer in a forked child. Each test runs in its own process, since it forks one that has threads."""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from keyvouch import ClientAssertion, open_signer
from keyvouch._core.connections import acquire
from keyvouch._core.opening import parse
from keyvouch.errors import KeyChanged, KeyUnusable, StoreUnavailable
from keyvouch.secrets import SecretResolver
from scripted_store import (
    LONG_ENOUGH,
    MESSAGE,
    Member,
    Script,
    in_threads,
    is_signed,
    new_key,
    until,
    without_coverage,
)

_tests: dict[str, Callable[[Script], None]] = {}


def in_own_process(test: Callable[[Script], None]) -> Callable[[], None]:
    """Make a test from a function that forks: it runs in a new process, whose failure fails the test."""
    name = test.__name__
    _tests[name] = test

    def run() -> None:
        done = subprocess.run(
            # These tests fork beside threads on purpose: newer Python versions warn about it.
            [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", __file__, name],
            env={**without_coverage(), "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])},
            capture_output=True,
            check=False,
            timeout=2 * LONG_ENOUGH,
        )
        assert done.returncode == 0, done.stderr.decode()
        assert done.stderr == b""

    run.__name__, run.__doc__ = name, test.__doc__
    return pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")(run)


def in_child(work: Callable[[], Any]) -> Any:
    """Return what the function returned in a forked child, or raise its exception. A child that hangs is killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            result: tuple[bool, Any] = (True, work())
        except BaseException as error:  # noqa: BLE001 - raised in the parent
            result = (False, repr(error))
        os.write(writer, pickle.dumps(result))
        os._exit(0)
    os.close(writer)
    try:
        if not select.select([reader], [], [], LONG_ENOUGH)[0]:
            raise AssertionError("the child hangs")
        good, result = pickle.loads(os.read(reader, 1 << 16))  # noqa: S301 - our own child's
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
    assert good, result
    return result


def counts(script: Script) -> dict[str, int]:
    """The calls that this process made to the store."""
    return {step: number for step in ("connect", "open", "close key", "close") if (number := script.count(step))}


@in_own_process
def test_child_connects_anew(script: Script) -> None:
    """A child connects and opens the key once, and signs; nothing of the parent's is closed."""
    with open_signer(script.uri) as signer:
        signer.sign(MESSAGE, "ES256")

        def sign() -> object:
            signatures = [signer.sign(MESSAGE, "ES256") for _ in range(3)]
            assert all(is_signed(signer.public_key, each, MESSAGE, "ES256") for each in signatures)
            return counts(script), script.violations

        assert in_child(sign) == ({"connect": 1, "open": 1}, [])
        assert is_signed(signer.public_key, signer.sign(MESSAGE, "ES256"), MESSAGE, "ES256")
        assert counts(script) == {"connect": 1, "open": 1}


@in_own_process
def test_threads_of_a_child_connect_once(script: Script) -> None:
    """Eight threads of a child connect and open the key once."""
    with open_signer(script.uri) as signer:

        def sign() -> object:
            signatures = in_threads(8, lambda: signer.sign(MESSAGE, "ES256"))
            assert all(is_signed(signer.public_key, each, MESSAGE, "ES256") for each in signatures)
            return counts(script), script.violations

        assert in_child(sign) == ({"connect": 1, "open": 1}, [])


@in_own_process
def test_signers_of_a_child_share_a_connection(script: Script) -> None:
    """Two signers of a store connect once in a child as well, and a third one that it opens joins them."""
    with open_signer(script.uri) as first, open_signer(script.uri) as second:

        def sign() -> object:
            first.sign(MESSAGE, "ES256")
            second.sign(MESSAGE, "ES256")
            with open_signer(script.uri) as third:
                third.sign(MESSAGE, "ES256")
            return counts(script), script.violations

        assert in_child(sign) == ({"connect": 1, "open": 3, "close key": 1}, [])


@in_own_process
def test_close_in_a_child_returns_at_once(script: Script) -> None:
    """Closing a parent's signer in a child closes nothing, and does not wait for the parent's threads."""
    signer = open_signer(script.uri)
    with ThreadPoolExecutor(1) as pool, script.held("sign") as gate:
        signing = pool.submit(signer.sign, MESSAGE, "ES256")
        assert gate.entered.wait(LONG_ENOUGH)

        def close() -> object:
            waited: list[object] = []
            time.sleep = waited.append
            signer.close()
            return waited, counts(script), script.violations

        assert in_child(close) == ([], {}, [])
        gate.open()
        assert is_signed(signer.public_key, signing.result(), MESSAGE, "ES256")
    signer.close()
    assert counts(script) == {"connect": 1, "open": 1, "close key": 1, "close": 1}


@in_own_process
def test_child_closes_what_it_opened(script: Script) -> None:
    """A key that a child reopened is closed there; the parent's part of the signer is not."""
    signer = open_signer(script.uri)

    def use_and_close() -> object:
        signer.sign(MESSAGE, "ES256")
        signer.close()
        return counts(script), script.violations

    assert in_child(use_and_close) == ({"connect": 1, "open": 1, "close key": 1}, [])
    signer.close()
    assert script.count("close") == 1


@in_own_process
def test_child_closes_its_own_store(script: Script) -> None:
    """A store created in the child is closed there."""

    def use() -> object:
        with open_signer(script.uri) as signer:
            signer.sign(MESSAGE, "ES256")
        return counts(script), script.violations

    assert in_child(use) == ({"connect": 1, "open": 1, "close key": 1, "close": 1}, [])


@in_own_process
def test_closed_signer_stays_closed_in_a_child(script: Script) -> None:
    """What the parent closed is closed in the child; closing it again does not affect other signers."""
    closed = open_signer(script.uri)
    with open_signer(script.uri) as other:
        closed.close()

        def use() -> object:
            closed.close()
            try:
                closed.sign(MESSAGE, "ES256")
            except KeyUnusable:
                with open_signer(script.uri):
                    other.sign(MESSAGE, "ES256")
            return counts(script), script.count("init"), script.violations

        assert in_child(use) == ({"connect": 1, "open": 2, "close key": 1}, 0, [])


@in_own_process
def test_fork_while_threads_sign(script: Script) -> None:
    """Children forked while other threads sign can sign too, and the threads continue."""
    with open_signer(script.uri) as signer:
        done = threading.Event()

        def sign_on() -> int:
            signed = 0
            while not done.is_set() or signed < 10:
                signature = signer.sign_negotiated(lambda *_: MESSAGE)[1]
                assert is_signed(signer.public_key, signature, MESSAGE, "ES256")
                signed += 1
            return signed

        def sign() -> object:
            for _ in range(3):
                assert is_signed(signer.public_key, signer.sign(MESSAGE, "ES256"), MESSAGE, "ES256")
            return counts(script), script.violations

        with ThreadPoolExecutor(4) as pool:
            signing = [pool.submit(sign_on) for _ in range(4)]
            try:
                for _ in range(40):
                    assert in_child(sign) == ({"connect": 1, "open": 1}, [])
            finally:
                done.set()
            assert all(each.result() >= 10 for each in signing)


@in_own_process
def test_fork_while_sessions_are_lost(script: Script) -> None:
    """Children forked while other threads recover a lost session find no lock held."""
    with open_signer(script.uri) as signer:
        done = threading.Event()

        def sign_on() -> None:
            while not done.is_set():
                assert is_signed(signer.public_key, signer.sign(MESSAGE, "ES256"), MESSAGE, "ES256")

        with ThreadPoolExecutor(4) as pool:
            signing = [pool.submit(sign_on) for _ in range(4)]
            try:
                for _ in range(40):
                    script.drop()
                    signature = in_child(lambda: signer.sign(MESSAGE, "ES256"))
                    assert is_signed(signer.public_key, signature, MESSAGE, "ES256")
            finally:
                done.set()
            for each in signing:
                each.result()


@in_own_process
def test_fork_while_connecting(script: Script) -> None:
    """A child does not wait for a connect, open or close that runs in a thread of its parent."""
    with ThreadPoolExecutor(3) as pool, open_signer(script.uri) as signer:
        other = Script()
        with other, other.held("connect") as gate:
            opening = pool.submit(open_signer, other.uri)
            assert gate.entered.wait(LONG_ENOUGH)

            def use() -> object:
                del other.before["connect"]
                with open_signer(other.uri) as own:
                    own.sign(MESSAGE, "ES256")
                signer.sign(MESSAGE, "ES256")
                return counts(other), other.violations, script.violations

            assert in_child(use) == ({"connect": 1, "open": 1, "close key": 1}, [], [])
            gate.open()
            opening.result().close()


@in_own_process
def test_fork_while_reconnecting(script: Script) -> None:
    """A child does not wait for a parent's thread that reconnects or reopens the key."""
    with open_signer(script.uri) as signer:
        for step in ("connect", "open"):
            with ThreadPoolExecutor(1) as pool, script.held(step) as gate:
                script.drop()
                signing = pool.submit(signer.sign, MESSAGE, "ES256")
                assert gate.entered.wait(LONG_ENOUGH)

                def use(step: str = step) -> object:
                    del script.before[step]
                    signer.sign(MESSAGE, "ES256")
                    signer.close()
                    return script.count("connect"), script.count("open"), script.violations

                assert in_child(use) == (1, 1, [])
                gate.open()
                assert is_signed(signer.public_key, signing.result(), MESSAGE, "ES256")


@in_own_process
def test_fork_while_reloading(script: Script) -> None:
    """A child follows a rotation by itself, even if a parent's thread was doing so at the fork."""
    with open_signer(script.uri) as signer, ThreadPoolExecutor(1) as pool, script.held("open") as gate:
        new = script.rotate()
        reloading = pool.submit(signer.reload)
        assert gate.entered.wait(LONG_ENOUGH)

        def use() -> bool:
            del script.before["open"]
            return signer.reload() and is_signed(new.public_key, signer.sign(MESSAGE, "ES256"), MESSAGE, "ES256")

        assert in_child(use) is True
        gate.open()
        assert reloading.result() is True


@in_own_process
def test_fork_while_closing(script: Script) -> None:
    """A child does not wait for a store that a parent's thread is closing: it creates its own."""
    signer = open_signer(script.uri)
    with ThreadPoolExecutor(1) as pool, script.held("close") as gate:
        closing = pool.submit(signer.close)
        assert gate.entered.wait(LONG_ENOUGH)

        def use() -> object:
            del script.before["close"]
            with open_signer(script.uri) as own:
                own.sign(MESSAGE, "ES256")
            return counts(script), script.violations

        assert in_child(use) == ({"connect": 1, "open": 1, "close key": 1, "close": 1}, [])
        gate.open()
        closing.result()


@in_own_process
def test_fork_while_the_table_is_locked(script: Script) -> None:
    """A child can open a signer even if a parent's thread held the connection table."""
    with ThreadPoolExecutor(1) as pool, script.held("init") as gate:
        acquiring = pool.submit(acquire, parse(script.uri), SecretResolver())
        assert gate.entered.wait(LONG_ENOUGH)

        def use() -> bool:
            del script.before["init"]
            with open_signer(script.uri) as own:
                return is_signed(own.public_key, own.sign(MESSAGE, "ES256"), MESSAGE, "ES256")

        assert in_child(use) is True
        gate.open()
        acquiring.result()


@in_own_process
def test_grandchild_signs(script: Script) -> None:
    """A child of a child makes its own connection, too."""
    with open_signer(script.uri) as signer:

        def sign() -> object:
            signer.sign(MESSAGE, "ES256")
            return counts(script), script.violations

        def fork_again() -> object:
            signer.sign(MESSAGE, "ES256")
            return in_child(sign)

        assert in_child(fork_again) == ({"connect": 1, "open": 1}, [])


@in_own_process
def test_other_key_in_a_child(script: Script) -> None:
    """If a child finds another key at the pinned URI, it signs nothing."""
    with open_signer(script.uri) as signer:
        script.keys["app"][0] = Member(new_key("P-256", 1))

        def sign() -> bool:
            try:
                signer.sign(MESSAGE, "ES256")
            except KeyChanged:
                return True
            return False

        assert in_child(sign) is True


@in_own_process
def test_child_keeps_to_the_timeout(script: Script) -> None:
    """Reconnecting in a child stays within the signature's timeout."""
    with open_signer(script.uri) as signer:

        def sign() -> list[float]:
            script.fail("connect", StoreUnavailable("down"))
            try:
                signer.sign(MESSAGE, "ES256", timeout=0.5)
            except StoreUnavailable:
                return script.timeouts("connect")
            return []

        [given] = in_child(sign)
        assert given <= 0.5


@in_own_process
def test_assertions_survive_a_fork(script: Script) -> None:
    """A child makes assertions even if a parent's thread was making the one to be reused."""
    with open_signer(script.uri) as signer, ThreadPoolExecutor(1) as pool:
        make = ClientAssertion(signer, reuse=60)
        context = {"client_id": "app", "token_endpoint": "https://login.example/token"}
        with script.held("sign") as gate:
            making = pool.submit(make, context)
            assert gate.entered.wait(LONG_ENOUGH)

            def assert_in_child() -> object:
                del script.before["sign"]
                return make(context) == make(context), script.violations

            assert in_child(assert_in_child) == (True, [])
            gate.open()
        assert making.result() == make(context)


@in_own_process
def test_signing_imports_nothing(script: Script) -> None:
    """Once a signer is open, signing imports nothing: a fork during an import would leave its lock held in a child."""
    for kind in ("RSA-2048", "P-256", "Ed25519"):
        with Script(kind) as own, open_signer(own.uri) as signer:
            make = ClientAssertion(signer)
            before = set(sys.modules)
            make({"client_id": "app", "token_endpoint": "https://login.example/token"})
            own.drop()
            signer.sign_negotiated(lambda *_: MESSAGE)
            signer.reload()
            assert set(sys.modules) - before == set()


@in_own_process
def test_parents_close_waits_no_longer(script: Script) -> None:
    """A signer that a child inherited and forgot is closed by its parent as usual."""
    signer = open_signer(script.uri)
    assert in_child(lambda: None) is None
    signer.sign(MESSAGE, "ES256")
    signer.close()
    until(lambda: script.count("close") == 1)


if __name__ == "__main__":
    with Script() as its_script:
        _tests[sys.argv[1]](its_script)
