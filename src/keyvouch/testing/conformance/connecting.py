"""Rules of `KeyStore`: its life, a lost connection, threads and forks."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import ClassVar, NoReturn
from unittest import mock

from keyvouch.errors import SessionLost, StoreUnavailable
from keyvouch.store import ListsKeys
from keyvouch.testing.conformance.declarations import TIMEOUT, Declarations, broken, needs


class Connecting(Declarations):
    """See `keyvouch.store.KeyStore`."""

    closing_seconds: ClassVar[float] = 10.0
    """What `close` may take."""
    patience_seconds: ClassVar[float] = 10.0
    """After these a call with a timeout of a second counts as hanging."""
    child_seconds: ClassVar[int] = 60
    """After these a forked child counts as hanging."""

    @needs()
    def test_making_it_touches_nothing(self) -> None:
        """`__init__` validates and does no I/O: `connect` does, where its failure can be handled (`__init__`)."""
        uri = self.parsed(self.uri)
        with _no_input_or_output():
            self.the_class()(uri, self.secrets())

    @needs()
    def test_close_may_come_twice(self) -> None:
        """`close` raises nothing: not the second time, and not before `connect` (`KeyStore.close`)."""
        made = self.the_class()(self.parsed(self.uri), self.secrets())
        self._close(made.close, "before `connect`")
        made = self.the_class()(self.parsed(self.uri), self.secrets())
        made.connect(timeout=TIMEOUT)
        self._close(made.close, "once")
        self._close(made.close, "twice")

    @needs("connection")
    def test_close_works_on_a_dead_connection(self) -> None:
        """`close` raises nothing and ends within 10 seconds, though the connection has died (`KeyStore.close`)."""
        with self.opened(self.uri) as (made, key):
            self.break_connection()
            try:
                self._close(key.close, "a key, on a dead connection")
                self._close(made.close, "on a dead connection")
            finally:
                self.restore_connection()

    @needs("connection")
    def test_lost_connection_is_told_by_type(self) -> None:
        """On a lost connection `sign`, `open` and `keys` raise SessionLost, and nothing else (the contract, "Life")."""
        with self.opened(self.uri) as (made, key):
            self.break_connection()
            try:
                acts: dict[str, Callable[[], object]] = {
                    "sign": lambda: self.require_signature(key),
                    "open": lambda: made.open(key.uri, timeout=TIMEOUT).close(),
                }
                if isinstance(made, ListsKeys):
                    lister = made
                    acts["keys"] = lambda: lister.keys(key.uri)
                for name, act in acts.items():
                    try:
                        act()
                    except SessionLost:
                        continue
                    except Exception as error:  # noqa: BLE001 - whatever it is, the test tells
                        broken(
                            seen=f"{type(error).__name__} from {name}: {error}",
                            wanted="SessionLost",
                            change="Raise it for every sign of a dead connection or log-in: the core connects again.",
                        )
                    else:
                        broken(seen=f"{name} works on a lost connection", wanted="SessionLost")
            finally:
                self.restore_connection()
                made.connect(timeout=TIMEOUT)

    @needs("connection")
    def test_connecting_again_mends_it(self) -> None:
        """After `connect` on the same object the key opens again by its pinned URI, and signs (`connect`)."""
        with self.opened(self.uri) as (made, key):
            self.break_connection()
            self.restore_connection()
            made.connect(timeout=TIMEOUT)
            again = made.open(key.uri, timeout=TIMEOUT)
            self.require_signature(again)
            if again.public_key != key.public_key:
                broken(seen="another key", wanted="the same")
            again.close()

    @needs()
    def test_connecting_again_leaves_the_others_be(self) -> None:
        """Keys that are open sign on, or raise SessionLost, while the store connects anew; closing them ends no more.

        See `KeyStore.connect`: the new log-in is not the old keys' to log out.
        """
        with self.connected(self.uri) as made:
            old = made.open(self.parsed(self.uri), timeout=TIMEOUT)
            made.connect(timeout=TIMEOUT)
            with contextlib.suppress(SessionLost):
                self.require_signature(old)
            new = made.open(old.uri, timeout=TIMEOUT)
            old.close()
            try:
                self.require_signature(new)
            except SessionLost as error:
                broken(
                    seen=f"after closing a key of the former log-in: {error!r}",
                    wanted="a signature with the new one",
                    change="Let a key give back what it alone holds, and not the store's log-in.",
                )
            new.close()

    @needs("stalled")
    def test_timeout_is_kept(self) -> None:
        """`connect` and `open` end soon after `timeout`, as StoreUnavailable, though nobody answers (`connect`)."""
        uri, ended = self.parsed(str(self.stalled_uri)), list[BaseException | None]()

        def act() -> None:
            made = self.the_class()(uri, self.secrets())
            try:
                made.connect(timeout=1.0)
                made.open(uri, timeout=1.0)
                ended.append(None)
            except Exception as error:  # noqa: BLE001 - whatever it is, the test tells
                ended.append(error)
            finally:
                made.close()

        waiting = threading.Thread(target=act, daemon=True)
        waiting.start()
        waiting.join(self.patience_seconds)
        if not ended:
            broken(
                seen=f"no end within {self.patience_seconds:g} s, with timeout=1.0",
                wanted="StoreUnavailable after a second",
                change="Hand `timeout` to the transport: connecting and reading both.",
            )
        if not isinstance(ended[0], StoreUnavailable):
            broken(seen=repr(ended[0]), wanted="StoreUnavailable", change="Map the library's time-out to it.")

    @needs()
    def test_child_of_a_fork_connects_anew(self) -> None:
        """A child connects the same object again and signs; the parent's own connection lives on (`connect`)."""
        if not hasattr(os, "fork"):
            return
        with self.opened(self.uri) as (made, key):

            def use() -> None:
                made.connect(timeout=TIMEOUT)
                own = made.open(key.uri, timeout=TIMEOUT)
                self.require_signature(own)
                own.close()

            self._in_child(use)
            try:
                self.require_signature(key)
            except Exception as error:  # noqa: BLE001 - whatever it is, the test tells
                broken(
                    seen=f"in the parent, after its child has connected: {error!r}",
                    wanted="a signature",
                    change="In a child forget the inherited connection, and close nothing of it: the guide, Forks.",
                )

    @needs()
    def test_fork_while_others_sign(self) -> None:
        """A fork in the middle of other threads' signatures hangs neither child nor parent (`connect`)."""
        if not hasattr(os, "fork"):
            return
        with self.opened(self.uri) as (made, key):
            done = threading.Event()

            def sign() -> None:
                while not done.is_set():
                    self.require_signature(key)

            threads = [threading.Thread(target=sign) for _ in range(3)]
            for thread in threads:
                thread.start()

            def use() -> None:
                made.connect(timeout=TIMEOUT)
                own = made.open(key.uri, timeout=TIMEOUT)
                self.require_signature(own)

            try:
                for _ in range(5):
                    self._in_child(use)
            finally:
                done.set()
                for thread in threads:
                    thread.join(TIMEOUT)
            if any(thread.is_alive() for thread in threads):
                broken(seen="a thread of the parent that hangs after a fork", wanted="its signatures")

    @needs()
    def test_it_imports_everywhere(self) -> None:
        """The plugin's module imports on every platform, and says NotSupported where it cannot work (the contract)."""
        module = self.the_class().__module__
        other, absent = "win32", ["fcntl", "grp", "pwd", "resource", "termios"]
        if sys.platform == other:
            other, absent = "linux", ["msvcrt", "winreg"]
        # What the plugin imports is there already: only the plugin's own lines see the other platform.
        program = (
            f"import importlib, sys; import {module}\n"
            f"root = {module.split('.')[0]!r}\n"
            "for name in [name for name in sys.modules if name.split('.')[0] == root]: del sys.modules[name]\n"
            f"sys.modules.update(dict.fromkeys({absent!r})); sys.platform = {other!r}\n"
            f"importlib.import_module({module!r})"
        )
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            broken(
                seen=done.stderr[-500:], wanted="an import that works", change="Import what is of one platform late."
            )

    # What the tests above have in common.

    def _close(self, close: Callable[[], None], when: str) -> None:
        failure: list[Exception] = []

        def act() -> None:
            try:
                close()
            except Exception as error:  # noqa: BLE001 - whatever it is, the test tells
                failure.append(error)

        closer = threading.Thread(target=act, daemon=True)
        closer.start()
        closer.join(self.closing_seconds)
        if closer.is_alive():
            broken(
                seen=f"close(), {when}, takes longer than {self.closing_seconds:g} s",
                wanted="less",
                change="Leave behind what hangs.",
            )
        if failure:
            broken(seen=f"close(), {when}, raises {failure[0]!r}", wanted="nothing")

    def _in_child(self, act: Callable[[], None]) -> None:
        reader, writer = os.pipe()
        with warnings.catch_warnings():  # that a fork beside threads may hang is what is tried here
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            signal.alarm(self.child_seconds)
            said = b""
            try:
                act()
            except BaseException as error:  # noqa: BLE001 - the parent tells
                said = repr(error).encode()
            os.write(writer, said)
            os._exit(1 if said else 0)
        os.close(writer)
        with open(reader, "rb") as pipe:  # noqa: PTH123 - a descriptor
            said = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == -signal.SIGALRM:
            broken(
                seen="a child that hangs",
                wanted="a signature",
                change="Let no lock be held over a fork, and forget a parent's connection: the guide, Forks.",
            )
        if status:
            broken(seen=f"in a forked child: {said.decode(errors='replace') or status}", wanted="a signature")


@contextlib.contextmanager
def _no_input_or_output() -> Iterator[None]:
    def refuse(*_: object, **__: object) -> NoReturn:
        broken(
            seen="`__init__` opens a file, a connection or a process",
            wanted="that it validates, and no more",
            change="Do it in `connect`.",
        )

    with (
        mock.patch("builtins.open", refuse),
        mock.patch("os.open", refuse),
        mock.patch("io.open", refuse),
        mock.patch.object(socket.socket, "connect", refuse),
        mock.patch.object(subprocess, "Popen", refuse),
    ):
        yield
