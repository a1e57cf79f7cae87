"""The JOSE algorithms, checked with `cryptography`."""

from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, x448, x25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from keyvouch.algorithms import (
    ALGORITHMS,
    KEY_TYPES,
    Algorithm,
    DerSignature,
    JoseSignature,
    algorithms_for,
    der_to_jose,
    find_algorithm,
    jose_to_der,
    key_type,
    require_fit,
    verifies,
)
from keyvouch.errors import AlgorithmUnsupported, ConfigurationError, KeyUnusable
from keyvouch.local_key import sign_locally
from stores.key_material import new_key

MESSAGE = b"eyJ.eyJ"
HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
KINDS = ["RSA-2048", "P-256", "P-384", "P-521", "Ed25519"]
PAIRS = [(kind, algorithm) for kind in KINDS for algorithm in algorithms_for(kind)]
CURVES = [algorithm for algorithm in ALGORITHMS.values() if algorithm.family == "ECDSA"]
ids = str


def judge(public_key: Any, name: str, signature: bytes) -> None:
    """Verify as RFC 7518 and RFC 8037 say, without any keyvouch code; raises InvalidSignature if it is wrong."""
    if name == "EdDSA":
        public_key.verify(signature, MESSAGE)
        return
    digest = HASHES[name[2:]]
    if name.startswith("ES"):
        half = {"256": 32, "384": 48, "512": 66}[name[2:]]
        assert len(signature) == 2 * half
        numbers = (int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big"))
        public_key.verify(encode_dss_signature(*numbers), MESSAGE, ec.ECDSA(digest))
    elif name.startswith("PS"):
        public_key.verify(signature, MESSAGE, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
    else:
        public_key.verify(signature, MESSAGE, padding.PKCS1v15(), digest)


@pytest.mark.parametrize(("kind", "algorithm"), PAIRS, ids=ids)
def test_signature_has_the_jose_encoding(kind: str, algorithm: Algorithm) -> None:
    """Each algorithm signs with the hash, padding, salt and encoding of its RFC."""
    key = new_key(kind)
    judge(key.public_key(), algorithm.name, sign_locally(key, MESSAGE, algorithm))


@pytest.mark.parametrize(("kind", "algorithm"), PAIRS, ids=ids)
def test_signature_is_verified(kind: str, algorithm: Algorithm) -> None:
    """A signature is valid only for this key and this message."""
    key = new_key(kind)
    signature = sign_locally(key, MESSAGE, algorithm)
    assert verifies(key.public_key(), signature, MESSAGE, algorithm)
    assert not verifies(key.public_key(), signature, MESSAGE + b"x", algorithm)
    assert not verifies(new_key(kind, 1).public_key(), signature, MESSAGE, algorithm)


@pytest.mark.parametrize(("kind", "algorithm"), PAIRS, ids=ids)
@pytest.mark.parametrize("data", [b"", b"x", b"x" * 300])
def test_wrong_length_is_an_invalid_signature(kind: str, algorithm: Algorithm, data: bytes) -> None:
    """Bytes of a wrong length are rejected like any other wrong signature, without an exception."""
    assert not verifies(new_key(kind).public_key(), data, MESSAGE, algorithm)


def test_other_salt_length_is_rejected() -> None:
    """A PSS salt whose length differs from the digest's is not valid in JOSE, though RSA would accept it."""
    key = new_key("RSA-2048")
    longest = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)
    assert not verifies(key.public_key(), key.sign(MESSAGE, longest, hashes.SHA256()), MESSAGE, ALGORITHMS["PS256"])


@pytest.mark.parametrize("algorithm", CURVES, ids=ids)
def test_der_signature_is_rejected(algorithm: Algorithm) -> None:
    """An ECDSA signature in DER, as many libraries produce it, is not a JOSE signature."""
    key = new_key(algorithm.curve)
    assert not verifies(key.public_key(), key.sign(MESSAGE, ec.ECDSA(algorithm.hash)), MESSAGE, algorithm)


@pytest.mark.parametrize("algorithm", CURVES, ids=ids)
def test_leading_zeros_are_padded(algorithm: Algorithm) -> None:
    """r and s are padded to the curve's width, even if they begin with zeros, as in one signature of 128."""
    key = new_key(algorithm.curve)
    for _ in range(10_000):  # usually found within the first 300; never needs them all
        signature = sign_locally(key, MESSAGE, algorithm)
        judge(key.public_key(), algorithm.name, signature)
        if 0 in (signature[0], signature[algorithm.coordinate_size]):
            return
    raise AssertionError("no number begins with zeros")


@pytest.mark.parametrize("algorithm", CURVES, ids=ids)
@given(data=st.data())
def test_der_and_jose_round_trip(algorithm: Algorithm, data: st.DataObject) -> None:
    """Any two numbers that fit the curve convert to r||s and back to DER unchanged."""
    number = st.integers(0, 2 ** (8 * algorithm.coordinate_size) - 1) | st.integers(0, 1000)
    pair = data.draw(st.tuples(number, number))
    jose = der_to_jose(DerSignature(encode_dss_signature(*pair)), algorithm)
    assert len(jose) == 2 * algorithm.coordinate_size
    assert decode_dss_signature(jose_to_der(jose, algorithm)) == pair


@pytest.mark.parametrize("algorithm", CURVES, ids=ids)
@pytest.mark.parametrize("difference", [-2, -1, 1, 2])
def test_wrong_length_is_a_value_error(algorithm: Algorithm, difference: int) -> None:
    """r||s of another length belongs to another curve."""
    with pytest.raises(ValueError, match=f"bytes with {algorithm.name}"):
        jose_to_der(JoseSignature(bytes(2 * algorithm.coordinate_size + difference)), algorithm)


@pytest.mark.parametrize("der", [b"", b"\x30", b"x" * 70, encode_dss_signature(2**256, 1)], ids=repr)
def test_invalid_der_is_a_value_error(der: bytes) -> None:
    """Invalid DER and DER for a larger curve are reported to the plugin in the same way."""
    with pytest.raises(ValueError):
        der_to_jose(DerSignature(der), ALGORITHMS["ES256"])


@pytest.mark.parametrize(("kind", "algorithm"), PAIRS, ids=ids)
def test_supported_algorithm_passes(kind: str, algorithm: Algorithm) -> None:
    """The store decides what a key can do."""
    require_fit(kind, algorithm)


@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [(kind, each) for kind in KINDS for each in ALGORITHMS.values() if each not in algorithms_for(kind)],
    ids=ids,
)
def test_unsupported_algorithm_is_rejected(kind: str, algorithm: Algorithm) -> None:
    """What a key's type or curve cannot do is refused before any store is asked, and the error lists what it can do."""
    with pytest.raises(AlgorithmUnsupported, match=f"cannot sign with {algorithm.name}") as caught:
        require_fit(kind, algorithm)
    assert algorithms_for(kind)[0].name in caught.value.hint


def test_preferred_algorithm_is_first() -> None:
    """RSA begins with PS256, and each curve has exactly one algorithm (RFC 7518, section 3.4)."""
    assert [algorithms_for(kind)[0].name for kind in KINDS] == ["PS256", "ES256", "ES384", "ES512", "EdDSA"]
    assert {each.name for kind in KINDS for each in algorithms_for(kind)} == set(ALGORITHMS)


@pytest.mark.parametrize("kind", KEY_TYPES)
def test_key_type_is_named(kind: str) -> None:
    """A private and a public key have the same type name, the one used to request such a key."""
    key = new_key(kind)
    assert key_type(key) == key_type(key.public_key()) == kind


def other_key(kind: str) -> Any:
    match kind:
        case "X25519":
            return x25519.X25519PrivateKey.generate()
        case "X448":
            return x448.X448PrivateKey.generate()
        case "nothing":
            return None
    return new_key(kind)


@pytest.mark.parametrize("kind", ["DSA", "Ed448", "X25519", "X448", "SECP256K1", "BrainpoolP256R1", "nothing"])
def test_other_key_types_are_unusable(kind: str) -> None:
    """A key of a kind that JOSE has no signature algorithm for is refused, and the error lists the supported kinds."""
    with pytest.raises(KeyUnusable, match="Unsupported key type") as caught:
        key_type(other_key(kind))
    assert "Ed25519" in caught.value.hint


def test_unsupported_curve_is_named() -> None:
    """The error names the curve, since that is what is wrong with an EC key."""
    with pytest.raises(KeyUnusable, match="secp256k1"):
        key_type(new_key("SECP256K1").public_key())


@pytest.mark.parametrize("name", ["none", "HS256", "ps256", "", "ES256K"])
def test_unknown_name_is_a_configuration_error(name: str) -> None:
    """Only the ten names are accepted; `none` and HMAC are not among them."""
    with pytest.raises(ConfigurationError, match="Unknown signature algorithm") as caught:
        find_algorithm(name)
    assert "PS256" in caught.value.hint


def test_algorithm_by_name_or_object() -> None:
    """An algorithm is given by name or as an object."""
    assert find_algorithm("PS256") is find_algorithm(ALGORITHMS["PS256"]) is ALGORITHMS["PS256"]
    assert repr(ALGORITHMS["ES512"]) == "<Algorithm ES512>"


def test_verifier_rejects_wrong_signatures() -> None:
    """The verifier used in these tests does reject wrong signatures."""
    key = new_key("P-256")
    with pytest.raises(InvalidSignature):
        judge(key.public_key(), "ES256", bytes(63) + b"\x01")
