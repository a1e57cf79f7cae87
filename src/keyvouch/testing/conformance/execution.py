"""Run something in other threads, in a forked child, or in another process."""

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

from keyvouch.testing.conformance.declarations import TIMEOUT, fail

T = TypeVar("T")

_REPORT_LIMIT = 4096
"""Maximum size in bytes of a child's report of its failure; a pipe holds that without a reader."""
_GRACE = 5.0
"""Seconds that a hanging child has to report where it hangs."""


def run_in_process(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program in a new process that can import the same modules."""
    return subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT,
        check=False,
    )


@contextlib.contextmanager
def repeating_in_threads(
    call: Callable[[], object], *, threads: int = 3, allowed: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Run `call` repeatedly in threads while the block runs; fail if it hangs, or raises what is not allowed."""
    done, failures = threading.Event(), list[BaseException]()

    def run() -> None:
        while not done.is_set():
            try:
                call()
            except allowed:
                time.sleep(0.001)
            except BaseException as error:  # noqa: BLE001 - reported by the test
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
        fail(got="a thread that hangs", expected="signatures from it")
    if failures:
        fail(got=f"in another thread at the same time: {failures[0]!r}", expected="signatures from it")


def run_with_deadline(call: Callable[[], object], seconds: float, what: str, fix: str) -> BaseException | None:
    """Run `call` in a thread and return its error, or None; fail if it does not return within these seconds."""
    outcome: list[BaseException | None] = []

    def run() -> None:
        try:
            call()
            outcome.append(None)
        except BaseException as error:  # noqa: BLE001 - reported by the test
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        fail(got=f"{what} did not return within {seconds:g} s", expected="that it returns", fix=fix)
    return outcome[0]


def run_concurrently(calls: Sequence[Callable[[], T]], seconds: float) -> list[T]:
    """Call all at once, each in a thread, and return their results; raise the first error, and fail if one hangs."""
    results: dict[int, T] = {}
    failures: list[BaseException] = []
    ready = threading.Barrier(len(calls))

    def run(number: int) -> None:
        try:
            ready.wait(TIMEOUT)
            results[number] = calls[number]()
        except BaseException as error:  # noqa: BLE001 - reported by the test
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    if any(thread.is_alive() for thread in threads):
        fail(
            got="threads that hang",
            expected="that they return",
            fix="Acquire locks in one order, and hold none while waiting.",
        )
    if failures:
        raise failures[0]
    return [results[number] for number in range(len(calls))]


def run_in_fork(call: Callable[[], object], seconds: int) -> None:
    """Run `call` in a forked child; fail if it raises, or hangs for longer than these seconds."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():  # a fork with threads may hang, which is what is tested
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(seconds, exit=True, file=writer)
        report = b""
        try:
            call()
        except BaseException:  # noqa: BLE001 - reported by the parent
            report = traceback.format_exc().encode()
        os.write(writer, report[-_REPORT_LIMIT:])
        os._exit(1 if report else 0)
    os.close(writer)
    report_text, status = _outcome(child, reader, seconds + _GRACE)
    if report_text is None or report_text.startswith("Timeout ("):  # faulthandler's words
        fail(
            got=f"a child that hangs\n{report_text or 'before it could do anything'}",
            expected="a signature",
            fix="Hold no lock across a fork, and forget the parent's connection. See Forks in the guide.",
        )
    if status:
        fail(got=f"in a forked child: {report_text or status}", expected="a signature")


def _outcome(child: int, reader: int, seconds: float) -> tuple[str | None, int]:
    """Return the child's report and exit status; the report is None if the child did not finish it in time."""
    report, end = b"", time.monotonic() + seconds
    with open(reader, "rb", buffering=0) as pipe:
        while True:
            ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                os.kill(child, signal.SIGKILL)
                break
            data = pipe.read(_REPORT_LIMIT)
            report += data
            if not data:
                break
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return (report.decode(errors="replace") if ready else None), status
