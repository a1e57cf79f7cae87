"""`MemoryStore` with one fault each, and the test of the kit that names the rule."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import subprocess
import threading
import time
from dataclasses import replace
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from keyvouch.algorithms import RS256, Algorithm
from keyvouch.errors import KeyNotFound, KeyUnusable, NotSupported, SecretIncorrect, SessionLost, StoreUnavailable
from keyvouch.local_key import sign_locally
from keyvouch.secrets import Secret, SecretResolver
from keyvouch.store import Attribute, KeyInfo, KeySpec, KeyUri, StoredKey
from scripted_store import new_key
from testing.conformance.memory_store import PIN, Member, MemoryKey, MemoryStore, Server


class Fault(NamedTuple):
    """A store, and the test that must fail for it."""

    store: type[MemoryStore]
    caught_by: str


FAULTS: dict[str, Fault] = {}


def caught_by(test: str) -> Any:
    """Register a faulty store, or a faulty key in an otherwise correct store."""

    def enter(kind: type[Any]) -> type[Any]:
        FAULTS[kind.__name__] = Fault(with_keys(kind) if issubclass(kind, MemoryKey) else kind, test)
        return kind

    return enter


def with_keys(kind: type[MemoryKey]) -> type[MemoryStore]:
    """The correct store, with keys of this class."""

    class Store(MemoryStore):
        def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
            found = super().open(uri, certificate, timeout=timeout)
            found.__class__ = kind
            return found

    return Store


def wait_out(server: Server) -> None:
    """Wait until the server answers, however long that takes."""
    while server.stalled:
        time.sleep(0.01)


# Signing.


@caught_by("test_ecdsa_is_not_der")
class DerSignature(MemoryKey):
    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        if algorithm.family != "ECDSA":
            return super().sign(message, algorithm, timeout=timeout)
        der: bytes = self.member.key.sign(message, ec.ECDSA(algorithm.hash))
        return der


@caught_by("test_ecdsa_has_full_width")
class UnpaddedSignature(MemoryKey):
    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        if algorithm.family != "ECDSA":
            return super().sign(message, algorithm, timeout=timeout)
        r, s = decode_dss_signature(self.member.key.sign(message, ec.ECDSA(algorithm.hash)))
        return b"".join(each.to_bytes((each.bit_length() + 7) // 8, "big") for each in (r, s))


class OtherPadding(MemoryKey):
    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        if algorithm.family != "RSA-PSS":
            return super().sign(message, algorithm, timeout=timeout)
        signature: bytes = self.member.key.sign(message, self.pad(algorithm), algorithm.hash)
        return signature

    def pad(self, algorithm: Algorithm) -> padding.PSS:
        raise NotImplementedError


@caught_by("test_pss_salt_is_as_long_as_the_hash")
class LongestSalt(OtherPadding):
    def pad(self, algorithm: Algorithm) -> padding.PSS:
        return padding.PSS(padding.MGF1(algorithm.hash), padding.PSS.MAX_LENGTH)


@caught_by("test_pss_mask_uses_the_same_hash")
class Sha1InTheMask(OtherPadding):
    def pad(self, algorithm: Algorithm) -> padding.PSS:
        return padding.PSS(padding.MGF1(hashes.SHA1()), algorithm.hash.digest_size)  # noqa: S303


@caught_by("test_message_is_hashed_once")
class HashedTwice(MemoryKey):
    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        if algorithm.hash_name:
            message = hashlib.new(algorithm.hash_name, message).digest()
        return super().sign(message, algorithm, timeout=timeout)


@caught_by("test_signature_has_the_requested_algorithm")
class OtherAlgorithm(MemoryKey):
    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        if algorithm.family == "RSA-PSS":
            algorithm = RS256
        return super().sign(message, algorithm, timeout=timeout)


@caught_by("test_threads_sign_with_one_key")
class SharedSession(MemoryKey):
    """A single session, whose message another thread may just have set."""

    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        self.store.message = message  # type: ignore[attr-defined]
        time.sleep(0.0001)
        return super().sign(self.store.message, algorithm, timeout=timeout)  # type: ignore[attr-defined]


@caught_by("test_nothing_is_left_behind")
class LeakyKey(MemoryKey):
    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        os.dup(0)
        return super().sign(message, algorithm, timeout=timeout)


# Output.


@caught_by("test_public_key_belongs_to_the_signing_key")
class OtherPublicKey(MemoryStore):
    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        found = super().open(uri, certificate, timeout=timeout)
        if uri.get("key") == "ec":
            found.public_key = new_key("P-256", 7).public_key()
        return found


@caught_by("test_chain_starts_with_the_certificate_of_the_key")
class UpsideDownChain(MemoryStore):
    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        found = super().open(uri, certificate, timeout=timeout)
        found.chain = found.chain[::-1]
        return found


@caught_by("test_nothing_is_printed_or_logged")
class Chatterbox(MemoryKey):
    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        print("signing")
        return super().sign(message, algorithm, timeout=timeout)


@caught_by("test_nothing_is_printed_or_logged")
class LoggedMessage(MemoryKey):
    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        logging.getLogger("memory").debug("signing %s", message.hex())
        return super().sign(message, algorithm, timeout=timeout)


@caught_by("test_repr_shows_no_secrets")
class PinInRepr(MemoryStore):
    def connect(self, *, timeout: float) -> None:
        super().connect(timeout=timeout)
        self.pin = self._secrets.get(self._uri, "pin").reveal()


@caught_by("test_wrong_secret_is_never_shown")
class PinInError(MemoryStore):
    def connect(self, *, timeout: float) -> None:
        pin = self._secrets.get(self._uri, "pin").reveal()
        if pin != PIN:
            raise SecretIncorrect(f"The PIN {pin} is wrong.", hint="Correct it.")
        super().connect(timeout=timeout)


@caught_by("test_wrong_secret_is_tried_once")
class StubbornStore(MemoryStore):
    def connect(self, *, timeout: float) -> None:
        try:
            super().connect(timeout=timeout)
        except SecretIncorrect:
            super().connect(timeout=timeout)


@caught_by("test_programs_get_no_secrets_in_arguments")
class PinForAProgram(MemoryStore):
    def log_in(self, pin: Secret | None) -> None:
        super().log_in(pin)
        subprocess.run(["true", PIN], check=True)


@caught_by("test_timeout_of_open_and_sign_is_respected")
class LeavesItsProgram(MemoryKey):
    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        if self.store.server.stalled:
            vars(self.store)["left"] = subprocess.Popen(["sleep", "5"])
        return super().sign(message, algorithm, timeout=timeout)

    def close(self) -> None:
        if "left" in vars(self.store):
            self.store.left.kill()  # type: ignore[attr-defined]
            self.store.left.wait()  # type: ignore[attr-defined]


@caught_by("test_server_receives_a_wrong_secret_once")
class SendsTwice(MemoryStore):
    """Its library automatically repeats a refused log-in."""

    def log_in(self, pin: Secret | None) -> None:
        try:
            super().log_in(pin)
        except SecretIncorrect:
            super().log_in(pin)


@caught_by("test_secret_is_read_again")
class KeepsThePin(MemoryStore):
    kept: Secret | None = None

    def connect(self, *, timeout: float) -> None:
        if self.kept is not None:
            self.log_in(self.kept)
        else:
            super().connect(timeout=timeout)
            self.kept = self._secrets.get(self._uri, "pin")


@caught_by("test_wrong_secret_opens_nothing")
class PinOfAnother(MemoryStore):
    """URIs with different PINs share one log-in."""

    attributes = tuple(replace(each, connection=each.name != "pin") for each in MemoryStore.attributes)


# Key selection.


@caught_by("test_pinned_key_does_not_rotate")
class NewestSigns(MemoryKey):
    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        versions = self.store.server.keys[self.uri.get("key")]
        return (
            sign_locally(versions[max(versions, key=int)].key, message, algorithm)
            if len(versions) > 1
            else super().sign(message, algorithm, timeout=timeout)
        )


@caught_by("test_several_keys_are_ambiguous")
class FirstMatch(MemoryStore):
    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        if "version" not in uri and uri.get("select") is None and uri.get("key") == "family":
            uri = uri.replace({"version": "1"})
        return super().open(uri, certificate, timeout=timeout)


@caught_by("test_missing_key_is_not_found")
class BareKeyError(MemoryStore):
    def matches(self, uri: KeyUri) -> list[KeyInfo]:
        try:
            return super().matches(uri)
        except KeyNotFound:
            raise KeyError(uri.get("key")) from None


@caught_by("test_pinned_uri_opens_the_same_key")
class RefusesItsOwn(MemoryStore):
    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        if "version" in uri and uri.get("key") != "family":
            raise KeyNotFound(f"Key not found: {uri}.", hint="Leave the version out.")
        return super().open(uri, certificate, timeout=timeout)


@caught_by("test_listing_agrees_with_opening")
class ListsTooMuch(MemoryStore):
    def keys(self, uri: KeyUri) -> list[KeyInfo]:
        found = super().keys(uri)
        if uri.get("key") == "ec" and "version" not in uri:
            found += [KeyInfo(uri.replace({"key": "ghost", "version": "1"}), "P-256")]
        return found

    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        if uri.get("key") == "ec":
            uri = uri.replace({"version": "1"})
        return super().open(uri, certificate, timeout=timeout)


@caught_by("test_listing_has_only_matching_keys")
class ListsAll(MemoryStore):
    def keys(self, uri: KeyUri) -> list[KeyInfo]:
        return [info for name in list(self.server.keys) for info in super().keys(uri.replace({"key": name}))]


@caught_by("test_spki_sha256_is_checked")
class IgnoresTheDigest(MemoryStore):
    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        return super().open(uri.replace({"spki-sha256": None}), certificate, timeout=timeout)


@caught_by("test_certificate_selects_its_key")
class IgnoresTheCertificate(MemoryStore):
    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        return super().open(uri, timeout=timeout)


@caught_by("test_newest_member_is_chosen")
class SelectsTheOldest(MemoryStore):
    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        if uri.get("select") == "newest":
            uri = uri.replace({"version": "1"})
        return super().open(uri, certificate, timeout=timeout)


@caught_by("test_replaced_key_is_detected")
class NeverChanges(MemoryKey):
    def changed(self) -> bool:
        return False


@caught_by("test_replaced_key_is_detected")
class SignsWithTheSuccessor(MemoryKey):
    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        there = self.store.server.keys[self.uri.get("key")][self.uri.get("version")]
        return sign_locally(there.key, message, algorithm)


@caught_by("test_attributes_are_valid")
class UnknownPurpose(MemoryStore):
    attributes = (*MemoryStore.attributes, Attribute("zone", "where", required_for=frozenset({"list"})))


@caught_by("test_failure_of_one_key_does_not_affect_others")
class FailureEndsTheSession(MemoryStore):
    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        try:
            return super().open(uri, certificate, timeout=timeout)
        except KeyNotFound:
            self._epoch = None
            raise


# Life cycle.


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
    """While it reconnects, keys from the previous log-in find no session at all."""

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


# Capabilities.


@caught_by("test_generated_key_is_never_overwritten")
class Overwrites(MemoryStore):
    def generate(self, uri: KeyUri, spec: KeySpec) -> KeyUri:
        self.server.keys.pop(uri.get("key"), None)
        return super().generate(uri, spec)


@caught_by("test_deleted_key_is_not_found")
class DeletesTheSuccessor(MemoryStore):
    def delete(self, uri: KeyUri) -> None:
        if self.server.keys.pop(uri.get("key"), None) is None:
            raise KeyNotFound(f"Key not found: {uri}.", hint="See `keyvouch keys`.", uri=uri)


@caught_by("test_generated_key_matches_its_spec")
class OneSize(MemoryStore):
    def generate(self, uri: KeyUri, spec: KeySpec) -> KeyUri:
        return super().generate(uri, replace(spec, key_type="RSA-2048" if "RSA" in spec.key_type else spec.key_type))


@caught_by("test_generated_key_matches_its_spec")
class OneSubject(MemoryStore):
    def generate(self, uri: KeyUri, spec: KeySpec) -> KeyUri:
        return super().generate(uri, replace(spec, subject="CN=conformance"))


@caught_by("test_generated_key_matches_its_spec")
class OneYear(MemoryStore):
    def generate(self, uri: KeyUri, spec: KeySpec) -> KeyUri:
        return super().generate(uri, replace(spec, days=365))


@caught_by("test_request_is_signed_by_the_key")
class RequestsForAnother(MemoryStore):
    def request_certificate(self, uri: KeyUri, spec: KeySpec) -> bytes:
        self.server.keys["another"] = {"1": Member(new_key("P-256", 7), ())}
        return super().request_certificate(uri.replace({"key": "another", "version": "1"}), spec)


@caught_by("test_granted_account_is_a_reader")
class GrantsToOnlyOne(MemoryStore):
    def grant(self, uri: KeyUri, account: str) -> None:
        self.server.readers.clear()
        super().grant(uri, account)


@caught_by("test_granted_account_is_a_reader")
class GrantsToEveryone(MemoryStore):
    def grant(self, uri: KeyUri, account: str) -> None:
        super().grant(uri, "Everyone")

    def revoke(self, uri: KeyUri, account: str) -> None:
        super().revoke(uri, "Everyone")


@caught_by("test_granted_account_is_a_reader")
class RevokesOnce(MemoryStore):
    def revoke(self, uri: KeyUri, account: str) -> None:
        self.server.readers.remove(account)


@caught_by("test_concurrent_members_have_their_own_uris")
class ReportsTheNewest(MemoryStore):
    """Queries the newest version after creating one, which may be another caller's by then."""

    def pinned(self, uri: KeyUri, version: str) -> KeyUri:
        time.sleep(0.05)
        return super().pinned(uri, max(self.server.keys[uri.get("key")], key=int))


@caught_by("test_exportable_agrees_with_export")
class ExportsAlthoughNotExportable(MemoryStore):
    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        found = super().open(uri, certificate, timeout=timeout)
        found.exportable = False
        return found

    def keys(self, uri: KeyUri) -> list[KeyInfo]:
        return [replace(info, exportable=False) for info in super().keys(uri)]


# Correct behaviour.


class SignsSomething(MemoryKey):
    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        if not message:
            raise ValueError("nothing to sign")
        return super().sign(message, algorithm, timeout=timeout)


NothingToSign = with_keys(SignsSomething)
"""A store that cannot sign the empty message."""


class RefusesChildren(MemoryStore):
    """A store whose library works only in one process, and does not import keys."""

    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:
        super().__init__(uri, secrets)
        self.process = os.getpid()

    def connect(self, *, timeout: float) -> None:
        if os.getpid() != self.process:
            raise KeyUnusable("Not in a child.", hint="Open the key after the fork.")
        super().connect(timeout=timeout)

    def import_key(self, *args: Any, **kwargs: Any) -> KeyUri:
        raise NotSupported("No keys from elsewhere.", hint="Make one here.")
