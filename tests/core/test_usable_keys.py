"""Weak and oversized RSA keys are refused, whatever store they are in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from keyvouch._core.connections import Connection
from keyvouch._core.opened_key import open_key
from keyvouch._core.retries import Deadline
from keyvouch.algorithms import Algorithm, require_usable
from keyvouch.errors import KeyUnusable
from keyvouch.secrets import SecretResolver
from keyvouch.store import StoredKey
from keyvouch.stores.file import PemStore
from keyvouch.uri import KeyUri, parse_uri


def public(bits: int, exponent: int = 65537) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(exponent, (1 << (bits - 1)) + 0x1235).public_key()


class Held(StoredKey):
    """A key from any store."""

    def __init__(self, uri: KeyUri, public_key: Any) -> None:
        self.uri, self.public_key, self.chain = uri, public_key, ()
        self.closed = False

    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        raise AssertionError(message, algorithm, timeout)

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("bits", [2048, 3072, 4096, 8192])
def test_usable_sizes(bits: int) -> None:
    """Sizes from 2,048 to 8,192 bits are accepted."""
    require_usable(public(bits))


@pytest.mark.parametrize("bits", [512, 1024, 2047, 8193, 16384])
def test_rejected_sizes(bits: int) -> None:
    """Keys that are too weak, or so large that a signature takes seconds, are refused."""
    with pytest.raises(KeyUnusable, match=f"RSA-{bits}") as caught:
        require_usable(public(bits))
    assert caught.value.hint


@pytest.mark.parametrize("exponent", [3, 17, 65537, 2**64 - 1])
def test_usable_exponents(exponent: int) -> None:
    """Odd exponents of at most 64 bits are accepted."""
    require_usable(public(2048, exponent))


@pytest.mark.parametrize("exponent", [2**64 + 1, 2**300 + 1])
def test_rejected_exponents(exponent: int) -> None:
    """Longer exponents are refused, as OpenSSL itself does for long keys."""
    with pytest.raises(KeyUnusable, match="exponent"):
        require_usable(public(2048, exponent))


@pytest.mark.parametrize("exponent", [-1, 0, 1, 2, 65536])
def test_invalid_exponents(exponent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check does not depend on `cryptography`, which loads none of these."""
    key = rsa.generate_private_key(65537, 2048)
    numbers = SimpleNamespace(e=exponent)
    monkeypatch.setattr("keyvouch.algorithms.key_type", lambda _: "RSA-2048")
    with pytest.raises(KeyUnusable, match="exponent"):
        require_usable(SimpleNamespace(public_numbers=lambda: numbers))
    require_usable(key)


def test_private_keys_and_other_key_types() -> None:
    """Private keys are checked by their public key; other types have one size each."""
    require_usable(rsa.generate_private_key(65537, 2048))
    require_usable(ec.generate_private_key(ec.SECP256R1()))
    require_usable(ed25519.Ed25519PrivateKey.generate().public_key())
    with pytest.raises(KeyUnusable):
        require_usable(ec.generate_private_key(ec.SECP256K1()))


@pytest.mark.parametrize("key", [public(1024), public(8193), public(2048, 2**65 + 1)])
def test_unusable_key_is_closed_after_opening(key: rsa.RSAPublicKey) -> None:
    """The core refuses such a key after a store has opened it, and closes it."""
    uri = parse_uri("pem:/app.pem", PemStore.attributes)
    held = Held(uri, key)
    connection = Connection(("test",), PemStore(uri, SecretResolver()), "pem")
    connection.store = cast("Any", SimpleNamespace(open=lambda *_, **__: held, connect=lambda **_: None))
    with pytest.raises(KeyUnusable):
        open_key(connection, uri, [], Deadline(5))
    assert held.closed
