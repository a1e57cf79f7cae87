"""A clock that only the measured operations advance, so that measurements are exact."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from keyvouch.bench import rounds


class FakeClock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 0
        self.slept = list[float]()
        self._lock = threading.Lock()

    def advance(self, seconds: float) -> None:
        with self._lock:
            self.now += round(seconds * 1e9)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)

    def perf_counter_ns(self) -> int:
        return self.now

    def perf_counter(self) -> float:
        return self.now / 1e9

    process_time = perf_counter
    monotonic = staticmethod(time.monotonic)


@pytest.fixture
def clock(monkeypatch: Any) -> FakeClock:
    fake = FakeClock()
    monkeypatch.setattr(rounds, "time", fake)
    return fake
