"""`keyvouch new`"""

from __future__ import annotations

from pathlib import Path

import click

from keyvouch._core import opening
from keyvouch.algorithms import KEY_TYPES
from keyvouch.cli import export, profile
from keyvouch.cli.common import (
    choose,
    key_facts,
    next_command,
    output_option,
    print_json,
    print_key,
    relative_path,
    telling_that_it_stays,
)
from keyvouch.store import KeySpec, KeyUri


@click.command("new")
@click.option("--key", required=True, metavar="URI", help="Where to make it; in a shell, in single quotes.")
@click.option("--subject", default="CN=keyvouch", show_default=True, help="Of the certificate, as CN=app,O=Contoso.")
@click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="How long it is valid.")
@click.option("--key-type", type=click.Choice(KEY_TYPES, case_sensitive=False), default="RSA-2048", show_default=True)
@click.option("--further", is_flag=True, help="Add a member to a family of keys that is already there.")
@click.option("--exportable", is_flag=True, help="Let the key leave its store later, where that may hinder it.")
@click.option("--certificate-out", type=click.Path(path_type=Path), metavar="FILE.cer", help="Write the public half.")
@click.option("--save-profile", metavar="NAME", help="Add a profile with this key; with --tenant and --client-id.")
@click.option("--tenant", metavar="TENANT", help="For the profile.")
@click.option("--client-id", metavar="ID", help="For the profile.")
@output_option
def command(
    key: str,
    subject: str,
    days: int,
    key_type: str,
    further: bool,
    exportable: bool,
    certificate_out: Path | None,
    save_profile: str | None,
    tenant: str | None,
    client_id: str | None,
    output: str,
) -> None:
    """Make a key and a self-signed certificate where the URI says; nothing is ever overwritten.

    Entra ID takes RSA keys alone. The certificate is to be registered: it is no secret.
    """
    if save_profile and not (tenant and client_id):
        raise click.UsageError("--save-profile needs --tenant and --client-id.")
    chosen = choose(None, key, may_be_missing=bool(save_profile), confirm=True)
    # Refuse whatever can be refused before the key is made.
    if certificate_out:
        export.require_free(certificate_out)
    if save_profile:
        profile.require_free(save_profile)
    with chosen.open_store() as store:
        requested = store.uri
        spec = KeySpec(key_type=key_type, subject=subject, days=days, exportable=exportable, further=further)
        pinned = store.generate(spec)
    lasting = _lasting(requested, pinned)
    with telling_that_it_stays(pinned, "made"):
        with opening.open_uri(pinned, chosen.secrets) as signer:
            facts = key_facts(signer)
            if certificate_out:
                export.write_certificate(certificate_out, signer)
        facts["certificate_file"] = certificate_out and str(certificate_out)
        if save_profile:
            facts["configuration"] = str(profile.save(save_profile, tenant, str(client_id), (lasting.reveal(),)))
            facts["profile"] = save_profile
    if output == "json":
        print_json(facts)
        return
    print_key(pinned, facts)
    if {"path", "password"} <= {*requested.declared} and "password" not in requested:
        click.echo("\nThe file is not encrypted: the URI has no password=. Did the shell cut it at `&`?", err=True)
    if not key_type.startswith("RSA"):
        click.echo("\nEntra ID takes RSA keys alone: this one is for other servers.", err=True)
    _say_next(certificate_out, save_profile, pinned, lasting)


def _lasting(requested: KeyUri, pinned: KeyUri) -> KeyUri:
    """Return the URI for a profile: as requested, so that the profile follows the key's rotation.

    A relative path depends on the working directory, so it is pinned, and so is a key whose URI gives only a location.
    If the store named a member of a family, the newest one is selected.
    """
    if relative_path(requested) or requested.selects_no_key:
        return pinned
    is_member = requested.identity() != pinned.replace({"spki-sha256": None}).identity()
    return requested.replace({"select": "newest"}) if is_member and "spki-sha256" not in requested else requested


def _say_next(certificate_out: Path | None, saved_profile: str | None, pinned: KeyUri, lasting: KeyUri) -> None:
    if certificate_out is None:
        next_command(f"keyvouch export --certificate app.cer --key {pinned.quoted}")
        return
    click.echo(f"\nUpload {certificate_out} on the app registration (Certificates & secrets).", err=True)
    if saved_profile:
        next_command(f"keyvouch token --profile {saved_profile}")
    else:
        next_command(f"keyvouch profile add NAME --tenant TENANT --client-id ID --key {lasting.quoted}")
