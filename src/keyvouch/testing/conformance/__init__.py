"""Does a store keep the contract of `keyvouch.store`? A test module of two lines, and pytest tells.

    from keyvouch.testing import StoreConformance

    class TestMyStore(StoreConformance):
        uri = "mystore:key=app?token=env:TOKEN"
        unsupported = {"ec", "ed25519", ...}

What the store can do is provided, what it cannot do is declared in `unsupported`, and what is neither fails: forgetting
cannot pass. `Declarations` has all the names. Signatures are judged by `cryptography` alone.
"""

from keyvouch.testing.conformance.connecting import Connecting
from keyvouch.testing.conformance.declarations import NAMES, Declarations
from keyvouch.testing.conformance.finding import Finding
from keyvouch.testing.conformance.life import Life
from keyvouch.testing.conformance.secrecy import Secrecy
from keyvouch.testing.conformance.signing import Signing

__all__ = ["NAMES", "Declarations", "StoreConformance"]


class StoreConformance(Signing, Finding, Connecting, Secrecy, Life, Declarations):
    """All rules. Subclass it in a test module; its name begins with `Test`, as pytest wants it."""
