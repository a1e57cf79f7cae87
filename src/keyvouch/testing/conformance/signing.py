"""Rules about `StoredKey`: its signatures, public key and certificates."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

import pytest
from cryptography.exceptions import InvalidSignature

from keyvouch.algorithms import ALGORITHMS, algorithms_for, key_type
from keyvouch.certificate import certificate_spki, spki_sha256
from keyvouch.errors import AlgorithmUnsupported
from keyvouch.testing.conformance import verification
from keyvouch.testing.conformance.declarations import TIMEOUT, Declarations, fail, needs, require_error

if TYPE_CHECKING:
    from keyvouch.store import StoredKey

MESSAGES = {"empty": b"", "short": b"header.payload", "long": b"x" * (1 << 20)}


class Signing(Declarations):
    """See `keyvouch.store.StoredKey.sign`."""

    @pytest.mark.parametrize("message", MESSAGES)
    @needs("rsa")
    def test_rsa_signatures_verify(self, message: str) -> None:
        """An RSA key signs with each RSA algorithm that is not declared, and messages of any length (`sign`)."""
        self._verify("rsa", message)

    @pytest.mark.parametrize("message", MESSAGES)
    @needs("ec")
    def test_ec_signatures_verify(self, message: str) -> None:
        """An EC key signs with its curve's algorithm, and messages of any length (`sign`)."""
        self._verify("ec", message)

    @pytest.mark.parametrize("message", MESSAGES)
    @needs("ed25519")
    def test_ed25519_signatures_verify(self, message: str) -> None:
        """An Ed25519 key signs with EdDSA, and messages of any length (`sign`)."""
        self._verify("ed25519", message)

    @needs("ec")
    def test_ecdsa_is_not_der(self) -> None:
        """ECDSA signatures are r||s, not DER (`sign`; RFC 7518, section 3.4)."""
        with self.opened(self.kind_uri("ec")) as (_, key):
            (algorithm,) = algorithms_for(key_type(key.public_key))
            signature = key.sign(MESSAGES["short"], algorithm, timeout=TIMEOUT)
            if verification.is_der_encoded(key.public_key, signature, MESSAGES["short"], algorithm.name):
                fail(got="a DER sequence of r and s", expected="r||s", fix="Return `algorithms.der_to_jose(...)`.")

    @needs("ec")
    def test_ecdsa_has_full_width(self) -> None:
        """r and s have the curve's full width even if they start with zeros (`sign`; RFC 7518, section 3.4)."""
        with self.opened(self.kind_uri("ec")) as (_, key):
            (algorithm,) = algorithms_for(key_type(key.public_key))
            width = 2 * algorithm.coordinate_size
            for number in range(self.many):
                signature = key.sign(b"%d" % number, algorithm, timeout=TIMEOUT)
                if len(signature) < width:
                    fail(
                        got=f"{len(signature)} bytes in signature {number}",
                        expected=f"{width} bytes in every one",
                        fix=f'Pad r and s: `r.to_bytes({algorithm.coordinate_size}, "big")`.',
                    )

    @needs("rsa")
    def test_pss_salt_is_as_long_as_the_hash(self) -> None:
        """The salt of PS256 is as long as its hash, not empty or maximal (`sign`; RFC 7518, section 3.5)."""
        for key, name, signature in self._pss_signatures():
            if verification.has_wrong_salt_length(key.public_key, signature, MESSAGES["short"], name):
                fail(
                    got=f"a {name} signature with a salt of another length",
                    expected=f"{verification.digest(name).digest_size} bytes",
                    fix="Set the salt length to that of the hash: the default of many libraries is the maximum.",
                )

    @needs("rsa")
    def test_pss_mask_uses_the_same_hash(self) -> None:
        """MGF1 uses the hash of the signature, not SHA-1 (`sign`; RFC 7518, section 3.5)."""
        for key, name, signature in self._pss_signatures():
            if verification.has_sha1_mask(key.public_key, signature, MESSAGES["short"], name):
                fail(
                    got=f"a {name} signature with SHA-1 in its mask",
                    expected=f"{verification.digest(name).name}",
                    fix="Set the hash of MGF1: the default of many libraries is SHA-1.",
                )

    @needs()
    def test_message_is_hashed_once(self) -> None:
        """`sign` gets the message, not its hash, and hashes it once (`sign`)."""
        for key, name in self._keys_and_algorithms():
            if name != "EdDSA":
                signature = key.sign(MESSAGES["short"], ALGORITHMS[name], timeout=TIMEOUT)
                if verification.is_hashed_twice(key.public_key, signature, MESSAGES["short"], name):
                    fail(
                        got=f"a {name} signature over the hash of the message's hash",
                        expected="one over the message's hash",
                        fix="Either hash the message and let the library sign the digest, or let the library do both.",
                    )

    @needs()
    def test_signature_has_the_requested_algorithm(self) -> None:
        """The signature has the requested algorithm, never another one (`sign`)."""
        for key, name in self._keys_and_algorithms():
            signature = key.sign(MESSAGES["short"], ALGORITHMS[name], timeout=TIMEOUT)
            for other in algorithms_for(key_type(key.public_key)):
                if other.name != name and verification.verifies(
                    key.public_key, signature, MESSAGES["short"], other.name
                ):
                    fail(got=f"a {other.name} signature", expected=name, fix="Raise AlgorithmUnsupported instead.")

    @needs()
    def test_unsupported_algorithms_are_refused(self) -> None:
        """An unsupported algorithm raises AlgorithmUnsupported with a hint, and the key still signs (`sign`)."""
        for _, uri in self.kinds_with_uris():
            with self.opened(uri) as (_, key):
                for algorithm in algorithms_for(key_type(key.public_key)):
                    if algorithm.name not in self.unsupported:
                        continue
                    sign = functools.partial(key.sign, MESSAGES["short"], algorithm, timeout=TIMEOUT)
                    require_error(sign, AlgorithmUnsupported)
                    self.require_signature(key)

    @needs()
    def test_public_key_belongs_to_the_signing_key(self) -> None:
        """`public_key` belongs to the signing key and to its certificate (`StoredKey.public_key`, `chain`)."""
        for key, name in self._keys_and_algorithms():
            signature = key.sign(MESSAGES["short"], ALGORITHMS[name], timeout=TIMEOUT)
            if not verification.verifies(key.public_key, signature, MESSAGES["short"], name):
                fail(
                    got="a signature that this public key does not verify", expected="the public key of the signing key"
                )
            if key.chain and certificate_spki(key.chain[0]) != spki_sha256(key.public_key):
                fail(got="a certificate of another key", expected="the key's own certificate, first in `chain`")

    @needs("certificate")
    def test_chain_starts_with_the_certificate_of_the_key(self) -> None:
        """`chain` has the key's certificate, its issuer, and so on, in this order (`StoredKey.chain`)."""
        with self.opened(self.uri) as (_, key):
            if not key.chain:
                fail(got="no certificate", expected='one in `chain`, or "certificate" in `unsupported`')
            if certificate_spki(key.chain[0]) != spki_sha256(key.public_key):
                fail(
                    got="another certificate first",
                    expected="the key's own certificate",
                    fix="Use `certificate.order_chain`.",
                )
            for each, issuer in itertools.pairwise(key.chain):
                try:
                    each.verify_directly_issued_by(issuer)
                except (ValueError, TypeError, InvalidSignature):
                    fail(
                        got=f"{each.subject.rfc4514_string()} before {issuer.subject.rfc4514_string()}",
                        expected="each certificate issued by the next",
                        fix="Use `certificate.order_chain`.",
                    )

    # Helpers.

    def _supports(self, name: str) -> bool:
        return name not in self.unsupported

    def _keys_and_algorithms(self) -> list[tuple[StoredKey, str]]:
        """Return each provided key, open, with each algorithm that it supports."""
        pairs: list[tuple[StoredKey, str]] = []
        for _, uri in self.kinds_with_uris():
            store = self.the_class()(self.parsed(uri), self.secrets())
            store.connect(timeout=TIMEOUT)
            self._node.addfinalizer(store.close)
            key = store.open(self.parsed(uri), timeout=TIMEOUT)
            self._node.addfinalizer(key.close)
            pairs += [
                (key, each.name) for each in algorithms_for(key_type(key.public_key)) if self._supports(each.name)
            ]
        return pairs

    def _pss_signatures(self) -> list[tuple[StoredKey, str, bytes]]:
        return [
            (key, name, key.sign(MESSAGES["short"], ALGORITHMS[name], timeout=TIMEOUT))
            for key, name in self._keys_and_algorithms()
            if name.startswith("PS")
        ]

    def _verify(self, kind: str, length: str) -> None:
        if length in self.unsupported:
            self._node.user_properties.append(("unsupported", length))
            return
        message = MESSAGES[length]
        with self.opened(self.kind_uri(kind)) as (_, key):
            for algorithm in algorithms_for(key_type(key.public_key)):
                if not self._supports(algorithm.name):
                    continue
                try:
                    signature = key.sign(message, algorithm, timeout=TIMEOUT)
                except AlgorithmUnsupported as error:
                    fail(
                        got=error,
                        expected=f"a {algorithm.name} signature",
                        fix=f'Add "{algorithm.name if length == "short" else length}" to `unsupported` if the store '
                        "cannot do it.",
                    )
                if not verification.verifies(key.public_key, signature, message, algorithm.name):
                    fail(
                        got=f"a {algorithm.name} signature of {len(signature)} bytes that does not verify",
                        expected=f"a valid one over {len(message)} bytes",
                        fix="See the tests of salt, mask, form and hash. One of them may show the cause.",
                    )
