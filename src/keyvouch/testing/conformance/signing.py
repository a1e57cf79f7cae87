"""Rules of `StoredKey`: what it signs, and what it shows of itself."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

import pytest
from cryptography.exceptions import InvalidSignature

from keyvouch.algorithms import ALGORITHMS, algorithms_for, key_type
from keyvouch.certificate import certificate_spki, spki_sha256
from keyvouch.errors import AlgorithmUnsupported
from keyvouch.testing.conformance import judge
from keyvouch.testing.conformance.declarations import TIMEOUT, Declarations, broken, needs, refused

if TYPE_CHECKING:
    from keyvouch.store import StoredKey

MESSAGES = {"empty": b"", "short": b"header.payload", "long": b"x" * (1 << 20)}


class Signing(Declarations):
    """See `keyvouch.store.StoredKey.sign`."""

    @pytest.mark.parametrize("message", MESSAGES)
    @needs("rsa")
    def test_rsa_signatures_verify(self, message: str) -> None:
        """An RSA key signs each algorithm of RSA that is not declared, over messages of any length (`sign`)."""
        self._verify("rsa", message)

    @pytest.mark.parametrize("message", MESSAGES)
    @needs("ec")
    def test_ec_signatures_verify(self, message: str) -> None:
        """An EC key signs its curve's algorithm, over messages of any length (`sign`)."""
        self._verify("ec", message)

    @pytest.mark.parametrize("message", MESSAGES)
    @needs("ed25519")
    def test_ed25519_signatures_verify(self, message: str) -> None:
        """An Ed25519 key signs EdDSA, over messages of any length (`sign`)."""
        self._verify("ed25519", message)

    @needs("ec")
    def test_ecdsa_is_no_der(self) -> None:
        """ECDSA signatures are r and s side by side, and no DER (`sign`; RFC 7518, section 3.4)."""
        with self.opened(self.kind_uri("ec")) as (_, key):
            (algorithm,) = algorithms_for(key_type(key.public_key))
            signature = key.sign(MESSAGES["short"], algorithm, timeout=TIMEOUT)
            if judge.is_der(key.public_key, signature, MESSAGES["short"], algorithm.name):
                broken(seen="a DER SEQUENCE of r and s", wanted="r||s", change="Return `algorithms.der_to_jose(...)`.")

    @needs("ec")
    def test_ecdsa_is_of_full_width(self) -> None:
        """r and s have the curve's full width, also where they begin with zeros (`sign`; RFC 7518, section 3.4)."""
        with self.opened(self.kind_uri("ec")) as (_, key):
            (algorithm,) = algorithms_for(key_type(key.public_key))
            width = 2 * algorithm.coordinate_size
            for number in range(self.many):
                signature = key.sign(b"%d" % number, algorithm, timeout=TIMEOUT)
                if len(signature) < width:
                    broken(
                        seen=f"{len(signature)} bytes, in signature {number}",
                        wanted=f"{width} bytes in every one",
                        change=f'Fill up r and s: `r.to_bytes({algorithm.coordinate_size}, "big")`.',
                    )

    @needs("rsa")
    def test_pss_salt_is_as_long_as_the_hash(self) -> None:
        """The salt of PS256 is as long as its hash, neither none nor the longest (`sign`; RFC 7518, section 3.5)."""
        for key, name, signature in self._pss_signatures():
            if judge.has_other_salt(key.public_key, signature, MESSAGES["short"], name):
                broken(
                    seen=f"a {name} signature with a salt of another length",
                    wanted=f"{judge.digest(name).digest_size} bytes",
                    change="Ask the library for the hash's length: many take the longest salt by themselves.",
                )

    @needs("rsa")
    def test_pss_mask_has_the_same_hash(self) -> None:
        """MGF1 takes the hash of the signature, and not SHA-1 (`sign`; RFC 7518, section 3.5)."""
        for key, name, signature in self._pss_signatures():
            if judge.has_mask_of_sha1(key.public_key, signature, MESSAGES["short"], name):
                broken(
                    seen=f"a {name} signature with SHA-1 in its mask",
                    wanted=f"{judge.digest(name).name}",
                    change="Give MGF1 the signature's hash: in many libraries its default is SHA-1.",
                )

    @needs()
    def test_message_is_hashed_once(self) -> None:
        """`sign` is given the message, and not its hash: it is hashed once (`sign`)."""
        for key, name in self._each():
            if name != "EdDSA":
                signature = key.sign(MESSAGES["short"], ALGORITHMS[name], timeout=TIMEOUT)
                if judge.is_over_the_hash(key.public_key, signature, MESSAGES["short"], name):
                    broken(
                        seen=f"{name} over the hash of the message's hash",
                        wanted="over the message's hash",
                        change="Hash here and have the library sign a digest, or leave the hashing to it; not both.",
                    )

    @needs()
    def test_signature_is_of_the_algorithm_asked_for(self) -> None:
        """What is asked for is signed, and nothing in its place (`sign`)."""
        for key, name in self._each():
            signature = key.sign(MESSAGES["short"], ALGORITHMS[name], timeout=TIMEOUT)
            for other in algorithms_for(key_type(key.public_key)):
                if other.name != name and judge.is_good(key.public_key, signature, MESSAGES["short"], other.name):
                    broken(
                        seen=f"a signature of {other.name}", wanted=name, change="Raise AlgorithmUnsupported instead."
                    )

    @needs()
    def test_undone_algorithms_are_refused_by_type(self) -> None:
        """What the store cannot do is AlgorithmUnsupported, with a hint, and the key signs on (`sign`)."""
        for _, uri in self.kinds_with_uris():
            with self.opened(uri) as (_, key):
                for algorithm in algorithms_for(key_type(key.public_key)):
                    if algorithm.name not in self.unsupported:
                        continue
                    sign = functools.partial(key.sign, MESSAGES["short"], algorithm, timeout=TIMEOUT)
                    refused(sign, AlgorithmUnsupported)
                    self.require_signature(key)

    @needs()
    def test_public_key_is_the_signing_keys(self) -> None:
        """`public_key` is that of the key which signs, and the certificate's (`StoredKey.public_key`, `chain`)."""
        for key, name in self._each():
            signature = key.sign(MESSAGES["short"], ALGORITHMS[name], timeout=TIMEOUT)
            if not judge.is_good(key.public_key, signature, MESSAGES["short"], name):
                broken(seen="a signature that this public key does not verify", wanted="the public key that signs")
            if key.chain and certificate_spki(key.chain[0]) != spki_sha256(key.public_key):
                broken(seen="a certificate of another key", wanted="the key's own, first in `chain`")

    @needs("certificate")
    def test_chain_begins_with_the_keys_certificate(self) -> None:
        """`chain` is in order: the key's certificate, its issuer, and so on (`StoredKey.chain`)."""
        with self.opened(self.uri) as (_, key):
            if not key.chain:
                broken(seen="no certificate", wanted='one in `chain`, or "certificate" in `unsupported`')
            if certificate_spki(key.chain[0]) != spki_sha256(key.public_key):
                broken(
                    seen="another certificate first", wanted="the key's own", change="Use `certificate.order_chain`."
                )
            for each, issuer in itertools.pairwise(key.chain):
                try:
                    each.verify_directly_issued_by(issuer)
                except (ValueError, TypeError, InvalidSignature):
                    broken(
                        seen=f"{each.subject.rfc4514_string()} before {issuer.subject.rfc4514_string()}",
                        wanted="each issued by the next",
                        change="Use `certificate.order_chain`.",
                    )

    # What the tests above have in common.

    def _does(self, name: str) -> bool:
        return name not in self.unsupported

    def _each(self) -> list[tuple[StoredKey, str]]:
        """Return each provided key with each algorithm that it does."""
        pairs: list[tuple[StoredKey, str]] = []
        for _, uri in self.kinds_with_uris():
            made = self.the_class()(self.parsed(uri), self.secrets())
            made.connect(timeout=TIMEOUT)
            self._node.addfinalizer(made.close)
            key = made.open(self.parsed(uri), timeout=TIMEOUT)
            self._node.addfinalizer(key.close)
            pairs += [(key, each.name) for each in algorithms_for(key_type(key.public_key)) if self._does(each.name)]
        return pairs

    def _pss_signatures(self) -> list[tuple[StoredKey, str, bytes]]:
        return [
            (key, name, key.sign(MESSAGES["short"], ALGORITHMS[name], timeout=TIMEOUT))
            for key, name in self._each()
            if name.startswith("PS")
        ]

    def _verify(self, kind: str, length: str) -> None:
        if length in self.unsupported:
            self._node.user_properties.append(("unsupported", length))
            return
        message = MESSAGES[length]
        with self.opened(self.kind_uri(kind)) as (_, key):
            for algorithm in algorithms_for(key_type(key.public_key)):
                if not self._does(algorithm.name):
                    continue
                try:
                    signature = key.sign(message, algorithm, timeout=TIMEOUT)
                except AlgorithmUnsupported as error:
                    broken(
                        seen=error,
                        wanted=f"a signature of {algorithm.name}",
                        change=f'Put "{algorithm.name if length == "short" else length}" into `unsupported` if the '
                        "store cannot do it.",
                    )
                if not judge.is_good(key.public_key, signature, message, algorithm.name):
                    broken(
                        seen=f"a {algorithm.name} signature of {len(signature)} bytes that does not verify",
                        wanted=f"a good one over {len(message)} bytes",
                        change="See the tests of salt, mask, form and hash: one of them may name the fault.",
                    )
