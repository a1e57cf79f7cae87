"""A loop of C_SignInit and C_Sign through ctypes, for comparison with keyvouch."""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING

from keyvouch.errors import SessionLost
from keyvouch_pkcs11.cryptoki import CK_ULONG, MAX_SIGNATURE_SIZE, CryptokiError, SignatureBuffer
from keyvouch_pkcs11.token import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from keyvouch_pkcs11.mechanisms import SigningMethod
    from keyvouch_pkcs11.sessions import OpenSessions, Session
    from keyvouch_pkcs11.token import Token


class Peer:
    """Signs with one key by one method, in a session for each thread."""

    def __init__(self, token: Token, key: int, method: SigningMethod) -> None:
        """`key` is the handle of a private key on the token, on which this process is logged in."""
        self._token, self._module = token, token.module
        self._key, self._method = key, method
        self._known_sessions: OpenSessions | None = token.module.sessions
        """All sessions end when the module has others: in a forked child, or if the module was initialized again."""
        self._sessions: list[Session] = []
        self._thread = threading.local()

    def sign(self, message: bytes) -> bytes:
        """Sign in this thread's session. Raises `CryptokiError`, and `SessionLost` if all sessions have ended."""
        session = self._thread_session()  # before entering the module, since opening a session enters it too
        data = self._method.prepare(message)
        buffer, length = SignatureBuffer(), CK_ULONG(MAX_SIGNATURE_SIZE)
        with self._module as functions:  # or it could be finalized under the call
            self._require_sessions()
            if return_value := functions.sign_init(session, self._method.address, self._key):
                raise CryptokiError("SignInit", return_value)
            if return_value := functions.sign(session, data, len(data), buffer, ctypes.byref(length)):
                raise CryptokiError("Sign", return_value)
        return buffer.raw[: length.value]

    def _require_sessions(self) -> None:
        if self._module.sessions is not self._known_sessions:
            raise SessionLost("The peer's sessions have ended.", hint="Get another peer.", performed=False)

    def _thread_session(self) -> Session:
        self._require_sessions()
        try:
            session: Session = self._thread.session
        except AttributeError:
            self._thread.session = session = self._token.acquire_session(DEFAULT_TIMEOUT)
            self._sessions.append(session)
        return session

    def close(self) -> None:
        """Close the sessions of all threads; nothing is signed any more."""
        self._known_sessions = None
        for session in self._sessions:
            self._token.close_session(session)
