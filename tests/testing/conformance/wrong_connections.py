"""Faults in construction, connections, timeouts, threads and forks."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Any

from cryptography import x509

from keyvouch.algorithms import Algorithm
from keyvouch.errors import KeyUnusable, SessionLost, StoreUnavailable
from keyvouch.local_key import sign_locally
from keyvouch.secrets import SecretResolver
from keyvouch.store import KeyUri, StoredKey
from testing.conformance.faults import caught_by, wait_out
from testing.conformance.memory_store import MemoryKey, MemoryStore


@caught_by("test_constructor_does_no_io")
class EagerStore(MemoryStore):
    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:
        super().__init__(uri, secrets)
        with open(os.devnull, "rb") as file:  # noqa: PTH123 - as a client library would
            file.read()


@caught_by("test_constructor_does_no_io")
class ResolvesEarly(MemoryStore):
    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:
        super().__init__(uri, secrets)
        socket.getaddrinfo("localhost", 443)


@caught_by("test_lost_connection_raises_session_lost")
class UntypedLossOfOneMethod(MemoryStore):
    def import_key(self, uri: KeyUri, *what: Any, **more: Any) -> KeyUri:
        try:
            return super().import_key(uri, *what, **more)
        except SessionLost as error:
            raise StoreUnavailable("The connection is gone.", hint="Try later.") from error


@caught_by("test_reconnecting_restores_the_key")
class ReconnectingBreaksOtherKeys(MemoryStore):
    """While it reconnects, keys from the previous login find no session at all."""

    connecting = False

    def connect(self, *, timeout: float) -> None:
        self.connecting = True
        time.sleep(0.05)
        super().connect(timeout=timeout)
        self.connecting = False

    def require_alive(self) -> None:
        if self.connecting:
            raise AttributeError("'NoneType' object has no attribute 'sign'")
        super().require_alive()


@caught_by("test_lost_connection_raises_session_lost")
class UntypedLoss(MemoryStore):
    def require_alive(self) -> None:
        try:
            super().require_alive()
        except SessionLost:
            raise StoreUnavailable("The connection is gone.", hint="Try later.") from None


@caught_by("test_timeout_is_respected")
class IgnoresTimeout(MemoryStore):
    def connect(self, *, timeout: float) -> None:
        wait_out(self.server)
        super().connect(timeout=timeout)


@caught_by("test_timeout_of_open_and_sign_is_respected")
class SignIgnoresTimeout(MemoryKey):
    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        wait_out(self.store.server)
        return super().sign(message, algorithm, timeout=timeout)


@caught_by("test_timeout_of_open_and_sign_is_respected")
class OpenIgnoresTimeout(MemoryStore):
    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        wait_out(self.server)
        return super().open(uri, certificate, timeout=timeout)


@caught_by("test_late_response_is_discarded")
class LateAnswer(MemoryKey):
    """A single session: a response that nobody waited for is read by the next caller."""

    unread: bytes | None = None

    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        answer: bytes = sign_locally(self.member.key, message, algorithm)
        if self.store.server.stalled:
            self.unread = answer
        self.store.wait(timeout)
        answer, self.unread = self.unread or answer, answer if self.unread else None
        return answer


@caught_by("test_close_does_not_wait_for_the_server")
class CloseWaitsForTheServer(MemoryStore):
    """Logs out, and waits for the response."""

    def close(self) -> None:
        wait_out(self.server)
        super().close()


@caught_by("test_proxy_is_used")
class BypassesTheProxy(MemoryStore):
    def ask(self, address: str, timeout: float) -> None:
        pass


@caught_by("test_timeout_is_respected_through_a_proxy")
class IgnoresTimeoutInProxy(MemoryStore):
    def ask(self, address: str, timeout: float) -> None:
        super().ask(address, 60.0)


@caught_by("test_close_can_be_called_twice")
class ClosesOnce(MemoryStore):
    closed = False

    def close(self) -> None:
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True
        super().close()


@caught_by("test_close_can_be_called_twice")
class CloseHangs(MemoryStore):
    def close(self) -> None:
        if self._epoch is None:
            threading.Event().wait(2)
        super().close()


@caught_by("test_reconnecting_keeps_other_keys_usable")
class OldCloseLogsOut(MemoryKey):
    def close(self) -> None:
        if self.store.server.log_ins > 1:
            self.store._epoch = None


@caught_by("test_keys_are_opened_and_closed_concurrently")
class ClosesAnotherHandle(MemoryKey):
    """Closing any key releases the handle created last, even another key's."""

    @property
    def handles(self) -> list[object]:
        found: list[object] = vars(self.store).setdefault("handles", [])
        return found

    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        if "handle" not in vars(self):
            self.handle = object()
            self.handles.append(self.handle)
        if self.handle not in self.handles:
            raise KeyUnusable("The handle is not valid.", hint="Open the key again.")
        return super().sign(message, algorithm, timeout=timeout)

    def close(self) -> None:
        if self.handles:
            self.handles.pop(0)


@caught_by("test_threads_sign_with_one_key")
class LocksInVaryingOrder(MemoryKey):
    """Takes two locks, in varying order."""

    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        locks: list[threading.Lock] = vars(self.store).setdefault("locks", [threading.Lock(), threading.Lock()])
        order = locks if message[0] % 2 else locks[::-1]
        with order[0]:
            time.sleep(0.001)
            with order[1]:
                return super().sign(message, algorithm, timeout=timeout)


@caught_by("test_threads_sign_with_different_keys")
class OneCurrentKey(MemoryKey):
    """A session that signs with the key selected last."""

    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        store: Any = self.store
        store.current = self.member
        time.sleep(0.0005)
        return sign_locally(store.current.key, message, algorithm)


@caught_by("test_fork_during_the_first_signature")
class PreparesUnderLock(MemoryStore):
    """A lock guards what the first signature prepares, and a child inherits its state."""

    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:
        super().__init__(uri, secrets)
        self.lock, self.prepared = threading.Lock(), False

    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        found = super().open(uri, certificate, timeout=timeout)
        found.__class__ = PreparingKey
        return found


class PreparingKey(MemoryKey):
    store: PreparesUnderLock

    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        with self.store.lock:
            if not self.store.prepared:
                time.sleep(0.02)
                self.store.prepared = True
        return super().sign(message, algorithm, timeout=timeout)


@caught_by("test_fork_while_other_threads_sign")
class LockHeldOverFork(MemoryStore):
    lock = threading.Lock()

    def connect(self, *, timeout: float) -> None:
        with self.lock:
            super().connect(timeout=timeout)

    def require_alive(self) -> None:
        with self.lock:
            time.sleep(0.001)
            super().require_alive()


@caught_by("test_forked_child_reconnects")
class ChildClosesParents(MemoryStore):
    """Its connection is a socket, which a child shuts down before it creates its own."""

    ours: socket.socket | None = None

    def connect(self, *, timeout: float) -> None:
        if self.ours is not None:
            self.ours.shutdown(socket.SHUT_RDWR)
            self.close()
        self.ours, self.theirs = socket.socketpair()
        super().connect(timeout=timeout)

    def require_alive(self) -> None:
        super().require_alive()
        try:
            if self.ours is not None:
                self.ours.send(b"x", socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        except OSError:
            raise SessionLost("The connection is gone.", hint="Connect again.") from None

    def close(self) -> None:
        if self.ours is not None:
            self.ours.close()
            self.theirs.close()
            self.ours = None
        super().close()
