"""Measure keys: open them, sign, make assertions, request tokens.

First come the openings, while nothing else is open; then everything that needs an open key, interleaved.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from msgspec import structs

from keyvouch._core import opening
from keyvouch.algorithms import PS256, Algorithm
from keyvouch.assertion import ClientAssertion
from keyvouch.bench import machine
from keyvouch.bench.document import Measurement, Run
from keyvouch.bench.harness import Progress, Samples, measure
from keyvouch.bench.intervals import median
from keyvouch.bench.plan import Plan, Target
from keyvouch.bench.rounds import Contender, Operation
from keyvouch.bench.subjects import MESSAGE, Confirm, MeasuredSigner, Subject, leaving_out, prepare
from keyvouch.errors import ConfigurationError, KeyvouchError
from keyvouch.local_key import make_key, sign_locally
from keyvouch.store import OffersPeer
from keyvouch.uri import KeyUri

if TYPE_CHECKING:
    from keyvouch.entra.msal import ConfidentialClient

_CONTEXT = {
    "client_id": "00000000-0000-0000-0000-000000000000",
    "token_endpoint": "https://login.microsoftonline.com/contoso.onmicrosoft.com/oauth2/v2.0/token",
}
_OPENINGS = 20
"""Maximum number of times that a key is opened for one measurement: each may be a login."""
_OPENINGS_PART = 0.1
"""Part of the progress that the openings count as."""
_CLOSING_TIMEOUT = 2.0
"""Seconds to wait for the keys to close after an interrupt."""
_TOKENS = 20
"""Maximum number of access tokens that are requested for one key."""


@dataclass(frozen=True)
class _Task:
    """A contender, and which of the key's measurements it is; without a label, the reference."""

    contender: Contender
    label: str = ""
    operation: str = ""
    algorithm: str | None = None


@dataclass
class _Results:
    """What was measured until now, also if an interrupt ends a phase."""

    tasks: list[_Task]
    samples: list[Samples]


def measure_keys(
    keys: Sequence[str | KeyUri | Target],
    plan: Plan | None = None,
    *,
    confirm: Confirm | None = None,
    progress: Progress | None = None,
    failures: list[KeyvouchError] | None = None,
) -> Run:
    """Measure these keys, and return what was found, also if interrupted (`Run.interrupted`).

    `confirm` is called once if some of the keys are in a service that limits signatures or bills for them; `progress`
    between the rounds. A key that cannot be measured has `Key.error`, and its exception is appended to `failures`;
    raises the exception if there is no other key. Raises `ConfigurationError` for an invalid URI.
    """
    failures = [] if failures is None else failures
    if isinstance(keys, str):
        raise ConfigurationError("keys must be a list of URIs.", hint='Pass ["scheme:..."].')
    plan = plan or Plan()
    run = Run(
        started=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        machine=machine.this_machine(),
        versions=machine.versions(),
        seconds=plan.duration,
        count=plan.count,
        keys=(),
        measurements=(),
    )
    subjects = list[Subject]()
    results = _Results([], [])
    interrupted = False
    resources = contextlib.ExitStack()
    clients: dict[str, ConfidentialClient] = {}
    try:
        prepare(
            subjects, [each if isinstance(each, Target) else Target(each) for each in keys], plan, confirm, failures
        )
        if plan.token:
            clients = {each.key.label: resources.enter_context(_client(each)) for each in subjects if each.algorithms}
        _measure(results, _openings(subjects, plan), plan, _part(progress, 0.0, _OPENINGS_PART))
        for each in subjects:
            if each.algorithms and not each.signer:
                with leaving_out(each, failures):
                    each.signer = each.open()
        _measure(results, _of_open_keys(subjects, plan, clients), plan, _part(progress, _OPENINGS_PART, 1.0))
    except KeyboardInterrupt:
        interrupted = True
    finally:
        for each in subjects:
            resources.callback(each.close)
        if interrupted:  # a store that stalls would delay the result
            closing = threading.Thread(target=resources.close, daemon=True)
            closing.start()
            with contextlib.suppress(KeyboardInterrupt):  # an impatient second one does not lose the result
                closing.join(_CLOSING_TIMEOUT)
        else:
            resources.close()
    return _completed(run, subjects, results, interrupted=interrupted)


def _part(progress: Progress | None, begin: float, end: float) -> Progress | None:
    return progress and (lambda part: progress(begin + part * (end - begin)))


def _measure(results: _Results, tasks: Sequence[_Task], plan: Plan, progress: Progress | None) -> None:
    results.tasks += tasks
    measure([each.contender for each in tasks], seconds=plan.duration, progress=progress, samples=results.samples)


def _openings(subjects: Sequence[Subject], plan: Plan) -> list[_Task]:
    """Return what opens keys, which must not be open meanwhile. Keys whose secret somebody must enter are left out."""
    tasks = list[_Task]()
    most = plan.at_most(_OPENINGS)
    for each in subjects:
        if each.algorithms and not each.prompts:
            label = each.key.label
            for operation, algorithm, one in (
                ("open_cold", None, _opening),
                ("first_signature", each.algorithms[0].name, _first_signature),
            ):
                contender = Contender(f"{label} {operation}", each=partial(one, each), most=most, group=each.group)
                tasks.append(_Task(contender, label, operation, algorithm))
    return tasks


@contextlib.contextmanager
def _opening(subject: Subject) -> Iterator[Operation]:
    opened = list[MeasuredSigner]()
    yield lambda: opened.append(subject.open())
    for each in opened:
        each.close()


@contextlib.contextmanager
def _first_signature(subject: Subject) -> Iterator[Operation]:
    with subject.open() as signer:
        yield partial(signer.sign, MESSAGE, subject.algorithms[0])


def _of_open_keys(subjects: Sequence[Subject], plan: Plan, clients: Mapping[str, ConfidentialClient]) -> list[_Task]:
    """Return what is measured with open keys, and a computation that shows the machine's own speed."""
    tasks = [_Task(Contender("reference", _reference(), most=plan.count))]
    for each in subjects:
        if each.signer:
            tasks += _of_open_key(each, each.signer, plan)
        if each.key.label in clients:
            tasks.append(_token_request(each, clients[each.key.label], plan))
    return tasks


def _reference() -> Operation:
    """Return a fixed amount of work of the kind that a key in memory does."""
    private_key = make_key("RSA-2048")
    return lambda: sign_locally(private_key, MESSAGE, PS256)


def _of_open_key(subject: Subject, signer: MeasuredSigner, plan: Plan) -> Iterator[_Task]:
    """Yield what is measured with one open key."""
    label = subject.key.label

    def task(operation: str, algorithm: Algorithm | None, threads: int, call: Operation) -> _Task:
        name = f"{label} {operation} {algorithm.name if algorithm else ''}".strip()
        contender = Contender(name, call, threads=threads, rate=plan.rate, most=plan.count, group=subject.group)
        return _Task(contender, label, operation, algorithm.name if algorithm else None)

    if not subject.prompts:
        most = plan.at_most(_OPENINGS)
        contender = Contender(f"{label} open_warm", each=partial(_opening, subject), most=most, group=subject.group)
        yield _Task(contender, label, "open_warm")
    first, (threads, *more) = subject.algorithms[0], plan.thread_numbers
    for algorithm in subject.algorithms:
        if algorithm is first or plan.algorithms:
            for number in (threads, *more):
                yield task("signature", algorithm, number, partial(signer.sign, MESSAGE, algorithm))
        elif not plan.rate:
            yield task("signature", algorithm, threads, partial(signer.sign, MESSAGE, algorithm))
    yield task("assertion", first, threads, partial(ClientAssertion(signer, algorithm=first), _CONTEXT))
    if not plan.rate:
        yield task("stored_key", first, threads, partial(signer.sign_in_store, MESSAGE, first))
    if not plan.rate and plan.peer and isinstance(signer.store, OffersPeer):
        yield task("peer", first, threads, _Peer(signer, signer.store, first))


class _Peer:
    """Signs with the bare library; a connection has one of its own."""

    def __init__(self, signer: MeasuredSigner, store: OffersPeer, algorithm: Algorithm) -> None:
        self._signer, self._store, self._algorithm = signer, store, algorithm
        self._generation = -1

    def __call__(self) -> bytes:
        if self._signer.generation != self._generation:  # the first call, when only one thread warms up
            self._sign = self._store.peer(self._signer.stored.uri, self._algorithm)
            self._generation = self._signer.generation
        return self._sign(MESSAGE)


def _client(subject: Subject) -> ConfidentialClient:
    """Return a client of the key's profile that has only this key, and no cache in a file."""
    from keyvouch import config
    from keyvouch.entra.profile import make_client

    target = subject.target
    if target.profile is None:
        raise ConfigurationError(
            f"The key {subject.key.label} is not from a profile, so it has no client that requests tokens.",
            hint="Measure the keys of a profile, or leave out the tokens.",
        )
    profile = config.replace(target.profile, {"keys": (opening.parse(target.uri).reveal(),), "token_cache": "memory"})
    return make_client(profile, target.profile_name, target.secrets)


def _token_request(subject: Subject, client: ConfidentialClient, plan: Plan) -> _Task:
    label = subject.key.label

    @contextlib.contextmanager
    def request() -> Iterator[Operation]:
        client.remove_tokens_for_client()
        yield client.access_token

    contender = Contender(f"{label} token", each=request, most=plan.at_most(_TOKENS), group=label)
    return _Task(contender, label, "token")


def _completed(run: Run, subjects: Sequence[Subject], results: _Results, *, interrupted: bool) -> Run:
    pairs = list(zip(results.tasks, results.samples, strict=False))
    return structs.replace(
        run,
        keys=tuple(each.key for each in subjects),
        measurements=tuple(_measurement(task, own) for task, own in pairs if task.label and (own.count or own.errors)),
        reference=next((tuple(own.rounds) for task, own in pairs if not task.label), ()),
        interrupted=interrupted,
    )


def _measurement(task: _Task, own: Samples) -> Measurement:
    latency = {}
    if own.count:
        latency = {"min": own.histogram.get_min_value() / 1e9, "mean": own.total / own.count}
        latency |= {f"p{each:g}": own.latency(each) for each in (50, 90, 99, 99.9)}
        latency["max"] = own.histogram.get_max_value() / 1e9
    return Measurement(
        key=task.label,
        operation=task.operation,
        threads=task.contender.threads,
        count=own.count,
        errors=dict(own.errors),
        seconds=own.seconds,
        cpu_seconds=own.cpu_seconds,
        algorithm=task.algorithm,
        rate=task.contender.rate,
        latency=latency,
        per_second=median(own.rates) if own.rates else None,
        rounds=tuple(own.rounds),
        rates=tuple(own.rates),
        histogram=own.histogram.encode().decode() if own.count else None,
        stopped=own.stopped,
        error=own.first_error.message if isinstance(own.first_error, KeyvouchError) else None,
    )
