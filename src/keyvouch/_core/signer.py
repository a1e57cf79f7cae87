"""A signer: an open, checked key that many threads and forked children can use for months.

    with keyvouch.open_signer("pfx:/etc/keyvouch/app.pfx?password=env:APP_PFX_PASSWORD") as signer:
        signature = signer.sign(b"message", "PS256")

What a store returns is never used unchecked: the certificate must belong to the key, and each algorithm's first
signature is verified. A lost connection is re-established, and the key is found again by its pinned URI. When the key
is rotated, key and chain are replaced together.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from keyvouch import certificate as x509_certificate
from keyvouch._core.audit import audit_log, record_audit
from keyvouch._core.certificate_file import CertificateFile
from keyvouch._core.connections import CLOSING_TIMEOUT, Connection, release
from keyvouch._core.current_key import CurrentKey, signer_closed
from keyvouch._core.opened_key import OpenedKey, key_changed, open_key
from keyvouch._core.reloading import Reloader
from keyvouch._core.retries import Backoff, Deadline, as_user_error
from keyvouch._core.store_faults import checked_error
from keyvouch._system import forks, not_picklable, safe_lock
from keyvouch._system.forks import process
from keyvouch.algorithms import Algorithm, find_algorithm, require_fit, verifies
from keyvouch.errors import (
    AlgorithmUnsupported,
    KeyvouchError,
    SessionLost,
    SignatureInvalid,
    StoreUnavailable,
    hidden_frames,
    without_frames,
)
from keyvouch.uri import KeyUri

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PrivateKey, PublicKey

Build = Callable[[Algorithm, "tuple[Certificate, ...]", "PublicKey"], bytes]
"""Builds the message for the algorithm, and for the chain and public key of the key that will sign it."""

log = logging.getLogger("keyvouch")

SIGN_TIMEOUT = 30.0
"""Seconds that a signature may take, including retries and waits."""


class Signer(not_picklable.NotPicklable):
    """An open key, made by `keyvouch.open_signer`. A context manager; safe to use with threads and fork."""

    pickle_hint = "Pass its requested_uri, and call keyvouch.open_signer in the other process."

    def __init__(self, connection: Connection, requested_uri: KeyUri, deadline: Deadline) -> None:
        """Use `open_signer` instead, which acquires the connection."""
        certificate_file = CertificateFile(requested_uri)
        opened = open_key(connection, requested_uri, certificate_file.read(), deadline)
        certificate_file.mark_used()
        self._requested = requested_uri
        self._current = CurrentKey(connection, opened)
        self._reloader = Reloader(self._current, requested_uri, certificate_file)
        self._released = False
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        """Discard, in a child, what the parent's other threads were doing."""
        self._close_once = threading.Lock()

    @property
    def uri(self) -> str:
        """The pinned URI: this very key, wherever the requested URI may lead later."""
        return str(self._current.opened.stored.uri)

    @property
    def requested_uri(self) -> str:
        """The URI as requested, completed."""
        return str(self._requested)

    @property
    def public_key(self) -> PublicKey:
        """The public key, as a `cryptography` object."""
        return self._current.opened.public_key

    @property
    def chain(self) -> tuple[Certificate, ...]:
        """The key's certificate and its issuers, leaf first; empty if there is none."""
        return self._current.opened.chain

    @property
    def exportable(self) -> bool | None:
        """True if the private key can leave its store; None if the store does not know."""
        return self._current.opened.stored.exportable

    @property
    def reload_error(self) -> Exception | None:
        """The error of the last automatic reload, while the old key goes on signing; None if it succeeded."""
        return self._reloader.error

    def certificate_status(self) -> x509_certificate.CertificateStatus:
        """Return the certificate's validity. `sign` does not check it: a renewal must still be signed."""
        return x509_certificate.status(self.chain)

    def thumbprint(self, hash: x509_certificate.HashName = "sha256") -> str | None:  # noqa: A002 - hashlib's word
        """Return the certificate's thumbprint in upper-case hexadecimal; None if there is no certificate."""
        chain = self.chain
        return x509_certificate.thumbprint(chain[0], hash) if chain else None

    def sign(
        self,
        message: bytes,
        algorithm: str | Algorithm,
        *,
        timeout: float = SIGN_TIMEOUT,
        audit: Mapping[str, object] | None = None,
    ) -> bytes:
        """Return the signature over the message in JOSE form (ECDSA: r||s), with a JOSE algorithm.

        All waits and retries end within `timeout` seconds. `audit` is added to the audit record. Raises
        `AlgorithmUnsupported`, `StoreUnavailable`, `KeyChanged`, `KeyNotFound`, `AccessDenied` and other errors that
        the store reports for the key; `SignatureInvalid` if the signature is wrong; `InternalError` if the store breaks
        its contract; `KeyUnusable` on a closed signer.
        """
        try:  # costs nothing, unlike the decorator `hidden_frames`
            started = time.monotonic()
            opened = self._current.opened
            token = opened.use.token
            try:
                if token is None or opened.fork_number != process.fork_number:
                    opened, token = self._begin(timeout, algorithm, audit)
                return self._sign(opened, message, algorithm, timeout, audit, started=started)
            finally:
                token = None
                if opened.retired:
                    opened.close_if_unused()
        except BaseException as error:
            without_frames(error)
            raise

    def sign_negotiated(
        self,
        build: Build,
        *,
        algorithm: Algorithm | None = None,
        preferred: Algorithm | None = None,
        timeout: float = SIGN_TIMEOUT,
        audit: Mapping[str, object] | None = None,
    ) -> tuple[bytes, bytes]:
        """Return the message that `build(algorithm, chain, public_key)` makes, and its signature by that very key.

        The default is the algorithm of the curve for EC and Ed25519, and PS256 for RSA, or RS256 if `preferred`; or the
        other one if the store does not support it. First checks whether the key was replaced. Raises like `sign`.
        """
        try:
            started = time.monotonic()
            if started >= self._reloader.next_check:
                self._reloader.reload_if_due(timeout)
            opened = self._current.opened
            token = opened.use.token
            try:
                if token is None or opened.fork_number != process.fork_number:
                    opened, token = self._begin(started + timeout - time.monotonic(), algorithm, audit)
                choices = (algorithm,) if algorithm else opened.choices(preferred)
                return self._negotiate(opened, build, choices, timeout, audit, started=started)
            finally:
                token = None
                if opened.retired:
                    opened.close_if_unused()
        except BaseException as error:
            without_frames(error)
            raise

    async def sign_async(
        self,
        message: bytes,
        algorithm: str | Algorithm,
        *,
        timeout: float = SIGN_TIMEOUT,  # noqa: ASYNC109 - it limits the store's work, not the await
        audit: Mapping[str, object] | None = None,
    ) -> bytes:
        """Call `sign` in a thread."""
        import asyncio  # the caller has already imported it; nobody else should pay for it

        try:
            return await asyncio.to_thread(self.sign, message, algorithm, timeout=timeout, audit=audit)
        except BaseException as error:
            without_frames(error)  # asyncio's frames hold the arguments
            raise

    @hidden_frames()
    def private_key(self) -> PrivateKey:
        """Return an object that `cryptography`, PyJWT and many other libraries accept as a private key.

        It only signs; `keyvouch.private_key` adapts it for joserfc, Authlib and jwcrypto. It is bound to the current
        key: after a reload that brought another one, it raises `KeyChanged`.
        """
        from keyvouch.private_key import wrap

        bound = self._current.opened
        spki = bound.spki

        def sign(message: bytes, algorithm: Algorithm) -> bytes:
            started = time.monotonic()
            opened, token = self._begin(SIGN_TIMEOUT, algorithm, None)
            try:
                if opened.spki != spki:
                    raise key_changed(opened.stored.uri)
                return self._sign(opened, message, algorithm, SIGN_TIMEOUT, None, started=started)
            finally:
                del token
                opened.close_if_unused()

        return wrap(bound.public_key, sign)

    @hidden_frames()
    def reload(self, *, timeout: float = SIGN_TIMEOUT) -> bool:
        """Reopen the requested URI within `timeout` seconds; return True if its key or certificate has changed.

        Raises what opening raises, and `StoreUnavailable` if it takes too long; the old key then stays in use.
        """
        return self._reloader.reload(timeout)

    @hidden_frames()
    def close(self) -> None:
        """Wait for running signatures (10 seconds at most), then release the key. May be called twice."""
        held = list[bool]()
        try:
            if not self._released and safe_lock.acquire(self._close_once, held, 0):
                self._current.closed = True
                self._close(Deadline(CLOSING_TIMEOUT))
        finally:  # an interrupted caller may call it again
            if True in held:
                self._close_once.release()

    def _close(self, deadline: Deadline) -> None:
        current = self._current
        reloading, swapping = list[bool](), list[bool]()
        try:  # a thread that is reopening the key still uses the connection
            safe_lock.acquire(self._reloader.lock, reloading, deadline.left())
            safe_lock.acquire(current.lock, swapping, deadline.left())
            current.opened.retire()
        finally:  # before waiting: a running signature may need the locks to find its key again
            if True in reloading:
                self._reloader.lock.release()
            if True in swapping:
                current.lock.release()
        while not current.idle and deadline.left() > 0:
            time.sleep(0.01)
        current.close_unused()
        self._released = True
        if current.idle and True in reloading and True in swapping:
            release(current.connection, max(0.1, deadline.left()))
        else:  # a store is not closed under a key that is signing: a native module would not survive it
            log.warning("A key is still in use after %.0f seconds; its handle is not released.", CLOSING_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        current = getattr(self, "_current", None)
        return f"<Signer {current.opened.stored.uri if current else '(not open yet)'}>"

    def _begin(
        self, timeout: float, algorithm: str | Algorithm | None, audit: Mapping[str, object] | None
    ) -> tuple[OpenedKey, object]:
        """Return the current key and the token of its use; a child reopens it, and a failure to do so is audited."""
        while True:
            opened = self._current.opened
            held = [opened.use.token]  # a list, so that nothing stays in this frame, which an exception may keep
            if opened.is_of_this_process and held[0] is not None:
                return opened, held.pop()
            held.clear()
            if self._current.closed:
                raise signer_closed()
            if not opened.is_of_this_process:
                began = time.monotonic()
                try:
                    self._current.reopen(opened, Deadline(timeout), lost=None)
                except KeyvouchError as error:
                    error.uri = error.uri or str(opened.stored.uri)
                    if audit_log.isEnabledFor(logging.INFO):
                        _audit(opened, algorithm or opened.preferred, time.monotonic() - began, error.code, audit or {})
                    raise

    def _negotiate(
        self,
        opened: OpenedKey,
        build: Build,
        choices: tuple[Algorithm, ...],
        timeout: float,
        audit: Mapping[str, object] | None,
        *,
        started: float,
    ) -> tuple[bytes, bytes]:
        message = build(choices[0], opened.chain, opened.public_key)
        try:
            return message, self._sign(opened, message, choices[0], timeout, audit, started=started)
        except AlgorithmUnsupported:
            if len(choices) == 1:
                raise
        message = build(choices[1], opened.chain, opened.public_key)
        signature = self._sign(opened, message, choices[1], timeout, audit, started=started)
        opened.negotiable = choices[1:]
        return message, signature

    def _sign(
        self,
        opened: OpenedKey,
        message: bytes,
        algorithm: str | Algorithm,
        timeout: float,
        audit: Mapping[str, object] | None,
        *,
        started: float,
    ) -> bytes:
        outcome = "signed"
        try:
            verified = opened.verified.get(algorithm)
            if verified is None:
                return self._sign_first(opened, message, find_algorithm(algorithm), Deadline(timeout, started))
            try:
                left = started + timeout - time.monotonic()  # a reload, or a first try with PS256, used part of it
                signature = opened.stored.sign(message, verified, timeout=max(0.001, min(left, max(1.0, timeout / 3))))
            except Exception as error:  # noqa: BLE001 - those that the contract forbids become `InternalError`
                return self._sign_again(opened, message, verified, Deadline(timeout, started), error)
            if not isinstance(signature, bytes) or len(signature) != opened.signature_size:
                raise _malformed(opened, signature, verified)  # noqa: TRY301 - recorded below like any other failure
            return signature  # noqa: TRY300 - an `else` would cost the same and hide what is returned
        except KeyvouchError as error:
            outcome = error.code
            error.uri = error.uri or str(opened.stored.uri)
            raise
        except BaseException as error:
            outcome = type(error).__name__
            raise
        finally:
            if audit_log.isEnabledFor(logging.INFO):
                _audit(opened, algorithm, time.monotonic() - started, outcome, audit or {})

    def _sign_first(self, opened: OpenedKey, message: bytes, algorithm: Algorithm, deadline: Deadline) -> bytes:
        """Sign with an algorithm for the first time, or with a key whose signatures are all verified."""
        require_fit(opened.key_type, algorithm, opened.stored.algorithms)
        try:
            signature = opened.stored.sign(message, algorithm, timeout=deadline.attempt_timeout())
        except Exception as error:  # noqa: BLE001 - as in `_sign`
            return self._sign_again(opened, message, algorithm, deadline, error)
        return _verify_first_signature(opened, signature, message, algorithm)

    def _sign_again(
        self, opened: OpenedKey, message: bytes, algorithm: Algorithm, deadline: Deadline, raised: Exception
    ) -> bytes:
        """Retry until the deadline after `StoreUnavailable`: reconnect if the session is lost, else wait.

        Any other exception `raised` is passed to the user, as `InternalError` if the contract does not allow it.
        """
        error = _require_unavailable(opened, message, raised)
        backoff, key, lost = Backoff(), opened, isinstance(error, SessionLost)
        token: object = None
        pause = not lost  # the first loss is repaired at once; if the new login fails too, only after a pause
        try:
            while True:
                if pause:
                    deadline.wait(backoff.delay_after(error), error)
                pause = True
                if lost:
                    if deadline.left() <= 0:
                        raise as_user_error(error) from error
                    try:
                        found, found_token = self._current.reopen_same_key(key, deadline)
                    except StoreUnavailable as unreachable:  # it was reachable before: perhaps it is restarting
                        error = unreachable
                        continue
                    former, key, token, lost = key, found, found_token, False
                    del found_token
                    former.close_if_unused()
                try:
                    signature = key.stored.sign(message, algorithm, timeout=deadline.attempt_timeout())
                except Exception as again:  # noqa: BLE001 - as in `_sign`
                    error = _require_unavailable(key, message, again)
                    lost = isinstance(error, SessionLost)
                else:
                    return _verify_first_signature(key, signature, message, algorithm)
        finally:
            del token
            key.close_if_unused()


def _audit(
    opened: OpenedKey, algorithm: str | Algorithm, seconds: float, outcome: str, extra: Mapping[str, object]
) -> None:
    own = {
        "uri": str(opened.stored.uri),
        "algorithm": algorithm if isinstance(algorithm, str) else algorithm.name,
        "thumbprint": opened.thumbprint,
        "milliseconds": round(seconds * 1000, 3),
        "outcome": outcome,
    }
    record_audit("sign", {**own, **extra, **own})


def _verify_first_signature(opened: OpenedKey, signature: object, message: bytes, algorithm: Algorithm) -> bytes:
    """Return the signature; verify it unless this opened key has already made a valid one and its store is local."""
    if not isinstance(signature, bytes) or len(signature) != opened.signature_size:
        raise _malformed(opened, signature, algorithm)
    if algorithm not in opened.verified:
        if not verifies(opened.public_key, signature, message, algorithm):
            raise SignatureInvalid(
                f"Invalid signature from the store: {algorithm.name} verification with its own public key failed.",
                hint=_REPORT,
            )
        if not opened.verify_always:
            opened.verified[algorithm] = opened.verified[algorithm.name] = algorithm
    return signature


def _malformed(opened: OpenedKey, signature: object, algorithm: Algorithm) -> SignatureInvalid:
    got = f"{len(signature)} bytes" if isinstance(signature, bytes) else f"a value of type {type(signature).__name__}"
    return SignatureInvalid(
        f"Expected a signature of {opened.signature_size} bytes with {algorithm.name}, got {got} from the store.",
        hint=_REPORT,
    )


_REPORT = "Report it to the authors of the store's plugin: salt, padding or encoding may differ from JOSE."


def _require_unavailable(opened: OpenedKey, message: object, error: Exception) -> StoreUnavailable:
    """Return an error after which the signature may be retried; raise any other as the user should see it."""
    checked = checked_error(opened.stored.uri.scheme, error)
    if isinstance(checked, StoreUnavailable):
        return checked
    if checked is not error and not isinstance(message, bytes):
        raise TypeError(f"message must be bytes, not {type(message).__name__}") from error
    raise checked
