"""The JSON output of every command has the recorded fields, types and values, since programs rely on them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cli.json_scenario import Record, play
from keyvouch.cli import group

RECORDED: dict[str, Record] = json.loads(Path(__file__).with_name("json_outputs.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def outputs() -> dict[str, Record]:
    """The outputs of today."""
    return play()


@pytest.mark.parametrize("case", RECORDED)
def test_output_is_as_recorded(outputs: dict[str, Record], case: str) -> None:
    """Fields, types, values and exit status are those of the record; only the wording of texts may differ."""
    assert outputs[case] == RECORDED[case]


def test_every_case_is_recorded(outputs: dict[str, Record]) -> None:
    """A new case is added to the record."""
    assert outputs.keys() == RECORDED.keys()


def commands_with_json(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the names of each command that has `--output`."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands_with_json(found, (*path, name))
    elif any(parameter.name == "output" for parameter in command.params):
        yield path


@pytest.mark.parametrize("names", [*commands_with_json(group)], ids=" ".join)
def test_every_command_is_recorded(names: tuple[str, ...]) -> None:
    """The record has a success and an error of each command, if it has errors of its own."""
    records = [record for record in RECORDED.values() if tuple(record["arguments"][: len(names)]) == names]
    assert any(isinstance(record["output"], dict | list) for record in records)
    if names not in (("demo",), ("profile", "path")):
        assert any(isinstance(record["errors"], dict) for record in records)
