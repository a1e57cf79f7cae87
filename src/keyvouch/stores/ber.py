"""BER (X.690, section 8) parsed into a tree, and written as DER: the outer layers of PKCS#12 and PKCS#8.

Some programs write indefinite lengths and segmented strings, which `cryptography` does not read. Depth and number of
elements are limited, since a file may be from anyone. Keys and certificates themselves are left to `cryptography`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

DEEPEST = 32
"""Maximum number of nesting levels. PKCS#12 needs about ten, and three for each safe within a safe."""
MOST_ELEMENTS = 50_000
"""Maximum number of elements in one tree. A PKCS#12 file with 300 certificates has about 5,000."""

OCTET_STRING, SEQUENCE = b"\x04", b"\x30"
_PIECES = b"\x24"
"""The tag of an octet string encoded in segments (X.690, section 8.7.3)."""
_CONSTRUCTED, _MORE, _HIGH_NUMBER = 0x20, 0x80, 0x1F
_INDEFINITE = 0x80
_LONGEST_IDENTIFIER = 32
"""Maximum number of bytes shown."""
_END = b"\0\0"
"""The end of a value of indefinite length."""


class TruncatedError(ValueError):
    """The data ends before the element does."""


class Element(NamedTuple):
    """One data value: either primitive with content, or constructed with children."""

    tag: bytes
    """The identifier bytes (X.690, section 8.1.2)."""
    content: bytes
    children: tuple[Element, ...]

    def child(self, number: int) -> Element:
        """Return a child. Raises ValueError if there are fewer children."""
        if number >= len(self.children):
            raise ValueError("an element is missing")
        return self.children[number]

    def walk(self) -> Iterator[Element]:
        """Yield the element and its descendants, top down."""
        yield self
        for each in self.children:
            yield from each.walk()


def parse(octets: bytes) -> Element:
    """Return the first element; any data after it is ignored.

    Raises `TruncatedError` if the data ends too early, and ValueError if it is otherwise not BER, is nested too deeply
    or has too many elements.
    """
    return _Reader(octets).element(len(octets), 0)


def encode(element: Element) -> bytes:
    """Return the element in DER (X.690, section 10.1): lengths are definite and as short as possible."""
    constructed = element.tag[0] & _CONSTRUCTED
    content = b"".join(map(encode, element.children)) if constructed else element.content
    size = len(content)
    if size < _MORE:
        return element.tag + bytes((size,)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return element.tag + bytes((_MORE | len(length),)) + length + content


def dotted(identifier: bytes) -> str:
    """Return the content of an OBJECT IDENTIFIER in dotted form (X.690, section 8.19)."""
    numbers, number = [], 0
    for octet in identifier[:_LONGEST_IDENTIFIER]:
        number = number << 7 | octet & 0x7F
        if not octet & _MORE:
            numbers.append(number)
            number = 0
    first = min(numbers[0] // 40, 2) if numbers else 0
    return ".".join(map(str, [first, *(each - 40 * first * (not place) for place, each in enumerate(numbers))]))


class _Reader:
    """The current position in the data, and the number of elements so far."""

    def __init__(self, octets: bytes) -> None:
        self.octets, self.at, self.count = octets, 0, 0

    def element(self, end: int, depth: int) -> Element:
        self.count += 1
        if self.count > MOST_ELEMENTS:
            raise ValueError(f"more than {MOST_ELEMENTS:,} elements")
        tag = self._tag(end)
        length = self._length(end)
        if not tag[0] & _CONSTRUCTED:
            if length is None:
                raise ValueError("a primitive element of indefinite length")
            return Element(tag, self._take(length, end), ())
        if depth == DEEPEST:
            raise ValueError(f"more than {DEEPEST} levels of nesting")
        children = tuple(self._children(length, end, depth + 1))
        return Element(tag, b"", children) if tag != _PIECES else Element(OCTET_STRING, _joined(children), ())

    def _children(self, length: int | None, end: int, depth: int) -> Iterator[Element]:
        if length is None:
            while self.octets[self.at : self.at + 2] != _END:
                yield self.element(end, depth)
            self._take(len(_END), end)
            return
        inner = self.at + length
        if inner > end:
            raise TruncatedError("a length beyond the end")
        while self.at < inner:
            yield self.element(inner, depth)

    def _tag(self, end: int) -> bytes:
        tag = self._take(1, end)
        if tag[0] & _HIGH_NUMBER == _HIGH_NUMBER:
            begin = self.at
            while self._take(1, end)[0] & _MORE:
                pass
            tag += self.octets[begin : self.at]
        return tag

    def _length(self, end: int) -> int | None:
        first = self._take(1, end)[0]
        if first < _INDEFINITE:
            return first
        if first == _INDEFINITE:
            return None
        return int.from_bytes(self._take(first - _INDEFINITE, end), "big")

    def _take(self, size: int, end: int) -> bytes:
        if self.at + size > end:
            raise TruncatedError("a length beyond the end")
        self.at += size
        return self.octets[self.at - size : self.at]


def _joined(pieces: tuple[Element, ...]) -> bytes:
    if any(piece.tag != OCTET_STRING for piece in pieces):
        raise ValueError("a piece of an octet string is something else")
    return b"".join(piece.content for piece in pieces)
