"""Which key is faster, and what has changed: with constructed samples, since a test does not measure time."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from msgspec import structs

from keyvouch.bench import Interval, Key, Machine, Measurement, Run, compare_keys, compare_runs, find_knees, name_of
from keyvouch.bench.comparison import differences, no_longer_measured

HERE = Machine(system="Linux 6.1", processor="a CPU", cores=2, memory=2**32, python="CPython 3.13.0")


def key(label: str, uri: str = "", preferred: str = "PS256") -> Key:
    return Key(label, uri or f"pem:{label}.pem", "pem", "RSA-2048", preferred, "keyvouch 0.1.0")


def measurement(label: str, rounds: Sequence[float], threads: int = 1, algorithm: str = "PS256") -> Measurement:
    middle = sorted(rounds)[len(rounds) // 2]
    return Measurement(
        key=label,
        operation="signature",
        threads=threads,
        count=100 * len(rounds),
        errors={},
        seconds=3.0,
        cpu_seconds=1.0,
        algorithm=algorithm,
        latency={"p50": middle},
        per_second=Interval(1 / middle, 0.99 / middle, 1.01 / middle),
        rounds=tuple(rounds),
        rates=tuple(1 / each for each in rounds),
    )


def run_of(*measurements: Measurement, keys: Sequence[Key] = (), reference: Sequence[float] = ()) -> Run:
    labels = dict.fromkeys(each.key for each in measurements)
    return Run(
        started="2026-12-01T00:00:00+00:00",
        machine=HERE,
        versions={"keyvouch": "0.1.0"},
        seconds=3.0,
        keys=tuple(keys) or tuple(key(each) for each in labels),
        measurements=measurements,
        reference=tuple(reference),
    )


def noisy(source: random.Random, factor: float, disturbances: Sequence[float]) -> list[float]:
    """Return rounds of a key, with noise of its own, on a machine that is disturbed now and then."""
    return [factor * each * source.lognormvariate(0, 0.03) for each in disturbances]


@pytest.mark.parametrize(("factor", "significant"), [(1.0, False), (1.1, True)])
def test_noise(factor: float, significant: bool) -> None:
    """Two identical keys are within the noise, and one that is 10 % slower is found, in at least 95 of 100 runs."""
    source = random.Random(3)
    found = 0
    for _ in range(100):
        disturbances = [source.choice([1, 1, 1, 1.5, 3]) for _ in range(60)]
        run = run_of(
            measurement("A", noisy(source, 1.0, disturbances)), measurement("B", noisy(source, factor, disturbances))
        )
        [comparison] = compare_keys(run)
        found += comparison.significant == significant
    assert found >= 95


def test_fastest_is_the_measure() -> None:
    """Each key is compared with the fastest one, in the order of their speed."""
    run = run_of(
        measurement("A", [3.0] * 20),
        measurement("B", [1.0] * 20),
        measurement("C", [2.0] * 20),
    )
    found = [(each.faster.key, each.slower.key, each.ratio.value) for each in compare_keys(run)]
    assert found == [("B", "C", 2.0), ("B", "A", 3.0)]


def test_keys_of_different_types() -> None:
    """Keys without a common algorithm are compared by the one that each uses for assertions."""
    run = run_of(
        measurement("A", [2.0] * 20),
        measurement("A", [9.0] * 20, algorithm="RS256"),
        measurement("B", [1.0] * 20, algorithm="ES256"),
        keys=[key("A"), key("B", preferred="ES256")],
    )
    [comparison] = compare_keys(run)
    assert comparison.ratio.value == 2.0


def test_chosen_algorithm() -> None:
    """If the algorithm that assertions use was not measured, the first one is compared."""
    run = run_of(
        measurement("A", [2.0] * 20, algorithm="RS256"),
        measurement("A", [9.0] * 20, algorithm="RS512"),
        measurement("B", [1.0] * 20, algorithm="RS256"),
    )
    [comparison] = compare_keys(run)
    assert comparison.ratio.value == 2.0


def test_negligible() -> None:
    """A difference of less than 2 % is not reported, however certain it is."""
    [comparison] = compare_keys(run_of(measurement("A", [1.0] * 60), measurement("B", [1.019] * 60)))
    assert not comparison.significant


def test_change() -> None:
    """The same key in two runs: slower by 20 %, with certainty."""
    old, new = run_of(measurement("A", [1.0] * 20)), run_of(measurement("A", [1.2] * 20))
    [change] = compare_runs(new, old)
    assert change.significant
    assert change.is_slower_by(0.1)
    assert not change.is_slower_by(0.3)


def test_slower_machine() -> None:
    """If the machine itself was slower by that much, the change is noise."""
    old = run_of(measurement("A", [1.0] * 20), reference=[1.0] * 20)
    new = run_of(measurement("A", [1.2] * 20), reference=[1.3] * 20)
    [change] = compare_runs(new, old)
    assert not change.significant


def test_keys_are_matched_by_uri() -> None:
    """The order of the keys may change between the runs."""
    old = run_of(measurement("A", [1.0] * 20), keys=[key("A", "pem:one.pem")])
    new = run_of(
        measurement("A", [9.0] * 20),
        measurement("B", [2.0] * 20),
        keys=[key("A", "pem:two.pem"), key("B", "pem:one.pem")],
    )
    [change] = compare_runs(new, old)
    assert (change.new.key, change.ratio.value) == ("B", 2.0)


def test_moved_key() -> None:
    """If no URI is in both, the labels say which keys are meant: a key that was moved to another store."""
    old = run_of(measurement("A", [1.0] * 20), keys=[key("A", "pem:app.pem")])
    new = run_of(measurement("A", [2.0] * 20), keys=[key("A", "pkcs11:object=app")])
    [change] = compare_runs(new, old)
    assert change.ratio.value == 2.0


def test_other_versions() -> None:
    """What else differs between two runs is listed."""
    old = run_of(measurement("A", [1.0]))
    new = structs.replace(old, versions={"keyvouch": "0.2.0", "hvac": "2.4.0"})
    assert differences(new, old) == {"keyvouch": ("0.1.0", "0.2.0"), "hvac": ("not installed", "2.4.0")}


@pytest.mark.parametrize(
    ("rates", "threads", "still_growing"),
    [
        ({1: 760, 2: 1080, 4: 1543, 8: 1282}, 4, False),  # SoftHSM, as published for pkcs11key
        ({1: 100, 2: 200, 4: 300, 8: 300}, 4, False),  # three slots
        ({1: 100, 2: 101, 4: 99}, 1, False),
        ({1: 100, 2: 200, 4: 400}, 4, True),
    ],
)
def test_knee(rates: dict[int, float], threads: int, still_growing: bool) -> None:
    """The knee is the smallest number of threads with practically the highest throughput."""
    run = run_of(*(measurement("A", [1 / rate] * 20, threads=number) for number, rate in rates.items()))
    [knee] = find_knees(run)
    assert (knee.threads, knee.per_second, knee.still_growing) == (threads, rates[threads], still_growing)


def test_noisy_throughput() -> None:
    """A throughput that is higher only by chance does not move the knee, but makes it uncertain."""
    source = random.Random(1)
    points = [
        measurement("A", [source.uniform(0.5, 1.5) / rate for _ in range(20)], threads=threads)
        for threads, rate in {1: 100, 2: 120, 4: 130}.items()
    ]
    exact = [
        structs.replace(each, per_second=Interval(rate, 80, 150))
        for each, rate in zip(points, (100, 120, 130), strict=True)
    ]
    [knee] = find_knees(run_of(*exact))
    assert (knee.threads, knee.still_growing, knee.uncertain) == (1, False, True)
    assert knee.possible_growth == pytest.approx(0.3)


def test_disturbance_of_all_threads() -> None:
    """Wide intervals do not hide a growth that is there in each turn."""
    source = random.Random(1)
    speeds = [source.uniform(0.5, 1.5) for _ in range(20)]
    rates = {1: 564, 2: 737, 4: 858, 8: 892}
    points = [measurement("A", [1 / rate / each for each in speeds], threads=number) for number, rate in rates.items()]
    [knee] = find_knees(run_of(*points))
    assert (knee.threads, knee.still_growing, knee.uncertain) == (4, False, False)


def test_knee_in_an_older_document() -> None:
    """Without the rates of each round, the intervals must not overlap."""
    points = [measurement("A", [1 / rate] * 20, threads=threads) for threads, rate in {1: 100, 2: 120, 4: 130}.items()]
    older = [structs.replace(each, rates=()) for each in points]
    [knee] = find_knees(run_of(*older))
    assert (knee.threads, knee.still_growing) == (4, True)
    wide = [structs.replace(each, per_second=Interval(1 / each.rounds[0], 80, 150)) for each in older]
    [knee] = find_knees(run_of(*wide))
    assert (knee.threads, knee.uncertain) == (1, True)


def test_knee_with_too_few_rounds() -> None:
    """Without intervals nothing is certain."""
    [knee] = find_knees(run_of(*(measurement("A", [1 / rate] * 4, rate // 100) for rate in (100, 200))))
    assert (knee.threads, knee.uncertain) == (1, True)


def test_no_knee() -> None:
    """One number of threads says nothing about others."""
    assert find_knees(run_of(measurement("A", [1.0] * 20))) == []


def test_key_of_another_type() -> None:
    """Keys of different types are not compared only because both have the first label."""
    old = run_of(measurement("A", [1.0] * 20), keys=[key("A", "pem:app.pem")])
    other = structs.replace(key("A", "pkcs11:object=app"), key_type="P-256")
    assert compare_runs(run_of(measurement("A", [2.0] * 20), keys=[other]), old) == []


def test_unknown_operation() -> None:
    """An operation of a later version has its own name as its title."""
    found = structs.replace(measurement("A", [1e-3]), operation="verification")
    assert name_of(found) == "A: verification, PS256"


def test_what_fails_now() -> None:
    """A measurement that only fails is not an improvement; nor is a key that cannot be opened any more."""
    old = run_of(measurement("A", [1.0] * 20), measurement("B", [1.0] * 20))
    failing = structs.replace(measurement("A", [1.0] * 20), rounds=(), count=0, errors={"access-denied": 3})
    closed = structs.replace(key("B"), error="Key not found.")
    new = run_of(failing, keys=[key("A"), closed])
    assert [each.key for each in no_longer_measured(new, old)] == ["A", "B"]
    assert no_longer_measured(run_of(measurement("A", [2.0] * 20)), old) == []


def test_twenty_times_slower_in_many_comparisons() -> None:
    """What took twenty rounds is judged, also among many other measurements."""
    names = [f"RS{number}" for number in range(30)]
    old = run_of(*(measurement("A", [1.0] * 20, algorithm=each) for each in names))
    new = run_of(*(measurement("A", [20.0] * 20, algorithm=each) for each in names))
    assert all(each.significant for each in compare_runs(new, old))
