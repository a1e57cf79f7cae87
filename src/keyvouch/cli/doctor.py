"""`keyvouch doctor`"""

from __future__ import annotations

import click

from keyvouch._core import pin_records
from keyvouch._core.audit import record_audit
from keyvouch.cli.common import output_option, print_json


@click.command("doctor")
@click.option("--unseal", is_flag=True, required=True, help="Let PINs that a token refused be tried once more.")
@output_option
def command(unseal: bool, output: str) -> None:  # noqa: ARG001 - the only option so far
    """Mend what keeps keys from being used.

    A PIN that a token refused is not tried again, not by another process and not after a restart, because a token
    locks itself after a few wrong ones. Use --unseal if the PIN is right after all, because somebody has set it again,
    or if the record of refused PINs is damaged: each PIN may then be tried once more.
    """
    tokens = pin_records.forget_refusals()
    record_audit("unseal", {"tokens": tokens})
    if output == "json":
        print_json({"tokens": tokens})
    elif tokens:
        click.echo(f"The refused PINs of {tokens} token(s) may be tried once more.")
    else:
        click.echo("No PIN was refused.")
