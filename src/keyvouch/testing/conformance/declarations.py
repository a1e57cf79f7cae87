"""What the author of a store provides and declares, and how the tests ask for it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

import pytest

from keyvouch import registry, store
from keyvouch.algorithms import ALGORITHMS, Algorithm, algorithms_for, key_type
from keyvouch.secrets import SecretResolver
from keyvouch.testing.conformance import judge
from keyvouch.uri import KeyUri, parse_uri, scheme_of

if TYPE_CHECKING:
    from keyvouch.store import KeyStore, StoredKey

Test = TypeVar("Test", bound=Callable[..., None])

TIMEOUT = 30.0
"""Seconds that a store is given for what it is not expected to need them for."""

NAMES = {
    "rsa": "an RSA key: `rsa_uri`, or `uri`",
    "ec": "a key on P-256, P-384 or P-521: `ec_uri`, or `uri`",
    "ed25519": "an Ed25519 key: `ed25519_uri`, or `uri`",
    "certificate": "a certificate that the store holds: that of `uri`",
    "missing": "a URI that leads to no key: `missing_uri`",
    "ambiguous": "a URI that two keys match: `ambiguous_uri`",
    "family": "a URI with `select=newest` of a key with an older member: `family_uri`",
    "secret": "a URI with a wrong secret: `wrong_secret_uri`",
    "connection": "a connection that can be lost: `break_connection` and `restore_connection`",
    "stalled": "a key whose server takes connections and never answers: `stalled_uri`",
    "list": "the capability `ListsKeys`",
    "generate": "the capability `GeneratesKeys`, and `new_uri`",
    "import": "the capability `ImportsKeys`, and `new_uri`",
    "install": "the capability `HoldsCertificates`, and `new_uri`",
    "delete": "the capability `DeletesKeys`, and `new_uri`",
    "export": "the capability `ExportsKeys`",
    "PS256": "that algorithm; so with every name of JOSE",
}
"""What may stand in `unsupported`, and what is provided in its place."""

_CAPABILITIES: dict[str, type[Any]] = {
    "list": store.ListsKeys,
    "generate": store.GeneratesKeys,
    "import": store.ImportsKeys,
    "install": store.HoldsCertificates,
    "delete": store.DeletesKeys,
    "export": store.ExportsKeys,
}
_URIS = {
    "missing": "missing_uri",
    "ambiguous": "ambiguous_uri",
    "family": "family_uri",
    "secret": "wrong_secret_uri",
    "stalled": "stalled_uri",
}
_KINDS = {"rsa": "RSA-", "ec": "P-", "ed25519": "Ed25519"}


class Declarations:
    """What stands in the subclass of a store's author. URIs are texts, as a user writes them."""

    uri: ClassVar[str]
    """A key that signs, preferably with a certificate in the store."""
    unsupported: ClassVar[Collection[str]] = ()
    """Names of `NAMES`, or of JOSE's algorithms, for what the store cannot do."""
    store_class: ClassVar[type[KeyStore] | None] = None
    """The store, where it is not to be found by its entry point."""

    many: ClassVar[int] = 1500
    """Signatures of ECDSA: r or s begins with a zero in one of 128. Fewer, where a signature takes long, find less."""

    rsa_uri: ClassVar[str | None] = None
    ec_uri: ClassVar[str | None] = None
    ed25519_uri: ClassVar[str | None] = None
    missing_uri: ClassVar[str | None] = None
    ambiguous_uri: ClassVar[str | None] = None
    family_uri: ClassVar[str | None] = None
    wrong_secret_uri: ClassVar[str | None] = None
    stalled_uri: ClassVar[str | None] = None

    def break_connection(self) -> None:
        """Let every connection of the store's be lost, as when its server is started anew."""
        raise NotImplementedError

    def restore_connection(self) -> None:
        """Let the store be reached again; not needed where `break_connection` leaves it reachable."""

    def new_uri(self) -> str:
        """Return a URI under which there is no key yet, another one each time."""
        raise NotImplementedError

    # For the tests.

    @pytest.fixture(autouse=True)
    def _remember_the_test(self, request: pytest.FixtureRequest) -> None:
        self._node = request.node
        self._node.user_properties.append(("conformance", type(self).__name__))

    def provides(self, name: str) -> bool:
        """Tell whether the subclass has what goes by this name."""
        if name in _KINDS:
            return self._kind_uri(name) is not None
        if name in _CAPABILITIES:
            able = issubclass(self.the_class(), _CAPABILITIES[name])
            return able and (name in ("list", "export") or self._overrides("new_uri"))
        if name == "connection":
            return self._overrides("break_connection")
        return name == "certificate" or getattr(self, _URIS[name]) is not None

    def _overrides(self, method: str) -> bool:
        return getattr(type(self), method) is not getattr(Declarations, method)

    def kind_uri(self, name: str) -> str:
        """Return the URI of a key of this kind, which is provided."""
        found = self._kind_uri(name)
        assert found is not None
        return found

    def _kind_uri(self, name: str) -> str | None:
        given: str | None = getattr(self, f"{name}_uri")
        if given is not None:
            return given
        with self.opened(self.uri) as (_, key):
            return self.uri if key_type(key.public_key).startswith(_KINDS[name]) else None

    def the_class(self) -> type[KeyStore]:
        """Return the store's class."""
        return self.store_class or registry.store_class(scheme_of(self.uri))

    def parsed(self, uri: str) -> KeyUri:
        """Return a URI as the core hands it to the store."""
        return parse_uri(uri, self.the_class().attributes)

    def secrets(self) -> SecretResolver:
        """Return what gives the store its secrets."""
        return SecretResolver(commands=True)

    @contextlib.contextmanager
    def connected(self, uri: str) -> Iterator[KeyStore]:
        """Make, connect and at the end close the store of a URI."""
        made = self.the_class()(self.parsed(uri), self.secrets())
        made.connect(timeout=TIMEOUT)
        try:
            yield made
        finally:
            made.close()

    @contextlib.contextmanager
    def opened(self, uri: str) -> Iterator[tuple[KeyStore, StoredKey]]:
        """Open a key too."""
        with self.connected(uri) as made:
            key = made.open(self.parsed(uri), timeout=TIMEOUT)
            try:
                yield made, key
            finally:
                key.close()

    def algorithm_of(self, key: StoredKey) -> Algorithm:
        """Return the first algorithm that fits the key and is not declared as unsupported."""
        return next(each for each in algorithms_for(key_type(key.public_key)) if each.name not in self.unsupported)

    def require_signature(self, key: StoredKey) -> None:
        """Let the key sign, and fail where the signature is not good."""
        algorithm = self.algorithm_of(key)
        signature = key.sign(b"message", algorithm, timeout=TIMEOUT)
        if not judge.is_good(key.public_key, signature, b"message", algorithm.name):
            broken(seen="a signature that does not verify", wanted="a good one")


def needs(*names: str) -> Callable[[Test], Test]:
    """Run the test where the store provides all of these; pass it by where one is declared; else fail."""

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        def wrapped(self: Declarations, *args: Any, **kwargs: Any) -> None:
            unknown = set(self.unsupported) - {*NAMES, *ALGORITHMS}
            if unknown:
                broken(seen=f"`unsupported` names {', '.join(sorted(unknown))}", wanted=f"names of {', '.join(NAMES)}")
            declared = [name for name in names if name in self.unsupported]
            if declared:
                forgotten = [name for name in declared if name != "certificate" and self.provides(name)]
                if forgotten:
                    broken(
                        seen=f"{', '.join(forgotten)}: declared as unsupported, and there all the same",
                        wanted="one of the two",
                        change="Take the name out of `unsupported`.",
                    )
                self._node.user_properties.append(("unsupported", ", ".join(declared)))
                return
            for name in names:
                if not self.provides(name):
                    broken(
                        seen=f"{name}: neither provided nor declared",
                        wanted=NAMES[name],
                        change=f'Provide it, or put "{name}" into `unsupported`.',
                    )
            test(self, *args, **kwargs)

        return wrapped  # type: ignore[return-value]

    return decorate


def broken(*, seen: object, wanted: object, change: str = "") -> NoReturn:
    """Fail: what was seen, what the contract wants, and what to change."""
    pytest.fail(f"\nseen:   {seen}\nwanted: {wanted}" + (f"\nchange: {change}" if change else ""), pytrace=False)
