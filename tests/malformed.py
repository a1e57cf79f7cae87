"""Invalid responses: as a whole, and with one field at a time wrong, missing or of another type."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

DEEP = 20_000
WHOLE = (
    b"",
    b"{}",
    b"[]",
    b"null",
    b"5",
    b'"text"',
    b"NaN",
    b"<html>hello</html>",
    b'{"data": ',
    b"\xff\xfe{}",
    b'\xef\xbb\xbf{"data": {}}',
    b'{"data": {"ttl": NaN}, "auth": {"lease_duration": NaN}}',
    b'{"data": null, "auth": null, "value": null, "access_token": null}',
    b'{"data": [], "auth": [], "value": [], "key": [], "attributes": []}',
    b'{"data": {"ttl": 1}, "data": 5, "auth": {}, "auth": 5, "key": {}, "key": 5}',
    b'{"errors": [5]}',
    b'{"errors": {"a": "b"}, "error": [5]}',
    b"[" * DEEP,
    b"[" * DEEP + b"]" * DEEP,
    b'{"data":' + b'{"a":' * DEEP + b"1" + b"}" * (DEEP + 1),
    b'{"value":' + b"[" * DEEP + b"]" * DEEP + b"}",
)
"""Complete bodies."""
WRONG: tuple[Any, ...] = (
    None,
    True,
    5,
    -1,
    10**30,
    1e300,
    1.5,
    "",
    "text",
    "5",
    "a\nb",
    "\u20ac",
    [],
    [5],
    {},
    {"a": 5},
)
"""Replacements for one value of a valid response."""


def variants(good: Any) -> Iterator[bytes]:
    """Yield a valid response with each of its values in turn removed, and replaced by each of `WRONG`."""
    for path in _paths(good):
        for value in WRONG:
            yield json.dumps(_changed(good, path, value)).encode()
        yield json.dumps(_changed(good, path, float("nan"))).encode()
        yield json.dumps(_changed(good, path)).encode()


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield (*path, name)
        yield from _paths(child, (*path, name))


def _changed(good: Any, path: tuple[Any, ...], *replacement: Any) -> Any:
    changed = copy.deepcopy(good)
    holder = changed
    for name in path[:-1]:
        holder = holder[name]
    if replacement:
        holder[path[-1]] = replacement[0]
    else:
        del holder[path[-1]]
    return changed


def fuzzed(names: tuple[str, ...]) -> st.SearchStrategy[bytes]:
    """Arbitrary JSON in which objects often have these names."""
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    keys = st.sampled_from(names) | st.text(max_size=5)
    values = st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=5), max_leaves=12
    )
    return values.map(lambda value: json.dumps(value).encode())
