"""What the author of a store provides and declares, and how the tests ask for it."""

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
from keyvouch.testing.conformance import judge
from keyvouch.uri import KeyUri, parse_uri, scheme_of

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.store import KeySpec, KeyStore, StoredKey
    from keyvouch.testing.relay import Relay

Test = TypeVar("Test", bound=Callable[..., None])

TIMEOUT = 30.0
"""Seconds that a store is given for what it is not expected to need them for."""

NAMES = {
    "rsa": "an RSA key: `uri`, `rsa_uri`, or one that `generate` makes",
    "ec": "a key on P-256, P-384 or P-521: `uri`, `ec_uri`, or one that `generate` makes",
    "ed25519": "an Ed25519 key: `uri`, `ed25519_uri`, or one that `generate` makes",
    "certificate": "a certificate that the store holds: that of `uri`",
    "empty": "signatures over the empty message",
    "long": "signatures over a message of 1 MiB",
    "missing": "a URI that leads to no key: `missing_uri`",
    "ambiguous": "a URI that two keys match: `ambiguous_uri`",
    "family": "a URI with `select=newest` of a key with an older member: `family_uri`",
    "secret": "a URI with a wrong secret: `wrong_secret_uri`",
    "refusals": "how many wrong secrets the server has seen: `count_refusals`",
    "connection": "a connection that can be lost: `relay`, or `break_connection` and `restore_connection`",
    "stalled": "a server that can be held up: `relay`, or `stall_connection` and `resume_connection`",
    "fork": "signatures in a child of a process that has signed; declared, the child is refused",
    "proxy": "a key behind an HTTP proxy: `proxied_uri` and `proxied_server`",
    "replaced": "a key that notices, without a request, that another took its place: `replace_key`",
    "list": "the capability `ListsKeys`",
    "generate": "the capability `GeneratesKeys`, and `new_uri`",
    "import": "the capability `ImportsKeys`, and `new_uri`; declared, it is not there or raises NotSupported",
    "request": "the capability `RequestsCertificates`",
    "install": "the capability `HoldsCertificates`, and `new_uri`",
    "delete": "the capability `DeletesKeys`, and `new_uri`",
    "export": "the capability `ExportsKeys`",
    "grant": "the capability `GrantsAccess`, and `account`",
}
"""What may stand in `unsupported` beside the names of JOSE's algorithms, and what is provided in its place."""

_CAPABILITIES: dict[str, type[Any]] = {
    "list": store.ListsKeys,
    "generate": store.GeneratesKeys,
    "import": store.ImportsKeys,
    "request": store.RequestsCertificates,
    "install": store.HoldsCertificates,
    "delete": store.DeletesKeys,
    "export": store.ExportsKeys,
    "grant": store.GrantsAccess,
}
_GIVEN = {
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
_PRESUMED = frozenset({"certificate", "empty", "long", "fork"})
"""What is provided unless it is declared: it takes a key and no more."""
_MAY_BE_REFUSED = frozenset({"import"})
"""What a store may have that serves several kinds of servers, and this one cannot do: a rule of its own looks."""
KINDS = {"rsa": "RSA-", "ec": "P-", "ed25519": "Ed25519"}
"""How the names of `algorithms.key_type` begin."""
_QUICK = {"ec": "P-256", "rsa": "RSA-2048", "ed25519": "Ed25519"}
"""The type of each that is made soonest; the quickest first."""


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

    days: ClassVar[int] = 7
    """For which the certificates of keys that are made for the tests are valid."""

    patience_seconds: ClassVar[float] = 10.0
    """After these a call with a timeout of a second counts as hanging."""
    closing_seconds: ClassVar[float] = 10.0
    """What `close` may take."""
    child_seconds: ClassVar[int] = 60
    """After these a forked child, or a thread among others, counts as hanging."""

    rsa_uri: ClassVar[str | None] = None
    ec_uri: ClassVar[str | None] = None
    ed25519_uri: ClassVar[str | None] = None
    missing_uri: ClassVar[str | None] = None
    ambiguous_uri: ClassVar[str | None] = None
    family_uri: ClassVar[str | None] = None
    wrong_secret_uri: ClassVar[str | None] = None
    proxied_uri: ClassVar[str | None] = None
    """A key on a server whose name, under `.invalid`, nobody can resolve but the proxy that the tests start."""
    proxied_server: ClassVar[tuple[str, int] | None] = None
    """Where that proxy leads to: host and port of the server."""
    account: ClassVar[str | None] = None
    """Who may not use the key of `uri`, and could be allowed to; as `readers` then tells it."""

    _made: ClassVar[dict[str, str | None]]
    _types: ClassVar[dict[str, str]]

    relay: ClassVar[Relay | None] = None
    """Stands between the store and its server, and does what the next four methods are for."""

    def break_connection(self) -> None:
        """Let every connection of the store's be lost, as when its server is started anew."""
        if self.relay is not None:
            self.relay.cut()

    def restore_connection(self) -> None:
        """Let the store be reached again; not needed where `break_connection` leaves it reachable."""
        if self.relay is not None:
            self.relay.restore()

    def stall_connection(self) -> None:
        """Let the server take connections, and answer nothing."""
        if self.relay is not None:
            self.relay.stall()

    def resume_connection(self) -> None:
        """Let it go on, first with what it was asked meanwhile."""
        if self.relay is not None:
            self.relay.resume()

    def new_uri(self) -> str:
        """Return a URI under which there is no key yet, another one each time."""
        raise NotImplementedError

    def count_refusals(self) -> int:
        """Return how many wrong secrets the server has seen so far."""
        raise NotImplementedError

    def replace_key(self, uri: str) -> None:
        """Put another key in the place of the one at this URI, which was made by `generate`."""
        raise NotImplementedError

    # For the tests.

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._made, cls._types = {}, {}

    @pytest.fixture(autouse=True)
    def _remember_the_test(self, request: pytest.FixtureRequest) -> None:
        self._node = request.node
        self._node.user_properties.append(("conformance", type(self).__name__))

    def provides(self, name: str) -> bool:
        """Tell whether the subclass has what goes by this name."""
        if name in KINDS:
            return self._kind_uri(name) is not None
        if name in _CAPABILITIES and not issubclass(self.the_class(), _CAPABILITIES[name]):
            return False
        if name in ("connection", "stalled") and self.relay is not None:
            return name not in self.unsupported  # a relay that is there for one of them may be no use for the other
        if name in _METHODS:
            return getattr(type(self), _METHODS[name]) is not getattr(Declarations, _METHODS[name])
        return all(getattr(self, each) is not None for each in _GIVEN.get(name, ()))

    def kind_uri(self, name: str) -> str:
        """Return the URI of a key of this kind, which is provided."""
        found = self._kind_uri(name)
        assert found is not None
        return found

    def _kind_uri(self, name: str) -> str | None:
        given: str | None = getattr(self, f"{name}_uri")
        if given is not None:
            return given
        if self._own_type().startswith(KINDS[name]):
            return self.uri
        return self._made_uri(name) if self.offers("generate") and name not in self.unsupported else None

    def _own_type(self) -> str:
        """Return the type of the key of `uri`, which is opened once for it."""
        if self.uri not in self._types:
            with self.opened(self.uri) as (_, key):
                self._types[self.uri] = key_type(key.public_key)
        return self._types[self.uri]

    def _made_uri(self, name: str) -> str | None:
        """Return a key of this kind that was made for the tests, once for all of them."""
        if name not in self._made:
            uri = self.new_uri()
            with self.connected(uri) as able:
                assert isinstance(able, store.GeneratesKeys)
                try:
                    self._made[name] = str(
                        able.generate(self.parsed(uri), store.KeySpec(_QUICK[name], "CN=conformance", self.days))
                    )
                except NotSupported:
                    self._made[name] = None
        return self._made[name]

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
        kind = key_type(key.public_key)
        able = [each for each in algorithms_for(kind) if each.name not in self.unsupported]
        if not able:
            broken(seen=f"a key of {kind}, and each of its algorithms declared", wanted="one that the store can do")
        return able[0]

    def require_signature(self, key: StoredKey, message: bytes = b"message", *, timeout: float = TIMEOUT) -> None:
        """Let the key sign, and fail where the signature is not good."""
        algorithm = self.algorithm_of(key)
        signature = key.sign(message, algorithm, timeout=timeout)
        if not judge.is_good(key.public_key, signature, message, algorithm.name):
            broken(seen="a signature that does not verify", wanted="a good one over the message that was given")

    def connect_again(self, made: KeyStore) -> None:
        """Connect once more, where the subclass has just made it possible."""
        try:
            made.connect(timeout=TIMEOUT)
        except StoreUnavailable as error:
            broken(
                seen=f"after the connection was restored: {error!r}",
                wanted="that it connects",
                change="Let `restore_connection`, or `resume_connection`, return when the server answers again.",
            )

    def certificate_of(self, key: StoredKey, subject: str = "CN=conformance") -> Certificate:
        """Return a certificate for the key, signed by itself in its store."""
        return self_signed(wrap(key.public_key, lambda *what: key.sign(*what, timeout=TIMEOUT)), subject, 2)

    def quick_kind(self) -> str:
        """Return the type of key that is made soonest, of those that are not declared."""
        return next(kind for name, kind in _QUICK.items() if name not in self.unsupported)

    def spec(self, *, subject: str = "CN=conformance", further: bool = False) -> KeySpec:
        """Return what is asked of a store for a key that is made quickly."""
        return store.KeySpec(self.quick_kind(), subject, self.days, further=further)

    def shares_connection(self, uri: str) -> bool:
        """Tell whether the core would serve it by the same `KeyStore` as `uri`."""
        names = [each.name for each in self.the_class().attributes if each.connection]
        return self.parsed(uri).raw_values(names) == self.parsed(self.uri).raw_values(names)

    def offers(self, name: str) -> bool:
        """Tell whether a rule may make use of it beside what it is about."""
        return name not in self.unsupported and self.provides(name)

    def kinds_with_uris(self) -> list[tuple[str, str]]:
        """Return the kinds of keys that are provided, each with a URI."""
        return [(name, self.kind_uri(name)) for name in KINDS if self.offers(name)]


def needs(*names: str) -> Callable[[Test], Test]:
    """Run the test where the store provides all of these; pass it by where one is declared; else fail."""

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        def wrapped(self: Declarations, *args: Any, **kwargs: Any) -> None:
            if declared := [name for name in names if name in self.unsupported]:
                self._node.user_properties.append(("unsupported", ", ".join(declared)))
                _require_true(self, declared)
                return
            for name in names:
                if not self.provides(name):
                    broken(
                        seen=f"{name}: neither provided nor declared",
                        wanted=NAMES[name],
                        change=f'Provide it, or put "{name}" into `unsupported`.',
                    )
            try:
                test(self, *args, **kwargs)
            except Exception as error:
                rule = " ".join(str(test.__doc__).split())
                raise pytest.fail.Exception(_told(seen=repr(error), wanted=rule), pytrace=True) from error

        return wrapped  # type: ignore[return-value]

    return decorate


def _require_true(of: Declarations, declared: Sequence[str]) -> None:
    known = _PRESUMED | _MAY_BE_REFUSED
    if forgotten := [name for name in declared if name not in known and of.provides(name)]:
        broken(
            seen=f"{', '.join(forgotten)}: declared as unsupported, and there all the same",
            wanted="one of the two",
            change="Take the name out of `unsupported`.",
        )


def refused(act: Callable[[], object], *kinds: type[KeyvouchError], change: str = "") -> KeyvouchError:
    """Return the error that the act raises, which is of one of these kinds and has a hint; fail where it is not."""
    wanted = " or ".join(kind.__name__ for kind in kinds)
    try:
        seen = f"{act()!r}, and no error"
    except kinds as error:
        if not error.hint:
            broken(seen=f"{error!r} without a hint", wanted=f"{wanted} with what to do about it")
        return error
    except Exception as error:
        told = _told(seen=repr(error), wanted=wanted, change=change or "Map the library's own error to it.")
        raise pytest.fail.Exception(told, pytrace=True) from error
    return broken(seen=seen, wanted=wanted, change=change)


def broken(*, seen: object, wanted: object, change: str = "") -> NoReturn:
    """Fail: what was seen, what the contract wants, and what to change."""
    pytest.fail(_told(seen=seen, wanted=wanted, change=change), pytrace=False)


def _told(*, seen: object, wanted: object, change: str = "") -> str:
    return f"\nseen:   {seen}\nwanted: {wanted}" + (f"\nchange: {change}" if change else "")
