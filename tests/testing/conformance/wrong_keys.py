"""Faults in signatures, secrets and output."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import time
from dataclasses import replace

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from keyvouch.algorithms import RS256, Algorithm
from keyvouch.errors import SecretIncorrect
from keyvouch.secrets import Secret
from keyvouch.store import KeyUri, StoredKey
from scripted_store import new_key
from testing.conformance.faults import caught_by
from testing.conformance.memory_store import PIN, MemoryKey, MemoryStore


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
    """Its library automatically repeats a refused login."""

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
    """URIs with different PINs share one login."""

    attributes = tuple(replace(each, connection=each.name != "pin") for each in MemoryStore.attributes)
