"""The `keyvouch` command: one module per subcommand, imported when it is called."""

from __future__ import annotations

import os
from typing import Any

import click

from keyvouch import __version__

COMMANDS = {
    "token": "Print an access token.",
    "assertion": "Print a client assertion.",
    "sign": "Sign a file or standard input.",
    "verify": "Verify a signature.",
    "keys": "List the keys in a store.",
    "stores": "List the installed stores, or describe one.",
    "profile": "List, show and add profiles.",
    "new": "Create a key and its certificate.",
    "import": "Copy a key from one store to another.",
    "install": "Put a certificate into the store, next to its key.",
    "export": "Write a certificate or a key to a file.",
    "delete": "Delete a key.",
    "grant": "Grant or revoke an account's permission to use a key.",
    "bench": "Measure how fast keys sign, and compare them.",
    "doctor": "Fix problems that prevent keys from being used.",
    "demo": "Demonstrate keyvouch with a throwaway key and authority.",
}
"""In the order in which to show them."""


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command is called, for a fast start."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        from keyvouch.cli.examples import add_examples

        command = _load(cmd_name)
        add_examples(command, cmd_name)
        return command

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Add the examples, which are imported only for the help."""
        from keyvouch.cli.examples import add_examples

        add_examples(self, "")
        super().format_epilog(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest the closest command if the command is unknown."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            nearest = difflib.get_close_matches(args[0], COMMANDS, n=1)
            suggestion = f" Did you mean {nearest[0]!r}?" if nearest else ""
            raise click.UsageError(f"No such command {args[0]!r}.{suggestion}", ctx)
        return super().resolve_command(ctx, args)


def _load(name: str) -> click.Command:  # noqa: C901, PLR0912 - a table of imports
    """Import a command's module, and no other."""
    match name:
        case "token":
            from keyvouch.cli.token import command
        case "assertion":
            from keyvouch.cli.assertion import command
        case "sign":
            from keyvouch.cli.sign import command
        case "verify":
            from keyvouch.cli.verify import command
        case "keys":
            from keyvouch.cli.keys import command
        case "stores":
            from keyvouch.cli.stores import command
        case "profile":
            from keyvouch.cli.profile import command
        case "new":
            from keyvouch.cli.new import command
        case "import":
            from keyvouch.cli.import_key import command
        case "install":
            from keyvouch.cli.install import command
        case "export":
            from keyvouch.cli.export import command
        case "delete":
            from keyvouch.cli.delete import command
        case "grant":
            from keyvouch.cli.grant import command
        case "bench":
            from keyvouch.cli.bench import command
        case "doctor":
            from keyvouch.cli.doctor import command
        case _:
            from keyvouch.cli.demo import command
    return command


@click.command("keyvouch", cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="keyvouch %(version)s")
@click.option("--config", metavar="FILE", help="Configuration file, instead of the user's or the machine's.")
@click.option("--debug", is_flag=True, help="Print log records and tracebacks to standard error.")
def group(config: str | None, *, debug: bool) -> None:
    """Sign in to Entra ID and other OAuth servers with a private key that stays in its store."""
    if config:
        os.environ["KEYVOUCH_CONFIG"] = config  # read wherever a profile is loaded
    if debug:
        from keyvouch.cli import logs

        logs.to_standard_error()


def main(arguments: list[str] | None = None) -> Any:
    """Run the command and exit with the documented exit status."""
    from keyvouch.cli import errors

    return errors.run(group, arguments)
