"""`keyvouch import`"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keyvouch._core import opening
from keyvouch.cli.new import key_for_profile
from keyvouch.cli.options import key_option, output_option
from keyvouch.cli.output import (
    is_machine_key,
    key_facts,
    mentioning_new_key,
    present,
    print_key,
    print_next_command,
    print_profile_commands,
    print_readers_hint,
)
from keyvouch.cli.selection import select
from keyvouch.errors import KeyUnusable
from keyvouch.secrets import Secret
from keyvouch.uri import KeyUri

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch._core.key_management import Store
    from keyvouch.algorithms import PrivateKey


@click.command("import")
@click.option("--from", "source", required=True, metavar="URI", help="Key to copy, from a store that can export it.")
@key_option("Where to import it. In a shell, quote it.", required=True)
@click.option("--exportable", is_flag=True, help="Let the new store export the key again, if it can prevent that.")
@output_option
def command(source: str, key: str, exportable: bool, output: str) -> None:
    """Copy a key and its certificate from one store to another, for example from a PFX file to an HSM.

    Existing keys are never overwritten. The first store keeps its key. Delete it there once the new one signs.
    """
    origin, target = select(None, source), select(None, key)
    private_key, chain = _export(origin.open_store())
    with target.open_store() as store:
        requested = store.uri
        pinned = store.import_key(private_key, chain, exportable=exportable)
    with mentioning_new_key(pinned), opening.open_uri(pinned, target.secrets) as signer:
        facts = key_facts(signer)
    present(facts, output, lambda result: _print_text(requested, pinned, result))


def _print_text(requested: KeyUri, pinned: KeyUri, facts: dict[str, object]) -> None:
    print_key(pinned, facts)
    print_readers_hint(requested, pinned)
    if is_machine_key(pinned):
        print_profile_commands(key_for_profile(requested, pinned), pinned, exported=False)
        return
    print_next_command(f"keyvouch sign --key {pinned.quoted} FILE")


def _export(store: Store) -> tuple[PrivateKey, list[Certificate]]:
    """Return the key and its chain, passed as an in-memory PKCS#12 with a random password."""
    from keyvouch.certificate import order_chain
    from keyvouch.stores import pfx

    password = Secret(secrets.token_urlsafe(32))
    with store:
        data = store.export_pfx(password)
    # Not with `cryptography`, which drops the parameters of an RSASSA-PSS key.
    contents = pfx.read(data, password, Path(f"the export of {store.uri}"))
    key = contents.keys[0].key
    if isinstance(key, KeyUnusable):
        raise key
    return key, list(order_chain(contents.certificates, key.public_key()))
