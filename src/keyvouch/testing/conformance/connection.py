"""Rules about `KeyStore`: construction, closing, and lost connections."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn
from unittest import mock

from keyvouch.errors import AmbiguousKey, ConfigurationError, KeyNotFound, KeyvouchError, SecretIncorrect, SessionLost
from keyvouch.local_key import make_key
from keyvouch.secrets import Secret
from keyvouch.testing.conformance.declarations import TIMEOUT, Declarations, fail, needs, require_error
from keyvouch.testing.conformance.execution import repeating_in_threads, run_in_process, run_with_deadline

if TYPE_CHECKING:
    from keyvouch.store import KeyStore, StoredKey

_IO_FUNCTIONS = (
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
"""Functions that `__init__` must not call."""


class Connection(Declarations):
    """See `keyvouch.store.KeyStore`."""

    @needs()
    def test_constructor_does_no_io(self) -> None:
        """`__init__` only validates, and leaves I/O to `connect`, whose errors can be handled (`__init__`)."""
        uri = self.parsed(self.uri)
        with _no_input_or_output():
            self.the_class()(uri, self.secrets())

    @needs()
    def test_close_can_be_called_twice(self) -> None:
        """`close` raises nothing, even the second time and before `connect` (`KeyStore.close`)."""
        store = self.the_class()(self.parsed(self.uri), self.secrets())
        self._close(store.close, "before `connect`")
        store = self.the_class()(self.parsed(self.uri), self.secrets())
        store.connect(timeout=TIMEOUT)
        self._close(store.close, "once")
        self._close(store.close, "twice")

    @needs("connection")
    def test_close_works_on_a_dead_connection(self) -> None:
        """`close` raises nothing and returns within 10 seconds on a dead connection (`KeyStore.close`)."""
        with self.connected(self.uri) as store:
            key = store.open(self.parsed(self.uri), timeout=TIMEOUT)
            self.break_connection()
            try:
                self._close(key.close, "a key, on a dead connection")
                self._close(store.close, "on a dead connection")
            finally:
                self.restore_connection()

    @needs("connection")
    def test_lost_connection_raises_session_lost(self) -> None:
        """On a lost connection, every method raises SessionLost (the contract, "Life")."""
        with self.opened(self.uri) as (store, key):
            calls = self._calls(store, key)
            self.break_connection()
            try:
                for name, call in calls.items():
                    try:
                        call()
                    except SessionLost:
                        continue
                    except Exception as error:  # noqa: BLE001 - reported by the test
                        fail(
                            got=f"{type(error).__name__} from {name}: {error}",
                            expected="SessionLost",
                            fix="Raise it for every sign of a dead connection or expired login. The core reconnects.",
                        )
                    fail(
                        got=f"{name} works on a lost connection",
                        expected="SessionLost",
                        fix="Let `break_connection` cut the connection that the store uses. If it needs none to sign, "
                        'add "connection" to `unsupported`.',
                    )
            finally:
                self.restore_connection()
                self.connect_again(store)

    @needs("connection")
    def test_reconnecting_restores_the_key(self) -> None:
        """After `connect` the pinned URI opens the key again; until then, keys raise SessionLost (`connect`)."""
        with self.opened(self.uri) as (store, key):
            other = store.open(key.uri, timeout=TIMEOUT)
            with repeating_in_threads(lambda: self.require_signature(other), allowed=(SessionLost,)):
                self.break_connection()
                self.restore_connection()
                self.connect_again(store)
                again = store.open(key.uri, timeout=TIMEOUT)
                self.require_signature(again)
            if again.public_key != key.public_key:
                fail(got="another key", expected="the same")
            again.close()
            other.close()

    @needs()
    def test_reconnecting_keeps_other_keys_usable(self) -> None:
        """When the store reconnects, open keys still sign or raise SessionLost; closing them affects no other key.

        See `KeyStore.connect`: an old key must not log out the new session.
        """
        with self.connected(self.uri) as store:
            old = store.open(self.parsed(self.uri), timeout=TIMEOUT)
            store.connect(timeout=TIMEOUT)
            with contextlib.suppress(SessionLost):
                self.require_signature(old)
            new = store.open(old.uri, timeout=TIMEOUT)
            old.close()
            try:
                self.require_signature(new)
            except SessionLost as error:
                fail(
                    got=f"after closing a key of the previous login: {error!r}",
                    expected="a signature with the new one",
                    fix="Release only what belongs to the key, not the store's login.",
                )
            new.close()

    @needs()
    def test_failure_of_one_key_does_not_affect_others(self) -> None:
        """If a URI does not open, for a missing key or a wrong secret, other keys can still sign (`open`)."""
        failing: tuple[tuple[str, str | None, tuple[type[KeyvouchError], ...]], ...] = (
            ("missing", self.missing_uri, (KeyNotFound,)),
            ("ambiguous", self.ambiguous_uri, (AmbiguousKey,)),
            ("secret", self.wrong_secret_uri, (SecretIncorrect, ConfigurationError)),
        )
        with self.opened(self.uri) as (store, key):
            for name, uri, kinds in failing:
                if not self.offers(name):
                    continue
                self._require_failure(store, str(uri), *kinds)
                try:
                    self.require_signature(key)
                except SessionLost as error:
                    fail(
                        got=f"after {kinds[0].__name__} for another key: {error!r}",
                        expected="a signature",
                        fix="End the session only for errors of a dead connection.",
                    )

    @needs()
    def test_module_imports_on_every_platform(self) -> None:
        """The plugin can be imported on every platform, and raises NotSupported if unsupported (the contract)."""
        module = self.the_class().__module__
        other, absent, present = (
            "win32",
            ["fcntl", "grp", "pwd", "resource", "termios"],
            ["_winapi", "msvcrt", "winreg"],
        )
        if sys.platform == other:
            other, absent, present = "linux", present, absent
        # Its dependencies are already imported, so only the plugin's own modules see the other platform.
        program = (
            f"import importlib, sys, unittest.mock; import {module}\n"
            f"root = {module.split('.')[0]!r}\n"
            "for name in [name for name in sys.modules if name.split('.')[0] == root]: del sys.modules[name]\n"
            f"sys.modules.update(dict.fromkeys({absent!r})); sys.platform = {other!r}\n"
            f"sys.modules.update({{name: unittest.mock.MagicMock() for name in {present!r}}})\n"
            f"importlib.import_module({module!r})"
        )
        done = run_in_process(program)
        if done.returncode:
            fail(
                got=done.stderr[-500:],
                expected="that the module can be imported",
                fix="Import modules of one platform inside functions.",
            )

    # Helpers.

    def _calls(self, store: Any, key: StoredKey) -> dict[str, Callable[[], object]]:
        """Return a call of every method that the store offers."""
        spec = self.spec()
        calls: dict[str, Callable[[], object]] = {
            "sign": lambda: self.require_signature(key),
            "open": lambda: store.open(key.uri, timeout=TIMEOUT).close(),
        }
        if self.offers("list"):
            calls["keys"] = lambda: store.keys(key.uri)
        if self.offers("generate"):
            new = self.parsed(self.new_uri())
            calls["generate"] = lambda: store.generate(new, spec)
            if self.offers("delete"):
                own = store.generate(self.parsed(self.new_uri()), spec)
                calls["delete"] = lambda: store.delete(own)
        if self.offers("import"):
            free, foreign = self.parsed(self.new_uri()), make_key(spec.key_type)
            calls["import_key"] = lambda: store.import_key(free, foreign, [])
        if self.offers("export") and key.exportable:
            calls["export_pfx"] = lambda: store.export_pfx(key.uri, Secret("correct horse battery"))
        if self.offers("request"):
            calls["request_certificate"] = lambda: store.request_certificate(key.uri, spec)
        if self.offers("install"):
            chain = [self.certificate_of(key)]
            calls["install_certificate"] = lambda: store.install_certificate(key.uri, chain)
        if self.offers("grant"):
            calls["readers"] = lambda: store.readers(key.uri)
            calls["grant"] = lambda: store.grant(key.uri, self.account)
            calls["revoke"] = lambda: store.revoke(key.uri, self.account)
        return calls

    def _require_failure(self, store: KeyStore, uri: str, *kinds: type[KeyvouchError]) -> None:
        """Require an error when opening the URI, with this store if the core would use it."""

        def call() -> None:
            if self.shares_connection(uri):
                store.open(self.parsed(uri), timeout=TIMEOUT).close()
            else:
                with self.opened(uri):
                    pass

        require_error(call, *kinds)

    def _close(self, close: Callable[[], None], when: str) -> None:
        error = run_with_deadline(close, self.closing_seconds, f"close(), {when}", "Do not wait for what hangs.")
        if error:
            fail(got=f"close(), {when}, raises {error!r}", expected="no error")


@contextlib.contextmanager
def _no_input_or_output() -> Iterator[None]:
    def refuse(*_: object, **__: object) -> NoReturn:
        fail(
            got="`__init__` accesses a file, resolves a name, or opens a connection or a process",
            expected="only validation",
            fix="Do it in `connect`.",
        )

    with contextlib.ExitStack() as patches:
        for name in _IO_FUNCTIONS:
            patches.enter_context(mock.patch(name, refuse))
        yield
