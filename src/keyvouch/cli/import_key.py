"""`keyvouch import`"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import click

from keyvouch._core import opening
from keyvouch.cli.common import (
    choose,
    key_facts,
    next_command,
    output_option,
    print_json,
    print_key,
    telling_that_it_stays,
)
from keyvouch.secrets import Secret

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch._core.key_management import Store
    from keyvouch.algorithms import PrivateKey


@click.command("import")
@click.option("--from", "source", required=True, metavar="URI", help="The key to take in, in a store that gives it.")
@click.option("--key", required=True, metavar="URI", help="Where to put it; in a shell, in single quotes.")
@click.option("--exportable", is_flag=True, help="Let it leave its new store again, where that can prevent it.")
@output_option
def command(source: str, key: str, exportable: bool, output: str) -> None:
    """Take a key, with its certificate, from one store into another, as from a PFX file into an HSM.

    Nothing is ever overwritten, and the first store keeps its key: delete it there when the new one signs.
    """
    giving, taking = choose(None, source), choose(None, key)
    private_key, chain = _given(giving.open_store())
    with taking.open_store() as store:
        pinned = store.import_key(private_key, chain, exportable=exportable)
    with telling_that_it_stays(pinned, "imported"), opening.open_uri(pinned, taking.secrets) as signer:
        facts = key_facts(signer)
    if output == "json":
        print_json(facts)
        return
    print_key(pinned, facts)
    next_command(f"keyvouch sign --key {pinned.quoted} FILE")


def _given(store: Store) -> tuple[PrivateKey, list[Certificate]]:
    """Return the key and its chain, passed as an in-memory PKCS#12 with a random password."""
    from cryptography.hazmat.primitives.serialization import pkcs12

    from keyvouch.certificate import order_chain

    password = Secret(secrets.token_urlsafe(32))
    with store:
        octets = store.export_pfx(password)
    key, leaf, issuers = pkcs12.load_key_and_certificates(octets, password.reveal().encode())
    certificates = [each for each in (leaf, *issuers) if each]
    return key, list(order_chain(certificates, key.public_key()))  # type: ignore[return-value, union-attr, arg-type]
