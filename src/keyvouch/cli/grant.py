"""`keyvouch grant`"""

from __future__ import annotations

import click

from keyvouch.cli.options import key_options, output_option
from keyvouch.cli.output import present, print_next_command, printable
from keyvouch.cli.selection import select
from keyvouch.uri import KeyUri


@click.command("grant")
@key_options
@click.argument("account", required=False)
@click.option("--revoke", is_flag=True, help="Revoke the permission.")
@click.option("--list", "list_only", is_flag=True, help="List the accounts that can sign, and change nothing.")
@output_option
def command(
    profile: str | None, key: str | None, account: str | None, revoke: bool, list_only: bool, output: str
) -> None:
    """Grant ACCOUNT permission to sign with a key, or revoke it. Other accounts are not affected.

    Only stores that control who can sign support this. On Windows, ACCOUNT is DOMAIN\\name, DOMAIN\\name$ for a managed
    service account (gMSA), 'NT SERVICE\\name', 'IIS AppPool\\name', a well-known name in English such as
    'NETWORK SERVICE', or a SID. Quote it for the shell.

    Prints the accounts that can sign: + marks an account that was added, - one that was removed. An account that
    already has the permission keeps it.
    """
    if account and list_only:
        raise click.UsageError("Specify ACCOUNT or --list, not both.")
    if revoke and list_only:
        raise click.UsageError("Specify --revoke or --list, not both.")
    if not account and not list_only:
        raise click.UsageError("Specify ACCOUNT or --list.")
    with select(profile, key).open_store() as store:
        before = store.readers()
        if account and revoke:
            store.revoke(account)
        elif account:
            store.grant(account)
        after = store.readers() if account else before
        uri = store.uri
    present(
        {"before": before, "after": after},
        output,
        lambda result: _print_text(result["before"], result["after"], account, uri, revoke=revoke),
    )


def _print_text(before: list[str], after: list[str], account: str | None, uri: KeyUri, *, revoke: bool) -> None:
    for reader in dict.fromkeys((*before, *after)):
        sign = "-" if reader not in after else "+" if reader not in before else " "
        click.echo(f"{sign} {printable(reader)}")
    if account and before == after:
        click.echo("\nNothing to change.", err=True)
    elif account and revoke:
        click.echo(f"\nRevoked the permission of {printable(account)}.", err=True)
    elif account:
        print_next_command(f"keyvouch sign --key {uri.quoted} FILE", account)
