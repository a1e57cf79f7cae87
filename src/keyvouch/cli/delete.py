"""`keyvouch delete`"""

from __future__ import annotations

import click

from keyvouch._core import key_management, opening
from keyvouch.cli.inputs import is_interactive
from keyvouch.cli.options import key_option, output_option
from keyvouch.cli.output import present
from keyvouch.cli.selection import select


@click.command("delete")
@key_option("Pinned URI of the key, as listed by `keyvouch keys`.", required=True)
@click.option("--yes", is_flag=True, help="Do not prompt for confirmation.")
@output_option
def command(key: str, yes: bool, output: str) -> None:
    """Delete a key and its certificate from their store. Most stores cannot restore them."""
    selection = select(None, key)
    uri = opening.parse(key)
    if not yes and not is_interactive():
        raise click.UsageError("Cannot prompt for confirmation: no terminal is attached. Use --yes.")
    with key_management.Store(uri, selection.secrets) as store:
        if not yes:
            store.require_pinned()  # before prompting, since the URI may match another key
            if not click.confirm(f"Delete the key {uri}?", err=True):
                raise click.UsageError("Not confirmed. Nothing was deleted.")
        store.delete()
    present({"deleted": str(uri)}, output, lambda result: click.echo(f"Deleted {result['deleted']}."))
