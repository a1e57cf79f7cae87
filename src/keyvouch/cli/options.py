"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from keyvouch._system import files
from keyvouch.cli.completion import complete_profiles

Command = TypeVar("Command", bound=Callable[..., object])

output_option = click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Format of the result."
)


def _only_one(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> str | None:  # noqa: ARG001
    """Return the value of an option that click would otherwise take from its last occurrence, ignoring the others."""
    if len(values) > 1:
        raise click.UsageError("--key was given more than once. Use a profile for several keys.")
    return values[0] if values else None


def key_option(text: str, *, required: bool = False) -> Callable[[Command], Command]:
    """Return the option `--key` for one key."""
    return click.option("--key", metavar="URI", help=text, required=required, multiple=True, callback=_only_one)


def key_options(command: Command) -> Command:
    """Add the `--profile` and `--key` options."""
    command = key_option("URI of the key. In a shell, quote it.")(command)
    return click.option(
        "--profile",
        metavar="NAME",
        shell_complete=complete_profiles,
        help="Profile to use. Default: KEYVOUCH_PROFILE, or the only profile.",
    )(command)


def _existing(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:  # noqa: ARG001
    """Return the absolute path of what to trust: a file, or a folder in OpenSSL's format."""
    if not value:
        return value
    path = files.absolute(Path(value))
    try:
        path.stat()
    except FileNotFoundError:
        quotes = " Remove the quotes around it. cmd.exe supports only double quotes." if value[0] in "'\"" else ""
        raise click.UsageError(f"{value} does not exist.{quotes}") from None
    except OSError:  # reported with its remedy when the file is read
        pass
    return str(path)


authority_option = click.option("--authority", metavar="URL", help="Authority other than Microsoft's public cloud.")
ca_file_option = click.option("--ca-file", metavar="FILE", callback=_existing, help="Certificates to trust for TLS.")


def client_options(command: Command) -> Command:
    """Add the options that say who signs in where."""
    for option in (
        click.option("--authority", metavar="URL", help="Authority, instead of the profile's."),
        click.option("--client-id", metavar="ID", help="Client ID, instead of the profile's."),
        click.option("--tenant", metavar="TENANT", help="Tenant, instead of the profile's."),
    ):
        command = option(command)
    return command
