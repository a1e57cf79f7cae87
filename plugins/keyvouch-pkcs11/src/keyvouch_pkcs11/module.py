"""The modules loaded in this process: each is initialised once per process, and forks do not disturb it.

Rules:

- A module stays initialised until the process ends. Its last user only logs out: some modules, such as opencryptoki,
  close descriptors they do not own when they are initialised a second time.

- Every call is made inside the module's gate: a fork waits for it to return, and so does reinitialising the module.
- A child forgets what its parent has open without closing it, and initialises the module for itself.
- Tokens belong to the module: two stores that use the same module share its log-ins.
"""

from __future__ import annotations

import contextlib
import threading
from types import TracebackType
from typing import TYPE_CHECKING

from keyvouch.errors import ConfigurationError, KeyUnusable, StoreUnavailable
from keyvouch.store import ForkGate
from keyvouch_pkcs11.cryptoki import Cryptoki, CryptokiError, text
from keyvouch_pkcs11.failures import NEEDS_INITIALISING

if TYPE_CHECKING:
    from keyvouch_pkcs11.locations import Location
    from keyvouch_pkcs11.token import Token

NOT_THREAD_SAFE = ("tpm2_pkcs11", "p11-kit-client")
"""Parts of the names of modules that hang if two threads call them, even if they claim to support locking.

p11-kit's client hangs when its server's child process dies: a thread that waits while another reads the response is
never woken.
"""
NOT_AFTER_FORK = ("tpm2_pkcs11",)
"""Parts of the names of modules that use the parent's connection in a child process, which breaks it for the parent."""


class Module(ForkGate):
    """A module in this process; it is its own gate."""

    def __init__(self, location: Location) -> None:
        self.location = location
        try:
            self.functions = Cryptoki(location.path)
        except OSError as error:
            raise ConfigurationError(
                f"{location.path} is no PKCS#11 module that can be loaded: {error}.",
                hint="Correct module-path=, or install the module for this processor.",
            ) from error
        self._serialise = any(name in location.path for name in NOT_THREAD_SAFE)
        """Whether only one thread at a time may call the module; decided before the first call."""
        self._locking = True
        self._is_inherited = False
        """True in a child process if the module works only in the process that initialised it."""
        self._begin()
        super().__init__()  # last: fork hooks use the object from now on, so it must be complete

    def _begin(self) -> None:
        self.lock = threading.RLock()
        self._calls = threading.Lock()
        self.users = 0
        self.epoch = 0
        """Incremented each time the log-ins are given up: tokens of earlier epochs are no longer used."""
        self.tokens: dict[int, Token] = {}
        self._initialised = False

    def after_fork(self) -> None:
        """Forget what the parent has open, without closing it."""
        super().after_fork()
        self._is_inherited |= self._initialised and any(name in self.location.path for name in NOT_AFTER_FORK)
        self._begin()

    def __enter__(self) -> Cryptoki:  # type: ignore[override]  # this gate returns the functions it guards
        """Return the functions; a fork waits until the block ends."""
        if self._serialise:
            self._calls.acquire()
        super().__enter__()
        return self.functions

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        if self._serialise:
            self._calls.release()

    def connect(self, epoch: int | None, *, serialise: bool) -> int:
        """Initialise the module, or give up the log-ins of this epoch; return the current epoch.

        `epoch` is the result of this process's previous call for the same store, or None. Raises `StoreUnavailable`,
        and `KeyUnusable` if the module works only in this process's parent.
        """
        if self._is_inherited:
            raise KeyUnusable(
                f"The module {self.location.path} is not usable in a child of the process that has used it.",
                hint="Open keys after the fork, or start workers anew (`spawn`).",
            )
        with self.lock:
            if epoch is None:
                if not self._initialised:
                    self._serialise |= serialise
                    self._initialise()
                elif not self._answers():
                    self._renew()
                self.users += 1
            elif epoch == self.epoch:  # otherwise another store's thread has just done so
                self._renew()
            return self.epoch

    def release(self) -> None:
        """End the use begun by `connect`; the last user logs out."""
        with self.lock:
            self.users -= 1
            if not self.users:
                self._give_up_tokens()

    def _initialise(self) -> None:
        try:
            self._initialize_apart()
        except CryptokiError as error:
            if error.name == "CANT_LOCK" and self._locking:
                self._locking, self._serialise = False, True
                self._initialise()
            elif error.name != "CRYPTOKI_ALREADY_INITIALIZED":  # by the program itself, or by this process's parent
                raise as_unavailable(self.location.path, error) from error
        self._initialised = True

    def _initialize_apart(self) -> None:
        """Call C_Initialize in a separate thread. Raises `CryptokiError`.

        SoftHSM leaves errors in the thread's OpenSSL error queue, which Python's `ssl` shares: `ssl` would take them
        for its own at its next wait and break the connection (SSL_get_error(3)).
        """
        failures: list[CryptokiError] = []

        def initialize() -> None:
            try:
                self.functions.initialize(self.location.reserved, locking=self._locking)
            except CryptokiError as error:
                failures.append(error)

        thread = threading.Thread(target=initialize)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]

    def _renew(self) -> None:
        """Forget log-ins and sessions; reinitialise the module if it does not work otherwise."""
        self._give_up_tokens()
        self.epoch += 1
        if self._answers():
            return
        try:
            self.end()
        except TimeoutError:
            raise StoreUnavailable(
                f"A call of the module {self.location.path} does not end.", hint="Start the program anew."
            ) from None
        self._initialise()

    def _answers(self) -> bool:
        """Return whether sessions can be opened, or fail for a reason that reinitialising would not fix."""
        try:
            with self as functions:
                for slot in functions.slots():
                    functions.close_session(functions.open_session(slot))
        except CryptokiError as error:
            return error.name not in NEEDS_INITIALISING
        return True

    def end(self) -> None:
        """Finalise the module once no call is running in it. Raises TimeoutError if a call does not end."""
        with self.exclusive(), contextlib.suppress(CryptokiError):
            self.functions.finalize()
        self._initialised = False

    def _give_up_tokens(self) -> None:
        tokens, self.tokens = self.tokens, {}
        for token in tokens.values():
            token.give_up()


def as_unavailable(path: str, error: CryptokiError) -> StoreUnavailable:
    """Return the error for a module that failed to initialise."""
    return StoreUnavailable(
        f"The module {path} cannot be initialised: {error}.",
        hint="See its own configuration and log: its service may not run, or this account may not use it.",
    )


def facts_of_library(functions: Cryptoki) -> dict[str, str]:
    """Return the module's facts as URI attributes. Raises `CryptokiError`."""
    info = functions.info()
    return {
        "library-manufacturer": text(info.manufacturer),
        "library-description": text(info.description),
        "library-version": f"{info.version.major}.{info.version.minor}",
    }


_modules: dict[str, Module] = {}


def module_at(location: Location) -> Module:
    """Return the module at this location, loading it if necessary. Raises `ConfigurationError`."""
    found = _modules.get(location.path)
    return found or _modules.setdefault(location.path, Module(location))
