"""`keyvouch doctor`"""

from __future__ import annotations

import click

from keyvouch._core.audit import record_audit
from keyvouch._secrets import pin_records
from keyvouch.cli.options import output_option
from keyvouch.cli.output import present


@click.command("doctor")
@click.option("--unseal", is_flag=True, required=True, help="Allow each refused PIN to be tried once more.")
@output_option
def command(unseal: bool, output: str) -> None:  # noqa: ARG001 - the only option so far
    """Fix problems that prevent keys from being used.

    keyvouch does not try a refused PIN again, in any process or after a restart, because a token locks itself after a
    few wrong ones. Use --unseal if the PIN is correct after all, for example because it was reset, or if the record of
    refused PINs is damaged. Each PIN can then be tried once more.
    """
    tokens = pin_records.forget_refusals()
    record_audit("unseal", {"tokens": tokens})
    present({"tokens": tokens}, output, _print_text)


def _print_text(result: dict[str, int]) -> None:
    tokens = result["tokens"]
    if tokens:
        click.echo(f"Refused PINs of {tokens} {'token' if tokens == 1 else 'tokens'} can be tried once more.")
    else:
        click.echo("No refused PINs were recorded.")
