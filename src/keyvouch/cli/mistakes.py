"""Mistakes that only the command line as it was typed shows."""

from __future__ import annotations

import itertools
import re
import shlex
import sys

import click

from keyvouch.errors import KeyvouchError
from keyvouch.uri import quoted

_OF_THE_GROUP = {"--config": 2, "--debug": 1}
"""Options that come before the command, and how many words each has."""
_OF_COMMANDS = ("--profile", "--key", "--output", "--scope", "--tenant", "--client-id", "--authority", "--ca-file")
"""Options that come after the command."""
_URI = re.compile(r"(?:pfx|pem|pkcs11|vault|windows|azure-keyvault|profile):[^?]*\Z", re.IGNORECASE)
"""A key's URI without attributes after the `?`, which may contain a secret."""
_FOR_LACK_OF_ATTRIBUTES = ("ambiguous-key", "configuration", "key-not-found", "secret-required")
"""Codes of errors that more attributes could have prevented."""


def hint_for_usage(error: click.ClickException) -> str:
    """Return the command with an option in its right place, or the URI as an option; empty for any other error."""
    typed = sys.argv[1:]
    if isinstance(error, click.NoSuchOption):
        return _moved_option(error.option_name, typed)
    uri = next((each for each in typed if _URI.match(each) and each in error.format_message()), None)
    if uri is None or {"--key", "--profile"} & {*typed}:
        return ""
    rest = [each for each in typed if each != uri]
    return f"A key's URI is an option: keyvouch {shlex.join(rest)} --key {quoted(uri)}"


def _moved_option(name: str, typed: list[str]) -> str:
    moved, rest = _split(name, typed)
    if name in _OF_THE_GROUP:
        return f"{name} comes before the command: keyvouch {shlex.join([*moved, *rest])}"
    if name in _OF_COMMANDS and rest and typed[0] == moved[0]:
        return f"{name} comes after the command: keyvouch {shlex.join([*rest, *moved])}"
    return ""


def with_configuration(hint: str) -> str:
    """Return a hint whose commands have the `--config` that was typed, so that they read the same file."""
    given, _ = _split("--config", sys.argv[1:])
    return hint.replace("`keyvouch ", f"`keyvouch {shlex.join(given)} ") if given else hint


def _split(name: str, typed: list[str]) -> tuple[list[str], list[str]]:
    """Return the words of this option, none if it was not typed, and the other words."""
    for position, each in enumerate(typed):
        if each == name or each.startswith(f"{name}="):
            end = position + (1 if "=" in each else _OF_THE_GROUP.get(name, 2))
            return typed[position:end], typed[:position] + typed[end:]
    return [], typed


def hint_for_cut_uri(error: KeyvouchError) -> str:
    """Return a hint if the shell may have cut off the URI of `--key` at its first `;` or `&`; empty otherwise."""
    if error.uri is None or "single quotes" in error.hint:
        return ""
    if not any(_may_be_cut(each, error.code) for each in _keys(sys.argv)):
        return ""
    return "If the shell cut off the URI at `;` or `&`, put it in single quotes; in cmd.exe, in double quotes."


def _keys(arguments: list[str]) -> list[str]:
    separate = [value for name, value in itertools.pairwise(arguments) if name == "--key"]
    return [*separate, *(each.removeprefix("--key=") for each in arguments if each.startswith("--key="))]


def _may_be_cut(uri: str, code: str) -> bool:
    """Return True for one attribute only, if the error may come from the others that are missing."""
    _, question_mark, query = uri.partition("?")
    if "=" not in uri or {";", "&"} & {*uri}:
        return False
    if not question_mark:
        return code in _FOR_LACK_OF_ATTRIBUTES
    return code == "ambiguous-key" or (code == "secret-required" and ":" not in query)  # a reference contains a colon
