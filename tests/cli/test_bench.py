"""`keyvouch bench`."""

from __future__ import annotations

import gc
import io
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from msgspec import structs

from keyvouch import bench, cli
from keyvouch.bench.output_files import require_writable
from keyvouch.cli import bench as command
from keyvouch.errors import ConfigurationError, KeyNotFound
from scripted_store import Script


class Done(NamedTuple):
    """How a command ended."""

    status: int
    output: str
    errors: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Return a function that runs the command in this process, which has the scripted stores."""
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    loggers = [logging.getLogger(name) for name in (None, "keyvouch", "keyvouch.audit")]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]

    def run_here(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["keyvouch", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main(list(arguments))
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, *capsys.readouterr())

    yield run_here
    gc.enable()
    for number, handler in signals.items():
        signal.signal(number, handler)
    for logger, handlers, level, propagate in before:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def interrupt(timeout: float) -> None:
    """Press Ctrl-C."""
    raise KeyboardInterrupt


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """Return the result of a run that took ten times as long as any other."""
    with Script() as script:
        found = bench.measure_keys([script.uri], bench.Plan(count=20))
    fast = [structs.replace(each, rounds=tuple(time / 10 for time in each.rounds)) for each in found.measurements]
    path = tmp_path / "old.json"
    path.write_text(bench.as_json(structs.replace(found, measurements=tuple(fast))))
    return path


def test_table(run: Run) -> None:
    """The table fits 80 columns, and names what was measured."""
    with Script("RSA-2048") as script, Script("RSA-2048") as other:
        done = run("bench", "--seconds", "0.05", "--threads", "1,2", script.uri, other.uri)
    assert done.status == 0, done.errors
    assert max(map(len, done.output.splitlines())) <= 80
    for text in ("A  scripted:", "B  scripted:", "RSA-2048", "Client assertion", "A PS256 2 thr", "B RS512", "p99.9"):
        assert text in done.output


def test_quiet_in_a_pipe(run: Run) -> None:
    """Without a terminal there is no progress bar."""
    with Script() as script:
        done = run("bench", "--count", "1", script.uri)
    assert (done.status, done.errors) == (0, "")


def test_json(run: Run, tmp_path: Path) -> None:
    """The document can be read again, and says on what machine and with which versions it was measured."""
    with Script() as script:
        done = run("bench", "--count", "20", "--output", "json", script.uri)
    path = tmp_path / "run.json"
    path.write_text(done.output)
    found = bench.read_run(path)
    assert found.keys[0].uri == script.uri
    assert found.machine.cores >= 1
    assert "cryptography" in found.versions
    assert {"knees", "comparisons", "changes", "findings"} <= json.loads(done.output).keys()


def test_profiles(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arguments, the keys of all profiles are measured."""
    configuration = tmp_path / "config.toml"
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(configuration))
    with Script() as script, Script() as other:
        configuration.write_text(
            f'[profiles.one]\nkeys = ["{script.uri}", "{other.uri}"]\n[profiles.two]\nkeys = ["{script.uri}"]\n'
        )
        everything = json.loads(run("bench", "--count", "1", "--output", "json").output)
        two = json.loads(run("bench", "--count", "1", "--output", "json", "--profile", "two").output)
        named = json.loads(run("bench", "--count", "1", "--output", "json", "profile:two").output)
    assert [(each["label"], each["profile"]) for each in everything["keys"]] == [
        ("A", "one"),
        ("B", "one"),
        ("C", "two"),
    ]
    assert [each["profile"] for each in two["keys"]] == [each["profile"] for each in named["keys"]] == ["two"]


def test_nothing_to_measure(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without keys, the error says what to give."""
    configuration = tmp_path / "config.toml"
    configuration.write_text("[profiles]\n")
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(configuration))
    done = run("bench")
    assert done.status == 2
    assert "Give the URI of a key" in done.errors


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--threads", "one"], "is not a list of numbers such as 1,2,4,8"),
        (["--threads", "0"], "Use numbers from 1 to"),
        (["--price", "cheap"], "such as 0.03/10000"),
        (["--price", "1/0"], "such as 0.03/10000"),
        (["--price", "-1/-1"], "such as 0.03/10000"),
        (["--rate", "-1"], "Invalid rate"),
        (["--seconds", "0"], "Invalid duration"),
        (["--count", "-3"], "Invalid count: -3"),
        (["--algorithm", "PS128"], "PS128"),
        (["--fail-if-slower", "10%"], "--fail-if-slower needs --compare"),
        (["--compare", "/missing/old.json"], "Cannot read /missing/old.json"),
        (["--report", "/missing/report.html"], "/missing"),
        (["--report", "/"], "Is a directory"),
        (["--plot", "plot.gif"], "Use .png or .svg"),
        (["--token"], "--token needs a profile"),
    ],
)
def test_mistakes(run: Run, options: list[str], error: str) -> None:
    """They are reported before anything is measured."""
    with Script() as script:
        done = run("bench", *options, script.uri)
        assert script.count("sign") == 0
    assert done.status == 2
    assert error in done.errors


def test_one_file_for_report_and_plot(run: Run, tmp_path: Path) -> None:
    """One of them would replace the other."""
    with Script() as script:
        done = run("bench", "--report", f"{tmp_path}/plot.svg", "--plot", f"{tmp_path}/./plot.svg", script.uri)
        assert script.count("sign") == 0
    assert done.status == 2
    assert "need different files" in done.errors


@pytest.mark.skipif(sys.platform == "win32", reason="devices are not files there")
def test_devices_are_not_replaced(tmp_path: Path) -> None:
    """Root could replace /dev/stdout by a report. Nothing is written here, so that a fault does not do that either."""
    os.mkfifo(tmp_path / "fifo")
    for path in (Path("/dev/stdout"), Path("/dev/null"), Path("/proc/self/fd/1"), tmp_path / "fifo"):
        with pytest.raises(ConfigurationError, match="not a regular file"):
            require_writable(path)


def test_not_slower(run: Run, measured: Path) -> None:
    """A run that did not become slower succeeds."""
    with Script() as script:
        done = run("bench", "--count", "20", "--compare", str(measured), "--fail-if-slower", "5000%", script.uri)
    assert done.status == 0, done.errors
    assert "Compared with the run of" in done.output


def test_slower(run: Run, measured: Path) -> None:
    """What became slower is named, with an exit status of its own."""
    with Script() as script:
        content = measured.read_text().replace(json.loads(measured.read_text())["keys"][0]["uri"], script.uri)
        measured.write_text(content)
        done = run("bench", "--count", "20", "--compare", str(measured), "--fail-if-slower", "10%", script.uri)
    assert done.status == command.SLOWER == 8
    assert "Slower than before by at least 10 %:\n  A: Open, connecting to the store" in done.errors


def test_failing_now(run: Run, measured: Path) -> None:
    """What fails now is named by key, with the error."""
    with Script() as script, Script() as other:
        content = json.loads(measured.read_text())
        content["keys"][0]["uri"] = script.uri.replace("app", "missing")
        measured.write_text(json.dumps(content))
        arguments = ("--compare", str(measured), "--fail-if-slower", "10%", content["keys"][0]["uri"], other.uri)
        done = run("bench", "--count", "20", *arguments)
    assert done.status == command.SLOWER
    assert "failing now:\n  A: Open, connecting to the store; First signature" in done.errors
    assert done.errors.endswith(".\n     Key not found: missing.\n")


def test_interrupted_at_once(run: Run) -> None:
    """Ctrl-C before the first measurement prints no empty table."""
    with Script() as script:
        script.before["connect"] = interrupt
        done = run("bench", script.uri)
    assert done.status == 130
    assert done.output.endswith("\n\nNothing was measured.\n")
    assert "p99" not in done.output


def test_output_without_the_micro_sign(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signs are written as ASCII if the output cannot encode them."""
    with Script() as script, monkeypatch.context() as patched:
        for encoding, unit in (("utf-8", " µs"), ("ascii", " us")):
            written = io.BytesIO()
            patched.setattr(sys, "stdout", io.TextIOWrapper(written, encoding, write_through=True))
            run("bench", "--seconds", "0.05", script.uri)
            output = written.getvalue().decode()
            assert unit in output
            assert ("±" in output) == (encoding == "utf-8")


def test_nothing_in_common(run: Run, measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to compare is not a success for CI."""
    with Script("RSA-2048") as script:
        only_signature = ("--algorithm", "RS512", "--rate", "100", "--seconds", "0.1")
        content = json.loads(measured.read_text())
        content["measurements"] = []
        measured.write_text(json.dumps(content))
        done = run("bench", *only_signature, "--compare", str(measured), "--fail-if-slower", "10%", script.uri)
    assert done.status == 2
    assert "Nothing was measured in both runs" in done.errors


def test_other_processor(run: Run, measured: Path) -> None:
    """A result of another type of machine is refused before anything is measured."""
    content = json.loads(measured.read_text())
    content["machine"]["processor"] = "an abacus"
    measured.write_text(json.dumps(content))
    with Script() as script:
        done = run("bench", "--count", "1", "--compare", str(measured), "--fail-if-slower", "10%", script.uri)
        assert script.count("open") == 0
    assert done.status == 2
    assert "Cannot compare two processors: an abacus and " in done.errors


def test_too_few_rounds_to_compare(run: Run, measured: Path) -> None:
    """A comparison that cannot find anything is not a success for CI."""
    with Script() as script:
        measured.write_text(
            measured.read_text().replace(json.loads(measured.read_text())["keys"][0]["uri"], script.uri)
        )
        done = run("bench", "--count", "1", "--compare", str(measured), "--fail-if-slower", "10%", script.uri)
    assert done.status == 2
    assert "too few rounds" in done.errors


def test_report_that_cannot_be_written(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is printed nevertheless: the measurement may have taken an hour."""

    def fail(*_: object) -> None:
        raise ConfigurationError("The disk is full.", hint="Free some space.")

    monkeypatch.setattr("keyvouch.bench.html_report.write_report", fail)
    with Script() as script:
        done = run("bench", "--count", "1", "--report", str(tmp_path / "report.html"), script.uri)
    assert done.status == 2
    assert "The disk is full." in done.errors
    assert "Client assertion" in done.output


def test_interrupted_twice(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second Ctrl-C, while a store that stalls is closed, does not lose the result."""

    class Impatient(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            super().join(timeout)
            raise KeyboardInterrupt

    with Script() as script:

        def interrupt(timeout: float) -> None:
            if script.count("sign") == 1000:
                monkeypatch.setattr("keyvouch.bench.keys.threading.Thread", Impatient)
                raise KeyboardInterrupt

        script.before["sign"] = interrupt
        done = run("bench", "--seconds", "60", script.uri)
    assert done.status == 130
    assert "Interrupted: this is what was measured until then." in done.output


def test_interrupted(run: Run) -> None:
    """Ctrl-C prints what was measured until then."""
    with Script() as script:
        calls = list[int]()

        def interrupt(timeout: float) -> None:
            calls.append(1)
            if len(calls) == 1000:
                raise KeyboardInterrupt

        script.before["sign"] = interrupt
        done = run("bench", "--seconds", "60", script.uri)
    assert done.status == 130
    assert "Interrupted: this is what was measured until then." in done.output
    assert "Open, connecting to the store" in done.output


def test_missing_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra's packages, the error says how to install them."""
    monkeypatch.setitem(sys.modules, "hdrh", None)
    monkeypatch.delitem(sys.modules, "keyvouch.bench")
    monkeypatch.delattr("keyvouch.bench")
    with Script() as script:
        done = run("bench", script.uri)
    assert done.status == 2
    assert "hdrh" in done.errors
    assert "pip install '.[bench]'" in done.errors


@pytest.mark.parametrize("option", ["--report", "--plot"])
def test_missing_matplotlib(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    """What only plots and reports need is missed before the measurement."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with Script() as script:
        done = run("bench", "--count", "1", option, str(tmp_path / "plot.svg"), script.uri)
        assert script.count("sign") == 0
    assert done.status == 2
    assert "pip install '.[bench]'" in done.errors


def test_report_and_plot(run: Run, tmp_path: Path) -> None:
    """Both files are written, and named."""
    report, plot = tmp_path / "report.html", tmp_path / "plot.svg"
    with Script() as script:
        done = run("bench", "--count", "20", "--report", str(report), "--plot", str(plot), script.uri)
    assert done.status == 0, done.errors
    assert report.read_text().startswith("<!DOCTYPE html>")
    assert "<svg" in plot.read_text()
    assert str(report) in done.errors


def test_key_that_fails(run: Run) -> None:
    """The others are measured; the table says why this one was not, and its error ends the command."""
    with Script() as script:
        done = run("bench", "--count", "1", script.uri.replace("app", "missing"), script.uri)
    assert done.status == KeyNotFound.exit_status
    assert "not measured: Key not found: missing." in done.output
    assert "B ES256" in done.output
    assert "error[key-not-found]: Key not found: missing." in done.errors
