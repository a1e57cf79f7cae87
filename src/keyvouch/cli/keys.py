"""`keyvouch keys`"""

from __future__ import annotations

import datetime as dt

import click

from keyvouch.cli.common import choose, key_options, output_option, print_json, print_table
from keyvouch.cli.errors import printable
from keyvouch.store import KeyInfo

_YES_OR_NO = {True: "yes", False: "no", None: ""}


@click.command("keys")
@key_options
@output_option
def command(profile: str | None, key: str | None, output: str) -> None:
    """List the keys that a URI matches, each with the URI that opens it.

    Under a URI stands which provider keeps the key, and who may sign with it, where the store knows.

    The URI may name no key (for files: a folder), where all of them are meant. Of a PKCS#11 module its tokens are
    listed first, on standard error; what should be changed in a store is told there last.
    """
    with choose(profile, key).open_store() as store:
        for token in store.tokens():
            click.echo(f"{token.uri.quoted}\n  {token.description}\n", err=True)
        found = store.keys()
    if output == "json":
        print_json([_facts(info) for info in found])
    elif not found:
        click.echo("There are no keys that open with what the URI says.", err=True)
    else:
        for info in found:  # a URI is too long for a column, and must stay whole to be pasted
            click.echo(info.uri.quoted)
            if told := _kept(info):
                click.echo(f"  {printable(told)}")
        click.echo()
        print_table(
            ["type", "subject", "begins", "ends", "exportable"],
            [(info.key_type, info.subject, _begin(info), _end(info), _YES_OR_NO[info.exportable]) for info in found],
        )
        for advice in dict.fromkeys(each for info in found for each in info.advice):
            click.echo(f"\n{printable(advice)}", err=True)


def _kept(info: KeyInfo) -> str:
    """Return the provider and the accounts that may sign, as far as known; these are too long for columns as well."""
    readers = None if info.readers is None else f"may sign: {', '.join(info.readers) or 'nobody'}"
    return "; ".join(each for each in (info.provider, readers) if each)


def _begin(info: KeyInfo) -> str:
    begin = info.not_before or info.created
    return f"{begin:%Y-%m-%d}" if begin else ""


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
