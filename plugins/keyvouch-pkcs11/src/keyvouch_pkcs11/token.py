"""A token, its login, and the sessions shared by all its keys."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from keyvouch.errors import ConfigurationError, SecretRequired, SessionLost, StoreLocked, StoreUnavailable
from keyvouch_pkcs11.cryptoki import (
    CKF_LOGIN_REQUIRED,
    CKF_USER_PIN_COUNT_LOW,
    CKF_USER_PIN_FINAL_TRY,
    CKF_USER_PIN_LOCKED,
    CryptokiError,
)
from keyvouch_pkcs11.error_translation import translate_errors
from keyvouch_pkcs11.uri_attributes import PIN_SOURCE

if TYPE_CHECKING:
    from keyvouch.secrets import Secret, SecretResolver
    from keyvouch.store import KeyUri
    from keyvouch_pkcs11.cryptoki import Cryptoki
    from keyvouch_pkcs11.module import Module
    from keyvouch_pkcs11.sessions import Session

_PIN_STATES = {
    CKF_USER_PIN_LOCKED: "its PIN is locked",
    CKF_USER_PIN_FINAL_TRY: "one more wrong PIN locks it",
    CKF_USER_PIN_COUNT_LOW: "a wrong PIN was tried",
}
_FAILED_LOGIN = CKF_USER_PIN_LOCKED | CKF_USER_PIN_FINAL_TRY | CKF_USER_PIN_COUNT_LOW
DEFAULT_TIMEOUT = 30.0
"""In seconds, for operations without a timeout in the store contract."""
_POLL_INTERVAL = 0.005
"""Seconds between attempts to get a session while the token's sessions are all in use."""

_ENDED_SESSION = frozenset({"SESSION_CLOSED", "SESSION_HANDLE_INVALID", "CRYPTOKI_NOT_INITIALIZED"})
"""Errors after which the module no longer knows the session."""


class Token:
    """A token of a module, during one login."""

    def __init__(self, module: Module, slot: int, uri_attributes: dict[str, str]) -> None:
        self.module = module
        self.slot = slot
        self.uri_attributes = uri_attributes
        """See `uri_attributes.token_attributes`."""
        self._login_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._pin_source: str | None = None
        """The reference of the PIN used to log in."""
        self._login_session: Session | None = None
        """A session that is never handed out: closing a token's last session would log out."""
        self._free_sessions: list[Session] = []
        self._is_closed = False

    @property
    def label(self) -> str:
        """The token's label."""
        return self.uri_attributes["token"]

    @property
    def name(self) -> str:
        """A unique name of this token, for the record of rejected PINs."""
        return "pkcs11:" + "/".join(self.uri_attributes[each] for each in ("manufacturer", "model", "serial", "token"))

    @property
    def is_logged_in(self) -> bool:
        """Whether this object has logged in."""
        return self._pin_source is not None

    def pin_state(self) -> list[str]:
        """Return the state of the PIN in words, as shown by the token's flags. Raises `CryptokiError`."""
        with self.module as functions:
            flags = functions.token_info(self.slot).flags
        return [words for flag, words in _PIN_STATES.items() if flags & flag]

    def shows_failed_login(self) -> bool:
        """Return whether the flags show a wrong PIN since the last correct one; many tokens never set them.

        Raises keyvouch's errors if the call to the module fails.
        """
        return bool(self._read_flags() & _FAILED_LOGIN)

    def log_in(self, uri: KeyUri, secrets: SecretResolver, timeout: float) -> None:
        """Log in with the URI's PIN if the token requires a login and has none yet.

        Raises `SecretIncorrect`, `StoreLocked`, `StoreUnavailable`, and `ConfigurationError` if the login used another
        PIN reference.
        """
        if PIN_SOURCE not in uri:
            return
        pin_source = str(uri.get(PIN_SOURCE))
        if not self._login_lock.acquire(timeout=timeout):
            raise StoreUnavailable(
                "Timed out waiting for another login to the token.", hint="Try again later.", uri=uri
            )
        try:
            if self._pin_source is None:
                self._log_in(uri, secrets, timeout)
                self._pin_source = pin_source
            elif self._pin_source != pin_source:
                raise ConfigurationError(
                    f'The token "{self.label}" is already in use with a different pin-source.',
                    hint="Use the same pin-source= for all keys of one token.",
                    uri=uri,
                )
        finally:
            self._login_lock.release()

    def _log_in(self, uri: KeyUri, secrets: SecretResolver, timeout: float) -> None:
        flags = self._read_flags()
        self._require_unlocked(flags, uri)
        if not flags & CKF_LOGIN_REQUIRED:
            return
        with translate_errors("opening a session"), self.module as functions:
            session = self.module.sessions.open(functions, self.slot)
            is_logged_in = functions.is_logged_in(session)
        if not is_logged_in:  # otherwise by the program itself: a login is valid for the whole process
            self._try_pin(session, uri, secrets, timeout)
        self._login_session = session

    def _try_pin(self, session: Session, uri: KeyUri, secrets: SecretResolver, timeout: float) -> None:
        try:
            with (
                secrets.attempt(
                    uri, PIN_SOURCE, target=self.name, timeout=timeout, shows_failure=self.shows_failed_login
                ) as pin,
                translate_errors("logging in"),
                self.module as functions,
            ):
                _login(functions, session, pin)
        except BaseException:
            self.close_session(session)
            raise

    def _read_flags(self) -> int:
        with translate_errors("reading the token's flags"), self.module as functions:
            return int(functions.token_info(self.slot).flags)

    def _require_unlocked(self, flags: int, uri: KeyUri) -> None:
        if flags & CKF_USER_PIN_LOCKED:
            raise StoreLocked(
                f'The PIN of the token "{self.label}" is locked.',
                hint="Ask the token's security officer to unlock it.",
                uri=uri,
            )
        if flags & CKF_USER_PIN_FINAL_TRY:
            raise StoreLocked(
                f'One more wrong PIN would lock the token "{self.label}".',
                hint="Log in once with the correct PIN, using the token's own tool: `pkcs11-tool --login`.",
                uri=uri,
            )

    def require_login(self, uri: KeyUri, timeout: float) -> None:
        """Raise `SecretRequired` if the token hides its keys without a login; `SessionLost` if the login was lost.

        After a log-out by other code in the process a search finds nothing, although the key exists.
        """
        with translate_errors("reading the token's flags"), self.session(timeout) as session, self.module as functions:
            is_required = bool(functions.token_info(self.slot).flags & CKF_LOGIN_REQUIRED)
            is_logged_in = functions.is_logged_in(session)
        if not is_required or is_logged_in:
            return
        if self.is_logged_in:
            raise SessionLost("The token was logged out.", hint="Try again.", performed=False)
        raise SecretRequired(
            f'The token "{self.label}" requires a PIN.',
            hint="Add pin-source=file:/path or pin-source=env:NAME to the URI.",
            uri=uri,
        )

    @contextlib.contextmanager
    def session(self, timeout: float) -> Iterator[Session]:
        """Lend a session to one thread; it is kept for the next thread unless something failed in it."""
        session = self.acquire_session(timeout)
        try:
            yield session
        except BaseException as error:
            self.discard_session(session, error)
            raise
        self.release_session(session)

    @contextlib.contextmanager
    def read_write_session(self) -> Iterator[Session]:
        """Yield a read-write session, to one thread at a time: SoftHSM fails if two threads write at once."""
        with self._write_lock:
            self._require_open()
            with self.module as functions:
                session = self.module.sessions.open(functions, self.slot, writable=True)
            try:
                yield session
            finally:
                self.close_session(session)

    def close(self) -> None:
        """Close the free sessions; those in use are closed by their users. No further session is handed out."""
        self._is_closed = True
        session, self._login_session = self._login_session, None
        if session is not None:
            self.close_session(session)
        while self._free_sessions:
            with contextlib.suppress(IndexError):  # another thread has taken it
                self.close_session(self._free_sessions.pop())

    def acquire_session(self, timeout: float) -> Session:
        """Return a session for the exclusive use of one thread. Raises `CryptokiError`, `SessionLost`."""
        deadline = time.monotonic() + timeout
        while True:
            self._require_open()
            try:
                return self._free_sessions.pop()
            except IndexError:
                pass
            try:
                with self.module as functions:
                    return self.module.sessions.open(functions, self.slot)
            except CryptokiError as error:
                if error.name != "SESSION_COUNT" or time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_INTERVAL)

    def release_session(self, session: Session) -> None:
        """Keep a session for the next thread."""
        if self._is_closed:
            self.close_session(session)
            return
        self._free_sessions.append(session)
        if self._is_closed:  # by another thread, which may already have emptied the list
            self.close()

    def discard_session(self, session: Session, error: BaseException) -> None:
        """Close a session in which something failed: it may have an operation in progress.

        A session that the module no longer knows is not closed: other code in the process may have been given its
        handle since.
        """
        cause = error if isinstance(error, CryptokiError) else error.__cause__
        if isinstance(cause, CryptokiError) and cause.name in _ENDED_SESSION:
            self.module.sessions.forget(session)
        else:
            self.close_session(session)

    def close_session(self, session: Session) -> None:
        """Close a session if it is still the one with its handle; an error is ignored."""
        with contextlib.suppress(CryptokiError), self.module as functions:
            self.module.sessions.close(functions, session)

    def _require_open(self) -> None:
        if self._is_closed:
            raise SessionLost("The connection to the module was reset.", hint="Try again.", performed=False)


def _login(functions: Cryptoki, session: int, pin: Secret) -> None:
    try:
        functions.login(session, pin.reveal().encode())
    except CryptokiError as error:
        if error.name != "USER_ALREADY_LOGGED_IN":  # by the program itself, at this very moment
            raise
