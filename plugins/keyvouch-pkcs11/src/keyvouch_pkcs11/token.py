"""A token, its log-in, and the sessions shared by all its keys."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from keyvouch.errors import ConfigurationError, SecretRequired, SessionLost, StoreLocked, StoreUnavailable
from keyvouch_pkcs11.cryptoki import (
    CKF_LOGIN_REQUIRED,
    CKF_TOKEN_INITIALIZED,
    CKF_USER_PIN_COUNT_LOW,
    CKF_USER_PIN_FINAL_TRY,
    CKF_USER_PIN_LOCKED,
    CryptokiError,
    text,
)
from keyvouch_pkcs11.failures import told

if TYPE_CHECKING:
    from keyvouch.secrets import Secret, SecretResolver
    from keyvouch.store import KeyUri
    from keyvouch_pkcs11.cryptoki import Cryptoki
    from keyvouch_pkcs11.module import Module

PIN = "pin-source"
_STATES = {
    CKF_USER_PIN_LOCKED: "its PIN is locked",
    CKF_USER_PIN_FINAL_TRY: "one more wrong PIN locks it",
    CKF_USER_PIN_COUNT_LOW: "a wrong PIN was tried",
}
_FAILED_TRY = CKF_USER_PIN_LOCKED | CKF_USER_PIN_FINAL_TRY | CKF_USER_PIN_COUNT_LOW
OWN_TIMEOUT = 30.0
"""In seconds, for operations without a timeout in the store contract."""
_FREE_AGAIN = 0.005
"""Seconds between attempts to get a session while the token's sessions are all in use."""


class Token:
    """A token of a module, during one log-in."""

    def __init__(self, module: Module, slot: int, facts: dict[str, str]) -> None:
        self.module = module
        self.slot = slot
        self.facts = facts
        """By URI attribute: token, manufacturer, model, serial, and those of the slot."""
        self._log_in = threading.Lock()
        self._writing = threading.Lock()
        self._reference: str | None = None
        """The reference of the PIN used to log in."""
        self._anchor: int | None = None
        """A session that is never handed out: closing a token's last session would log out."""
        self._free: list[int] = []
        self._given_up = False

    @property
    def name(self) -> str:
        """A unique name of this token, for the record of refused PINs."""
        return "pkcs11:" + "/".join(self.facts[each] for each in ("manufacturer", "model", "serial", "token"))

    @property
    def is_logged_in(self) -> bool:
        """Whether this object has logged in."""
        return self._reference is not None

    def state(self) -> list[str]:
        """Return the state of the PIN in words, as shown by the token's flags. Raises `CryptokiError`."""
        with self.module as functions:
            flags = functions.token(self.slot).flags
        return [words for flag, words in _STATES.items() if flags & flag]

    def shows_failed_try(self) -> bool:
        """Return whether the flags show a wrong PIN since the last correct one; many tokens never set them.

        Raises keyvouch's errors if the call to the module fails.
        """
        with told("reading the token's flags"), self.module as functions:
            return bool(functions.token(self.slot).flags & _FAILED_TRY)

    def log_in(self, uri: KeyUri, secrets: SecretResolver, timeout: float) -> None:
        """Log in with the URI's PIN if the token requires a log-in and has none yet.

        Raises `SecretIncorrect`, `StoreLocked`, `StoreUnavailable`, and `ConfigurationError` if the log-in used another
        PIN reference.
        """
        if PIN not in uri:
            return
        reference = str(uri.get(PIN))
        if not self._log_in.acquire(timeout=timeout):
            raise StoreUnavailable("Another log-in to the token does not end.", hint="Try again later.", uri=uri)
        try:
            if self._reference is None:
                self._try(uri, secrets, timeout)
                self._reference = reference
            elif self._reference != reference:
                raise ConfigurationError(
                    f"The token {self.facts['token']} is logged in to with another PIN's reference.",
                    hint="Give all keys of one token the same pin-source=.",
                    uri=uri,
                )
        finally:
            self._log_in.release()

    def _try(self, uri: KeyUri, secrets: SecretResolver, timeout: float) -> None:
        with told("asking for the token"), self.module as functions:
            flags = functions.token(self.slot).flags
        if flags & CKF_USER_PIN_LOCKED:
            raise StoreLocked(
                f"The token {self.facts['token']} is locked.", hint="Let its security officer unlock it.", uri=uri
            )
        if flags & CKF_USER_PIN_FINAL_TRY:
            raise StoreLocked(
                f"One more wrong PIN would lock the token {self.facts['token']}.",
                hint="Log in once by the token's own tool and with the right PIN: `pkcs11-tool --login`.",
                uri=uri,
            )
        if not flags & CKF_LOGIN_REQUIRED:
            return
        with told("opening a session"), self.module as functions:
            session = functions.open_session(self.slot)
            if functions.is_logged_in(
                session
            ):  # by the program itself: a log-in is valid for the whole process, so no PIN is tried
                self._anchor = session
                return
        try:
            with (
                secrets.attempt(
                    uri, PIN, target=self.name, timeout=timeout, shows_failure=self.shows_failed_try
                ) as pin,
                told("logging in"),
                self.module as functions,
            ):
                _log_in(functions, session, pin)
        except BaseException:
            self.close(session)
            raise
        self._anchor = session

    def require_log_in(self, uri: KeyUri, timeout: float) -> None:
        """Raise `SecretRequired` if the token hides its keys without a log-in; `SessionLost` if the log-in was lost.

        After a log-out by other code in the process a search finds nothing, although the key exists.
        """
        with told("asking for the token"), self.session(timeout) as session, self.module as functions:
            wanted = bool(functions.token(self.slot).flags & CKF_LOGIN_REQUIRED)
            there = functions.is_logged_in(session)
        if not wanted or there:
            return
        if self.is_logged_in:
            raise SessionLost("The token has been logged out from.", hint="Try again.", performed=False)
        raise SecretRequired(
            f"The token {self.facts['token']} shows no key without its PIN.", hint="Add ?pin-source=env:NAME.", uri=uri
        )

    @contextlib.contextmanager
    def session(self, timeout: float) -> Iterator[int]:
        """Lend a session to one thread; it is kept for the next thread unless something failed in it."""
        session = self.take(timeout)
        try:
            yield session
        except BaseException:
            self.close(session)
            raise
        self.put_back(session)

    @contextlib.contextmanager
    def writing(self) -> Iterator[int]:
        """Yield a read-write session, to one thread at a time: SoftHSM fails if two threads write at once."""
        with self._writing:
            self._require_use()
            with self.module as functions:
                session = functions.open_session(self.slot, writable=True)
            try:
                yield session
            finally:
                self.close(session)

    def give_up(self) -> None:
        """Close the free sessions; those in use are closed by their users. No further session is handed out."""
        self._given_up = True
        anchor, self._anchor = self._anchor, None
        if anchor is not None:
            self.close(anchor)
        while self._free:
            with contextlib.suppress(IndexError):  # another thread has taken it
                self.close(self._free.pop())

    def take(self, timeout: float) -> int:
        """Return a session for the exclusive use of one thread. Raises `CryptokiError`, `SessionLost`."""
        end = time.monotonic() + timeout
        while True:
            self._require_use()
            try:
                return self._free.pop()
            except IndexError:
                pass
            try:
                with self.module as functions:
                    return functions.open_session(self.slot)
            except CryptokiError as error:
                if error.name != "SESSION_COUNT" or time.monotonic() > end:
                    raise
                time.sleep(_FREE_AGAIN)

    def put_back(self, session: int) -> None:
        """Keep a session for the next thread."""
        if self._given_up:
            self.close(session)
            return
        self._free.append(session)
        if self._given_up:  # by another thread, which may already have emptied the list
            self.give_up()

    def close(self, session: int) -> None:
        """Close a session in which something failed: it may be lost or have an operation in progress."""
        with contextlib.suppress(CryptokiError), self.module as functions:
            functions.close_session(session)

    def _require_use(self) -> None:
        if self._given_up:
            raise SessionLost("The log-in to the token was given up.", hint="Try again.", performed=False)


def _log_in(functions: Cryptoki, session: int, pin: Secret) -> None:
    try:
        functions.login(session, pin.reveal().encode())
    except CryptokiError as error:
        if error.name != "USER_ALREADY_LOGGED_IN":  # by the program itself, at this very moment
            raise


def facts_of(module: Module, slot: int) -> dict[str, str] | None:
    """Return a token's and its slot's facts as URI attributes; None if not initialised. Raises `CryptokiError`."""
    with module as functions:
        token, place = functions.token(slot), functions.slot(slot)
    if not token.flags & CKF_TOKEN_INITIALIZED:
        return None
    return {
        "token": text(token.label),
        "manufacturer": text(token.manufacturer),
        "model": text(token.model),
        "serial": text(token.serial),
        "slot-id": str(slot),
        "slot-description": text(place.description),
        "slot-manufacturer": text(place.manufacturer),
    }
