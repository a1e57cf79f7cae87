"""`keyvouch delete`"""

from __future__ import annotations

import click

from keyvouch._core import key_management, opening
from keyvouch.cli.common import choose, is_somebody_there, output_option, print_json


@click.command("delete")
@click.option("--key", required=True, metavar="URI", help="The pinned URI, as `keyvouch keys` shows it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_option
def command(key: str, yes: bool, output: str) -> None:
    """Delete a key, and its certificate, in its store. In most stores nothing brings it back."""
    chosen = choose(None, key)
    uri = opening.parse(key)
    if not yes and not is_somebody_there():
        raise click.UsageError("Nobody is there to be asked: give --yes.")
    with key_management.Store(uri, chosen.secrets) as store:
        if not yes:
            store.require_pinned()  # before prompting, since the URI may match another key
            if not click.confirm(f"Delete the key {uri}?", err=True):
                raise click.UsageError("Nothing was deleted.")
        store.delete()
    if output == "json":
        print_json({"deleted": str(uri)})
    else:
        click.echo(f"Deleted {uri}.")
