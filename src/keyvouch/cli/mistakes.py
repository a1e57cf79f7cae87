"""Mistakes that only the command line as it was typed shows."""

from __future__ import annotations

import itertools
import shlex
import sys

import click

from keyvouch.errors import (
    AmbiguousKey,
    ConfigurationError,
    KeyNotFound,
    KeyvouchError,
    NotSupported,
    PluginMissing,
    SecretRequired,
)

_OF_THE_GROUP = {"--config": 2, "--debug": 1}
"""Options that come before the command, and how many words each has."""
_AFTER_CUT = (AmbiguousKey, ConfigurationError, KeyNotFound, SecretRequired)
"""Errors that the rest of a URI could have prevented."""


def hint_for_option(error: click.ClickException) -> str:
    """Return the command with an option of the group moved before the subcommand; empty for any other error."""
    if not isinstance(error, click.NoSuchOption) or error.option_name not in _OF_THE_GROUP:
        return ""
    name, typed = error.option_name, sys.argv[1:]
    position = next(index for index, each in enumerate(typed) if each == name or each.startswith(f"{name}="))
    words = 1 if "=" in typed[position] else _OF_THE_GROUP[name]
    moved, rest = typed[position : position + words], typed[:position] + typed[position + words :]
    return f"{name} comes before the command: keyvouch {shlex.join([*moved, *rest])}"


def hint_for_cut_uri(error: KeyvouchError) -> str:
    """Return a hint if `--key` was typed without quotes, and so ended at its first `;`; empty for any other error."""
    if not isinstance(error, _AFTER_CUT) or isinstance(error, PluginMissing | NotSupported):
        return ""
    if "quotes" in error.hint or error.message.startswith(("Invalid", "Unknown", "Duplicate")):
        return ""
    if not any(map(_looks_cut, _keys(sys.argv))):
        return ""
    return "If the shell cut the URI at `;`, put it in single quotes; in cmd.exe, in double quotes."


def _keys(arguments: list[str]) -> list[str]:
    separate = [value for name, value in itertools.pairwise(arguments) if name == "--key"]
    return [*separate, *(each.removeprefix("--key=") for each in arguments if each.startswith("--key="))]


def _looks_cut(uri: str) -> bool:
    """Return True for a single attribute before the `?`, and nothing after it."""
    _, _, rest = uri.partition(":")
    return rest.count("=") == 1 and ";" not in rest and "?" not in rest
