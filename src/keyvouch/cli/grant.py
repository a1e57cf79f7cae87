"""`keyvouch grant`"""

from __future__ import annotations

import click

from keyvouch.cli.common import choose, key_options, next_command, output_option, print_json
from keyvouch.cli.errors import printable


@click.command("grant")
@key_options
@click.argument("account", required=False)
@click.option("--revoke", is_flag=True, help="Take the permission away.")
@click.option("--list", "list_only", is_flag=True, help="Show who may sign, and change nothing.")
@output_option
def command(
    profile: str | None, key: str | None, account: str | None, revoke: bool, list_only: bool, output: str
) -> None:
    """Let ACCOUNT sign with a key, in a store that knows who may; nobody else's permission is touched.

    ACCOUNT is written as the store has it. On Windows: DOMAIN\\name, a managed service account (gMSA) as DOMAIN\\name$,
    'NT SERVICE\\name', 'IIS AppPool\\name', a well-known name in English such as 'NETWORK SERVICE', or a SID; quote
    it, so that the shell leaves it as it is.

    Who may sign is shown: + who may now, - who may no longer. It may be done twice: what is granted already stays
    granted.
    """
    if (not account) != list_only or (revoke and list_only):
        raise click.UsageError("Give ACCOUNT, with --revoke or without; or --list alone.")
    with choose(profile, key).open_store() as store:
        before = store.readers()
        if account and revoke:
            store.revoke(account)
        elif account:
            store.grant(account)
        after = store.readers() if account else before
        uri = store.uri
    if output == "json":
        print_json({"before": before, "after": after})
        return
    for reader in dict.fromkeys((*before, *after)):
        sign = "-" if reader not in after else "+" if reader not in before else " "
        click.echo(f"{sign} {printable(reader)}")
    if account and before == after:
        click.echo("\nNothing changed: so it was already.", err=True)
    elif account and revoke:
        click.echo(f"\n{printable(account)} has no permission of its own any more.", err=True)
    elif account:
        next_command(f"keyvouch sign --key {uri.quoted} FILE", account)
