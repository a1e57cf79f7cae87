"""What the author of a store provides and declares, and how the tests use it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

import pytest

from keyvouch import store
from keyvouch._core import registry
from keyvouch.algorithms import Algorithm, algorithms_for, key_type
from keyvouch.certificate import self_signed
from keyvouch.errors import KeyvouchError, NotSupported, StoreUnavailable
from keyvouch.private_key import wrap
from keyvouch.secrets import SecretResolver
from keyvouch.testing.conformance import verification
from keyvouch.uri import KeyUri, parse_uri, scheme_of

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.store import KeySpec, KeyStore, StoredKey
    from keyvouch.testing.relay import Relay

Test = TypeVar("Test", bound=Callable[..., None])

TIMEOUT = 30.0
"""Timeout in seconds for calls that are expected to be fast."""

NAMES = {
    "rsa": "an RSA key: `uri`, `rsa_uri`, or one made by `generate`",
    "ec": "an EC key on P-256, P-384 or P-521: `uri`, `ec_uri`, or one made by `generate`",
    "ed25519": "an Ed25519 key: `uri`, `ed25519_uri`, or one made by `generate`",
    "certificate": "a certificate in the store, for the key of `uri`",
    "empty": "signatures over the empty message",
    "long": "signatures over a message of 1 MiB",
    "missing": "a URI that matches no key: `missing_uri`",
    "ambiguous": "a URI that matches two keys: `ambiguous_uri`",
    "family": "a URI with `select=newest` for a family with an older member: `family_uri`",
    "secret": "a URI with a wrong secret: `wrong_secret_uri`",
    "refusals": "the number of wrong secrets that the server has received: `count_refusals`",
    "connection": "a connection that can be lost: `relay`, or `break_connection` and `restore_connection`",
    "stalled": "a server that can be stalled: `relay`, or `stall_connection` and `resume_connection`",
    "fork": "signatures in a forked child; if declared, the child is refused",
    "proxy": "a key behind an HTTP proxy: `proxied_uri` and `proxied_server`",
    "replaced": "a key that detects that it was replaced: `replace_key`",
    "list": "the capability `ListsKeys`",
    "generate": "the capability `GeneratesKeys`, and `new_uri`",
    "import": "the capability `ImportsKeys`, and `new_uri`; if declared, it is missing or raises NotSupported",
    "request": "the capability `RequestsCertificates`",
    "install": "the capability `HoldsCertificates`, and `new_uri`",
    "delete": "the capability `DeletesKeys`, and `new_uri`",
    "export": "the capability `ExportsKeys`",
    "grant": "the capability `GrantsAccess`, and `account`",
    "peer": "the capability `OffersPeer`",
}
"""Names for `unsupported`, in addition to those of JOSE algorithms, and what to provide instead."""

_CAPABILITIES: dict[str, type[Any]] = {
    "list": store.ListsKeys,
    "generate": store.GeneratesKeys,
    "import": store.ImportsKeys,
    "request": store.RequestsCertificates,
    "install": store.HoldsCertificates,
    "delete": store.DeletesKeys,
    "export": store.ExportsKeys,
    "grant": store.GrantsAccess,
    "peer": store.OffersPeer,
}
_FIELDS = {
    "missing": ("missing_uri",),
    "ambiguous": ("ambiguous_uri",),
    "family": ("family_uri",),
    "secret": ("wrong_secret_uri",),
    "proxy": ("proxied_uri", "proxied_server"),
    "grant": ("account",),
}
_METHODS = {
    "connection": "break_connection",
    "stalled": "stall_connection",
    "refusals": "count_refusals",
    "replaced": "replace_key",
    **dict.fromkeys(("generate", "import", "install", "delete"), "new_uri"),
}
_ALWAYS_PROVIDED = frozenset({"certificate", "empty", "long", "fork"})
"""Provided unless declared, since only a key is needed."""
_MAY_BE_REFUSED = frozenset({"import"})
"""May exist although declared, for stores that support several kinds of servers; a separate rule tests it."""
KINDS = {"rsa": "RSA-", "ec": "P-", "ed25519": "Ed25519"}
"""Prefixes of the names that `algorithms.key_type` returns."""
_QUICK = {"ec": "P-256", "rsa": "RSA-2048", "ed25519": "Ed25519"}
"""The type of each kind that is generated fastest; the fastest kind first."""


class Declarations:
    """What the author of a store sets in the subclass. URIs are strings, as a user writes them."""

    uri: ClassVar[str]
    """A key that signs, preferably with a certificate in the store."""
    unsupported: ClassVar[Collection[str]] = ()
    """What the store does not support: keys of `NAMES`, or names of JOSE algorithms."""
    store_class: ClassVar[type[KeyStore] | None] = None
    """The store, if it cannot be found by its entry point."""

    many: ClassVar[int] = 1500
    """Number of ECDSA signatures to make; in one of 128, r or s starts with a zero byte. Set fewer if they are slow."""

    days: ClassVar[int] = 7
    """Days for which the certificates of generated keys are valid."""

    patience_seconds: ClassVar[float] = 10.0
    """Seconds after which a call with a timeout of one second counts as hanging."""
    closing_seconds: ClassVar[float] = 10.0
    """Seconds that `close` may take."""
    child_seconds: ClassVar[int] = 60
    """Seconds after which a forked child or a thread counts as hanging."""

    rsa_uri: ClassVar[str | None] = None
    ec_uri: ClassVar[str | None] = None
    ed25519_uri: ClassVar[str | None] = None
    missing_uri: ClassVar[str | None] = None
    ambiguous_uri: ClassVar[str | None] = None
    family_uri: ClassVar[str | None] = None
    wrong_secret_uri: ClassVar[str | None] = None
    proxied_uri: ClassVar[str | None] = None
    """A key on a server whose name, under `.invalid`, only the proxy that the tests start can resolve."""
    proxied_server: ClassVar[tuple[str, int] | None] = None
    """Host and port of the server that the proxy connects to."""
    account: ClassVar[str | None] = None
    """An account that may not yet use the key of `uri`, as `readers` reports it once it may."""

    _generated: ClassVar[dict[str, str | None]]
    _types: ClassVar[dict[str, str]]

    relay: ClassVar[Relay | None] = None
    """A relay between the store and its server, which implements the next four methods."""

    def break_connection(self) -> None:
        """Break every connection of the store, as if its server was restarted."""
        if self.relay is not None:
            self.relay.cut()

    def restore_connection(self) -> None:
        """Make the server reachable again; not needed if `break_connection` leaves it reachable."""
        if self.relay is not None:
            self.relay.restore()

    def stall_connection(self) -> None:
        """Make the server accept connections without responding."""
        if self.relay is not None:
            self.relay.stall()

    def resume_connection(self) -> None:
        """Make the server continue, starting with the requests that it received while it was stalled."""
        if self.relay is not None:
            self.relay.resume()

    def new_uri(self) -> str:
        """Return a URI for a key that does not exist, a different one each time."""
        raise NotImplementedError

    def count_refusals(self) -> int:
        """Return the number of wrong secrets that the server has received so far."""
        raise NotImplementedError

    def replace_key(self, uri: str) -> None:
        """Replace the key at this URI, which `generate` made, with another key."""
        raise NotImplementedError

    # Used by the tests.

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._generated, cls._types = {}, {}

    @pytest.fixture(autouse=True)
    def _record_the_test(self, request: pytest.FixtureRequest) -> None:
        self._node = request.node
        self._node.user_properties.append(("conformance", type(self).__name__))

    def provides(self, name: str) -> bool:
        """Return True if the subclass provides what this name stands for."""
        if name in KINDS:
            return self._kind_uri(name) is not None
        if name in _CAPABILITIES and not issubclass(self.the_class(), _CAPABILITIES[name]):
            return False
        if name in ("connection", "stalled") and self.relay is not None:
            return name not in self.unsupported  # a relay may be useful for only one of the two
        if name in _METHODS:
            return getattr(type(self), _METHODS[name]) is not getattr(Declarations, _METHODS[name])
        return all(getattr(self, each) is not None for each in _FIELDS.get(name, ()))

    def kind_uri(self, name: str) -> str:
        """Return the URI of the provided key of this kind."""
        found = self._kind_uri(name)
        assert found is not None
        return found

    def _kind_uri(self, name: str) -> str | None:
        given: str | None = getattr(self, f"{name}_uri")
        if given is not None:
            return given
        if self._own_type().startswith(KINDS[name]):
            return self.uri
        return self._generated_uri(name) if self.offers("generate") and name not in self.unsupported else None

    def _own_type(self) -> str:
        """Return the type of the key of `uri`, which is opened only once for this."""
        if self.uri not in self._types:
            with self.opened(self.uri) as (_, key):
                self._types[self.uri] = key_type(key.public_key)
        return self._types[self.uri]

    def _generated_uri(self, name: str) -> str | None:
        """Return the URI of a key of this kind that is generated once for all tests; None if it is not supported."""
        if name not in self._generated:
            uri = self.new_uri()
            with self.connected(uri) as generator:
                assert isinstance(generator, store.GeneratesKeys)
                try:
                    self._generated[name] = str(
                        generator.generate(self.parsed(uri), store.KeySpec(_QUICK[name], "CN=conformance", self.days))
                    )
                except NotSupported:
                    self._generated[name] = None
        return self._generated[name]

    def the_class(self) -> type[KeyStore]:
        """Return the store's class."""
        return self.store_class or registry.store_class(scheme_of(self.uri))

    def parsed(self, uri: str) -> KeyUri:
        """Return the URI as the core passes it to the store."""
        return parse_uri(uri, self.the_class().attributes, store_class=self.the_class())

    def secrets(self) -> SecretResolver:
        """Return the resolver for the store's secrets."""
        return SecretResolver(commands=True)

    @contextlib.contextmanager
    def connected(self, uri: str) -> Iterator[KeyStore]:
        """Create and connect the store of the URI, and close it at the end."""
        instance = self.the_class()(self.parsed(uri), self.secrets())
        instance.connect(timeout=TIMEOUT)
        try:
            yield instance
        finally:
            instance.close()

    @contextlib.contextmanager
    def opened(self, uri: str) -> Iterator[tuple[KeyStore, StoredKey]]:
        """Connect the store, and open the key of the URI."""
        with self.connected(uri) as instance:
            key = instance.open(self.parsed(uri), timeout=TIMEOUT)
            try:
                yield instance, key
            finally:
                key.close()

    def algorithm_of(self, key: StoredKey) -> Algorithm:
        """Return the first algorithm that fits the key and is not declared as unsupported."""
        kind = key_type(key.public_key)
        supported = [each for each in algorithms_for(kind) if each.name not in self.unsupported]
        if not supported:
            fail(got=f"a {kind} key with all of its algorithms declared", expected="one that the store supports")
        return supported[0]

    def require_signature(self, key: StoredKey, message: bytes = b"message", *, timeout: float = TIMEOUT) -> None:
        """Sign with the key, and fail if the signature is not valid."""
        algorithm = self.algorithm_of(key)
        signature = key.sign(message, algorithm, timeout=timeout)
        if not verification.verifies(key.public_key, signature, message, algorithm.name):
            fail(got="a signature that does not verify", expected="a valid one over the given message")

    def connect_again(self, instance: KeyStore) -> None:
        """Connect again after the subclass has made that possible."""
        try:
            instance.connect(timeout=TIMEOUT)
        except StoreUnavailable as error:
            fail(
                got=f"after the connection was restored: {error!r}",
                expected="that the store connects",
                fix="Let `restore_connection` and `resume_connection` return only once the server responds again.",
            )

    def certificate_of(self, key: StoredKey, subject: str = "CN=conformance") -> Certificate:
        """Return a self-signed certificate for the key, signed in its store."""
        return self_signed(wrap(key.public_key, lambda *arguments: key.sign(*arguments, timeout=TIMEOUT)), subject, 2)

    def quick_kind(self) -> str:
        """Return the type of key that is generated fastest, of those that are not declared."""
        return next(kind for name, kind in _QUICK.items() if name not in self.unsupported)

    def spec(self, *, subject: str = "CN=conformance", further: bool = False) -> KeySpec:
        """Return a KeySpec for a key that is generated fast."""
        return store.KeySpec(self.quick_kind(), subject, self.days, further=further)

    def shares_connection(self, uri: str) -> bool:
        """Return True if the core would use the same `KeyStore` object for this URI as for `uri`."""
        names = [each.name for each in self.the_class().attributes if each.connection]
        return self.parsed(uri).raw_values(names) == self.parsed(self.uri).raw_values(names)

    def offers(self, name: str) -> bool:
        """Return True if it is provided and not declared, so that any rule may use it."""
        return name not in self.unsupported and self.provides(name)

    def kinds_with_uris(self) -> list[tuple[str, str]]:
        """Return each provided kind of key with its URI."""
        return [(name, self.kind_uri(name)) for name in KINDS if self.offers(name)]


def needs(*names: str) -> Callable[[Test], Test]:
    """Run the test if the store provides all of these; skip it if one is declared; otherwise fail."""

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        def wrapped(self: Declarations, *args: Any, **kwargs: Any) -> None:
            if declared := [name for name in names if name in self.unsupported]:
                self._node.user_properties.append(("unsupported", ", ".join(declared)))
                _require_unsupported(self, declared)
                return
            for name in names:
                if not self.provides(name):
                    fail(
                        got=f"{name} is neither provided nor declared",
                        expected=NAMES[name],
                        fix=f'Provide it, or add "{name}" to `unsupported`.',
                    )
            try:
                test(self, *args, **kwargs)
            except Exception as error:
                rule = " ".join(str(test.__doc__).split())
                raise pytest.fail.Exception(_failure_text(got=repr(error), expected=rule), pytrace=True) from error

        return wrapped  # type: ignore[return-value]

    return decorate


def _require_unsupported(declarations: Declarations, declared: Sequence[str]) -> None:
    exempt = _ALWAYS_PROVIDED | _MAY_BE_REFUSED
    if provided := [name for name in declared if name not in exempt and declarations.provides(name)]:
        fail(
            got=f"declared as unsupported, but provided: {', '.join(provided)}",
            expected="one of the two",
            fix="Remove the name from `unsupported`.",
        )


def require_error(call: Callable[[], object], *kinds: type[KeyvouchError], fix: str = "") -> KeyvouchError:
    """Return the error that the call raises; fail unless it has one of these types and a hint."""
    expected = " or ".join(kind.__name__ for kind in kinds)
    try:
        got = f"returned {call()!r} instead of raising"
    except kinds as error:
        if not error.hint:
            fail(got=f"{error!r} without a hint", expected=f"{expected} with a hint")
        return error
    except Exception as error:
        text = _failure_text(got=repr(error), expected=expected, fix=fix or "Translate the library's error to it.")
        raise pytest.fail.Exception(text, pytrace=True) from error
    return fail(got=got, expected=expected, fix=fix)


def fail(*, got: object, expected: object, fix: str = "") -> NoReturn:
    """Fail the test, with the result, what the contract expects, and what to change."""
    pytest.fail(_failure_text(got=got, expected=expected, fix=fix), pytrace=False)


def _failure_text(*, got: object, expected: object, fix: str = "") -> str:
    return f"\ngot:      {got}\nexpected: {expected}" + (f"\nfix:      {fix}" if fix else "")
