"""`keyvouch --debug` shows where an error was raised, without secrets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from keyvouch.cli import tracebacks
from keyvouch.errors import KeyNotFound, without_frames
from signing_in import Done

SECRET = "hunter2"
PLUGIN = """\
from keyvouch import errors

def expected(_):
    raise errors.KeyNotFound("No such key.", hint="Look elsewhere.")  # expected

def defect(_):
    raise ValueError("hunter2")  # defect

def wrapped(_):
    try:
        {}["hunter2"]  # cause
    except KeyError as error:
        raise errors.KeyUnusable("Damaged.", hint="Replace it.") from error  # wrapped

def suppressed(_):
    try:
        {}["hunter2"]  # suppressed cause
    except KeyError:
        raise errors.KeyUnusable("Damaged.", hint="Replace it.") from None  # suppressed

def denied(_):
    open("/nonexistent/hunter2")  # denied

def exits(_):
    raise SystemExit("hunter2")  # exits

def several(_):
    try:
        expected(_)
    except errors.KeyNotFound as error:
        raise ExceptionGroup("hunter2", [error])  # several
"""
PROGRAM = """
import sys
import plugin
from keyvouch.cli import main
from scripted_store import Script

with Script() as script:
    step, fault = sys.argv[1:3]
    del sys.argv[1:3]
    script.before[step] = getattr(plugin, fault)
    main([*sys.argv[1:], "--key", script.able_uri])
"""


def run_with_fault(folder: Path, step: str, fault: str, *arguments: str) -> Done:
    """Run the command with a store that raises at this step; the last arguments are the command's."""
    (folder / "plugin.py").write_text(PLUGIN)
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), step, fault, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        input="message",
        capture_output=True,
        text=True,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def frame(folder: Path, mark: str) -> str:
    """Return the frame of the plugin's line with this comment, as a traceback shows it."""
    line = next(number for number, text in enumerate(PLUGIN.splitlines(), 1) if text.endswith(f"  # {mark}"))
    return f'File "{folder / "plugin.py"}", line {line}, in '


FAULTS = {
    "expected": ["expected"],
    "defect": ["defect"],
    "wrapped": ["wrapped", "cause"],
    "suppressed": ["suppressed", "suppressed cause"],
    "denied": ["denied"],
    "exits": ["exits"],
    "several": ["several", "expected"],
}


CASES = [("keys", fault) for fault in FAULTS]
CASES += [(step, fault) for step in ("connect", "open", "sign") for fault in ("expected", "defect", "wrapped")]


@pytest.mark.parametrize("output", ["text", "json"])
@pytest.mark.parametrize(("step", "fault"), CASES)
def test_innermost_frame_is_shown(tmp_path: Path, step: str, fault: str, output: str) -> None:
    """Whatever a store raises and wherever: file and line of the innermost frames, and no text that may be secret."""
    command = "keys" if step == "keys" else "sign"
    done = run_with_fault(tmp_path, step, fault, "--debug", command, "--output", output)
    for mark in FAULTS[fault]:
        assert frame(tmp_path, mark) in done.errors
    assert SECRET not in done.errors


@pytest.mark.parametrize("fault", FAULTS)
def test_frames_are_hidden_without_debug(tmp_path: Path, fault: str) -> None:
    """Without --debug, no traceback is printed."""
    done = run_with_fault(tmp_path, "keys", fault, "keys")
    assert done.status != 0
    assert "Traceback" not in done.errors
    assert SECRET not in done.errors


def test_json_comes_before_the_traceback(tmp_path: Path) -> None:
    """With `--output json` the error is still one line of JSON, followed by the traceback."""
    done = run_with_fault(tmp_path, "keys", "expected", "--debug", "keys", "--output", "json")
    first, _, rest = done.errors.partition("\n")
    assert json.loads(first)["error"]["code"] == "key-not-found"
    assert rest.startswith("Traceback (most recent call last):\n")


def test_error_names_its_code(tmp_path: Path) -> None:
    """The text of an error begins with its code; that of any other exception with `defect`."""
    assert run_with_fault(tmp_path, "keys", "expected", "keys").errors.startswith(
        "error[key-not-found]: No such key.\n"
    )
    assert run_with_fault(tmp_path, "keys", "defect", "keys").errors.startswith("error[internal-error]: ")
    assert run_with_fault(tmp_path, "keys", "exits", "keys").errors.startswith("error[defect]: Unexpected SystemExit")


def test_chain_is_described_once() -> None:
    """Each exception of a chain, even of one with a loop, is described once, the oldest first."""
    first, second = ValueError(SECRET), KeyNotFound("No such key.", hint="Look elsewhere.")
    second.__cause__ = first
    first.__context__ = second
    described = tracebacks.describe(second)
    assert re.findall(r"^\w+(?:: .*)?$", described, re.MULTILINE) == ["ValueError", "KeyNotFound: No such key."]


def test_hidden_frames_follow_the_others() -> None:
    """Frames that a public call has hidden come after those of its callers: the innermost frame is the last."""

    def raise_error() -> None:
        raise KeyNotFound("No such key.", hint="Look elsewhere.")

    def public() -> None:
        try:
            raise_error()
        except KeyNotFound as error:
            without_frames(error)
            raise

    with pytest.raises(KeyNotFound) as caught:
        public()
    lines = tracebacks.describe(caught.value).splitlines()
    names = [line.rpartition(" in ")[2] for line in lines if line.startswith("  File")]
    assert names == ["test_hidden_frames_follow_the_others", "public", "raise_error"]
