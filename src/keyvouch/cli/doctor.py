"""`keyvouch doctor`"""

from __future__ import annotations

import click

from keyvouch import lockout
from keyvouch.audit import record_audit
from keyvouch.cli.common import output_option, print_json


@click.command("doctor")
@click.option("--unseal", is_flag=True, required=True, help="Let PINs that a token refused be tried once more.")
@output_option
def command(unseal: bool, output: str) -> None:  # noqa: ARG001 - there is nothing else yet
    """Mend what keeps keys from being used.

    A PIN that a token refused is not tried again, by no process and after no restart, since a token counts and then
    locks. Where the PIN was right after all, because somebody has set it anew, --unseal lets it be tried once more.
    """
    tokens = lockout.forget()
    record_audit("unseal", {"tokens": tokens})
    if output == "json":
        print_json({"tokens": tokens})
    elif tokens:
        click.echo(f"The refused PINs of {tokens} token(s) may be tried once more.")
    else:
        click.echo("No PIN was refused.")
