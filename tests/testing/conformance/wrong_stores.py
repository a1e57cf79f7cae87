"""`MemoryStore` with one fault each, and the test of the kit that names the rule."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import threading
import time
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from keyvouch.algorithms import RS256, Algorithm, sign_locally
from keyvouch.errors import KeyNotFound, SecretIncorrect, SessionLost, StoreUnavailable
from keyvouch.secrets import SecretResolver
from keyvouch.store import KeyInfo, KeySpec, KeyUri, StoredKey
from scripted_store import new_key
from testing.conformance.memory_store import PIN, MemoryKey, MemoryStore


class Fault(NamedTuple):
    """A store, and the test that must fail for it."""

    store: type[MemoryStore]
    caught_by: str


FAULTS: dict[str, Fault] = {}


def caught_by(test: str) -> Any:
    """Enter a store, or a key whose store is otherwise right."""

    def enter(kind: type[Any]) -> type[Any]:
        store = kind
        if issubclass(kind, MemoryKey):

            class Store(MemoryStore):
                def open(
                    self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float
                ) -> StoredKey:
                    found = super().open(uri, certificate, timeout=timeout)
                    found.__class__ = kind
                    return found

            store = Store
        FAULTS[kind.__name__] = Fault(store, test)
        return kind

    return enter


# What is signed.


@caught_by("test_ecdsa_is_no_der")
class DerSignature(MemoryKey):
    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        if algorithm.family != "ECDSA":
            return super().sign(message, algorithm, timeout=timeout)
        der: bytes = self.member.key.sign(message, ec.ECDSA(algorithm.hash))
        return der


@caught_by("test_ecdsa_is_of_full_width")
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


@caught_by("test_pss_mask_has_the_same_hash")
class Sha1InTheMask(OtherPadding):
    def pad(self, algorithm: Algorithm) -> padding.PSS:
        return padding.PSS(padding.MGF1(hashes.SHA1()), algorithm.hash.digest_size)  # noqa: S303


@caught_by("test_message_is_hashed_once")
class HashedTwice(MemoryKey):
    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        if algorithm.hash_name:
            message = hashlib.new(algorithm.hash_name, message).digest()
        return super().sign(message, algorithm, timeout=timeout)


@caught_by("test_signature_is_of_the_algorithm_asked_for")
class OtherAlgorithm(MemoryKey):
    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        if algorithm.family == "RSA-PSS":
            algorithm = RS256
        return super().sign(message, algorithm, timeout=timeout)


@caught_by("test_threads_sign_with_one_key")
class SharedSession(MemoryKey):
    """One session, whose message another thread may just have set."""

    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        self.store.message = message  # type: ignore[attr-defined]
        time.sleep(0.0001)
        return super().sign(self.store.message, algorithm, timeout=timeout)  # type: ignore[attr-defined]


@caught_by("test_it_leaves_nothing_behind")
class LeakyKey(MemoryKey):
    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        os.dup(0)
        return super().sign(message, algorithm, timeout=timeout)


# What is shown.


@caught_by("test_public_key_is_the_signing_keys")
class OtherPublicKey(MemoryStore):
    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        found = super().open(uri, certificate, timeout=timeout)
        if uri.get("key") == "ec":
            found.public_key = new_key("P-256", 7).public_key()
        return found


@caught_by("test_chain_begins_with_the_keys_certificate")
class UpsideDownChain(MemoryStore):
    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        found = super().open(uri, certificate, timeout=timeout)
        found.chain = found.chain[::-1]
        return found


@caught_by("test_it_prints_and_logs_nothing")
class Chatterbox(MemoryKey):
    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        print("signing")  # noqa: T201
        return super().sign(message, algorithm, timeout=timeout)


@caught_by("test_it_prints_and_logs_nothing")
class LoggedMessage(MemoryKey):
    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        logging.getLogger("memory").debug("signing %s", message.hex())
        return super().sign(message, algorithm, timeout=timeout)


@caught_by("test_secrets_are_in_no_repr")
class PinInRepr(MemoryStore):
    def connect(self, *, timeout: float) -> None:
        super().connect(timeout=timeout)
        self.pin = self._secrets.get(self._uri, "pin").reveal()


@caught_by("test_wrong_secret_is_shown_nowhere")
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


# Which key.


@caught_by("test_pinned_key_is_not_followed")
class NewestSigns(MemoryKey):
    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        versions = self.store.server.keys[self.uri.get("key")]
        return (
            sign_locally(versions[max(versions)].key, message, algorithm)
            if len(versions) > 1
            else super().sign(message, algorithm, timeout=timeout)
        )


@caught_by("test_several_keys_are_told_and_named")
class FirstMatch(MemoryStore):
    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        if "version" not in uri and uri.get("select") is None and uri.get("key") == "family":
            uri = uri.replace({"version": "1"})
        return super().open(uri, certificate, timeout=timeout)


@caught_by("test_missing_key_is_told_by_type")
class BareKeyError(MemoryStore):
    def keys(self, uri: KeyUri) -> list[KeyInfo]:
        try:
            return super().keys(uri)
        except KeyNotFound:
            raise KeyError(uri.get("key")) from None


@caught_by("test_pinned_uri_finds_the_key_again")
class RefusesItsOwn(MemoryStore):
    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        if "version" in uri and uri.get("key") != "family":
            raise KeyNotFound(f"There is no key {uri}.", hint="Leave the version out.")
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


# Its life.


@caught_by("test_making_it_touches_nothing")
class EagerStore(MemoryStore):
    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:
        super().__init__(uri, secrets)
        with open(os.devnull, "rb") as file:  # noqa: PTH123 - as a client library would
            file.read()


@caught_by("test_lost_connection_is_told_by_type")
class UntypedLoss(MemoryStore):
    def require_alive(self) -> None:
        try:
            super().require_alive()
        except SessionLost:
            raise StoreUnavailable("The connection is gone.", hint="Try later.") from None


@caught_by("test_timeout_is_kept")
class IgnoresTimeout(MemoryStore):
    def wait(self, timeout: float) -> None:
        time.sleep(5)


@caught_by("test_close_may_come_twice")
class ClosesOnce(MemoryStore):
    closed = False

    def close(self) -> None:
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True
        super().close()


@caught_by("test_close_may_come_twice")
class ClosesNever(MemoryStore):
    def close(self) -> None:
        if self._epoch is None:
            threading.Event().wait(2)
        super().close()


@caught_by("test_connecting_again_leaves_the_others_be")
class OldCloseLogsOut(MemoryKey):
    def close(self) -> None:
        if self.store.server.log_ins > 1:
            self.store._epoch = None


@caught_by("test_fork_while_others_sign")
class LockHeldOverFork(MemoryStore):
    lock = threading.Lock()

    def connect(self, *, timeout: float) -> None:
        with self.lock:
            super().connect(timeout=timeout)

    def require_alive(self) -> None:
        with self.lock:
            time.sleep(0.001)
            super().require_alive()


@caught_by("test_child_of_a_fork_connects_anew")
class ChildClosesParents(MemoryStore):
    """Its connection is a socket, which a child shuts down before it makes its own."""

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


# What it can do beside.


@caught_by("test_made_key_is_never_written_over")
class Overwrites(MemoryStore):
    def generate(self, uri: KeyUri, spec: KeySpec) -> KeyUri:
        self.server.keys.pop(uri.get("key"), None)
        return super().generate(uri, spec)


@caught_by("test_further_members_are_told_apart")
class TellsTheNewest(MemoryStore):
    """Asks for the newest version after making one, which may be another's by then."""

    def pinned(self, uri: KeyUri, version: str) -> KeyUri:
        time.sleep(0.05)
        return super().pinned(uri, max(self.server.keys[uri.get("key")], key=int))


@caught_by("test_exportable_is_true_to_export")
class GivesAway(MemoryStore):
    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        found = super().open(uri, certificate, timeout=timeout)
        found.exportable = False
        return found

    def keys(self, uri: KeyUri) -> list[KeyInfo]:
        from dataclasses import replace

        return [replace(info, exportable=False) for info in super().keys(uri)]
