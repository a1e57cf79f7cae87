"""Threads that stay the same from round to round, since some libraries keep a session for each thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class Workers:
    """Daemon threads, started when they are needed: an interrupted program does not wait for a store that stalls."""

    def __init__(self) -> None:
        self._jobs = SimpleQueue[Callable[[], None] | None]()
        self._number = 0

    def run(self, work: Callable[[T], None], parts: Sequence[T]) -> None:
        """Call `work` with each part, in as many threads, and wait for all of them. Raises what one of them raises.

        Raises RuntimeError if no more threads can be started, and lets an interrupt through at once.
        """
        ready = threading.Barrier(len(parts))
        left = threading.Semaphore(0)
        failures = list[BaseException]()

        def job(part: T) -> None:
            try:
                ready.wait()
                work(part)
            except threading.BrokenBarrierError:  # interrupted before all had started
                pass
            except BaseException as error:  # noqa: BLE001 - raised by the caller's thread
                failures.append(error)
            finally:
                left.release()

        try:
            while self._number < len(parts):
                threading.Thread(target=self._serve, daemon=True).start()
                self._number += 1
            for part in parts:
                self._jobs.put(partial(job, part))
            for _ in parts:
                while not left.acquire(timeout=0.5):  # without a timeout, Windows cannot interrupt it
                    pass
        except BaseException:
            ready.abort()
            raise
        if failures:
            raise failures[0]

    def close(self) -> None:
        """Let the threads end when they have finished what they are doing."""
        for _ in range(self._number):
            self._jobs.put(None)
        self._number = 0

    def _serve(self) -> None:
        while job := self._jobs.get():
            job()
