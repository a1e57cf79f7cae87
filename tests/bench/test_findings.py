"""What follows from a run, sentence by sentence."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from bench.runs import LIMIT, all_operations, key, latencies, measurement, run_of, threads_of
from keyvouch.bench import Interval, Measurement, as_text
from keyvouch.bench.findings import findings

BASE = [1e-3 * (1 + number % 5 / 100) for number in range(20)]


def of_rounds(label: str, factor: float, count: int = 20, operation: str = "signature") -> Measurement:
    rounds = [factor * each for each in BASE[:count]]
    return measurement(label, operation, latencies(factor * 1e-3), rounds=rounds)


def test_faster() -> None:
    """The fastest key is compared with the others in the order of their speed, with confidence intervals."""
    run = run_of(of_rounds("A", 3.0), of_rounds("B", 1.0), of_rounds("C", 1.5))
    assert findings(run) == [
        "Signature, PS256: B is 1.50 times as fast as C (1.50 to 1.50) and 3.00 times as fast as A (3.00 to 3.00)."
    ]


def test_within_the_noise() -> None:
    """Keys that differ by less than the noise are not called faster."""
    run = run_of(of_rounds("A", 1.001), of_rounds("B", 1.0), of_rounds("C", 1.002), of_rounds("D", 2.0))
    [found] = findings(run)
    assert found == (
        "Signature, PS256: B is 2.00 times as fast as D (2.00 to 2.00); "
        "the difference between B and A is within the noise (A takes 1.00 to 1.00 times as long); "
        "the difference between B and C is within the noise (C takes 1.00 to 1.00 times as long)."
    )


def test_too_few_rounds() -> None:
    """Without a confidence interval the sentence says that it is uncertain."""
    run = run_of(of_rounds("A", 1.0, count=4), of_rounds("B", 2.0, count=4))
    assert findings(run) == ["Signature, PS256: there were too few rounds to compare A with B."]


def test_many_keys() -> None:
    """Of many keys, only the next and the slowest are compared with the fastest."""
    run = run_of(*(of_rounds(label, 1.0 + number) for number, label in enumerate("ABCDEFGH")))
    [found] = findings(run)
    assert found == (
        "Signature, PS256: A, B and H are the fastest, the next and the slowest of 8 keys; "
        "A is 2.00 times as fast as B (2.00 to 2.00) and 8.00 times as fast as H (8.00 to 8.00)."
    )


def test_many_keys_of_which_some_are_equal() -> None:
    """Of many keys, those within the noise of the fastest are named with it, and only the slowest is compared."""
    factors = dict(zip("ABCDEFGH", (2.0, 3.0, 4.0, 1.0, 5.0, 6.0, 1.001, 8.0), strict=True))
    [found] = findings(run_of(*(of_rounds(label, factor) for label, factor in factors.items())))
    assert found == (
        "Signature, PS256: D and G are the fastest of 8 keys (the difference is within the noise); "
        "H is the slowest: D is 8.00 times as fast as H (8.00 to 8.00)."
    )


def test_many_equal_keys() -> None:
    """If even the slowest is within the noise, none is the fastest."""
    [found] = findings(run_of(*(of_rounds(label, 1.0 + number / 1000) for number, label in enumerate("ABCDEFGH"))))
    assert found == "Signature, PS256: none of 8 keys is clearly the fastest: H takes 1.01 to 1.01 times as long as A."


def test_order() -> None:
    """Signatures and assertions come first, then openings; what explains them is not compared."""
    run = run_of(*all_operations("A", 1e-3), *all_operations("B", 2e-3))
    assert [each.partition(":")[0] for each in findings(run)] == [
        "Signature, PS256",
        "Client assertion, PS256",
        "First signature, PS256",
        "Open, already connected",
        "Open, connecting to the store",
    ]


def test_layers() -> None:
    """With the bare library measured, each key has a sentence on what keyvouch adds to it."""
    times = {"assertion": 0.65, "stored_key": 0.62, "peer": 0.6, "signature": 0.64}
    run = run_of(*(of_rounds("A", factor, operation=operation) for operation, factor in times.items()))
    [found] = [each for each in findings(run) if "bare library" in each]
    assert found == (
        "A: a client assertion takes 650 µs, of which the framework takes 30.0 µs, the store's plugin 20.0 µs "
        "and the bare library 600 µs."
    )


def test_only_the_first_number_of_threads_is_compared() -> None:
    """What more threads bring is said by the knees."""
    run = run_of(*threads_of("A", {1: 100, 4: 200}), *threads_of("B", {1: 50, 4: 60}))
    assert sum("times as fast" in each for each in findings(run)) == 1


def test_only_key() -> None:
    """A single key has nothing to be compared with: the sentences say how fast it is."""
    times = [2e-3] * 490 + [16e-3] * 10
    token = measurement("A", "token", [0.08] * 20, algorithm=None)
    others = [measurement("A", operation, times) for operation in ("assertion", "peer")]
    assert findings(run_of(measurement("A", times=times), *others, token)) == [
        "Signature: A takes 2.00 ms (median), and at most 16.0 ms in 99 % of cases.",
        "Client assertion: A takes 2.00 ms (median), and at most 16.0 ms in 99 % of cases.",
        "Access token: A takes 80.0 ms (median of 20).",
    ]


@pytest.mark.parametrize(("count", "tail"), [(1, ", measured once"), (3, " (median of 3)")])
def test_only_key_with_few_samples(count: int, tail: str) -> None:
    """A percentile that would only repeat the maximum is not reported."""
    assert findings(run_of(measurement("A", times=[2e-3] * count))) == [f"Signature: A takes 2.00 ms{tail}."]


def test_knees() -> None:
    """For each key: where more threads no longer help, or that even the most did."""
    run = run_of(
        *threads_of("A", {1: 100, 2: 190, 4: 191}),
        *threads_of("B", {1: 1500, 2: 1510, 4: 1490}),
        *threads_of("C", {1: 10, 2: 20, 4: 40}),
    )
    assert findings(run)[-3:] == [
        "A: the knee is at 2 threads: more do not clearly increase the throughput of 190 signatures per second.",
        "B: the knee is at 1 thread: more do not clearly increase the throughput of 1,500 signatures per second.",
        "C: no knee up to 4 threads: throughput still grows there, with 40.0 signatures per second.",
    ]


def test_unclear_knee() -> None:
    """If throughput seems to grow, but within the noise, the sentence asks for a longer measurement."""
    one, *more = threads_of("A", {1: 564, 2: 737, 4: 858, 8: 892})
    noisy = [
        structs.replace(one, rates=[300, 900] * 10),
        *(structs.replace(each, rates=[900, 300] * 10) for each in more),
    ]
    assert findings(run_of(*noisy))[-1] == (
        "A: the knee is at 1 thread or more: with more, throughput is up to 58 % above the 564 signatures per second "
        "there, but within the noise. Measure longer to find the knee."
    )


def test_knee_only_of_the_main_algorithm() -> None:
    """With several algorithms, the sentence is about the one that assertions use."""
    others = [measurement("A", times=[1e-3] * 9, threads=threads, algorithm="RS256") for threads in (1, 2)]
    assert sum("threads" in each for each in findings(run_of(*others, *threads_of("A", {1: 100, 2: 190})))) == 1


def paced(label: str, achieved: float, **more: Any) -> Measurement:
    """Signatures in an open loop, with 200 requested each second, of which 99 % take at most 16 ms."""
    times = [2e-3] * 490 + [16e-3] * 10
    return measurement(label, times=times, rate=200, per_second=Interval(achieved, achieved - 1, achieved + 1), **more)


def test_rate_is_carried() -> None:
    """A key carries a rate if at least 98 % of it was achieved without errors."""
    assert findings(run_of(paced("A", 196.1))) == [
        "Signature: A carries 200 per second; 99 % end within 16.0 ms of their intended start."
    ]


def test_rate_is_not_carried() -> None:
    """The sentence says what was achieved."""
    [found] = findings(run_of(paced("A", 150.0)))
    assert found == (
        "Signature: A does not carry 200 per second: 150 per second were achieved; "
        "99 % end within 16.0 ms of their intended start."
    )


@pytest.mark.parametrize(
    ("interval", "doubt"),
    [
        (Interval(190, 180, 200), "190 per second were achieved (180 to 200)"),
        (Interval(190, None, None), "190 per second were achieved, in too few rounds"),
    ],
)
def test_uncertain_rate(interval: Interval, doubt: str) -> None:
    """Without errors, a rate that may have been achieved is not said to be too high."""
    [found] = findings(run_of(measurement("A", times=[2e-3] * 500, rate=200, per_second=interval)))
    assert found == (
        f"Signature: whether A carries 200 per second is uncertain: {doubt}; "
        "99 % end within 2.00 ms of their intended start."
    )


def test_rate_with_errors_is_not_carried() -> None:
    """A rate is not carried if some of the operations fail."""
    [found] = findings(run_of(paced("A", 199.0, errors={"store-unavailable": 2})))
    assert found == (
        "Signature: A does not carry 200 per second: 199 per second were achieved and 2 of 502 failed "
        "(store-unavailable); 99 % end within 16.0 ms of their intended start."
    )


def test_rate_with_errors_only() -> None:
    """If nothing succeeds there is no latency."""
    run = run_of(measurement("A", rate=200, errors={"throttled": 40, "access-denied": 2}))
    assert findings(run)[0] == ("Signature: A does not carry 200 per second: all 42 failed (access-denied, throttled).")


def test_rate_with_few_samples() -> None:
    """Below 100 operations there is no 99th percentile."""
    run = run_of(measurement("A", times=[2e-3, 3e-3], rate=0.5, per_second=Interval(0.5, None, None)))
    assert findings(run) == ["Signature: A carries 0.5 per second; all end within 3.00 ms of their intended start."]


def test_throttled() -> None:
    """All operations that sign count towards the limit; openings do not."""
    stopped: dict[str, Any] = {"errors": {"throttled": 1}, "stopped": True}
    run = run_of(
        measurement("A", "open_warm", latencies(1e-2, 12)),
        measurement("A", times=latencies(1e-3, 1500), seconds=5.0, **stopped),
        measurement("A", "assertion", latencies(1e-3, 500), seconds=4.5),
    )
    assert findings(run)[-1] == "Limit found for A: throttled after 2,000 signatures in 9.50 s (about 211 per second)."


def test_throttled_in_an_open_loop() -> None:
    """An open loop goes on when it is throttled, so the sentence says how many were."""
    run = run_of(measurement("A", times=latencies(1e-3, 2000), rate=300, errors={"throttled": 990}, seconds=10.0))
    assert findings(run)[-1] == (
        "Limit found for A: 2,000 signatures in 10.0 s succeeded (about 200 per second), and 990 were throttled."
    )


def test_throttled_at_once() -> None:
    """A key that is throttled before anything is counted has no rate."""
    run = run_of(measurement("A", errors={"throttled": 1}, stopped=True, seconds=0.0))
    assert findings(run) == ["Limit found for A: throttled during the warm-up."]


def test_published_limit() -> None:
    """What the service publishes is compared with what was measured."""
    run = run_of(*threads_of("A", {1: 40, 4: 143}), keys=[key("A", limit=LIMIT)])
    assert findings(run)[-1] == (
        "A: the vault's published limit is 2,000 signatures in 10 s, which is 200 per second; "
        "measured without being throttled: 143 per second."
    )


def test_published_limit_when_throttled() -> None:
    """Nothing was measured without being throttled."""
    run = run_of(measurement("A", times=[1e-3], errors={"throttled": 1}), keys=[key("A", limit=LIMIT)])
    assert findings(run)[-1] == ("A: the vault's published limit is 2,000 signatures in 10 s, which is 200 per second.")


def test_price() -> None:
    """The price of a million signatures is repeated, without a currency."""
    run = run_of(of_rounds("A", 1.0), keys=[key("A", price=15.0)])
    assert findings(run)[-1] == "A: a million signatures cost 15.00."


def test_nothing_measured() -> None:
    """A run in which everything failed has no findings."""
    run = run_of(measurement("A", errors={"store-unavailable": 3}), keys=[key("A"), key("B", error="It failed.")])
    assert findings(run) == []


def test_width() -> None:
    """The table fits 80 columns and its columns are aligned, however many threads and keys there are."""
    run = run_of(*threads_of("A", {1: 900, 1024: 31_234}), *threads_of("K27", {1: 1_234_567, 16: 31_234}))
    table = as_text(run).split("\n\n")[1].splitlines()
    rows = [line for line in table if "PS256" in line]
    assert [len(line) for line in [table[0], *rows]] == [80] * 5
    assert "1024 thr  31,234" in rows[1]
