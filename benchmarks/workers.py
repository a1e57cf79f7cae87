"""Processes that repeat an operation: programs in C, libraries that need a process of their own, another state.

A contender that runs in one repeats its operation many times per call, so that the messages between the processes do
not matter.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import subprocess
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

Operation = Callable[[], object]
Repeat = Callable[[int], object]
"""Repeats the operation this many times, and returns when it has ended."""


@contextlib.contextmanager
def program(*command: str) -> Iterator[Repeat]:
    """Run a program that repeats its operation for each number on its standard input, and prints a line when done."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        asked, answers = process.stdin, process.stdout
        assert asked is not None
        assert answers is not None

        def repeat(times: int) -> None:
            print(times, file=asked, flush=True)
            if not answers.readline():
                raise RuntimeError(f"{command[0]} has ended")

        yield repeat
        asked.close()


@contextlib.contextmanager
def python(make: Callable[..., Operation], *arguments: object) -> Iterator[Repeat]:
    """Run another Python that calls `make` with these arguments, and repeats what it returns."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, make, arguments))
    process.start()
    theirs.close()
    with ours:

        def repeat(times: int) -> None:
            ours.send(times)
            ours.recv()

        repeat(1)  # it has started
        yield repeat
    process.join()


def repeated(operation: Operation, times: int) -> Operation:
    """Return an operation that repeats another one in this process."""

    def repeat() -> None:
        for _ in range(times):
            operation()

    return repeat


def _serve(pipe: Connection, make: Callable[..., Operation], arguments: tuple[object, ...]) -> None:
    operation = make(*arguments)
    with contextlib.suppress(EOFError):
        while True:
            for _ in range(pipe.recv()):
                operation()
            pipe.send(None)
