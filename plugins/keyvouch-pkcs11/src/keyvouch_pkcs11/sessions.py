"""The sessions that keyvouch has opened with a module: each is closed only by what opened it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keyvouch_pkcs11.cryptoki import Cryptoki


class Session(int):
    """The handle of one session; two sessions can have the same handle, one after the other, so compare with `is`."""


class OpenSessions:
    """The current session of each handle.

    A module ends sessions by itself if it is initialized again, or if other code calls C_CloseAllSessions, and may then
    give their handles to new sessions: tpm2-pkcs11 always uses the lowest free one. A thread that still holds an ended
    session must not close the new one, which may be the login of the next connection.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        """Held during the calls: between C_OpenSession and its entry here, the handle would still be the old one's.

        Acquired only inside the module's gate. Signing does not need it: sessions are kept.
        """
        self._by_handle: dict[int, Session] = {}

    def open(self, functions: Cryptoki, slot: int, *, writable: bool = False) -> Session:
        """Return a new session. Raises `CryptokiError`."""
        with self._lock:
            session = Session(functions.open_session(slot, writable=writable))
            self._by_handle[session] = session
        return session

    def close(self, functions: Cryptoki, session: Session) -> None:
        """Close a session unless its handle now belongs to another one, or to none. Raises `CryptokiError`."""
        with self._lock:
            if self._remove(session):
                functions.close_session(session)

    def forget(self, session: Session) -> None:
        """Remove a session that the module no longer knows."""
        with self._lock:
            self._remove(session)

    def _remove(self, session: Session) -> bool:
        is_current = self._by_handle.get(session) is session
        if is_current:
            del self._by_handle[session]
        return is_current
