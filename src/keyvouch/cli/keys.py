"""`keyvouch keys`"""

from __future__ import annotations

import datetime as dt

import click

from keyvouch.cli.options import key_options, output_option
from keyvouch.cli.output import present, print_table, printable
from keyvouch.cli.selection import select
from keyvouch.store import KeyInfo

_YES_OR_NO = {True: "yes", False: "no", None: ""}


@click.command("keys")
@key_options
@output_option
def command(profile: str | None, key: str | None, output: str) -> None:
    """List the keys that a URI matches, each with the URI that opens it.

    Below each URI are the provider that holds the key and the accounts that can sign with it, if the store reports
    them.

    The URI need not select a key (for files, it can name a folder). Then all keys are listed. Tokens of a PKCS#11
    module and advice from the store are printed to standard error.
    """
    with select(profile, key).open_store() as store:
        for token in store.tokens():
            click.echo(f"{token.uri.quoted}\n  {token.description}\n", err=True)
        found = store.keys()
    present([_facts(info) for info in found], output, lambda _: _print_text(found))


def _print_text(found: list[KeyInfo]) -> None:
    if not found:
        click.echo("No keys match the URI.", err=True)
        return
    for info in found:  # a URI is too long for a column, and must stay whole to be pasted
        click.echo(info.uri.quoted)
        if details := _details(info):
            click.echo(f"  {printable(details)}")
    click.echo()
    print_table(
        ["type", "subject", "valid from", "expires", "exportable"],
        [(info.key_type, info.subject, _start(info), _end(info), _YES_OR_NO[info.exportable]) for info in found],
    )
    for advice in dict.fromkeys(each for info in found for each in info.advice):
        click.echo(f"\n{printable(advice)}", err=True)


def _details(info: KeyInfo) -> str:
    """Return the provider and the accounts that may sign, as far as known; these are too long for columns as well."""
    readers = None if info.readers is None else f"may sign: {', '.join(info.readers) or 'nobody'}"
    return "; ".join(each for each in (info.provider, readers) if each)


def _start(info: KeyInfo) -> str:
    start = info.not_before or info.created
    return f"{start:%Y-%m-%d}" if start else ""


def _end(info: KeyInfo) -> str:
    if info.not_after is None:
        return ""
    expired = " (expired)" if info.not_after < dt.datetime.now(dt.UTC) else ""
    return f"{info.not_after:%Y-%m-%d}{expired}"


def _facts(info: KeyInfo) -> dict[str, object]:
    return {
        "uri": str(info.uri),
        "key_type": info.key_type,
        "spki_sha256": info.spki_sha256,
        "subject": info.subject,
        "not_before": info.not_before and info.not_before.isoformat(),
        "not_after": info.not_after and info.not_after.isoformat(),
        "created": info.created and info.created.isoformat(),
        "exportable": info.exportable,
        "has_certificate": info.has_certificate,
        "advice": list(info.advice),
        "provider": info.provider,
        "readers": None if info.readers is None else list(info.readers),
    }
