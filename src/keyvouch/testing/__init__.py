"""For tests: of programs that use keyvouch, and of stores. Needs the extra `testing`.

`keyvouch.testing.authority` is a development authority, `keyvouch.testing.key_vault` a test vault that is as strict as
Azure Key Vault, `keyvouch.testing.fixtures` has fixtures for pytest, `StoreConformance` tells whether a store keeps the
contract, and `Relay` plays the failing network for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keyvouch.testing.conformance import StoreConformance as StoreConformance
    from keyvouch.testing.relay import Relay as Relay

__all__ = ["Relay", "StoreConformance"]


def __getattr__(name: str) -> Any:
    """Import the kit, and pytest with it, when it is asked for."""
    if name == "StoreConformance":
        from keyvouch.testing.conformance import StoreConformance

        return StoreConformance
    if name == "Relay":
        from keyvouch.testing.relay import Relay

        return Relay
    raise AttributeError(f"module 'keyvouch.testing' has no attribute {name!r}")
