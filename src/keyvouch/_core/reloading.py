"""When a signer looks for a rotated key, and how it reloads: key and chain are always replaced together."""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time

from keyvouch import certificate
from keyvouch._core.audit import record_audit
from keyvouch._core.certificate_file import CertificateFile
from keyvouch._core.current_key import CurrentKey, reopening_timed_out, signer_closed
from keyvouch._core.opened_key import OpenedKey, open_key
from keyvouch._core.retries import Deadline
from keyvouch._core.store_faults import store_code
from keyvouch._system import forks, safe_lock
from keyvouch._system.signal_handlers import is_from_signal_handler
from keyvouch.errors import KeyvouchError, without_frames
from keyvouch.uri import KeyUri

log = logging.getLogger("keyvouch")

_CHECK_INTERVAL = 1.0
"""Seconds between checks whether the key was replaced."""
_LONGEST_PAUSE = 60.0
"""Maximum seconds between failing reloads; the pause doubles from the interval above."""
_RELOAD_INTERVAL = 3600.0
"""Seconds after which a key that may have a successor is reopened."""


class Reloader:
    """Reloads the key of one signer when its URI leads to another key or certificate."""

    def __init__(self, current: CurrentKey, requested: KeyUri, certificate_file: CertificateFile) -> None:
        self._current = current
        self._requested = requested
        self._certificate_file = certificate_file
        self.error: Exception | None = None
        """The error of the last automatic reload; None if it succeeded."""
        self.next_check = self._next_reload = 0.0
        self._pause = _CHECK_INTERVAL
        self._advice: tuple[str, ...] = ()
        self._log_advice(current.opened)
        self._schedule()
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        """Discard, in a child, what the parent's other threads were doing."""
        self.lock = threading.Lock()

    def reload(self, timeout: float) -> bool:
        """Reopen the requested URI; return True if its key or certificate has changed."""
        deadline, held = Deadline(timeout), list[bool]()
        try:
            if not safe_lock.acquire(self.lock, held, timeout):
                raise reopening_timed_out()
            return self._reload(deadline)
        finally:
            if True in held:
                self.lock.release()

    def reload_if_due(self, timeout: float) -> None:
        """Reload if the key was rotated. Called before each negotiated signature; checks at most once a second."""
        now = time.monotonic()
        if now < self.next_check:
            return
        held = list[bool]()
        try:
            if not safe_lock.acquire(self.lock, held, 0):
                return  # while one thread reloads, the others sign with the old key
            self.next_check = now + _CHECK_INTERVAL
            if self._is_due(now):
                self._reload(Deadline(timeout / 3))
        except Exception as error:  # whatever the error, the old key still signs
            if is_from_signal_handler(error):
                raise
            # A stalled store must not delay every signature.
            self.next_check = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            self.error = without_frames(error)
            outcome = error.code if isinstance(error, KeyvouchError) else type(error).__name__
            record_audit("reload", {"uri": str(self._requested), "outcome": outcome})
        finally:
            if True in held:
                self.lock.release()

    def _reload(self, deadline: Deadline) -> bool:
        if self._current.closed:  # the store may be closed too
            raise signer_closed()
        found = open_key(self._current.connection, self._requested, self._certificate_file.read(), deadline)
        old = self._current.replace(found, deadline)
        self._log_advice(found)
        self._certificate_file.mark_used()
        self.error = None
        self._schedule()
        return (found.spki, found.thumbprint) != (old.spki, old.thumbprint)

    def _log_advice(self, opened: OpenedKey) -> None:
        """Log the store's advice about the key, unless it is the same as at the last reload."""
        for advice in opened.stored.advice:
            if advice not in self._advice:
                log.warning("%s", advice)
        self._advice = opened.stored.advice

    def _is_due(self, now: float) -> bool:
        opened = self._current.opened
        if opened.settles_at is not None and dt.datetime.now(dt.UTC) >= opened.settles_at:
            return True
        if now >= self._next_reload and (self._may_have_successor or self._in_last_third()):
            return True
        with store_code(self._requested.scheme):
            changed = opened.stored.changed()
        return bool(changed) or self._certificate_file.changed()

    @property
    def _may_have_successor(self) -> bool:
        """True if the requested URI, a family or one that is not pinned, may refer to another key by now."""
        requested = self._requested
        return requested.get("select") == "newest" or requested.identity() != self._current.opened.stored.uri.identity()

    def _in_last_third(self) -> bool:
        """Return True if the certificate is in the last third of its validity, when it is usually renewed."""
        status = certificate.status(self._current.opened.chain)
        if status.not_before is None or status.not_after is None:
            return False
        return dt.datetime.now(dt.UTC) > status.not_after - (status.not_after - status.not_before) / 3

    def _schedule(self) -> None:
        now = time.monotonic()
        self.next_check = now + _CHECK_INTERVAL
        self._next_reload = now + _RELOAD_INTERVAL
        self._pause = _CHECK_INTERVAL
