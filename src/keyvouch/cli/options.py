"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., object])

output_option = click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Format of the result."
)


def key_options(command: Command) -> Command:
    """Add the `--profile` and `--key` options."""
    command = click.option("--key", metavar="URI", help="URI of the key. In a shell, put it in single quotes.")(command)
    return click.option(
        "--profile", metavar="NAME", help="Profile to use. Default: KEYVOUCH_PROFILE, or the only profile."
    )(command)
