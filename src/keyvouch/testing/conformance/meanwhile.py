"""Doing something in other threads, or in a forked child, while a test goes on."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator

from keyvouch.testing.conformance.declarations import TIMEOUT, broken


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
        except BaseException as error:  # noqa: BLE001 - the parent tells
            said = repr(error).encode()
        os.write(writer, said)
        os._exit(1 if said else 0)
    os.close(writer)
    with open(reader, "rb") as pipe:  # noqa: PTH123 - a descriptor
        told = pipe.read().decode(errors="replace")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if told.startswith("Timeout ("):  # faulthandler's words
        broken(
            seen=f"a child that hangs\n{told}",
            wanted="a signature",
            change="Let no lock be held over a fork, and forget a parent's connection: the guide, Forks.",
        )
    if status:
        broken(seen=f"in a forked child: {told or status}", wanted="a signature")
