"""Help that a newcomer can paste from, and output that fits a terminal."""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from keyvouch._core import opening, registry
from keyvouch.cli import group
from keyvouch.cli.examples import EXAMPLES, for_windows
from signing_in import run


def commands(command: click.Command = group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command, the group's own first."""
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, (*path, name))


def examples(words: tuple[str, ...]) -> list[str]:
    """Return the examples in a command's help, each on one line."""
    text = CliRunner().invoke(group, [*words, "--help"], prog_name="keyvouch").output
    _, found, shown = text.partition("\n  Examples:\n")
    assert found, text
    lines = re.sub(r" \\\n +", " ", shown).splitlines()
    return [line.strip() for line in lines if line]


@pytest.mark.parametrize("words", [*commands()], ids=" ".join)
def test_help_has_examples(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The help of each command ends with examples of that command, which its options accept."""
    monkeypatch.chdir(tmp_path)
    for name in ("message.txt", "message.jws"):
        (tmp_path / name).touch()
    for line in examples(words):
        arguments = shlex.split(line)
        assert tuple(arguments[: len(words) + 1]) == ("keyvouch", *words)
        _require_accepted(arguments[1:])


@pytest.mark.parametrize("lines", EXAMPLES.values(), ids=EXAMPLES)
def test_examples_for_windows(lines: tuple[str, ...]) -> None:
    """On Windows each example is one line, in the quotes that both PowerShell and cmd.exe accept."""
    shown = for_windows(lines)
    assert [line for line in shown if not line.startswith("keyvouch ") or "'" in line or line.endswith("\\")] == []
    joined = "\n".join(lines).replace("\\\n", "").split("\n")
    assert [shlex.split(line.replace("\\", "")) for line in shown] == [
        shlex.split(line.replace("\\", "")) for line in joined
    ]


def _require_accepted(arguments: list[str]) -> None:
    command: click.Command | None = group
    while isinstance(command, click.Group):
        command = command.get_command(click.Context(command), arguments.pop(0))
    assert command is not None
    if ">" in arguments:
        del arguments[arguments.index(">") :]
    with command.make_context(str(command.name), arguments) as context:
        given = context.params
    for uri in filter(None, [given.get("key"), given.get("source"), *(given.get("keys") or ())]):
        opening.parse(uri.replace("9F86...", "9f86" * 16))


@pytest.mark.parametrize("words", [*commands()], ids=" ".join)
def test_help_fits_80_columns(words: tuple[str, ...]) -> None:
    """No line of the help is longer."""
    text = CliRunner().invoke(group, [*words, "--help"]).output
    assert [line for line in text.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("arguments", [(), *((scheme,) for scheme in sorted(registry.KNOWN))], ids=" ".join)
def test_stores_fit_a_terminal(arguments: tuple[str, ...]) -> None:
    """On a terminal of 80 columns, no line of `keyvouch stores` is longer, except for one that is a single URI."""
    lines = [click.unstyle(line).rstrip() for line in on_terminal("stores", *arguments).splitlines()]

    assert [line for line in lines if len(line) > 80 and " " in line.strip()] == []
    assert lines[0]


def on_terminal(*arguments: str) -> str:
    """Return what a command prints on a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "LINES": "40", "TERM": "dumb"}
    command = [sys.executable, "-m", "keyvouch", *arguments]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, env=environment) as process:
        os.close(theirs)
        printed = b""
        try:
            while part := os.read(ours, 4096):
                printed += part
        except OSError:  # Linux reports the end of a terminal as an error
            pass
        finally:
            os.close(ours)
    assert process.returncode == 0
    return printed.decode()


def test_list_of_stores_is_short_in_a_pipe() -> None:
    """Without a terminal, where nothing is wrapped, the list of the stores fits 80 columns too."""
    lines = run("stores").output.splitlines()

    assert max(len(line.rstrip()) for line in lines) <= 80
    assert "PFX (PKCS#12) files" in "\n".join(lines)


def completed(arguments: list[str], incomplete: str) -> list[str]:
    """Return what the tab key offers."""
    return [each.value for each in ShellComplete(group, {}, "keyvouch", "_").get_completions(arguments, incomplete)]


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text("[profiles.nightly]\n[profiles.night-shift]\n[profiles.weekly]\n")
    return path


@pytest.mark.parametrize("arguments", [["token", "--profile"], ["sign", "--profile"], ["profile", "show"]])
def test_profile_names_are_completed(
    arguments: list[str], configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tab key completes the name of a profile, wherever one is expected."""
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(configuration))

    assert completed(arguments, "ni") == ["nightly", "night-shift"]


def test_completion_uses_the_given_configuration(configuration: Path) -> None:
    """`--config` before the command is respected."""
    assert completed(["--config", str(configuration), "token", "--profile"], "w") == ["weekly"]


@pytest.mark.parametrize("content", ["not TOML", None])
def test_completion_without_configuration(
    content: str | None, configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the configuration is invalid or missing, nothing is offered, and no error disturbs the line."""
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(configuration))
    configuration.write_text(content) if content else configuration.unlink()

    assert completed(["token", "--profile"], "") == []
