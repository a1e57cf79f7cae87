"""`keyvouch new`"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from pathlib import Path
from typing import Any

import click

from keyvouch._core import opening
from keyvouch._system import files
from keyvouch._system.text import printable
from keyvouch.algorithms import KEY_TYPES
from keyvouch.cli import export, profile
from keyvouch.cli.inputs import relative_path
from keyvouch.cli.options import authority_option, ca_file_option, key_option, output_option
from keyvouch.cli.output import (
    JOBS_LOGIN,
    has_login,
    is_machine_key,
    key_facts,
    mentioning_new_key,
    present,
    print_key,
    print_next_command,
    print_profile_commands,
    print_readers_hint,
    shown_time,
)
from keyvouch.cli.selection import Selection, select
from keyvouch.entra.authority import is_issuer
from keyvouch.errors import KeyvouchError
from keyvouch.store import KeyInfo, KeySpec, KeyUri


@click.command("new")
@key_option("Where to create it. In a shell, quote it.", required=True)
@click.option("--subject", default="CN=keyvouch", show_default=True, help="Certificate subject, like CN=app,O=Contoso.")
@click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="Days until it expires.")
@click.option("--key-type", type=click.Choice(KEY_TYPES, case_sensitive=False), default="RSA-2048", show_default=True)
@click.option("--further", is_flag=True, help="Add a key to an existing family of keys.")
@click.option("--exportable", is_flag=True, help="Let the store export the key later, if it can prevent that.")
@click.option("--certificate-out", type=click.Path(path_type=Path), metavar="FILE.cer", help="Write the certificate.")
@click.option(
    "--save-profile",
    metavar="NAME",
    help="Add a profile with this key. Requires --client-id, and --tenant or --authority.",
)
@click.option("--tenant", metavar="TENANT", help="Tenant for the profile.")
@click.option("--client-id", metavar="ID", help="Client ID for the profile.")
@authority_option
@ca_file_option
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
    authority: str | None,
    ca_file: str | None,
    output: str,
) -> None:
    """Create a key and a self-signed certificate at the URI. Existing keys are never overwritten.

    Entra ID accepts only RSA keys. Register the certificate there; it is not a secret.
    """
    if save_profile and not (client_id and (tenant or authority)):
        raise click.UsageError("--save-profile requires --client-id, and either --tenant or --authority.")
    server = {"authority": authority, "tenant": tenant}
    selection = select(None, key, may_be_missing=bool(save_profile), confirm=True, **server)
    _refuse_early(certificate_out, save_profile)
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
            fields: dict[str, object] = {"authority": authority, "ca-file": ca_file}
            keys = (profile_key.reveal(),)
            facts["configuration"] = str(profile.save(save_profile, tenant, str(client_id), keys, fields=fields))
            facts["profile"] = save_profile

    def print_text(result: dict[str, Any]) -> None:
        _print_key(result, requested, pinned, is_for_entra=not is_issuer(selection.profile))
        _print_not_encrypted(requested, key)
        if further:
            _print_succession(result["signs_from"], profile_key)
            _print_accounts_to_grant(result["accounts_to_grant"], pinned)
        if "profile" in result:
            profile.warn_of_own_configuration(Path(result["configuration"]))
        if is_issuer(selection.profile):
            _print_jwk_registration(str(selection.profile.authority), pinned, save_profile)
        else:
            _print_certificate_registration(result, pinned, profile_key, further=further)

    present(facts, output, print_text)


def _refuse_early(certificate_out: Path | None, save_profile: str | None) -> None:
    """Refuse whatever can be refused before the key is made."""
    if certificate_out == export.STANDARD_OUTPUT:
        raise click.UsageError("--certificate-out requires a file. Afterwards, use keyvouch export --certificate -")
    if certificate_out:
        export.require_new_file(certificate_out)
    if save_profile:
        profile.require_new_name(save_profile)


def key_for_profile(requested: KeyUri, pinned: KeyUri) -> KeyUri:
    """Return the URI for a profile: as requested, so that the profile follows the key's rotation.

    A relative path depends on the working directory, so a file's is pinned and a family's made absolute. A key whose
    URI gives only a location is pinned.
    If the store named a member of a family, the newest one is selected.
    """
    path = relative_path(requested)
    if requested.selects_no_key or (path and "*" not in path.name):
        return pinned
    requested = requested.with_absolute_files()
    if path:
        requested = requested.replace({"path": str(files.absolute(path))})
    pins = dict.fromkeys({"spki-sha256", "version"} & {*requested.declared})  # versions are a family as they are
    is_member = requested.replace(pins).identity() != pinned.replace(pins).identity()
    return requested.replace({"select": "newest"}) if is_member and "spki-sha256" not in requested else requested


def _succession(profile_key: KeyUri, pinned: KeyUri, selection: Selection) -> tuple[dt.datetime | None, list[str]]:
    """Return when programs that open the family begin to sign with its new member, and who may not do so yet.

    The time is None if they do so at once; the accounts are those that may sign with another member.
    """
    from keyvouch._core.key_management import Store

    with contextlib.suppress(KeyvouchError), Store(profile_key, selection.secrets) as store:
        members = store.keys()
        now = store.schedule(members).now
        made = next((info for info in members if info.uri.identity() == pinned.identity()), None)
        if made is None:
            return None, []
        signs_from = None
        if now and now.spki_sha256 != made.spki_sha256 and made.age_begins:
            signs_from = made.age_begins + dt.timedelta(seconds=profile_key.get("settle"))
        return signs_from, _accounts_to_grant(members, made)
    return None, []


def _accounts_to_grant(members: list[KeyInfo], made: KeyInfo) -> list[str]:
    """Return the accounts that may sign with another member of the family, but not with this one."""
    readers = dict.fromkeys(reader for info in members for reader in info.readers or ())
    return [each for each in readers if each not in (made.readers or ())]


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
    line = f"keys = [{json.dumps(str(profile_key), ensure_ascii=False)}]"
    login = f", and {JOBS_LOGIN}" if has_login(profile_key) else ""
    click.echo(f"With this line{login}, a profile always uses the key that is to sign:\n  {line}", err=True)


def _print_accounts_to_grant(accounts: list[str], pinned: KeyUri) -> None:
    if accounts:
        lines = "".join(f"\n  keyvouch grant '{printable(each)}' --key {pinned.quoted}" for each in accounts)
        click.echo(f"\nThe new key is not available yet to accounts that use the family:{lines}", err=True)


def _print_key(facts: dict[str, Any], requested: KeyUri, pinned: KeyUri, *, is_for_entra: bool) -> None:
    print_key(pinned, {name: value for name, value in facts.items() if name not in ("signs_from", "accounts_to_grant")})
    print_readers_hint(requested, pinned)
    if is_for_entra and not facts["key_type"].startswith("RSA"):
        click.echo("\nEntra ID accepts only RSA keys. This key is for other servers.", err=True)


def _print_not_encrypted(requested: KeyUri, typed: str) -> None:
    """Say so if the key's file has no password; a shell cuts a URI that has attributes at `&`."""
    if not {"path", "password"} <= {*requested.declared} or "password" in requested:
        return
    question = " Did the shell cut it at `&`?" if {"?", "="} & {*typed} else ""
    click.echo(f"\nThe file is not encrypted: the URI has no password=.{question}", err=True)


def _print_jwk_registration(authority: str, pinned: KeyUri, saved: str | None) -> None:
    """Say what to register with a server that knows keys as JWKs, not by their certificates."""
    click.echo(f"\nRegister the public key, a JWK, for the client at {authority}. It is not a secret.", err=True)
    if saved:
        profile.print_registration(saved)
    else:
        print_next_command(f"keyvouch export --jwk --key {pinned.quoted}")


def _print_certificate_registration(
    facts: dict[str, Any], pinned: KeyUri, profile_key: KeyUri, *, further: bool
) -> None:
    """Say where the certificate is registered, and which command comes next."""
    file = facts["certificate_file"]
    is_new_machine_key = is_machine_key(pinned) and not further and "profile" not in facts
    if file is None and not is_new_machine_key:
        command = f"keyvouch export --jwk --key {pinned.quoted}"
        click.echo(f"\nFor a server that knows public keys (JWKS) instead of certificates: {command}", err=True)
        print_next_command(f"keyvouch export --certificate app.cer --key {pinned.quoted}")
        return
    if file:
        click.echo(f"\nUpload {file} to the app registration (Certificates & secrets).", err=True)
    if "profile" in facts:
        print_next_command(f"keyvouch token --profile {facts['profile']}")
    elif not further:
        print_profile_commands(profile_key, pinned, exported=file is not None)
