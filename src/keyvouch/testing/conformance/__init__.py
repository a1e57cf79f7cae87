"""Does a store keep the contract of `keyvouch.store`? A test module of two lines, and pytest tells.

    from keyvouch.testing import StoreConformance

    class TestMyStore(StoreConformance):
        uri = "mystore:key=app?token=env:TOKEN"
        unsupported = {"ec", "ed25519", ...}

What the store can do is provided, what it cannot do is declared in `unsupported`, and what is neither fails: forgetting
cannot pass. `Declarations` has all the names. Signatures are judged by `cryptography` alone.
"""

from keyvouch.algorithms import ALGORITHMS
from keyvouch.testing.conformance.concurrency import Concurrency
from keyvouch.testing.conformance.connecting import Connecting
from keyvouch.testing.conformance.declarations import NAMES, Declarations, broken, needs
from keyvouch.testing.conformance.finding import Finding
from keyvouch.testing.conformance.life import Life
from keyvouch.testing.conformance.secrecy import Secrecy
from keyvouch.testing.conformance.signing import Signing
from keyvouch.testing.conformance.waiting import Waiting

__all__ = ["NAMES", "Declarations", "StoreConformance"]


class StoreConformance(Signing, Finding, Connecting, Waiting, Concurrency, Secrecy, Life):
    """All rules. Subclass it in a test module; its name begins with `Test`, as pytest wants it."""

    @needs()
    def test_declared_names_are_known(self) -> None:
        """What stands in `unsupported` are names that there are: a mistyped one declares nothing (`NAMES`)."""
        if unknown := set(self.unsupported) - {*NAMES, *ALGORITHMS}:
            broken(
                seen=f"{', '.join(sorted(unknown))} in `unsupported`",
                wanted=f"names out of {', '.join([*NAMES, *ALGORITHMS])}",
            )
