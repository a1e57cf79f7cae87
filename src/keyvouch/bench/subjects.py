"""A key while it is measured: opened by a signer that does not wait for the store, described for the document."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from msgspec import structs

from keyvouch._core import opening, registry
from keyvouch._core.retries import Deadline, as_user_error
from keyvouch._core.signer import SIGN_TIMEOUT, Signer
from keyvouch._core.store_faults import store_code
from keyvouch.algorithms import Algorithm, algorithms_for, find_algorithm, key_type
from keyvouch.bench.document import Key, Limit
from keyvouch.bench.machine import resident_bytes
from keyvouch.bench.plan import Plan, Target
from keyvouch.errors import AlgorithmUnsupported, ConfigurationError, KeyvouchError, SessionLost
from keyvouch.store import ListsTokens, PublishesLimits

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch._core.connections import Connection
    from keyvouch._core.opened_key import OpenedKey
    from keyvouch.algorithms import PublicKey
    from keyvouch.store import KeyStore, StoredKey
    from keyvouch.uri import KeyUri

MESSAGE = b"x" * 500
"""What is signed: as long as the usual header and claims of an assertion."""
_LETTERS = 26

Confirm = Callable[[Sequence[Key]], bool]
"""Called with the keys of services that limit signatures or bill for them; False leaves them out."""


class _Impatient(Deadline):
    """Ends where others would wait before trying again."""

    def wait(self, seconds: float, error: KeyvouchError) -> NoReturn:  # noqa: ARG002 - those of the base class
        raise as_user_error(error)


class MeasuredSigner(Signer):
    """A signer that reports a limit or an unavailable store at once, instead of waiting and trying again.

    A lost session is re-established at once, as by any signer.
    """

    def __init__(self, connection: Connection, requested_uri: KeyUri, deadline: Deadline) -> None:
        super().__init__(connection, requested_uri, _Impatient(deadline.left()))

    @property
    def stored(self) -> StoredKey:
        """The key as its store has opened it."""
        return self._current.opened.stored

    @property
    def store(self) -> KeyStore:
        """The connected store."""
        return self._current.connection.store

    @property
    def group(self) -> str:
        """What distinguishes the store's connection from others: keys of one connection share its limits."""
        return repr(self._current.connection.key)

    @property
    def generation(self) -> int:
        """The number of the store's connection, which changes when it is connected again."""
        return self._current.opened.generation

    def sign_in_store(self, message: bytes, algorithm: Algorithm) -> bytes:
        """Return the signature as the store's plugin makes it, not checked; by `sign` if the session is lost."""
        opened, token = self._begin(SIGN_TIMEOUT, algorithm, None)
        try:
            return opened.stored.sign(message, algorithm, timeout=SIGN_TIMEOUT)
        except SessionLost:
            return self.sign(message, algorithm)
        finally:
            del token
            opened.close_if_unused()

    def preferred(self) -> Algorithm:
        """Sign as for an assertion, and return the algorithm that was used."""
        used = list[Algorithm]()

        def build(algorithm: Algorithm, chain: tuple[Certificate, ...], public_key: PublicKey) -> bytes:  # noqa: ARG001
            used.append(algorithm)
            return MESSAGE

        self.sign_negotiated(build)
        return used[-1]

    def _sign_again(
        self, opened: OpenedKey, message: bytes, algorithm: Algorithm, deadline: Deadline, raised: Exception
    ) -> bytes:
        return super()._sign_again(opened, message, algorithm, _Impatient(deadline.left()), raised)


@dataclass
class Subject:
    """A key to measure, and what is known about it."""

    target: Target
    key: Key
    algorithms: list[Algorithm] = field(default_factory=list)
    """Those to measure, the one of assertions first; empty if the key cannot be measured."""
    signer: MeasuredSigner | None = None
    group: str = ""
    """That of its connection."""

    def open(self) -> MeasuredSigner:
        """Open the key once more."""
        return opening.open_as(MeasuredSigner, self.target.uri, self.target.resolver())

    def close(self) -> None:
        """Close the signer that is kept open, if there is one."""
        if self.signer:
            self.signer.close()
            self.signer = None

    def leave_out(self, reason: str) -> None:
        """Do not measure the key."""
        self.close()
        self.algorithms = []
        self.key = structs.replace(self.key, error=reason)

    @property
    def prompts(self) -> bool:
        """True if opening the key asks somebody for a secret."""
        return "prompt:" in opening.parse(self.target.uri).reveal()


def prepare(
    subjects: list[Subject],
    targets: Sequence[Target],
    plan: Plan,
    confirm: Confirm | None,
    failures: list[KeyvouchError],
) -> None:
    """Open each key once, ask about those that may be billed or throttled, and sign with every algorithm.

    Appends to `subjects`, and to `failures` the errors of keys that are left out. Raises the last one if no key can be
    measured.
    """
    for number, target in enumerate(targets):
        label = chr(ord("A") + number) if number < _LETTERS else f"K{number + 1}"
        subjects.append(Subject(target, _described(target, label)))
        with leaving_out(subjects[-1], failures):
            _open_first(subjects[-1])
    limited = [each for each in subjects if each.signer and isinstance(each.signer.store, PublishesLimits)]
    if limited and confirm and not confirm([each.key for each in limited]):
        for each in limited:
            each.leave_out("Not measured, since signatures may be billed or throttled.")
    for each in subjects:
        if each.signer:
            price = plan.price if each in limited or not limited else None
            each.key = structs.replace(each.key, price=price)
            with leaving_out(each, failures):
                _find_algorithms(each, each.signer, plan.algorithms)
    if not any(each.algorithms for each in subjects):
        if failures:
            raise failures[-1]
        raise ConfigurationError("Nothing was measured.", hint="Confirm the question, or measure other keys.")
    for each in subjects:
        if not each.prompts:
            each.close()


@contextlib.contextmanager
def leaving_out(subject: Subject, failures: list[KeyvouchError]) -> Iterator[None]:
    """Leave the key out if it fails, and append the error to `failures`."""
    try:
        yield
    except KeyvouchError as error:
        failures.append(error)
        subject.leave_out(error.message)


def _described(target: Target, label: str) -> Key:
    """Describe the key by its URI only. Raises `ConfigurationError`, `PluginMissing`."""
    uri = opening.parse(target.uri)
    plugin = next((each for each in registry.plugins() if each.scheme == uri.scheme), None)
    return Key(
        label=label,
        uri=str(uri),
        scheme=uri.scheme,
        key_type="",
        preferred="",
        plugin=f"{plugin.distribution} {plugin.version}" if plugin else "",
        profile=target.profile_name or None,
    )


def _open_first(subject: Subject) -> None:
    """Open the key, and describe it completely."""
    before = resident_bytes()
    signer = subject.signer = subject.open()
    subject.group = signer.group
    subject.key = structs.replace(
        subject.key,
        key_type=key_type(signer.public_key),
        memory=max(0, resident_bytes() - before),
        module=_module(signer.store, signer),
        limit=_limit(signer),
    )


def _module(store: KeyStore, signer: MeasuredSigner) -> str | None:
    if not isinstance(store, ListsTokens):
        return None
    with store_code(signer.stored.uri.scheme):
        tokens = store.tokens(signer.stored.uri)
    return tokens[0].description if tokens else None


def _limit(signer: MeasuredSigner) -> Limit | None:
    if not isinstance(signer.store, PublishesLimits):
        return None
    with store_code(signer.stored.uri.scheme):
        found = signer.store.rate_limit(signer.stored)
    return None if found is None else Limit(found.signatures, found.seconds, found.scope, found.source)


def _find_algorithms(subject: Subject, signer: MeasuredSigner, wanted: Sequence[str]) -> None:
    """Sign once with every algorithm, to find those that the store supports."""
    before = resident_bytes()
    preferred = signer.preferred()
    unsupported = list[str]()
    for each in [find_algorithm(name) for name in wanted] or algorithms_for(subject.key.key_type):
        try:
            signer.sign(MESSAGE, each)
        except AlgorithmUnsupported:
            unsupported.append(each.name)
        else:
            subject.algorithms.append(each)
    if not subject.algorithms:
        raise AlgorithmUnsupported(
            f"The key does not support {' or '.join(unsupported)}.",
            hint="Leave out --algorithm, or use a key of another type.",
            uri=subject.key.uri,
        )
    subject.algorithms.sort(key=lambda each: each is not preferred)
    subject.key = structs.replace(
        subject.key,
        preferred=subject.algorithms[0].name,
        memory=(subject.key.memory or 0) + max(0, resident_bytes() - before),
        unsupported=tuple(unsupported),
    )
