"""Processes that ask for the same token share one request; one that dies or hangs only delays the others for a while.

Each process is a real one, and reports what it does on its standard output. The authority holds requests until a test
lets them go, so that no test depends on time.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import keyvouch
from keyvouch._system.files import LockFile
from keyvouch.entra import msal
from keyvouch.entra.azure.aio import KeyvouchCredential
from keyvouch.entra.msal import ConfidentialClient
from keyvouch.testing.authority import App, Authority
from scripted_store import LONG_ENOUGH, without_coverage
from signing_in import NO_CACHE, SCOPE, Key, make_key, write_profile

OTHER = "api://other/.default"
PROGRAM = """
import logging, os, sys, threading
from keyvouch._system.files import LockFile
from keyvouch.entra import msal, profile
from keyvouch.errors import KeyvouchError

scope, threads, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
msal._MAX_WAIT = float(sys.argv[4])
acquire = LockFile.acquire

def report(line):
    os.write(1, f"{line}\\n".encode())

def reporting_acquire(lock, timeout):
    if lock._path.name.count(".") == 1:  # the lock of the cache itself
        return acquire(lock, timeout)
    report("waiting")
    acquired = acquire(lock, timeout)
    report("acquired" if acquired else "gave up")
    return acquired

class Signatures(logging.Handler):
    def emit(self, record):
        report("signed")

def ask():
    try:
        report("token " + profile.client_of("nightly").access_token([scope]))
    except KeyvouchError as error:
        report(type(error).__name__)

LockFile.acquire = reporting_acquire
logging.getLogger("keyvouch.audit").addHandler(Signatures())
logging.getLogger("keyvouch.audit").setLevel(logging.INFO)
profile.client_of("nightly")
report("ready")
sys.stdin.readline()
if workers:
    children = []
    for _ in range(workers):
        children.append(os.fork())
        if not children[-1]:
            ask()
            os._exit(0)
    for child in children:
        os.waitpid(child, 0)
else:
    asking = [threading.Thread(target=ask) for _ in range(threads - 1)]
    for thread in asking:
        thread.start()
    ask()
    for thread in asking:
        thread.join()
"""


class Asking:
    """A process that requests a token when the test starts it."""

    def __init__(
        self, scope: str = SCOPE, *, threads: int = 1, workers: int = 0, max_wait: float | None = None
    ) -> None:
        arguments = [scope, str(threads), str(workers), str(max_wait or LONG_ENOUGH)]
        self._may_give_up = max_wait is not None
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=without_coverage(),
            text=True,
        )
        self.lines: list[str] = []

    def go(self) -> Asking:
        """Let it ask for the token, once it is ready."""
        self.until("ready")
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self

    def until(self, wanted: str, times: int = 1) -> None:
        """Read its output until this line has come so many times."""
        while self.lines.count(wanted) < times:
            assert self._read_line(), self.lines

    def end(self) -> list[str]:
        """Wait for its end; return all lines that it printed."""
        while self._read_line():
            pass
        self.process.wait(LONG_ENOUGH)
        assert self._may_give_up or "gave up" not in self.lines
        return self.lines

    def _read_line(self) -> bool:
        assert self.process.stdout
        line = self.process.stdout.readline()
        self.lines += line.splitlines()
        return bool(line)

    def tokens(self) -> list[str]:
        """Wait for its end; return the tokens."""
        return [line for line in self.end() if line.startswith("token ")]


class TokenRequests:
    """The token requests that reach the authority, each held until the test lets it go."""

    def __init__(self) -> None:
        self.arrived = threading.Semaphore(0)
        self.release_first = threading.Event()
        self.hold_others: Callable[[], object] = lambda: None
        self._numbers = iter(range(1000))

    def hold(self) -> None:
        """Called in the authority's thread before it responds."""
        number = next(self._numbers)
        self.arrived.release()
        if number:
            self.hold_others()
        else:
            self.release_first.wait(LONG_ENOUGH)

    def wait(self) -> None:
        """Wait for one more request."""
        assert self.arrived.acquire(timeout=LONG_ENOUGH)


@pytest.fixture
def requests(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[TokenRequests]:
    """The authority's token requests; the first is held."""
    held = TokenRequests()
    respond = Authority._respond

    def late(self: Authority, endpoints: Any, request: Any) -> Any:
        if endpoints.is_token_request(request):
            held.hold()
        return respond(self, endpoints, request)

    monkeypatch.setattr(Authority, "_respond", late)
    yield held
    held.release_first.set()


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return make_key(tmp_path)


@pytest.fixture
def app(authority: Authority, key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    """An app registration with the key, and its profile `nightly`."""
    app = authority.register(certificates=[key.certificate])
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(write_profile(tmp_path, authority, app, [key.uri])))
    return app


@pytest.fixture
def start() -> Iterator[Callable[..., Asking]]:
    """Start processes, of which none is left at the end."""
    started: list[Asking] = []

    def start_one(*arguments: Any, **options: Any) -> Asking:
        started.append(Asking(*arguments, **options))
        return started[-1]

    yield start_one
    for each in started:
        each.process.kill()
        each.process.communicate()


def lead(start: Callable[..., Asking], requests: TokenRequests, scope: str = SCOPE) -> Asking:
    """Start a process whose request the authority holds."""
    leader = start(scope).go()
    requests.wait()
    return leader


def follow(start: Callable[..., Asking], number: int, **options: Any) -> list[Asking]:
    """Start processes that wait for the first."""
    others = [start(**options) for _ in range(number)]
    for each in others:
        each.go()
    for each in others:
        each.until("waiting", options.get("workers") or 1)
    return others


# One request.


@pytest.mark.usefixtures("app")
def test_one_request_for_all(authority: Authority, requests: TokenRequests, start: Callable[..., Asking]) -> None:
    """Processes that start at once make one signature and one request, and all get the token."""
    processes = follow(start, 4)
    requests.release_first.set()
    tokens = [each.tokens() for each in processes]

    assert len(tokens[0]) == 1
    assert tokens == [tokens[0]] * 4
    assert [line for each in processes for line in each.lines].count("signed") == 1
    assert len(authority.exchanges) == 1


@pytest.mark.usefixtures("app")
def test_threads_of_several_processes(
    authority: Authority, requests: TokenRequests, start: Callable[..., Asking]
) -> None:
    """Of each process, one thread waits for the lock; the others wait for that thread."""
    processes = follow(start, 3, threads=4)
    requests.release_first.set()

    assert [len(each.tokens()) for each in processes] == [4, 4, 4]
    assert [each.lines.count("waiting") for each in processes] == [1, 1, 1]
    assert len(authority.exchanges) == 1


@pytest.mark.usefixtures("app")
def test_forked_workers(authority: Authority, requests: TokenRequests, start: Callable[..., Asking]) -> None:
    """32 workers forked from a process that has a client make one signature and one request, too."""
    (parent,) = follow(start, 1, workers=32)
    requests.release_first.set()
    tokens = parent.tokens()

    assert (len(tokens), len(set(tokens))) == (32, 1)
    assert parent.lines.count("signed") == 1
    assert len(authority.exchanges) == 1


@pytest.mark.usefixtures("app")
def test_tokens_that_expire_soon(authority: Authority, requests: TokenRequests, start: Callable[..., Asking]) -> None:
    """MSAL does not use a token that is valid for five minutes at most: the others make their requests at once."""
    body = '{"token_type": "Bearer", "access_token": "short", "expires_in": 200}'
    authority.answer_next(200, body, {"Content-Type": "application/json"})
    leader = lead(start, requests)
    others = follow(start, 3)
    requests.hold_others = threading.Barrier(3, timeout=LONG_ENOUGH).wait
    requests.release_first.set()

    assert leader.tokens() == ["token short"]
    assert [len(each.tokens()) for each in others] == [1, 1, 1]


# A process that does not get the token.


@pytest.mark.usefixtures("app")
def test_killed_process(authority: Authority, requests: TokenRequests, start: Callable[..., Asking]) -> None:
    """If the process that makes the request is killed, one of the others makes it."""
    leader = lead(start, requests)
    others = follow(start, 3)
    leader.process.kill()
    tokens = [each.tokens() for each in others]

    assert len(tokens[0]) == 1
    assert tokens == [tokens[0]] * 3
    assert [line for each in others for line in each.lines].count("signed") == 1
    assert len(authority.exchanges) == 1


@pytest.mark.usefixtures("app")
def test_interrupted_process(authority: Authority, requests: TokenRequests, start: Callable[..., Asking]) -> None:
    """If the process that makes the request is interrupted, one of the others makes it."""
    leader = lead(start, requests)
    others = follow(start, 3)
    leader.process.send_signal(signal.SIGINT)
    tokens = [each.tokens() for each in others]

    assert len(tokens[0]) == 1
    assert tokens == [tokens[0]] * 3
    assert [line for each in others for line in each.lines].count("signed") == 1


@pytest.mark.usefixtures("app")
def test_stopped_process(authority: Authority, requests: TokenRequests, start: Callable[..., Asking]) -> None:
    """If the process that makes the request is stopped, the others wait for a while and then make their own."""
    leader = lead(start, requests)
    leader.process.send_signal(signal.SIGSTOP)
    (other,) = follow(start, 1, max_wait=0.01)
    tokens = other.tokens()
    leader.process.send_signal(signal.SIGCONT)
    requests.release_first.set()

    assert other.lines.count("gave up") == other.lines.count("waiting") == 1
    assert len(tokens) == len(leader.tokens()) == 1


def test_refused_process(
    authority: Authority, app: App, requests: TokenRequests, start: Callable[..., Asking], tmp_path: Path
) -> None:
    """If the request is refused, the others make theirs at the same time, not one after another."""
    other_key = make_key(tmp_path, "unknown.pfx")
    write_profile(tmp_path, authority, app, [other_key.uri])
    leader = lead(start, requests)
    others = follow(start, 4)
    requests.hold_others = threading.Barrier(4, timeout=LONG_ENOUGH).wait
    requests.release_first.set()

    assert leader.end()[-1] == "AuthorityRefused"
    assert [each.end()[-1] for each in others] == ["AuthorityRefused"] * 4


@pytest.mark.usefixtures("app")
def test_interrupt_while_waiting(authority: Authority, requests: TokenRequests, start: Callable[..., Asking]) -> None:
    """Ctrl-C ends a process that waits for another."""
    lead(start, requests)
    (other,) = follow(start, 1)
    other.process.send_signal(signal.SIGINT)
    other.end()

    assert other.process.returncode == -signal.SIGINT


# What does not wait.


@pytest.mark.usefixtures("app")
def test_other_scope(authority: Authority, requests: TokenRequests, start: Callable[..., Asking]) -> None:
    """A process that asks for another scope does not wait."""
    lead(start, requests)
    other = start(OTHER).go()

    assert len(other.tokens()) == 1


@pytest.mark.usefixtures("app")
def test_read_only_cache(authority: Authority, start: Callable[..., Asking], own_folders: Path) -> None:
    """If the cache's folder has become read-only, each process makes its own request."""
    assert start().go().tokens()
    read_only = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    namespace = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--mount", "sh", "-c", read_only]
    done = subprocess.run(
        [*namespace, own_folders, sys.executable, "-P", "-m", "keyvouch", "token", "--scope", OTHER],
        env=without_coverage(),
        capture_output=True,
        check=False,
        text=True,
    )

    assert (done.returncode, done.stdout[:2]) == (0, "ey"), done.stderr
    assert "Read-only file system" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def client(app: App) -> ConfidentialClient:
    return keyvouch.connect("nightly")


@pytest.fixture
def held(client: ConfidentialClient, own_folders: Path) -> Iterator[LockFile]:
    """The lock that `client` takes for the scope OTHER, held by another process."""
    for each in lock_files(own_folders):
        each.unlink()  # one of them may also be that of OTHER
    assert client.access_token([OTHER])
    (path,) = lock_files(own_folders)
    client.remove_tokens_for_client()
    with LockFile(path) as lock:
        assert lock.acquire(0)
        yield lock


def lock_files(own_folders: Path) -> list[Path]:
    return list((own_folders / "cache_directory" / "tokens").glob("*.??.lock"))


def test_lock_files_are_private(client: ConfidentialClient, own_folders: Path) -> None:
    """A lock file is empty, accessible only to its owner, and its name is a digest of the cache's and a number."""
    (path,) = lock_files(own_folders)

    assert (path.stat().st_mode & 0o777, path.stat().st_size) == (0o600, 0)
    assert path.name.split(".")[0] == next(path.parent.glob("*.json")).stem


def test_number_of_lock_files(client: ConfidentialClient, own_folders: Path) -> None:
    """Any number of scopes needs at most 256 lock files."""
    cache = client.token_cache
    for number in range(2000):
        with cache.request_lock(f"api://{number}/.default", 0) as is_free:
            assert is_free
    assert len(lock_files(own_folders)) <= 256


def test_valid_token_is_not_waited_for(
    client: ConfidentialClient, held: LockFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A valid token is returned, although another process makes the same request; no lock is needed."""
    put_token(client, "valid")
    monkeypatch.delattr(client.token_cache.__class__, "request_lock")
    assert client.access_token([OTHER]) == "valid"


def test_token_due_for_renewal(
    authority: Authority, client: ConfidentialClient, held: LockFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one process renews a valid token, the others use it; without another process, it is renewed."""
    put_token(client, "due", refresh_in=-10)
    before = len(authority.exchanges)
    with monkeypatch.context() as change:
        change.setattr(time, "sleep", lambda _: pytest.fail("it waits"))
        assert client.access_token([OTHER]) == "due"
    assert len(authority.exchanges) == before
    with held:
        pass
    assert client.access_token([OTHER]) != "due"
    assert len(authority.exchanges) == before + 1


def put_token(client: ConfidentialClient, token: str, **members: object) -> None:
    """Put a token for the scope OTHER into the client's cache."""
    client.token_cache.add(
        {
            "client_id": client.client_id,
            "scope": [OTHER],
            "token_endpoint": client.authority.token_endpoint,
            "response": {"access_token": token, "expires_in": 3600, "token_type": "Bearer", **members},
        }
    )


def test_claims_challenge_does_not_wait(
    client: ConfidentialClient, held: LockFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claims challenge requires a new token: no other process's would do."""
    monkeypatch.delattr(client.token_cache.__class__, "request_lock")
    assert client.access_token([OTHER], claims_challenge=NO_CACHE)
    assert client.acquire_token_for_client([OTHER], NO_CACHE)["token_source"] == "identity_provider"


def test_signal_while_waiting(client: ConfidentialClient, held: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception of the program's signal handler ends the wait, even if it is an OSError."""

    def interrupt(*_: object) -> None:
        raise TimeoutError("the program's")

    monkeypatch.setattr(time, "sleep", lambda _: signal.raise_signal(signal.SIGUSR1))
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(TimeoutError, match="the program's"):
            client.access_token([OTHER])
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_timeout_of_the_caller(
    client: ConfidentialClient, held: LockFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A caller with little time waits for a part of it, and still gets a token; the log says so."""
    caplog.set_level("INFO", "keyvouch")
    waits: list[float] = []
    acquire = LockFile.acquire

    def noting(lock: LockFile, timeout: float) -> bool:
        waits.append(timeout)
        return acquire(lock, 0)

    monkeypatch.setattr(LockFile, "acquire", noting)
    assert client.access_token([OTHER], timeout=8)
    assert waits[0] <= 4
    assert "no longer waiting" in caplog.text
    client.remove_tokens_for_client()
    del waits[:]
    assert client.access_token([OTHER])
    assert waits[0] == msal._MAX_WAIT


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_system_without_locks(
    authority: Authority, client: ConfidentialClient, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """On a file system without locks, each process makes its own request."""

    def fail(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", fail)
    assert client.access_token([OTHER])
    assert len(authority.exchanges) == 2


def test_event_loop_continues(client: ConfidentialClient, held: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a process waits for another, its event loop does other work."""

    async def ask() -> list[str]:
        loop, waiting = asyncio.get_running_loop(), asyncio.Event()
        acquire = LockFile.acquire

        def noting(lock: LockFile, timeout: float) -> bool:
            loop.call_soon_threadsafe(waiting.set)
            return acquire(lock, timeout)

        monkeypatch.setattr(LockFile, "acquire", noting)
        monkeypatch.setattr(msal, "_MAX_WAIT", 1000.0)
        pending = asyncio.gather(
            client.access_token_async([OTHER]), KeyvouchCredential(client).get_token(OTHER), return_exceptions=False
        )
        await waiting.wait()
        assert not pending.done()
        with held:
            pass
        token, credential = await pending
        return [token, credential.token]

    first, second = asyncio.run(ask())
    assert first == second
