"""`keyvouch grant`"""

from __future__ import annotations

from typing import Any

import click

from keyvouch._core.key_management import Store
from keyvouch._system.text import printable
from keyvouch.cli.options import key_options, output_option
from keyvouch.cli.output import present
from keyvouch.cli.selection import select
from keyvouch.uri import quoted


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

    With select=newest in the URI, it applies to all keys of the family that have not expired.

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
    selection = select(profile, key)
    with selection.open_store() as store:
        keys = [_change(Store(uri, selection.secrets), account, revoke=revoke) for uri in store.family()]
    result: dict[str, Any] = {"before": _common(keys, "before"), "after": _common(keys, "after"), "keys": keys}
    present(result, output, lambda result: _print_text(result["keys"], account, revoke=revoke))


def _change(key: Store, account: str | None, *, revoke: bool) -> dict[str, Any]:
    """Grant or revoke the permission, and return who could sign before and can sign after."""
    with key:
        before = key.readers()
        if account and revoke:
            key.revoke(account)
        elif account:
            key.grant(account)
        return {"uri": str(key.uri), "before": before, "after": key.readers() if account else before}


def _common(keys: list[dict[str, Any]], when: str) -> list[str]:
    """Return the accounts that can sign with each of the keys."""
    return [account for account in keys[0][when] if all(account in each[when] for each in keys)]


def _print_text(keys: list[dict[str, Any]], account: str | None, *, revoke: bool) -> None:
    for key in keys:
        if len(keys) > 1:
            click.echo(quoted(key["uri"]))
        for reader in dict.fromkeys((*key["before"], *key["after"])):
            sign = "-" if reader not in key["after"] else "+" if reader not in key["before"] else " "
            click.echo(f"{sign} {printable(reader)}")
    if account and all(key["before"] == key["after"] for key in keys):
        click.echo("\nNothing to change.", err=True)
    elif account and revoke:
        click.echo(f"\nRevoked the permission of {printable(account)}.", err=True)
    elif account:
        click.echo(f"\nNext: start the task or program that runs as {printable(account)}.", err=True)
