"""Sign in with a certificate whose private key stays in its store.

    token = keyvouch.connect("nightly").access_token()                    # everything from a profile

    with keyvouch.open_signer("pfx:/etc/keyvouch/app.pfx?password=env:APP_PFX_PASSWORD") as signer:
        signature = signer.sign(b"message", "PS256")                      # a signature
        assertion = keyvouch.ClientAssertion(signer)                      # a client assertion, for any server

Public names are imported on first use, so that `import keyvouch` is cheap. Only the gate that makes forks wait for
these imports is loaded at once.
"""

from keyvouch._system import search_path

with search_path.only_trusted():
    from keyvouch._system.forks import IMPORTS as _IMPORTS

TYPE_CHECKING = False  # type checkers treat this name as true
if TYPE_CHECKING:
    from typing import Any

    from keyvouch._core.key_management import Store as Store
    from keyvouch._core.key_management import open_store as open_store
    from keyvouch._core.opening import load_signer as load_signer
    from keyvouch._core.opening import open_signer as open_signer
    from keyvouch._core.signer import Signer as Signer
    from keyvouch.assertion import ClientAssertion as ClientAssertion
    from keyvouch.entra.profile import connect as connect
    from keyvouch.errors import KeyvouchError as KeyvouchError
    from keyvouch.store import KeySpec as KeySpec

__all__ = [
    "ClientAssertion",
    "KeySpec",
    "KeyvouchError",
    "Signer",
    "Store",
    "__version__",
    "connect",
    "load_signer",
    "open_signer",
    "open_store",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> "Any":  # noqa: C901 - a table of imports
    """Import a public name on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'keyvouch' has no attribute {name!r}")
    global ClientAssertion, KeySpec, KeyvouchError, Signer, Store, connect, load_signer, open_signer, open_store  # noqa: PLW0603
    with _IMPORTS:
        match name:
            case "ClientAssertion":
                from keyvouch.assertion import ClientAssertion
            case "KeySpec":
                from keyvouch.store import KeySpec
            case "KeyvouchError":
                from keyvouch.errors import KeyvouchError
            case "Signer":
                from keyvouch._core.signer import Signer
            case "Store":
                from keyvouch._core.key_management import Store
            case "connect":
                from keyvouch.entra.profile import connect
            case "load_signer":
                from keyvouch._core.opening import load_signer
            case "open_signer":
                from keyvouch._core.opening import open_signer
            case "open_store":
                from keyvouch._core.key_management import open_store
    return globals()[name]


def __dir__() -> "list[str]":
    return sorted({*globals(), *__all__})
