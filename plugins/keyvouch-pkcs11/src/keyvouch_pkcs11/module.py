"""The modules loaded in this process: each is initialized once per process, and forks do not disturb it.

Rules:

- A module stays initialized until the process ends. Its last user only logs out: some modules, such as opencryptoki,
  close descriptors they do not own when they are initialized a second time.
- Every call is made inside the module's gate: a fork waits for it to return, and so does reinitializing the module.
- A child forgets what its parent has open without closing it, and initializes the module for itself.
- Tokens belong to the module: two stores that use the same module share its logins.
"""

from __future__ import annotations

import contextlib
import threading
from types import TracebackType
from typing import TYPE_CHECKING

from keyvouch.errors import ConfigurationError, KeyUnusable, StoreUnavailable
from keyvouch.store import ForkGate
from keyvouch_pkcs11.cryptoki import Cryptoki, CryptokiError
from keyvouch_pkcs11.error_translation import REQUIRES_INITIALIZATION
from keyvouch_pkcs11.sessions import OpenSessions
from keyvouch_pkcs11.token import Token

if TYPE_CHECKING:
    from keyvouch_pkcs11.module_lookup import ModuleLocation

_NOT_THREAD_SAFE = ("tpm2_pkcs11", "p11-kit-client")
"""Parts of the names of modules that hang if two threads call them, even if they claim to support locking.

p11-kit's client hangs when its server's child process dies: a thread that waits while another reads the response is
never woken.
"""
_UNUSABLE_AFTER_FORK = ("tpm2_pkcs11",)
"""Parts of the names of modules that use the parent's connection in a child process, which breaks it for the parent."""


class Module(ForkGate):
    """A module in this process; it is its own gate: `with module as functions`."""

    def __init__(self, location: ModuleLocation) -> None:
        self._location = location
        try:
            self._functions = Cryptoki(location.path)
        except OSError as error:
            raise ConfigurationError(
                f"Cannot load the PKCS#11 module {location.path}: {error}.",
                hint="Correct module-path=, or install the module for this CPU architecture.",
            ) from error
        self.serialise = any(name in location.path for name in _NOT_THREAD_SAFE)
        """Whether only one thread at a time may call the module; decided before the first call."""
        self._os_locking = True
        self._is_inherited = False
        """True in a child process if the module works only in the process that initialized it."""
        self._reset_state()
        super().__init__()  # last: fork hooks use the object from now on, so it must be complete

    def _reset_state(self) -> None:
        self._lock = threading.RLock()
        self._call_lock = threading.Lock()
        self._users = 0
        self._epoch = 0
        """Incremented each time the logins are discarded: tokens of earlier epochs are no longer used."""
        self._tokens: dict[int, Token] = {}
        """By slot."""
        self.sessions = OpenSessions()
        self._is_initialized = False

    def after_fork(self) -> None:
        """Forget what the parent has open, without closing it."""
        super().after_fork()
        self._is_inherited |= self._is_initialized and any(name in self._location.path for name in _UNUSABLE_AFTER_FORK)
        self._reset_state()

    def __enter__(self) -> Cryptoki:  # type: ignore[override]  # this gate returns the functions it guards
        """Return the functions; a fork waits until the block ends."""
        if self.serialise:
            self._call_lock.acquire()
        super().__enter__()
        return self._functions

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        if self.serialise:
            self._call_lock.release()

    def connect(self, epoch: int | None, *, serialise: bool) -> int:
        """Initialize the module, or discard the logins of this epoch; return the current epoch.

        `epoch` is the result of this process's previous call for the same store, or None. Raises `StoreUnavailable`,
        and `KeyUnusable` if the module works only in this process's parent.
        """
        if self._is_inherited:
            raise KeyUnusable(
                f"The module {self._location.path} cannot be used in a forked child of a process that has used it.",
                hint="Open keys after the fork, or start the workers with `spawn`.",
            )
        with self._lock:
            if epoch is None:
                if not self._is_initialized:
                    self.serialise |= serialise
                    self._initialize()
                elif not self._is_working():
                    self._reconnect()
                self._users += 1
            elif epoch == self._epoch:  # otherwise another store's thread has just done so
                self._reconnect()
            return self._epoch

    def is_current(self, epoch: int) -> bool:
        """Return whether the logins of this epoch are still used."""
        return epoch == self._epoch

    def token(self, slot: int, uri_attributes: dict[str, str], epoch: int) -> Token | None:
        """Return the token in a slot, the same object while the same token is there; None if the epoch has ended."""
        with self._lock:
            if epoch != self._epoch:
                return None
            token = self._tokens.get(slot)
            if token is None or token.uri_attributes != uri_attributes:
                token = self._tokens[slot] = Token(self, slot, uri_attributes)
            return token

    def release(self) -> None:
        """End the use begun by `connect`; the last user logs out."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._discard_tokens()

    def finalize(self) -> None:
        """Finalize the module once no call is running in it. Raises TimeoutError if a call does not end."""
        with self.exclusive():
            with contextlib.suppress(CryptokiError):
                self._functions.finalize()
            self.sessions = OpenSessions()
        self._is_initialized = False

    def _initialize(self) -> None:
        try:
            self._initialize_in_thread()
        except CryptokiError as error:
            if error.name == "CANT_LOCK" and self._os_locking:
                self._os_locking, self.serialise = False, True
                self._initialize()
            elif error.name != "CRYPTOKI_ALREADY_INITIALIZED":  # by the program itself, or by this process's parent
                raise StoreUnavailable(
                    f"Failed to initialize the module {self._location.path}: {error}.",
                    hint="Check its configuration and log. Its service may be stopped, or this account lacks access.",
                ) from error
        self._is_initialized = True

    def _initialize_in_thread(self) -> None:
        """Call C_Initialize in a separate thread. Raises `CryptokiError`.

        SoftHSM leaves errors in the thread's OpenSSL error queue, which Python's `ssl` shares: `ssl` would take them
        for its own at its next wait and break the connection (SSL_get_error(3)).
        """
        failures: list[CryptokiError] = []

        def initialize() -> None:
            try:
                self._functions.initialize(self._location.reserved, locking=self._os_locking)
            except CryptokiError as error:
                failures.append(error)

        thread = threading.Thread(target=initialize)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]

    def _reconnect(self) -> None:
        """Discard logins and sessions; reinitialize the module if it does not work otherwise."""
        self._discard_tokens()
        self._epoch += 1
        if self._is_working():
            return
        try:
            self.finalize()
        except TimeoutError:
            raise StoreUnavailable(
                f"Timed out waiting for a call to the module {self._location.path}.", hint="Restart the program."
            ) from None
        self._initialize()

    def _is_working(self) -> bool:
        """Return whether sessions can be opened, or fail for a reason that reinitializing would not fix."""
        try:
            with self as functions:
                for slot in functions.slots():
                    self.sessions.close(functions, self.sessions.open(functions, slot))
        except CryptokiError as error:
            return error.name not in REQUIRES_INITIALIZATION
        return True

    def _discard_tokens(self) -> None:
        tokens, self._tokens = self._tokens, {}
        for token in tokens.values():
            token.close()


_modules: dict[str, Module] = {}


def load_module(location: ModuleLocation) -> Module:
    """Return this process's module for a file, loaded if it is not yet. Raises `ConfigurationError`."""
    found = _modules.get(location.path)
    return found or _modules.setdefault(location.path, Module(location))
