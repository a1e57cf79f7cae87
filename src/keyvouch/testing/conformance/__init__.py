"""Tests that a store keeps the contract of `keyvouch.store`, for use in a pytest module of the store's author.

    from keyvouch.testing import StoreConformance

    class TestMyStore(StoreConformance):
        uri = "mystore:key=app?token=env:TOKEN"
        unsupported = {"ec", "ed25519", ...}

The subclass provides what the store supports, and declares in `unsupported` what it does not. Anything that is neither
fails, so that nothing can be forgotten. `Declarations` has all the names. Signatures are verified by `cryptography`.
"""

from keyvouch.algorithms import ALGORITHMS
from keyvouch.testing.conformance.capabilities import Capabilities
from keyvouch.testing.conformance.concurrency import Concurrency
from keyvouch.testing.conformance.connection import Connection
from keyvouch.testing.conformance.declarations import NAMES, Declarations, fail, needs
from keyvouch.testing.conformance.key_selection import KeySelection
from keyvouch.testing.conformance.secrecy import Secrecy
from keyvouch.testing.conformance.signing import Signing
from keyvouch.testing.conformance.timeouts import Timeouts

__all__ = ["NAMES", "Declarations", "StoreConformance"]


class StoreConformance(Signing, KeySelection, Connection, Timeouts, Concurrency, Secrecy, Capabilities):
    """All rules. Subclass it in a test module, with a name that starts with `Test`, so that pytest collects it."""

    @needs()
    def test_declared_names_are_known(self) -> None:
        """`unsupported` contains only known names, since a misspelt one declares nothing (`NAMES`)."""
        if unknown := set(self.unsupported) - {*NAMES, *ALGORITHMS}:
            fail(
                got=f"unknown names in `unsupported`: {', '.join(sorted(unknown))}",
                expected=f"names from: {', '.join([*NAMES, *ALGORITHMS])}",
            )
