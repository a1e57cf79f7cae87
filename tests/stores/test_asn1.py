"""Untrusted BER: depth, number and length of its elements."""

import sys
from pathlib import Path

import pytest

from keyvouch._formats import asn1
from keyvouch.errors import KeyUnusable
from stores.key_material import der, integer, open_key, write


@pytest.mark.parametrize(
    ("data", "same"),
    [
        ("3003020103", "3003020103"),
        ("3080020103 0000", "3003020103"),
        ("30808001ff 0000", "30038001ff"),
        ("3081800500" + "05 00" * 63, "3081800500" + "0500" * 63),
        ("308200020500", "30020500"),  # a length longer than necessary
        ("2480 0401aa 2403 0401bb 0402ccdd 0000", "0404aabbccdd"),
        ("2400", "0400"),
        ("3f8101 020500", "3f8101020500"),  # a tag above 30
        ("30000500", "3000"),  # what follows is not part of it
        ("3080 3080 0000 0500 0000", "30043000" + "0500"),
    ],
)
def test_ber_is_converted_to_der(data: str, same: str) -> None:
    """Indefinite lengths become definite, pieces are joined, lengths become minimal."""
    assert asn1.encode(asn1.parse(bytes.fromhex(data))).hex() == bytes.fromhex(same).hex()


@pytest.mark.parametrize(
    "data",
    [
        "",
        "30",
        "3001",
        "3080",
        "30800500",
        "308005000000"[:10],
        "3082",
        "30ff",
        "30 03 02 02 01",
        "3f",
        "3f81",
        "30 04 30 03 05 00",
    ],
)
def test_truncated(data: str) -> None:
    """Data that ends before its elements do is distinguished from other damage."""
    with pytest.raises(asn1.TruncatedError):
        asn1.parse(bytes.fromhex(data))


@pytest.mark.parametrize("data", ["0480", "2403 020100", "2480 0500 0000"])
def test_invalid_ber_is_rejected(data: str) -> None:
    """A primitive value needs a length, and constructed octet strings consist of octet strings."""
    with pytest.raises(ValueError, match="primitive element|another type") as caught:
        asn1.parse(bytes.fromhex(data))
    assert not isinstance(caught.value, asn1.TruncatedError)


@pytest.mark.parametrize("opening", [b"\x30\x80", b"\x24\x80", b"\xa0\x80", b"\x3f\x01\x80"])
def test_nesting_is_limited(opening: bytes) -> None:
    """32 levels are enough; a megabyte of opening tags is not followed."""
    for depth in (33, 300, 500_000):
        with pytest.raises(ValueError, match="levels of nesting"):
            asn1.parse(opening * depth)
    assert asn1.parse(b"\x30\x80" * 32 + b"\0\0" * 32)


def test_definite_nesting_is_limited() -> None:
    """Nesting is limited with definite lengths, too."""
    data = b""
    for _ in range(33):
        data = der(0x30, data)
    with pytest.raises(ValueError, match="levels of nesting"):
        asn1.parse(data)


def test_number_of_elements_is_limited() -> None:
    """A megabyte of empty values would be half a million objects, so their number is limited."""
    with pytest.raises(ValueError, match="more than 50,000 elements"):
        asn1.parse(der(0x30, b"\x05\x00" * 50_000))
    assert len(asn1.parse(der(0x30, b"\x05\x00" * 49_999)).children) == 49_999


def test_work_is_linear() -> None:
    """Neither depth nor indefinite lengths make the reader scan the data repeatedly: the call count stays the same."""

    def calls(size: int) -> int:
        data = b"\x30\x80" * 30 + b"\x04\x02aa" * size + b"\0\0" * 30
        counted = []
        sys.setprofile(lambda _, event, __: counted.append(event))
        try:
            asn1.encode(asn1.parse(data))
        finally:
            sys.setprofile(None)
        return len(counted)

    assert calls(4_000) < 10.5 * calls(400)


@pytest.mark.parametrize("size", [0x7F, 0xFF, 2**31 - 1, 2**64, 2**900])
def test_huge_lengths(size: int) -> None:
    """A length beyond the data does not allocate memory."""
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    with pytest.raises(asn1.TruncatedError):
        asn1.parse(b"\x30" + bytes((0x80 | len(length),)) + length + b"\0" * 50)


def test_decompression_bombs_are_rejected(folder: Path) -> None:
    """As a file, each of these is only a key that cannot be used."""
    for body in (b"\x30\x80" * 100_000, b"\x05\x00" * 100_000, der(0x24, b"\x24\x80" * 100)):
        path = write(folder / "app.pfx", b"\x30\x80" + integer(3) + body)
        with pytest.raises(KeyUnusable, match="damaged"):
            open_key(f"pfx:{path}")


@pytest.mark.parametrize("content", ["", "80", "ff" * 100, "2a864886f70d01050d"])
def test_any_oid_can_be_shown(content: str) -> None:
    """Damaged identifiers are printed, too."""
    assert asn1.dotted_oid(bytes.fromhex(content)).replace(".", "").isdigit()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("2a864886f70d01050d", "1.2.840.113549.1.5.13"),
        ("00", "0.0"),
        ("27", "0.39"),
        ("28", "1.0"),
        ("4f", "1.39"),
        ("50", "2.0"),
        ("883703", "2.999.3"),
        ("550406", "2.5.4.6"),
        ("2a8100", "1.2.128"),
        ("", "0"),
        ("80", "0"),
        ("2a" + "01" * 40, "1.2" + ".1" * 31),
    ],
)
def test_oid_in_dotted_form(content: str, text: str) -> None:
    """The first byte encodes two numbers; a long identifier is truncated (X.690, section 8.19)."""
    assert asn1.dotted_oid(bytes.fromhex(content)) == text


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, "0400"),
        (127, "047f"),
        (128, "048180"),
        (255, "0481ff"),
        (256, "04820100"),
        (65535, "0482ffff"),
        (65536, "0483010000"),
    ],
)
def test_lengths_are_minimal(size: int, head: str) -> None:
    """Lengths are written minimally, and read back (X.690, section 10.1)."""
    data = asn1.encode(asn1.Element(b"\x04", bytes(size), ()))
    assert data == bytes.fromhex(head) + bytes(size)
    assert asn1.parse(data).content == bytes(size)


def test_walk_is_top_down() -> None:
    """An element comes before its children; a missing one is an error."""
    tree = asn1.parse(bytes.fromhex("3008 3003 020101 020102"))
    assert [(each.tag.hex(), each.content.hex()) for each in tree.walk()] == [
        ("30", ""),
        ("30", ""),
        ("02", "01"),
        ("02", "02"),
    ]
    assert tree.child(0).child(0).content == b"\x01"
    assert tree.child(1).content == b"\x02"
    with pytest.raises(ValueError, match="missing"):
        tree.child(2)
    with pytest.raises(ValueError, match="missing"):
        tree.child(1).child(0)
