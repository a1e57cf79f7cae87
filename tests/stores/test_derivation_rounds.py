"""How the cost of opening a file is counted: exact to the round and the byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyvouch._formats import asn1
from keyvouch.errors import KeyUnusable
from keyvouch.stores import limits
from stores.key_material import der, integer

PATH = Path("/keys/app.pfx")
SALT = der(0x04, bytes(8))
AES = der(0x30, der(0x06, bytes.fromhex("60864801650304012a")), der(0x04, bytes(16)))


def algorithm(oid: str, *parameters: bytes) -> bytes:
    return der(0x30, der(0x06, bytes.fromhex(oid)), der(0x30, *parameters))


def pbkdf2(*parameters: bytes) -> bytes:
    return algorithm("2a864886f70d01050c", SALT, *parameters)


def scrypt(*parameters: bytes) -> bytes:
    return algorithm("2b06010401da47040b", SALT, *parameters)


def rounds(*parts: bytes) -> list[int]:
    return list(limits.rounds_of(asn1.parse(der(0x30, *parts)), PATH, "Convert it."))


@pytest.mark.parametrize(
    ("part", "count"),
    [
        (pbkdf2(integer(5)), 5),
        (pbkdf2(), 1),
        (pbkdf2(AES), 1),
        (pbkdf2(integer(5), AES), 5),
        (pbkdf2(integer(5), integer(32)), 5),
        (pbkdf2(integer(5), integer(33)), 10),
        (pbkdf2(integer(5), integer(64)), 10),
        (pbkdf2(integer(5), integer(65), AES), 15),
        (pbkdf2(integer(0)), 1),
        (scrypt(integer(16), integer(8), integer(3)), 16 * 8 * 3),
        (scrypt(integer(16), integer(8), integer(3), integer(32)), 16 * 8 * 3),
        (scrypt(integer(16), integer(8)), 16 * 8),
        (scrypt(integer(16)), 16),
        (scrypt(), 1),
        (algorithm("2a864886f70d010c0103", SALT, integer(7)), 7),
        (algorithm("2a864886f70d010503", SALT, integer(7)), 7),
        (algorithm("2a864886f70d010c0103", SALT, integer(7), integer(9)), 7),
        (der(0x31, der(0x06, bytes.fromhex("2a864886f70d01050c")), der(0x30, SALT, integer(5))), 5),
        (der(0x30, der(0x04, bytes.fromhex("2a864886f70d01050c")), der(0x31, SALT, integer(5))), 5),
    ],
)
def test_rounds_of_one_derivation(part: bytes, count: int) -> None:
    """PBKDF2 derives 32 bytes at a time; scrypt's cost is N * r * p; the older schemes have only a count."""
    assert rounds(part) == [count]


@pytest.mark.parametrize(
    "part",
    [
        AES,
        algorithm("60864801650304012a", SALT, integer(7)),
        algorithm("2a864886f70d010c0103", integer(7)),
        algorithm("2a864886f70d010c0103", SALT, SALT),
        der(0x30, der(0x06, bytes.fromhex("2a864886f70d01050c"))),
    ],
)
def test_other_structures_have_no_rounds(part: bytes) -> None:
    """Other algorithms, and malformed derivations, cost no rounds."""
    assert rounds(part) == []


def test_every_derivation_counts() -> None:
    """A derivation counts at any depth, and after other elements."""
    assert rounds(AES, pbkdf2(integer(5)), der(0x30, der(0x30, scrypt(integer(2), integer(3), integer(4))))) == [5, 24]


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (integer(1), 1),
        (integer(0), 1),
        (integer(300), 300),
        (der(0x02, b"\x7f" + bytes(7)), 0x7F << 56),
        (der(0x02, bytes(8) + b"\x01"), 1 << 64),
        (der(0x02, b"\x01" * 9), 1 << 64),
        (der(0x02, b"\xff"), 255),
        (der(0x04, b"\x05"), 1),
    ],
)
def test_integer_values(data: bytes, value: int) -> None:
    """A number is 1 or more; one of more than eight bytes exceeds every limit and is not decoded."""
    assert limits.number(asn1.parse(data)) == value


def test_maximum_rounds() -> None:
    """Three million rounds in total are the limit."""
    limits.require_few_rounds(PATH, [1_000_000, 2_000_000], "Convert it.")
    limits.require_few_rounds(PATH, [], "Convert it.")
    with pytest.raises(KeyUnusable) as caught:
        limits.require_few_rounds(PATH, [1_000_000, 2_000_001], "Convert it.")
    assert f"{PATH} requires 3,000,001 rounds" in caught.value.message
    assert caught.value.hint == "Convert it."


def test_maximum_memory() -> None:
    """256 MiB is the limit for scrypt, which is 128 * N * r."""
    assert rounds(scrypt(integer(2**18), integer(8), integer(1))) == [2**21]
    with pytest.raises(KeyUnusable) as caught:
        rounds(scrypt(integer(2**18 + 2**10), integer(8), integer(1)))
    assert f"{PATH} requires 257 MiB of memory (scrypt); the limit is 256 MiB." in caught.value.message
    assert caught.value.hint == "Convert it."


@pytest.mark.parametrize("sizes", [[], [0], [limits.MAX_KEY_SIZE], [limits.MAX_TOTAL_KEY_SIZE // 8] * 8])
def test_maximum_key_size(sizes: list[int]) -> None:
    """A key of 5 KiB, and keys of 32 KiB in total, are checked."""
    limits.require_small_keys(PATH, iter(sizes))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([10, limits.MAX_KEY_SIZE + 1], "contains a private key of 5,121 bytes; the limit is 5,120."),
        ([limits.MAX_TOTAL_KEY_SIZE // 8] * 8 + [1], "contains private keys of 32,769 bytes; the limit is 32,768."),
    ],
)
def test_keys_above_the_maximum_size(sizes: list[int], message: str) -> None:
    """The error has the file, the size and the limit; the hint says what is possible."""
    with pytest.raises(KeyUnusable) as caught:
        limits.require_small_keys(PATH, sizes)
    assert caught.value.message == f"{PATH} {message}"
    assert "8192 bits" in caught.value.hint
