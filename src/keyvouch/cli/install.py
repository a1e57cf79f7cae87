"""`keyvouch install`"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from keyvouch._core import key_management, opening
from keyvouch.certificate import load_certificates, order_chain
from keyvouch.cli.common import (
    choose,
    key_facts,
    key_options,
    next_command,
    output_option,
    print_json,
    print_key,
    read_path,
)
from keyvouch.errors import KeyNotFound


@click.command("install")
@key_options
@click.argument("file", type=click.Path(path_type=Path))
@output_option
def command(profile: str | None, key: str | None, file: Path, output: str) -> None:
    """Keep the certificate in FILE (PEM or DER, with its issuers in any order) beside its key in the store."""
    chosen = choose(profile, key)
    certificates = load_certificates(read_path(file), file)
    try:
        with chosen.open() as signer:
            chain = order_chain(certificates, signer.public_key)
            pinned = signer.uri
    except KeyNotFound:  # if a request is pending, the key exists only after its certificate is installed
        public_key: Any = certificates[0].public_key()
        with chosen.open_store() as store:
            known_as = store.install_certificate(order_chain(certificates, public_key))
    else:
        with key_management.Store(opening.parse(pinned), chosen.secrets) as store:
            known_as = store.install_certificate(chain)
    with opening.open_uri(known_as, chosen.secrets) as signer:
        facts = key_facts(signer)
    if output == "json":
        print_json(facts)
        return
    print_key(known_as, facts)
    click.echo("\nRegister it, if it is new to the authority.", err=True)
    next_command(f"keyvouch export --certificate app.cer --key {known_as.quoted}")
