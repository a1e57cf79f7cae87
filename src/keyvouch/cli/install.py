"""`keyvouch install`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from keyvouch._core import key_management, opening
from keyvouch.certificate import find_leaves, load_certificates, order_chain
from keyvouch.cli.inputs import read_path
from keyvouch.cli.options import key_options, output_option
from keyvouch.cli.output import key_facts, present, print_key, print_next_command
from keyvouch.cli.selection import Selection, select
from keyvouch.errors import KeyNotFound
from keyvouch.uri import KeyUri

if TYPE_CHECKING:
    from cryptography.x509 import Certificate


@click.command("install")
@key_options
@click.argument("file", type=click.Path(path_type=Path))
@output_option
def command(profile: str | None, key: str | None, file: Path, output: str) -> None:
    """Put the certificate in FILE into the store, next to its key.

    FILE is PEM or DER, and may contain issuers in any order.
    """
    selection = select(profile, key)
    installed = _install(selection, load_certificates(read_path(file), file))
    with opening.open_uri(installed, selection.secrets) as signer:
        facts = key_facts(signer)
    present(facts, output, lambda result: _print_text(installed, result))


def _install(selection: Selection, certificates: list[Certificate]) -> KeyUri:
    """Store the certificate, and return the URI that identifies the key afterwards."""
    try:
        with selection.open() as signer:
            chain = order_chain(certificates, signer.public_key)
            pinned = signer.uri
    except KeyNotFound:  # if a request is pending, the key exists only after its certificate is installed
        with selection.open_store() as store:
            leaf = find_leaves(certificates)[0]
            return store.install_certificate(order_chain(certificates, leaf.public_key()))  # type: ignore[arg-type]
    with key_management.Store(opening.parse(pinned), selection.secrets) as store:
        return store.install_certificate(chain)


def _print_text(uri: KeyUri, facts: dict[str, object]) -> None:
    print_key(uri, facts)
    click.echo("\nIf the certificate is new to the authority, register it there.", err=True)
    print_next_command(f"keyvouch export --certificate app.cer --key {uri.quoted}")
