"""How results are printed: JSON, tables, facts about a key, and the next command to run."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from keyvouch._core import environment
from keyvouch._system import files
from keyvouch._system.text import printable
from keyvouch.errors import KeyvouchError

if TYPE_CHECKING:
    from rich.console import Console

    from keyvouch._core.signer import Signer
    from keyvouch.uri import KeyUri

Result = TypeVar("Result")

_CREATE_AS_READER = (
    "Create the key as the account that uses it: others can replace files in this folder, so root should not change"
    " their access here."
)


def present(result: Result, output: str, as_text: Callable[[Result], object]) -> None:
    """Print a command's result: as JSON if `output` is "json", otherwise by calling `as_text` with it."""
    if output == "json":
        click.echo(json.dumps(result, indent=2, default=str))
    else:
        as_text(result)


def shown_time(time: dt.datetime) -> str:
    """Return a time in UTC, to the minute; rounded up, so that it is not too early."""
    return f"{time.astimezone(dt.UTC) + dt.timedelta(seconds=59):%Y-%m-%d %H:%M} UTC"


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names and values in two columns, each item of a list on its own line, omitting names without a value."""
    shown = {name: value for name, value in facts.items() if value is not None}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        first, *others = value if isinstance(value, list | tuple) else [value]
        text = ("yes" if first else "no") if isinstance(first, bool) else printable(first)
        click.echo(f"{click.style(f'{name:{width}}', bold=True)}  {text}")
        for each in others:
            click.echo(f"{'':{width}}  {printable(each)}")


def print_key(uri: KeyUri, facts: Mapping[str, object]) -> None:
    """Print a key's URI, ready to paste, followed by the facts from `key_facts`."""
    click.echo(f"{uri.quoted}\n")
    print_facts({name.replace("_", " "): value for name, value in facts.items() if name != "uri"})


def print_readers_hint(requested: KeyUri, pinned: KeyUri) -> None:
    """Print the line that lets the account for which a folder or family is meant read the new file."""
    if "path" not in pinned:  # not a file
        return
    from keyvouch.stores import key_files  # only commands that create a key need it

    siblings = key_files.siblings(requested.get("path"))
    for path in (pinned.get("path"), pinned.get("certificate-file")):
        if isinstance(path, str | Path) and (hint := files.readers_hint(Path(path), siblings)):
            hint = hint if _is_trusted(Path(path).parent) else _CREATE_AS_READER
            click.echo(f"\nAnother account that uses this folder cannot read {printable(path)} yet.\n{hint}", err=True)


def _is_trusted(folder: Path) -> bool:
    """Return True if no other account can replace what is in the folder, such as by a link to a file elsewhere."""
    try:
        files.check_trusted(folder)
    except (OSError, KeyvouchError):
        return False
    return True


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; long cells are wrapped within their column, never truncated."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else printable(cell) for cell in row))
    _console().print(table)


def _console() -> Console:
    """Return a rich console for standard output: plain and unwrapped unless it is a terminal."""
    from rich import console

    class Console(console.Console):
        def on_broken_pipe(self) -> None:
            """Raise the error again. By default, rich redirects standard output and exits with status 1."""
            raise  # noqa: PLE0704 - called while the error is handled

    # In a file or pipe, lines must stay whole so that they can be searched.
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 500)


def print_next_command(*lines: str) -> None:
    """Print the next command to run, and lines with later ones, to standard error, so that the result can be piped."""
    text = "\n".join(lines)
    configuration = click.get_current_context().find_root().params.get("config")
    if configuration:
        text = text.replace("keyvouch ", f"keyvouch --config {shlex.quote(configuration)} ")
    click.echo(f"\nNext: {text}", err=True)


def print_profile_commands(key: KeyUri, pinned: KeyUri, *, exported: bool) -> None:
    """Print the commands that make a new key usable with a profile; `exported`: its certificate is in a file.

    A key in Windows' LocalMachine is used by another account, so that account needs a permission and a profile.
    """
    options = f"profile add NAME --tenant TENANT --client-id ID --key {key.quoted}"
    if not is_machine_key(key):
        print_next_command(f"keyvouch {_option_for_root(pinned)}{options}")
        if has_login(key):
            click.echo(f"Write it with {JOBS_LOGIN}, which may only sign.", err=True)
        return
    given = click.get_current_context().find_root().params.get("config")
    configuration = shlex.quote(str(given or files.configuration_files()[-1]))
    export = f"\n  keyvouch export --certificate app.cer --key {pinned.quoted}"
    click.echo(
        f"\nNext, for the account of the task or service:{'' if exported else export}"
        f"\n  keyvouch grant 'DOMAIN\\ACCOUNT' --key {key.quoted}\n  keyvouch --config {configuration} {options}",
        err=True,
    )


def _option_for_root(pinned: KeyUri) -> str:
    """Return the option with the machine's configuration if root has made a key that another account is to use."""
    named = environment.value_of("KEYVOUCH_CONFIG")  # also by --config
    if sys.platform == "win32" or os.geteuid() or named or "path" not in pinned or not pinned.get("path"):
        return ""
    path = Path(pinned.get("path"))
    if not path.is_relative_to("/etc") and not files.has_other_readers(path):
        return ""
    return f"--config {files.configuration_files()[-1]} "


JOBS_LOGIN = "the login of the job instead of yours"


def has_login(uri: KeyUri) -> bool:
    """Return True if the URI says how to log in, which is not the same for who creates a key and for who uses it."""
    return "auth" in uri


def is_machine_key(uri: KeyUri) -> bool:
    """Return True for a key in Windows' LocalMachine, which the accounts of services and tasks use."""
    return "location" in uri.declared and uri.get("location") == "LocalMachine"


@contextlib.contextmanager
def mentioning_new_key(pinned: KeyUri) -> Iterator[None]:
    """Add to an error after a key was made or imported that the key exists, and how to delete it."""
    try:
        yield
    except KeyvouchError as error:
        error.hint += f"\nThe new key was kept. Use it, or delete it: keyvouch delete --key {pinned.quoted}"
        raise


def key_facts(signer: Signer) -> dict[str, object]:
    """Return the facts about an open key, by their names in the JSON output."""
    from keyvouch.algorithms import key_type

    status = signer.certificate_status()
    chain = signer.chain
    return {
        "uri": signer.uri,
        "key_type": key_type(signer.public_key),
        "exportable": signer.exportable,
        "subject": chain[0].subject.rfc4514_string() if chain else None,
        "thumbprint_sha256": signer.thumbprint(),
        "thumbprint_sha1": signer.thumbprint("sha1"),
        "certificate": status.state,
        "not_before": status.not_before and status.not_before.isoformat(),
        "not_after": status.not_after and status.not_after.isoformat(),
    }
