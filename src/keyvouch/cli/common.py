"""Code shared by the commands: selecting the key or profile, and printing results."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click
import msgspec

from keyvouch import config
from keyvouch._system import files
from keyvouch.cli import logs
from keyvouch.cli.errors import printable
from keyvouch.config import Profile
from keyvouch.errors import KeyvouchError
from keyvouch.secrets import AccessToken, SecretResolver

if TYPE_CHECKING:
    from rich.console import Console

    from keyvouch._core.key_management import Store
    from keyvouch._core.signer import Signer
    from keyvouch.uri import KeyUri

Command = TypeVar("Command", bound=Callable[..., object])

output_option = click.option(
    "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to print the result."
)


def key_options(command: Command) -> Command:
    """Add the `--profile` and `--key` options."""
    command = click.option("--key", metavar="URI", help="The key, by its URI; in a shell, in single quotes.")(command)
    return click.option("--profile", metavar="NAME", help="The profile; else KEYVOUCH_PROFILE, or the only one.")(
        command
    )


@dataclass(frozen=True)
class Chosen:
    """The result of combining `--profile` and `--key`."""

    name: str
    """The profile's name; empty if only `--key` was given."""
    profile: Profile
    """The profile's settings, or the defaults; `keys` are the ones to use."""
    secrets: SecretResolver

    def confirming(self) -> SecretResolver:
        """Return a resolver that prompts twice, for the password of something new."""
        return SecretResolver(interactive=is_somebody_there(), commands=True, confirm=True, sign_in=_sign_in)

    def open(self) -> Signer:
        """Return a signer for the first key that can be opened."""
        from keyvouch._core import opening  # imported late, since a cached token needs no key

        if self.name:
            opening.parse_keys(self.profile, self.name)
        return opening.open_first(self.profile.keys, self.secrets)

    def open_store(self) -> Store:
        """Open the store of the first key."""
        from keyvouch._core import key_management, opening

        if not self.profile.keys:
            raise click.UsageError(f"The profile {self.name!r} has no keys: give --key URI.")
        return key_management.Store(opening.parse(self.profile.keys[0]), self.secrets)


def choose(
    profile: str | None, key: str | None, *, may_be_missing: bool = False, confirm: bool = False, **overrides: Any
) -> Chosen:
    """Combine the options: a profile, a profile with another key, or a key with the default settings.

    `overrides` replace the profile's fields unless they are None. Audit records go to the profile's destination.
    `may_be_missing` allows a missing configuration file that is about to be written; `confirm` asks twice for a
    password for something new.
    """
    if key is not None and key.startswith("profile:"):
        profile, key = key.removeprefix("profile:"), None
    configuration = config.load(may_be_missing=may_be_missing)
    alone = key is not None and profile is None
    name = "" if alone else configuration.pick(profile)
    found = configuration.default_profile() if alone else configuration.profile(name)
    for value in overrides.values():
        if isinstance(value, str) and not value.isprintable():  # includes bytes that are not valid UTF-8
            raise click.UsageError(f"{printable(value)!r} is no text that can be sent.")
    if key is not None:
        # An explicitly given key must be used: a token acquired with another key would not test it.
        overrides |= {"keys": (key,), "token_cache": "memory"}
    found = msgspec.structs.replace(found, **{field: value for field, value in overrides.items() if value is not None})
    logs.only_ours()
    if found.audit:
        logs.audit_to(found.audit, required=found.audit_required)
    secrets = SecretResolver(
        interactive=is_somebody_there(),
        any_reader=found.permissions == "any",
        commands=key is None,
        confirm=confirm,
        sign_in=_sign_in,
    )
    return Chosen(name, found, secrets)


def _sign_in(profile: str, scope: str, timeout: float, **demanded: Any) -> AccessToken:
    from keyvouch.entra import profile as entra_profile  # imported late, since few commands need it

    return entra_profile.sign_in(profile, scope, timeout, **demanded)


def is_somebody_there() -> bool:
    """Return True if a user can be prompted."""
    if sys.stdin is None or not sys.stdin.isatty():
        return False
    if sys.platform == "win32":  # on Windows, NUL, a possible stdin of scheduled tasks, also claims to be a terminal
        from keyvouch._system.windows import files as windows_files

        return windows_files.is_console(sys.stdin.fileno())
    return True


def read(file: BinaryIO) -> bytes:
    """Read an input file of a command."""
    try:
        return file.read()
    except OSError as error:
        raise click.UsageError(f"{file.name} cannot be read: {error.strerror}.") from None


def read_path(path: Path) -> bytes:
    """Read a file given as a path; it must be a regular file."""
    try:
        return files.read(path)
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}.") from None


def relative_path(uri: KeyUri) -> Path | None:
    """Return the URI's path if it is relative, and so depends on the working directory; None for any other URI."""
    path = uri.get("path") if "path" in uri else None
    return path if isinstance(path, Path) and not path.is_absolute() else None


def print_json(value: object) -> None:
    """Print a result as JSON."""
    click.echo(json.dumps(value, indent=2, default=str))


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names and values in two columns, omitting those without a value."""
    shown = {name: value for name, value in facts.items() if value is not None}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        text = ("yes" if value else "no") if isinstance(value, bool) else printable(value)
        click.echo(f"{click.style(f'{name:{width}}', bold=True)}  {text}")


def print_key(uri: KeyUri, facts: Mapping[str, object]) -> None:
    """Print a key's URI, ready to paste, followed by the facts from `key_facts`."""
    click.echo(f"{uri.quoted}\n")
    print_facts({name.replace("_", " "): value for name, value in facts.items() if name != "uri"})


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; long cells are wrapped within their column, never truncated."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else printable(cell) for cell in row))
    console().print(table)


def console() -> Console:
    """Return a rich console for standard output: plain and unwrapped unless it is a terminal."""
    from rich.console import Console

    # In a file or pipe, lines must stay whole so that they can be searched.
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 500)


def next_command(line: str, account: str = "") -> None:
    """Print the next command to run, as this or another account, to standard error, so that the result can be piped."""
    configuration = click.get_current_context().find_root().params.get("config")
    if configuration:
        line = line.replace("keyvouch ", f"keyvouch --config {shlex.quote(configuration)} ", 1)
    who = f", as {printable(account)}" if account else ""
    click.echo(f"\nNext{who}: {line}", err=True)


@contextlib.contextmanager
def telling_that_it_stays(pinned: KeyUri, how: str) -> Iterator[None]:
    """Add to an error after a key was made or imported that the key still exists, and its URI."""
    try:
        yield
    except KeyvouchError as error:
        error.hint += f"\nThe key is {how}, and stays: {pinned.quoted}"
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
