"""Can the results of `keyvouch bench` be relied on? With stores whose speed is known.

    python benchmarks/accuracy.py [--quick]

- Two copies of a key must be within the noise in 19 of 20 runs, and a store that is 10 % slower must be found in 19
  of 20.
- The knee of a store with a known number of slots must be found within one of the measured numbers of threads.
- A stall of one second must appear in p99.9 and in the maximum at a constant rate.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import goals
from keyvouch.algorithms import Algorithm
from keyvouch.bench import Plan, Run, compare_keys, find_knees, measure_keys
from keyvouch.bench.intervals import Interval

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from scripted_store import Script

RUNS = 20
SLOTS = (1, 2, 3, 4, 6)
THREADS = (1, 2, 4, 8)
STALL, STALLED_CALL = 1.0, 1000
Sign = Callable[[object, bytes, Algorithm], bytes]


def measure_subject(seconds: float) -> goals.Part:
    """Measure stores of known speed, and return how often the conclusion was right."""
    runs = RUNS if seconds >= 1 else 3
    equal = sum(not is_different(two_stores(1.0, seconds)) for _ in range(runs))
    slower = sum(is_different(two_stores(1.1, seconds)) for _ in range(runs))
    knees = {slots: knee_of(slots, seconds) for slots in SLOTS}
    stalled = stall()
    found = [
        goals.Goal(f"two copies of a key are within the noise, of {runs} runs", runs * 0.95, exactly(equal), True),
        goals.Goal(f"a store made 10 % slower is found, of {runs} runs", runs * 0.95, exactly(slower), True),
        *(
            goals.Goal(
                f"the knee of a store with {slots} slots, in steps from the right one", 1, exactly(steps(slots, knee))
            )
            for slots, knee in knees.items()
        ),
        goals.Goal("a stall of 1 s at 200 per second, in p99.9", 0.9, exactly(stalled["p99.9"]), True, "s"),
        goals.Goal("the same, in the maximum", 0.99, exactly(stalled["max"]), True, "s"),
    ]
    text = (
        "Stores of known speed, measured by `keyvouch bench`: an RSA-2048 key in memory, the same with 10 % more\n"
        "work, stores that serve only so many signatures of 5 ms at once, and one that stalls once for a second."
    )
    return goals.Part("Can the results be relied on?", text, found)


def exactly(value: float) -> Interval:
    """Return a number that is not the result of chance."""
    return Interval(value, value, value)


def two_stores(factor: float, seconds: float) -> Run:
    """Measure two stores with the same key, the second of which takes `factor` times as long."""
    with Script("RSA-2048") as first, Script("RSA-2048") as second:
        second.signing = slowed(second.signing, factor)
        return measure_keys([first.uri, second.uri], Plan(seconds, algorithms=["PS256"]))


def slowed(sign: Sign, factor: float) -> Sign:
    """Return a function that takes `factor` times as long to sign."""

    def sign_slowly(key: object, message: bytes, algorithm: Algorithm) -> bytes:
        began = time.perf_counter()
        signature = sign(key, message, algorithm)
        end = began + (time.perf_counter() - began) * factor
        while time.perf_counter() < end:
            pass
        return signature

    return sign_slowly


def is_different(run: Run) -> bool:
    """Return True if one of the keys was found to sign faster."""
    return any(each.significant for each in compare_keys(run) if each.operation == "signature")


def knee_of(slots: int, seconds: float) -> int:
    """Return the knee that is found for a store that makes only so many signatures at once."""
    with Script() as script, limited(script, slots):
        run = measure_keys([script.uri], Plan(seconds, threads=THREADS))
    return find_knees(run)[0].threads


@contextlib.contextmanager
def limited(script: Script, slots: int) -> Iterator[None]:
    """Let the store make at most `slots` signatures at once, each of which takes 5 ms."""
    free, sign = threading.Semaphore(slots), script.signing

    def sign_when_free(key: object, message: bytes, algorithm: Algorithm) -> bytes:
        with free:
            time.sleep(0.005)
            return sign(key, message, algorithm)

    script.signing = sign_when_free
    yield


def steps(slots: int, knee: int) -> int:
    """Return how many of the measured numbers lie between the knee and the number of slots."""
    right = next(number for number in THREADS if number >= slots)
    return abs(THREADS.index(right) - THREADS.index(knee))


def stall() -> dict[str, float]:
    """Return the latencies of a store that stalls once for a second while signatures start at a constant rate."""
    with Script() as script:
        sign, lock = script.signing, threading.Lock()
        calls = 0

        def stalling(key: object, message: bytes, algorithm: Algorithm) -> bytes:
            nonlocal calls
            with lock:
                calls += 1
                if calls == STALLED_CALL:
                    time.sleep(STALL)
            return sign(key, message, algorithm)

        script.signing = stalling
        run = measure_keys([script.uri], Plan(rate=200))
    return max((each.latency for each in run.measurements if each.rate), key=lambda latency: latency["max"])


if __name__ == "__main__":
    goals.main(measure_subject)
