"""Test utilities, for programs that use keyvouch and for stores. Requires the extra `testing`.

`keyvouch.testing.authority` is a development authority, and `keyvouch.testing.fixtures` provides pytest fixtures.
`StoreConformance` checks that a store meets the contract, and `Relay` simulates network failures for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keyvouch.testing.conformance import StoreConformance as StoreConformance
    from keyvouch.testing.relay import Relay as Relay

__all__ = ["Relay", "StoreConformance"]


def __getattr__(name: str) -> Any:
    """Import the kit, and with it pytest, on first access."""
    if name == "StoreConformance":
        from keyvouch.testing.conformance import StoreConformance

        return StoreConformance
    if name == "Relay":
        from keyvouch.testing.relay import Relay

        return Relay
    raise AttributeError(f"module 'keyvouch.testing' has no attribute {name!r}")
