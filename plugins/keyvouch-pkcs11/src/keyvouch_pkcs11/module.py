"""The modules of this process: each initialised once, and left alone by forks.

Rules, which all of them keep:

- A module stays initialised until the process ends. Its last user logs out, and no more: some modules, as opencryptoki,
  close descriptors that are not theirs when they are initialised a second time.

- Every call is made inside the module's gate: a fork waits for it, and so does initialising the module anew.
- A child forgets what its parent had open, and closes nothing of it: it initialises the module for itself.
- Tokens belong to the module: two stores that use one module share its log-ins.
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
"""In the names of modules that hang when two threads call them, whatever they say of locks.

p11-kit's client does so when its server's child dies: who waits for another thread's answer is never woken.
"""
NOT_AFTER_FORK = ("tpm2_pkcs11",)
"""Of modules that take their parent's connection for the child's own: what the child does then breaks the parent's."""


class Module(ForkGate):
    """One module in one process; its own gate."""

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
        """Whether one thread at a time may call it; decided before the first call."""
        self._locking = True
        self._is_inherited = False
        """Whether this is a child, and the module one that works in its parent alone."""
        self._begin()
        super().__init__()  # at the end: forks turn to it from now on, so it must be whole, and loaded

    def _begin(self) -> None:
        self.lock = threading.RLock()
        self._calls = threading.Lock()
        self.users = 0
        self.epoch = 0
        """Grows with every log-in that is given up: a token of a former one is no longer used."""
        self.tokens: dict[int, Token] = {}
        self._initialised = False

    def after_fork(self) -> None:
        """Forget what the parent has open, and close nothing of it."""
        super().after_fork()
        self._is_inherited |= self._initialised and any(name in self.location.path for name in NOT_AFTER_FORK)
        self._begin()

    def __enter__(self) -> Cryptoki:  # type: ignore[override]  # a gate that gives what stands behind it
        """Give the functions, while a fork has to wait."""
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
        """Initialise the module, or give up the log-ins of this epoch; return the epoch that is connected.

        `epoch` is what this process's last call for the same store returned, or None. Raises `StoreUnavailable`, and
        `KeyUnusable` where the module works in this process's parent alone.
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
            elif epoch == self.epoch:  # else another store's thread has just done it
                self._renew()
            return self.epoch

    def release(self) -> None:
        """Give back what `connect` gave; the last one logs out."""
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
        """Call C_Initialize in a thread of its own. Raises `CryptokiError`.

        SoftHSM leaves errors in OpenSSL's queue of the thread, which Python's `ssl` shares: it would take them for its
        own at its next wait, and break the connection (SSL_get_error(3)).
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
        """Forget log-ins and sessions; initialise the module anew where it answers nothing else."""
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
        """Tell whether sessions can be had, or at least nothing is wrong that initialising anew would mend."""
        try:
            with self as functions:
                for slot in functions.slots():
                    functions.close_session(functions.open_session(slot))
        except CryptokiError as error:
            return error.name not in NEEDS_INITIALISING
        return True

    def end(self) -> None:
        """Finalise the module, when no call is in it. Raises TimeoutError where one does not end."""
        with self.alone(), contextlib.suppress(CryptokiError):
            self.functions.finalize()
        self._initialised = False

    def _give_up_tokens(self) -> None:
        tokens, self.tokens = self.tokens, {}
        for token in tokens.values():
            token.give_up()


def as_unavailable(path: str, error: CryptokiError) -> StoreUnavailable:
    """Return the error for a module that cannot be initialised."""
    return StoreUnavailable(
        f"The module {path} cannot be initialised: {error}.",
        hint="See its own configuration and log: its service may not run, or this account may not use it.",
    )


def facts_of_library(functions: Cryptoki) -> dict[str, str]:
    """Return what a URI can say of a module. Raises `CryptokiError`."""
    info = functions.info()
    return {
        "library-manufacturer": text(info.manufacturer),
        "library-description": text(info.description),
        "library-version": f"{info.version.major}.{info.version.minor}",
    }


_modules: dict[str, Module] = {}


def module_at(location: Location) -> Module:
    """Return the one module at this place, loaded. Raises `ConfigurationError`."""
    found = _modules.get(location.path)
    return found or _modules.setdefault(location.path, Module(location))
