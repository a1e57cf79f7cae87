"""The pages for Windows are not run, but each command and option that they use must exist."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click
import pytest

from docs.pages import PAGES, blocks_of
from keyvouch._core import opening
from keyvouch.cli import group

PROMPTS = "PS C:\\> ", "PS C:\\Jobs> "


def typed() -> Iterator[tuple[str, str]]:
    """Each typed line, with its page and the line of its block."""
    for page in PAGES:
        for block in blocks_of(page):
            if block.language == "ps1con":
                lines = [line.partition("> ")[2] for line in block.code.splitlines() if line.startswith(PROMPTS)]
                yield from ((block.location, line) for line in lines if line.startswith("keyvouch "))


@pytest.mark.parametrize(("location", "line"), list(typed()))
def test_typed_line_is_understood(location: str, line: str) -> None:
    """The command accepts these options, and any key's URI is valid."""
    words = line.split(maxsplit=3)[3] if line.startswith("keyvouch --config ") else line.partition(" ")[2]
    arguments = _split(words)
    command: click.Command | None = group
    while isinstance(command, click.Group):
        command = command.get_command(click.Context(command), arguments.pop(0))
    assert command is not None, location
    given = command.make_context(str(command.name), arguments).params

    for uri in [given.get("key"), given.get("source"), *given.get("keys", ())]:
        if uri and "..." not in uri:
            opening.parse(uri)


def _split(words: str) -> list[str]:
    """Split a line as PowerShell does: single quotes quote, and a backslash is literal."""
    lexer = shlex.shlex(words, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.escape, lexer.commenters = True, "", ""
    return list(lexer)
