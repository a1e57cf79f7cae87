"""The text of a run: only what there is, in at most 80 columns."""

from __future__ import annotations

import json

from msgspec import structs

from bench.runs import all_operations, key, measurement, run_of
from keyvouch.bench import Run, as_json, as_text, compare_runs
from keyvouch.bench.text import failures_as_text, slower_as_text
from keyvouch.bench.units import encodable

FULL = run_of(*all_operations("A", 30e-6, peer=True), *all_operations("B", 45e-3))


def test_parts() -> None:
    """The keys, the table, the notes and the conclusions have one empty line between them."""
    text = as_text(FULL)
    assert text.count("\n\n") == 3
    assert "\n\n\n" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_header() -> None:
    """Each column has a header that says what it is."""
    [header] = [line for line in as_text(FULL).splitlines() if "p99.9" in line]
    assert header.split() == ["per", "s", "±", "p50", "p90", "p99", "p99.9", "max", "CPU/1k"]


def test_micro_sign() -> None:
    """Microseconds have the sign beside "±", in the table as in the sentences; JSON is ASCII as before."""
    text = as_text(FULL)
    assert "30.0 µs" in text
    assert " us" not in text
    document = as_json(FULL)
    assert any(" us" in each for each in json.loads(document)["findings"])
    assert "µ" not in document


def test_encodings() -> None:
    """Code pages of Windows have both signs; ASCII has none, and an unknown encoding is taken for it."""
    assert all(encodable("5 µs ±", each) == "5 µs ±" for each in ("utf-8", "cp1252", "cp437", "latin-1"))
    assert all(encodable("5 µs     ±", each) == "5 us    +-" for each in ("ascii", "unknown", None))


def test_interrupted_before_the_first_measurement() -> None:
    """There is no empty table."""
    run = run_of(keys=[key("A")], interrupted=True)
    assert as_text(run) == "A  pem:A.pem\n   RSA-2048, keyvouch 0.1.0\n\nNothing was measured."
    assert as_text(run_of(interrupted=True)) == "Nothing was measured."


def test_interrupted() -> None:
    """What was not reached is named; a key that cannot be measured is not part of it."""
    measured = [
        measurement("A", times=[1e-3]),
        measurement("A", "assertion", [1e-3]),
        measurement("B", "assertion", [1e-3]),
    ]
    run = run_of(*measured, keys=[key("A"), key("B"), key("C", error="It failed.")], interrupted=True)
    assert "\nInterrupted: this is what was measured until then.\n" in as_text(run)
    assert "\nNot measured before the interrupt: B: signature.\n" in as_text(run)
    complete = run_of(*measured[:2], interrupted=True)
    assert "Not measured before" not in as_text(complete)


def test_interrupted_before_tokens() -> None:
    """Access tokens are missing only if they were requested for another key."""
    operations = ("signature", "assertion")
    measured = [measurement(label, each, [1e-3]) for label in "AB" for each in operations]
    run = run_of(*measured, measurement("A", "token", [1e-3], algorithm=None), interrupted=True)
    assert "Not measured before the interrupt: B: access token." in as_text(run)


def failing() -> Run:
    """A run in which the second key cannot be opened, and the first one cannot make assertions."""
    failed = measurement("A", "assertion", errors={"throttled": 3}, error="Too many requests.")
    good = [each for each in all_operations("A", 30e-6) if each.operation != "assertion"]
    return run_of(*good, failed, keys=[key("A"), key("B", error="Key not found: app. " * 8)])


def test_what_fails_now() -> None:
    """Failures are grouped by key, with the reason, in at most 80 columns."""
    text = failures_as_text(failing(), FULL)
    assert text
    assert text.startswith(
        "Measured before, but failing now:\n"
        "  A: Client assertion, PS256.\n"
        "     Too many requests.\n"
        "  B: Open, connecting to the store; First signature, PS256; Open, already\n"
        "     connected; "
    )
    assert " ".join(text.split()).count("Key not found: app.") == 8
    assert max(map(len, text.splitlines())) <= 80
    assert failures_as_text(FULL, FULL) is None


def test_labels_are_those_of_the_new_run() -> None:
    """Keys in another order have other letters now."""
    now = structs.replace(failing(), keys=(key("A", uri="pem:B.pem", error="It failed."), key("B", uri="pem:A.pem")))
    text = failures_as_text(structs.replace(now, measurements=()), FULL)
    assert text
    assert "  A: Open, connecting" in text
    assert "  B:" not in text


def test_what_became_slower() -> None:
    """It is grouped by key, too."""
    slow = run_of(*all_operations("A", 90e-6, peer=True), *all_operations("B", 45e-3))
    text = slower_as_text(compare_runs(slow, FULL), 0.1)
    assert text
    assert text.startswith(
        "Slower than before by at least 10 %:\n  A: Open, connecting to the store; First signature, PS256; "
    )
    assert "B:" not in text
    assert slower_as_text(compare_runs(FULL, FULL), 0.1) is None
