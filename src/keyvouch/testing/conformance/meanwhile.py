"""Doing something in other threads, in a forked child, or in another process."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from keyvouch.testing.conformance.declarations import TIMEOUT, broken

T = TypeVar("T")

_MOST_SAID = 4096
"""Bytes that a child tells of its failure; a pipe takes them without a reader."""
_GRACE = 5.0
"""Seconds that a hanging child has for telling where it hangs."""


def in_another_process(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program that finds the same modules."""
    return subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT,
        check=False,
    )


@contextlib.contextmanager
def meanwhile(
    act: Callable[[], object], *, threads: int = 3, allowed: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Do it over and over in threads while the block runs; fail where it fails, but for what is allowed, or hangs."""
    done, failures = threading.Event(), list[BaseException]()

    def run() -> None:
        while not done.is_set():
            try:
                act()
            except allowed:
                time.sleep(0.001)
            except BaseException as error:  # noqa: BLE001 - whatever it is, the test tells
                failures.append(error)
                return

    running = [threading.Thread(target=run, daemon=True) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in running:
            thread.join(TIMEOUT)
    if any(thread.is_alive() for thread in running):
        broken(seen="a thread that hangs meanwhile", wanted="its signatures")
    if failures:
        broken(seen=f"in another thread, meanwhile: {failures[0]!r}", wanted="its signatures")


def ended(act: Callable[[], object], seconds: float, what: str, change: str) -> BaseException | None:
    """Do it in a thread and return its error, or None; fail where it has not ended after these seconds."""
    outcome: list[BaseException | None] = []

    def run() -> None:
        try:
            act()
            outcome.append(None)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test tells
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        broken(seen=f"{what}: no end within {seconds:g} s", wanted="an end", change=change)
    return outcome[0]


def at_once(acts: Sequence[Callable[[], T]], seconds: float) -> list[T]:
    """Do all of them at once, each in a thread, and return what they return; fail where one fails, or takes longer."""
    results: dict[int, T] = {}
    failures: list[BaseException] = []
    ready = threading.Barrier(len(acts))

    def run(number: int) -> None:
        try:
            ready.wait(TIMEOUT)
            results[number] = acts[number]()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test tells
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(acts))]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    if any(thread.is_alive() for thread in threads):
        broken(
            seen="threads that hang", wanted="an end", change="Take locks in one order, and hold none while waiting."
        )
    if failures:
        raise failures[0]
    return [results[number] for number in range(len(acts))]


def in_child(act: Callable[[], object], seconds: int) -> None:
    """Do it in a forked child; fail where it fails, or hangs for longer than these seconds."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():  # that a fork beside threads may hang is what is tried here
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(seconds, exit=True, file=writer)
        said = b""
        try:
            act()
        except BaseException:  # noqa: BLE001 - the parent tells
            said = traceback.format_exc().encode()
        os.write(writer, said[-_MOST_SAID:])
        os._exit(1 if said else 0)
    os.close(writer)
    told, status = _outcome(child, reader, seconds + _GRACE)
    if told is None or told.startswith("Timeout ("):  # faulthandler's words
        broken(
            seen=f"a child that hangs\n{told or 'before it could do anything'}",
            wanted="a signature",
            change="Let no lock be held over a fork, and forget a parent's connection: the guide, Forks.",
        )
    if status:
        broken(seen=f"in a forked child: {told or status}", wanted="a signature")


def _outcome(child: int, reader: int, seconds: float) -> tuple[str | None, int]:
    """Return what the child said, None where it said nothing for so long, and its exit status."""
    said, end = b"", time.monotonic() + seconds
    with open(reader, "rb", buffering=0) as pipe:
        while True:
            ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                os.kill(child, signal.SIGKILL)
                break
            octets = pipe.read(_MOST_SAID)
            said += octets
            if not octets:
                break
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return (said.decode(errors="replace") if ready else None), status
