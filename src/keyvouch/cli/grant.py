"""`keyvouch grant`"""

from __future__ import annotations

import click

from keyvouch.cli.common import choose, key_options, output_option, print_json


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

    It may be done twice: what is granted already stays granted.
    """
    if (account is None) != list_only or (revoke and list_only):
        raise click.UsageError("Give ACCOUNT, with --revoke or without; or --list alone.")
    with choose(profile, key).open_store() as store:
        before = store.readers()
        if account and revoke:
            store.revoke(account)
        elif account:
            store.grant(account)
        after = store.readers() if account else before
    if output == "json":
        print_json({"before": before, "after": after})
        return
    for reader in sorted({*before, *after}):
        sign = "-" if reader not in after else "+" if reader not in before else " "
        click.echo(f"{sign} {reader}")
