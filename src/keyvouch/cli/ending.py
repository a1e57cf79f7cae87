"""How a command ends: an error in two sentences and its exit status, never a traceback."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
from typing import NoReturn

import click

from keyvouch.errors import KeyvouchError

INTERRUPTED = 130


def run(group: click.Group, arguments: list[str] | None) -> NoReturn:
    """Run the group and exit: 0, the error's status, 2 for usage, 130 when interrupted."""
    try:
        group.main(arguments, prog_name="keyvouch", standalone_mode=False)
        sys.stdout.flush()
        status = 0
    except KeyvouchError as error:
        show(error)
        status = error.exit_status
    except click.exceptions.Exit as ended:
        status = ended.exit_code
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("\nInterrupted.", err=True)
        status = INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone. Nothing more can be said there, not even by the interpreter at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except Exception as error:  # noqa: BLE001 - a defect, ours or a plugin's
        _show_defect(error)
        status = 1
    sys.exit(status)


def show(error: KeyvouchError) -> None:
    """Print an error to standard error: as JSON where the command's output is, else with its hint."""
    if _wants_json():
        members = {
            "code": error.code,
            "message": error.message,
            "hint": error.hint,
            "uri": error.uri,
            "transient": error.transient,
        }
        for name in ("error_codes", "thumbprint", "correlation_id", "retry_after", "candidates"):
            if getattr(error, name, None):
                members[name] = getattr(error, name)
        click.echo(json.dumps({"error": members}), err=True)
        return
    click.secho(f"Error: {error.message}", fg="red", err=True)
    if error.hint:
        click.echo(error.hint, err=True)
    if _debugging():
        _traceback()


def _show_defect(error: Exception) -> None:
    click.secho(f"Error: {type(error).__name__}: a defect of keyvouch or of a plugin.", fg="red", err=True)
    click.echo("Run it again with `keyvouch --debug ...`, and report what that shows.", err=True)
    if _debugging():
        _traceback()


def _traceback() -> None:
    import traceback

    with contextlib.suppress(BrokenPipeError):
        traceback.print_exc()


def _debugging() -> bool:
    return "--debug" in sys.argv


def _wants_json() -> bool:
    """Look at the arguments themselves: an error may come before they are parsed."""
    arguments = sys.argv
    return "--output=json" in arguments or ("--output", "json") in itertools.pairwise(arguments)
