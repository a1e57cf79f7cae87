"""Rules of `KeyStore`: its life, and a connection that is lost."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn
from unittest import mock

from keyvouch.errors import AmbiguousKey, ConfigurationError, KeyNotFound, KeyvouchError, SecretIncorrect, SessionLost
from keyvouch.local_key import make_key
from keyvouch.secrets import Secret
from keyvouch.testing.conformance.declarations import TIMEOUT, Declarations, broken, needs, refused
from keyvouch.testing.conformance.meanwhile import ended, in_another_process, meanwhile

if TYPE_CHECKING:
    from keyvouch.store import KeyStore, StoredKey

_TOUCHED = (
    "builtins.open",
    "io.open",
    "os.listdir",
    "os.open",
    "os.scandir",
    "os.stat",
    "socket.create_connection",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.socket.connect",
    "subprocess.Popen",
)
"""What `__init__` leaves alone."""


class Connecting(Declarations):
    """See `keyvouch.store.KeyStore`."""

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
        with self.connected(self.uri) as made:
            key = made.open(self.parsed(self.uri), timeout=TIMEOUT)
            self.break_connection()
            try:
                self._close(key.close, "a key, on a dead connection")
                self._close(made.close, "on a dead connection")
            finally:
                self.restore_connection()

    @needs("connection")
    def test_lost_connection_is_told_by_type(self) -> None:
        """On a lost connection every method raises SessionLost, and nothing else (the contract, "Life")."""
        with self.opened(self.uri) as (made, key):
            acts = self._acts(made, key)
            self.break_connection()
            try:
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
                    broken(
                        seen=f"{name} works on a lost connection",
                        wanted="SessionLost",
                        change="See that `break_connection` cuts what the store uses; where it needs none to sign, "
                        'put "connection" into `unsupported`.',
                    )
            finally:
                self.restore_connection()
                self.connect_again(made)

    @needs("connection")
    def test_connecting_again_mends_it(self) -> None:
        """After `connect` the key opens by its pinned URI and signs; others meanwhile raise SessionLost (`connect`)."""
        with self.opened(self.uri) as (made, key):
            other = made.open(key.uri, timeout=TIMEOUT)
            with meanwhile(lambda: self.require_signature(other), allowed=(SessionLost,)):
                self.break_connection()
                self.restore_connection()
                self.connect_again(made)
                again = made.open(key.uri, timeout=TIMEOUT)
                self.require_signature(again)
            if again.public_key != key.public_key:
                broken(seen="another key", wanted="the same")
            again.close()
            other.close()

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

    @needs()
    def test_one_keys_failure_leaves_the_others_be(self) -> None:
        """A URI that does not open, for want of a key or for a wrong secret, takes no other key down (`open`)."""
        failing: tuple[tuple[str, str | None, tuple[type[KeyvouchError], ...]], ...] = (
            ("missing", self.missing_uri, (KeyNotFound,)),
            ("ambiguous", self.ambiguous_uri, (AmbiguousKey,)),
            ("secret", self.wrong_secret_uri, (SecretIncorrect, ConfigurationError)),
        )
        with self.opened(self.uri) as (made, key):
            for name, uri, kinds in failing:
                if not self.offers(name):
                    continue
                self._refuse(made, str(uri), *kinds)
                try:
                    self.require_signature(key)
                except SessionLost as error:
                    broken(
                        seen=f"after {kinds[0].__name__} for another key: {error!r}",
                        wanted="a signature",
                        change="Give up the session for what a dead connection raises, and for nothing else.",
                    )

    @needs()
    def test_it_imports_everywhere(self) -> None:
        """The plugin's module imports on every platform, and says NotSupported where it cannot work (the contract)."""
        module = self.the_class().__module__
        other, absent, there = "win32", ["fcntl", "grp", "pwd", "resource", "termios"], ["_winapi", "msvcrt", "winreg"]
        if sys.platform == other:
            other, absent, there = "linux", there, absent
        # What the plugin imports is there already: only the plugin's own lines see the other platform.
        program = (
            f"import importlib, sys, unittest.mock; import {module}\n"
            f"root = {module.split('.')[0]!r}\n"
            "for name in [name for name in sys.modules if name.split('.')[0] == root]: del sys.modules[name]\n"
            f"sys.modules.update(dict.fromkeys({absent!r})); sys.platform = {other!r}\n"
            f"sys.modules.update({{name: unittest.mock.MagicMock() for name in {there!r}}})\n"
            f"importlib.import_module({module!r})"
        )
        done = in_another_process(program)
        if done.returncode:
            broken(
                seen=done.stderr[-500:], wanted="an import that works", change="Import what is of one platform late."
            )

    # What the tests above have in common.

    def _acts(self, made: Any, key: StoredKey) -> dict[str, Callable[[], object]]:
        """Return a call of every method that the store offers."""
        spec = self.spec()
        acts: dict[str, Callable[[], object]] = {
            "sign": lambda: self.require_signature(key),
            "open": lambda: made.open(key.uri, timeout=TIMEOUT).close(),
        }
        if self.offers("list"):
            acts["keys"] = lambda: made.keys(key.uri)
        if self.offers("generate"):
            new = self.parsed(self.new_uri())
            acts["generate"] = lambda: made.generate(new, spec)
            if self.offers("delete"):
                own = made.generate(self.parsed(self.new_uri()), spec)
                acts["delete"] = lambda: made.delete(own)
        if self.offers("import"):
            free, foreign = self.parsed(self.new_uri()), make_key(spec.key_type)
            acts["import_key"] = lambda: made.import_key(free, foreign, [])
        if self.offers("export") and key.exportable:
            acts["export_pfx"] = lambda: made.export_pfx(key.uri, Secret("correct horse battery"))
        if self.offers("request"):
            acts["request_certificate"] = lambda: made.request_certificate(key.uri, spec)
        if self.offers("install"):
            chain = [self.certificate_of(key)]
            acts["install_certificate"] = lambda: made.install_certificate(key.uri, chain)
        if self.offers("grant"):
            acts["readers"] = lambda: made.readers(key.uri)
            acts["grant"] = lambda: made.grant(key.uri, self.account)
            acts["revoke"] = lambda: made.revoke(key.uri, self.account)
        return acts

    def _refuse(self, made: KeyStore, uri: str, *kinds: type[KeyvouchError]) -> None:
        """Open a URI that does not open, by this store if the core would do so."""

        def act() -> None:
            if self.shares_connection(uri):
                made.open(self.parsed(uri), timeout=TIMEOUT).close()
            else:
                with self.opened(uri):
                    pass

        refused(act, *kinds)

    def _close(self, close: Callable[[], None], when: str) -> None:
        error = ended(close, self.closing_seconds, f"close(), {when}", "Leave behind what hangs.")
        if error:
            broken(seen=f"close(), {when}, raises {error!r}", wanted="nothing")


@contextlib.contextmanager
def _no_input_or_output() -> Iterator[None]:
    def refuse(*_: object, **__: object) -> NoReturn:
        broken(
            seen="`__init__` looks at a file, resolves a name, or opens a file, a connection or a process",
            wanted="that it validates, and no more",
            change="Do it in `connect`.",
        )

    with contextlib.ExitStack() as patches:
        for name in _TOUCHED:
            patches.enter_context(mock.patch(name, refuse))
        yield
