"""Keys that reach this process as bytes: from its caller, or on standard input.

They are kept, so that the URI of such a key can be opened again: after a fork, by a reload, or pinned.
"""

from __future__ import annotations

import functools
import itertools
import sys

from keyvouch.errors import AccessDenied, KeyNotFound, SecretRequired

_MAX_BYTES = 16 * 1024 * 1024
"""Maximum number of bytes on standard input, as for files."""


class KeyBytes:
    """A key that the caller passed in, and its password."""

    def __init__(self, data: bytes, password: object) -> None:
        """`password` is a `Secret`, or None; this layer does not know that type."""
        self.data = data
        self.password = password


_keys: dict[str, KeyBytes] = {}
_numbers = itertools.count(1)


def keep_key(data: bytes, password: object) -> str:
    """Keep a key in this process's memory; return the name under which `recall_key` finds it."""
    name = str(next(_numbers))
    _keys[name] = KeyBytes(data, password)
    return name


def recall_key(name: str) -> KeyBytes:
    """Return a key that this process, or the one that it was forked from, keeps. Raises `KeyNotFound`."""
    if name not in _keys:
        raise KeyNotFound(
            f"Key not found: memory:{name} is not in this process.", hint="Pass the key again: keyvouch.load_signer."
        )
    return _keys[name]


def forget_key(name: str) -> None:
    """Discard a key."""
    _keys.pop(name, None)


@functools.cache  # it can be read only once; an error is not remembered
def read_standard_input() -> bytes:
    """Return what is on standard input. Raises `SecretRequired` if that is nothing, or a terminal."""
    if sys.stdin is None or sys.stdin.isatty():
        raise SecretRequired(
            "Cannot read the key from standard input: it is a terminal.",
            hint="Pipe the key to the command, or redirect a file: < app.pem",
        )
    try:
        data = sys.stdin.buffer.read(_MAX_BYTES + 1)
    except OSError as error:
        raise AccessDenied(
            f"Cannot read the key from standard input: {error.strerror}.", hint="Pipe the key to the command."
        ) from error
    if not data.strip() or len(data) > _MAX_BYTES:
        raise SecretRequired(
            f"The key on standard input is {'too long' if data.strip() else 'empty'}.",
            hint="Pipe the key to the command. If it also reads its input from there, pass a file instead.",
        )
    return data
