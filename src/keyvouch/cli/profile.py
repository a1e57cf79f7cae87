"""`keyvouch profile`"""

from __future__ import annotations

import os
from pathlib import Path

import click
import msgspec

from keyvouch import config
from keyvouch._core import opening
from keyvouch._core.redaction import redact
from keyvouch._system import files
from keyvouch.cli.common import next_command, output_option, print_facts, print_json, relative_path


@click.group("profile")
def command() -> None:
    """Show and add profiles: what a program needs to sign in."""


@command.command("list")
@output_option
def list_profiles(output: str) -> None:
    """List the profiles."""
    configuration = config.load()
    names = list(configuration.profiles)
    if output == "json":
        print_json({"path": configuration.path and str(configuration.path), "profiles": names})
    elif names:
        click.echo("\n".join(names))
    else:
        click.echo(f"There are no profiles; tried: {', '.join(map(str, configuration.tried))}.", err=True)


@command.command("show")
@click.argument("name", required=False)
@output_option
def show(name: str | None, output: str) -> None:
    """Show a profile with the defaults in it; NAME may be left out where there is one alone."""
    configuration = config.load()
    profile = configuration.profile(configuration.pick(name))
    fields = {
        field: [redact(each) for each in value] if field == "keys" else _without_user(value)
        for field, value in msgspec.to_builtins(profile).items()
        if value not in (None, (), [], {})
        and field != "assertion"
        and not (field == "cloud" and profile.authority)  # the authority takes precedence
    }
    options = {option: value for option, value in msgspec.to_builtins(profile.assertion).items() if value is not None}
    if output == "json":
        print_json({**fields, "assertion": options})
        return
    facts = {field: ", ".join(value) if isinstance(value, list | tuple) else value for field, value in fields.items()}
    print_facts({**facts, **{f"assertion.{option}": value for option, value in options.items()}})


@command.command("add")
@click.argument("name")
@click.option("--key", "keys", multiple=True, required=True, metavar="URI", help="A key; the preferred one first.")
@click.option("--tenant", metavar="TENANT", help="Its id or a domain name.")
@click.option("--client-id", required=True, metavar="ID", help="Of the app registration.")
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="By default Microsoft Graph's.")
@click.option("--authority", metavar="URL", help="Another server than Microsoft's public cloud.")
@click.option("--ca-file", metavar="FILE", help="Certificates to trust for TLS.")
@click.option("--proxy", metavar="URL", help="An HTTP proxy, in place of the environment's.")
@click.option("--proxy-credentials", metavar="REFERENCE", help="Where user:password for it is, as env:NAME.")
@output_option
def add(
    name: str,
    keys: tuple[str, ...],
    tenant: str | None,
    client_id: str,
    scopes: tuple[str, ...],
    authority: str | None,
    ca_file: str | None,
    proxy: str | None,
    proxy_credentials: str | None,
    output: str,
) -> None:
    """Add a profile to the configuration; what stands in it stays as it is."""
    if not client_id or not (tenant or authority):
        raise click.UsageError("Give --client-id, and --tenant or --authority.")
    if ca_file and not Path(ca_file).exists():  # a file, or a folder in OpenSSL's format
        raise click.UsageError(f"There is no {ca_file}.")
    fields: dict[str, object] = {
        "authority": authority,
        "ca-file": ca_file and str(Path(ca_file).absolute()),
        "proxy": proxy,
        "proxy-credentials": proxy_credentials,
    }
    where = save(name, tenant, client_id, tuple(map(_absolute, keys)), scopes=scopes, fields=fields)
    if output == "json":
        print_json({"path": str(where), "profile": name})
    else:
        click.echo(f"Added the profile {name} to {where}.")
        next_command(f"keyvouch token --profile {name}")


@command.command("path")
@output_option
def path(output: str) -> None:
    """Print where the configuration is, or would be written."""
    found = place()
    if output == "json":
        print_json({"path": str(found), "exists": found.exists()})
    else:
        click.echo(found)


def _without_user(value: object) -> object:
    """Return a URL without a user and password, which a proxy's URL may contain."""
    return redact(value) if isinstance(value, str) else value


def _absolute(key: str) -> str:
    """Return the key's URI with its path made absolute."""
    uri = opening.parse(key)
    path = relative_path(uri)
    return (uri.replace({"path": str(path.absolute())}) if path else uri).reveal()


def place() -> Path:
    """Return the configuration file in use, or else the user's own."""
    if given := os.environ.get("KEYVOUCH_CONFIG"):
        return Path(given).absolute()
    return config.load().path or files.configuration_files()[0]


def require_free(name: str) -> None:
    """Raise `ConfigurationError` if a profile of this name exists, or if the name is invalid."""
    config.load(may_be_missing=True).require_free(name)


def save(
    name: str,
    tenant: str | None,
    client_id: str,
    keys: tuple[str, ...],
    *,
    scopes: tuple[str, ...] = (),
    fields: dict[str, object] | None = None,
) -> Path:
    """Add a profile and return the path of the configuration."""
    where = place()
    own: dict[str, object] = {
        "tenant": tenant,
        "client-id": client_id,
        "scopes": list(scopes) or ["https://graph.microsoft.com/.default"],
        "keys": list(keys),
    }
    config.add_profile(where, name, {**own, **(fields or {})})
    return where
