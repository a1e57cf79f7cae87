"""ASN.1: parse BER (X.690, section 8) into a tree and write it as DER, for the outer layers of PKCS#12 and PKCS#8.

Some programs write indefinite lengths and segmented strings, which `cryptography` does not read. Depth and number of
elements are limited, since a file may be from anyone. Keys and certificates themselves are left to `cryptography`.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

MAX_DEPTH = 32
"""Maximum number of nesting levels. PKCS#12 needs about ten, and three for each safe within a safe."""
MAX_ELEMENTS = 50_000
"""Maximum number of elements in one tree. A PKCS#12 file with 300 certificates has about 5,000."""

INTEGER, OCTET_STRING, SEQUENCE = b"\x02", b"\x04", b"\x30"
_BMP_STRING = b"\x1e"
_CONSTRUCTED_OCTET_STRING = b"\x24"
"""The tag of an OCTET STRING encoded in segments (X.690, section 8.7.3)."""
_CONSTRUCTED, _HIGH_BIT, _LONG_FORM_TAG = 0x20, 0x80, 0x1F
_INDEFINITE = 0x80
_MAX_OID_BYTES = 32
"""Maximum number of bytes shown."""
_END_OF_CONTENTS = b"\0\0"
"""The end of a value of indefinite length."""


class TruncatedError(ValueError):
    """The data ends before the element does."""


class Element(msgspec.Struct, frozen=True):
    """One data value: either primitive with content, or constructed with children."""

    tag: bytes
    """The identifier bytes (X.690, section 8.1.2)."""
    content: bytes
    children: tuple[Element, ...]

    def child(self, number: int) -> Element:
        """Return a child. Raises ValueError if there are fewer children."""
        if number >= len(self.children):
            raise ValueError("missing element")
        return self.children[number]

    def walk(self) -> Iterator[Element]:
        """Yield the element and its descendants, top down."""
        yield self
        for each in self.children:
            yield from each.walk()


def parse(data: bytes) -> Element:
    """Return the first element; any data after it is ignored.

    Raises `TruncatedError` if the data ends too early, and ValueError if it is otherwise not BER, is nested too deeply
    or has too many elements.
    """
    return _Reader(data).element(len(data), 0)


def first(data: bytes) -> bytes:
    """Return the bytes of the first element, as they are; all of the data if there is no element of definite length."""
    reader = _Reader(data)
    try:
        reader.element(len(data), 0)
    except ValueError:
        return data
    return data[: reader.position]


def outline(data: bytes) -> tuple[int, int]:
    """Return where the content of the first element begins, and where it ends, according to the element's header.

    Raises ValueError if the length is indefinite, or the header incomplete.
    """
    return _Reader(data).outline()


def encode(element: Element) -> bytes:
    """Return the element in DER (X.690, section 10.1): lengths are definite and as short as possible."""
    constructed = element.tag[0] & _CONSTRUCTED
    content = b"".join(map(encode, element.children)) if constructed else element.content
    size = len(content)
    if size < _HIGH_BIT:
        return element.tag + bytes((size,)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return element.tag + bytes((_HIGH_BIT | len(length),)) + length + content


def text(element: Element) -> str:
    """Return the text of a character string: UTF-16 in a BMPString, otherwise UTF-8 or a part of it."""
    encoding = "utf-16-be" if element.tag == _BMP_STRING else "utf-8"
    return element.content.decode(encoding, errors="replace")


def dotted_oid(identifier: bytes) -> str:
    """Return the content of an OBJECT IDENTIFIER in dotted form (X.690, section 8.19)."""
    numbers, number = [], 0
    for byte in identifier[:_MAX_OID_BYTES]:
        number = number << 7 | byte & 0x7F
        if not byte & _HIGH_BIT:
            numbers.append(number)
            number = 0
    first = min(numbers[0] // 40, 2) if numbers else 0
    return ".".join(map(str, [first, *(each - 40 * first * (not index) for index, each in enumerate(numbers))]))


class _Reader:
    """The current position in the data, and the number of elements so far."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position, self.count = data, 0, 0

    def element(self, end: int, depth: int) -> Element:
        self.count += 1
        if self.count > MAX_ELEMENTS:
            raise ValueError(f"more than {MAX_ELEMENTS:,} elements")
        tag = self._tag(end)
        length = self._length(end)
        if not tag[0] & _CONSTRUCTED:
            if length is None:
                raise ValueError("primitive element with indefinite length")
            return Element(tag, self._read(length, end), ())
        if depth == MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} levels of nesting")
        children = tuple(self._children(length, end, depth + 1))
        return (
            Element(tag, b"", children)
            if tag != _CONSTRUCTED_OCTET_STRING
            else Element(OCTET_STRING, _concatenate(children), ())
        )

    def outline(self) -> tuple[int, int]:
        self._tag(len(self.data))
        length = self._length(len(self.data))
        if length is None:
            raise ValueError("indefinite length")
        return self.position, self.position + length

    def _children(self, length: int | None, end: int, depth: int) -> Iterator[Element]:
        if length is None:
            while self.data[self.position : self.position + 2] != _END_OF_CONTENTS:
                yield self.element(end, depth)
            self._read(len(_END_OF_CONTENTS), end)
            return
        inner = self.position + length
        if inner > end:
            raise TruncatedError("truncated data")
        while self.position < inner:
            yield self.element(inner, depth)

    def _tag(self, end: int) -> bytes:
        tag = self._read(1, end)
        if tag[0] & _LONG_FORM_TAG == _LONG_FORM_TAG:
            begin = self.position
            while self._read(1, end)[0] & _HIGH_BIT:
                pass
            tag += self.data[begin : self.position]
        return tag

    def _length(self, end: int) -> int | None:
        first = self._read(1, end)[0]
        if first < _INDEFINITE:
            return first
        if first == _INDEFINITE:
            return None
        return int.from_bytes(self._read(first - _INDEFINITE, end), "big")

    def _read(self, size: int, end: int) -> bytes:
        if self.position + size > end:
            raise TruncatedError("truncated data")
        self.position += size
        return self.data[self.position - size : self.position]


def _concatenate(segments: tuple[Element, ...]) -> bytes:
    if any(segment.tag != OCTET_STRING for segment in segments):
        raise ValueError("a segment of an OCTET STRING has another type")
    return b"".join(segment.content for segment in segments)
