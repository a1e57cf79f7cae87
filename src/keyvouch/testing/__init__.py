"""For tests: of programs that use keyvouch, and of stores. Needs the extra `testing`.

`keyvouch.testing.authority` is a development authority, `keyvouch.testing.fixtures` has fixtures for pytest, and
`StoreConformance` tells whether a store keeps the contract.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keyvouch.testing.conformance import StoreConformance as StoreConformance

__all__ = ["StoreConformance"]


def __getattr__(name: str) -> Any:
    """Import the kit, and pytest with it, when it is asked for."""
    if name != "StoreConformance":
        raise AttributeError(f"module 'keyvouch.testing' has no attribute {name!r}")
    from keyvouch.testing.conformance import StoreConformance

    return StoreConformance
