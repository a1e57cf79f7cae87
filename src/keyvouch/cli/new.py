"""`keyvouch new`"""

from __future__ import annotations

import contextlib
import datetime as dt
from pathlib import Path
from typing import Any

import click

from keyvouch._core import opening
from keyvouch.algorithms import KEY_TYPES
from keyvouch.cli import export, profile
from keyvouch.cli.inputs import relative_path
from keyvouch.cli.options import output_option
from keyvouch.cli.output import (
    is_machine_key,
    key_facts,
    mentioning_new_key,
    present,
    print_key,
    print_next_command,
    print_profile_commands,
    printable,
    shown_time,
)
from keyvouch.cli.selection import Selection, select
from keyvouch.errors import KeyvouchError
from keyvouch.store import KeyInfo, KeySpec, KeyUri


@click.command("new")
@click.option("--key", required=True, metavar="URI", help="Where to create it. In a shell, quote it.")
@click.option("--subject", default="CN=keyvouch", show_default=True, help="Certificate subject, like CN=app,O=Contoso.")
@click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="Days until it expires.")
@click.option("--key-type", type=click.Choice(KEY_TYPES, case_sensitive=False), default="RSA-2048", show_default=True)
@click.option("--further", is_flag=True, help="Add a key to an existing family of keys.")
@click.option("--exportable", is_flag=True, help="Let the store export the key later, if it can prevent that.")
@click.option("--certificate-out", type=click.Path(path_type=Path), metavar="FILE.cer", help="Write the certificate.")
@click.option("--save-profile", metavar="NAME", help="Add a profile with this key. Requires --tenant and --client-id.")
@click.option("--tenant", metavar="TENANT", help="Tenant for the profile.")
@click.option("--client-id", metavar="ID", help="Client ID for the profile.")
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
    """Create a key and a self-signed certificate at the URI. Existing keys are never overwritten.

    Entra ID accepts only RSA keys. Register the certificate there; it is not a secret.
    """
    if save_profile and not (tenant and client_id):
        raise click.UsageError("--save-profile requires --tenant and --client-id.")
    selection = select(None, key, may_be_missing=bool(save_profile), confirm=True)
    # Refuse whatever can be refused before the key is made.
    if certificate_out:
        export.require_new_file(certificate_out)
    if save_profile:
        profile.require_new_name(save_profile)
    with selection.open_store() as store:
        requested = store.uri
        spec = KeySpec(key_type=key_type, subject=subject, days=days, exportable=exportable, further=further)
        pinned = store.generate(spec)
    profile_key = key_for_profile(requested, pinned)
    signs_from, to_grant = _succession(profile_key, pinned, selection) if further else (None, [])
    with mentioning_new_key(pinned):
        with opening.open_uri(pinned, selection.secrets) as signer:
            facts = key_facts(signer)
            if certificate_out:
                export.write_certificate(certificate_out, signer)
        facts["signs_from"] = signs_from and signs_from.isoformat()
        facts["accounts_to_grant"] = to_grant
        facts["certificate_file"] = certificate_out and str(certificate_out)
        if save_profile:
            facts["configuration"] = str(profile.save(save_profile, tenant, str(client_id), (profile_key.reveal(),)))
            facts["profile"] = save_profile
    present(facts, output, lambda result: _print_text(result, requested, pinned, profile_key, further=further))


def key_for_profile(requested: KeyUri, pinned: KeyUri) -> KeyUri:
    """Return the URI for a profile: as requested, so that the profile follows the key's rotation.

    A relative path depends on the working directory, so it is pinned, and so is a key whose URI gives only a location.
    If the store named a member of a family, the newest one is selected.
    """
    if relative_path(requested) or requested.selects_no_key:
        return pinned
    is_member = requested.identity() != pinned.replace({"spki-sha256": None}).identity()
    return requested.replace({"select": "newest"}) if is_member and "spki-sha256" not in requested else requested


def _succession(profile_key: KeyUri, pinned: KeyUri, selection: Selection) -> tuple[dt.datetime | None, list[str]]:
    """Return when programs that open the family begin to sign with its new member, and who may not do so yet.

    The time is None if they do so at once; the accounts are those that may sign with another member.
    """
    from keyvouch._core.key_management import Store

    with contextlib.suppress(KeyvouchError), Store(profile_key, selection.secrets) as store:
        members = store.keys()
        schedule = store.schedule(members)
        is_next = schedule.next is not None and schedule.next.uri.identity() == pinned.identity()
        return schedule.next_at if is_next else None, _accounts_to_grant(members, pinned)
    return None, []


def _accounts_to_grant(members: list[KeyInfo], pinned: KeyUri) -> list[str]:
    """Return the accounts that may sign with another member of the family, but not with this one."""
    allowed = {reader for info in members if info.uri.identity() == pinned.identity() for reader in info.readers or ()}
    readers = dict.fromkeys(reader for info in members for reader in info.readers or ())
    return [each for each in readers if each not in allowed]


def _print_succession(signs_from: str | None, profile_key: KeyUri) -> None:
    """Say when the new member of a family begins to sign, and which URI follows the family."""
    if signs_from:
        begin, settle = shown_time(dt.datetime.fromisoformat(signs_from)), profile_key.get("settle")
        click.echo(
            f"\nThe new key signs from {begin} (settle={settle}); until then the previous one does.\n"
            "Register its certificate by then: the authority refuses what it does not know.",
            err=True,
        )
    else:
        click.echo("\nThe new key signs from now on: register its certificate at once.", err=True)
    click.echo(f"This URI stays valid, and always selects the key that is to sign:\n  {profile_key.quoted}", err=True)


def _print_accounts_to_grant(accounts: list[str], pinned: KeyUri) -> None:
    if accounts:
        lines = "".join(f"\n  keyvouch grant '{printable(each)}' --key {pinned.quoted}" for each in accounts)
        click.echo(f"\nThe new key is not available yet to accounts that use the family:{lines}", err=True)


def _print_text(
    facts: dict[str, Any], requested: KeyUri, pinned: KeyUri, profile_key: KeyUri, *, further: bool
) -> None:
    print_key(pinned, {name: value for name, value in facts.items() if name not in ("signs_from", "accounts_to_grant")})
    if {"path", "password"} <= {*requested.declared} and "password" not in requested:
        click.echo("\nThe file is not encrypted: the URI has no password=. Did the shell cut it at `&`?", err=True)
    if not facts["key_type"].startswith("RSA"):
        click.echo("\nEntra ID accepts only RSA keys. This key is for other servers.", err=True)
    if further:
        _print_succession(facts["signs_from"], profile_key)
        _print_accounts_to_grant(facts["accounts_to_grant"], pinned)
    is_new_machine_key = is_machine_key(pinned) and not further and "profile" not in facts
    if facts["certificate_file"] is None and not is_new_machine_key:
        print_next_command(f"keyvouch export --certificate app.cer --key {pinned.quoted}")
        return
    if facts["certificate_file"]:
        click.echo(f"\nUpload {facts['certificate_file']} to the app registration (Certificates & secrets).", err=True)
    if "profile" in facts:
        profile.warn_of_own_configuration(Path(facts["configuration"]))
        print_next_command(f"keyvouch token --profile {facts['profile']}")
    elif not further:
        print_profile_commands(profile_key, pinned, exported=facts["certificate_file"] is not None)
