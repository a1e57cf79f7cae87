"""`keyvouch profile`"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click
import msgspec

from keyvouch import config
from keyvouch._core import environment, opening
from keyvouch._secrets.redaction import redact
from keyvouch._system import files
from keyvouch.cli.completion import complete_profiles
from keyvouch.cli.inputs import relative_path
from keyvouch.cli.options import authority_option, ca_file_option, output_option
from keyvouch.cli.output import present, print_facts, print_next_command
from keyvouch.entra.authority import is_issuer
from keyvouch.uri import absolute_reference, quoted


@click.group("profile")
def command() -> None:
    """List, show and add profiles. A profile contains what a program needs to sign in."""


@command.command("list")
@output_option
def list_profiles(output: str) -> None:
    """List the profiles."""
    configuration = config.load()
    configuration.require_reachable()
    names = list(configuration.profiles)

    def print_text(_: object) -> None:
        if names:
            click.echo("\n".join(names))
        else:
            click.echo(f"No profiles found in: {', '.join(map(str, configuration.tried))}.", err=True)

    present({"path": configuration.path and str(configuration.path), "profiles": names}, output, print_text)


@command.command("show")
@click.argument("name", required=False, shell_complete=complete_profiles)
@output_option
def show(name: str | None, output: str) -> None:
    """Show a profile with all defaults applied. NAME is optional if there is only one profile."""
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
    present({**fields, "assertion": options}, output, _print_fields)


def _print_fields(fields: dict[str, object]) -> None:
    shown: dict[str, object] = {}
    for field, value in fields.items():
        if isinstance(value, dict):
            shown |= {f"{field}.{option}": _as_toml(each) for option, each in value.items()}
        elif isinstance(value, list):
            shown[field] = [quoted(each) for each in value]
        else:
            shown[field] = value
    print_facts(shown)


def _as_toml(value: object) -> object:
    """Return a table, such as that of `kid`, as an inline table of TOML; any other value as it is."""
    if not isinstance(value, dict):
        return value
    # JSON strings are also valid in TOML.
    return f"{{ {', '.join(f'{json.dumps(name)} = {json.dumps(each)}' for name, each in value.items())} }}"


@command.command("add")
@click.argument("name")
@click.option("--key", "keys", multiple=True, required=True, metavar="URI", help="A key, the preferred one first.")
@click.option("--tenant", metavar="TENANT", help="Tenant ID or domain name.")
@click.option("--client-id", required=True, metavar="ID", help="Client ID of the app registration.")
@click.option(
    "--scope", "scopes", multiple=True, metavar="SCOPE", help="Scope. Default: with --tenant, Microsoft Graph's."
)
@authority_option
@ca_file_option
@click.option("--proxy", metavar="URL", help="HTTP proxy, instead of the environment's.")
@click.option("--proxy-credentials", metavar="REFERENCE", help="The proxy's user:password, such as env:NAME.")
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
    """Add a profile to the configuration. Its other contents do not change."""
    if not client_id or not (tenant or authority):
        raise click.UsageError("Use --client-id, and either --tenant or --authority.")
    fields: dict[str, object] = {
        "authority": authority,
        "ca-file": ca_file,
        "proxy": proxy,
        "proxy-credentials": proxy_credentials and absolute_reference(proxy_credentials),
    }
    path = save(name, tenant, client_id, tuple(map(_absolute, keys)), scopes=scopes, fields=fields)
    present({"path": str(path), "profile": name}, output, _print_added)


def _print_added(result: dict[str, str]) -> None:
    click.echo(f"Added the profile {result['profile']} to {result['path']}.")
    warn_of_own_configuration(Path(result["path"]))
    if is_issuer(config.load().profile(result["profile"])):
        print_registration(result["profile"])
    else:
        print_next_command(f"keyvouch token --profile {result['profile']}")


def print_registration(name: str) -> None:
    """Print the commands that follow for a new profile of a server that knows keys as JWKs, not by certificates."""
    print_next_command(
        f"keyvouch export --profile {name} --jwks",
        f"Register these public keys at the authority, then: keyvouch token --profile {name}",
    )


@command.command("path")
@output_option
def path(output: str) -> None:
    """Print the path of the configuration, whether or not it exists."""
    found = configuration_path()
    exists = os.path.exists(found)  # noqa: PTH110 - `Path.exists` raises PermissionError
    if not exists:
        config.load(may_be_missing=True).require_reachable()
    present({"path": str(found), "exists": exists}, output, lambda result: click.echo(result["path"]))


def _without_user(value: object) -> object:
    """Return a URL without a user and password, which a proxy's URL may contain."""
    return redact(value) if isinstance(value, str) else value


def _absolute(key: str) -> str:
    """Return the key's URI with its paths made absolute. Raises `ConfigurationError` if it is incomplete."""
    uri = opening.parse(key).with_absolute_files()
    opening.require_complete(uri)
    path = relative_path(uri)
    return (uri.replace({"path": str(files.absolute(path))}) if path else uri).reveal()


def configuration_path() -> Path:
    """Return the path of the configuration in use, or else of the user's own."""
    if given := environment.value_of("KEYVOUCH_CONFIG"):
        return files.absolute(Path(given))
    return config.load().path or files.configuration_files()[0]


def warn_of_own_configuration(path: Path) -> None:
    """Say, if root has written its own configuration, where the job of another account looks for one."""
    user, machine = files.configuration_files()[0], files.configuration_files()[-1]
    if sys.platform != "win32" and os.geteuid() == 0 and path == user != machine:
        click.echo(
            f"\nOnly root reads this file. A job that runs as another account reads its own, or {machine}: to add the"
            f" profile there, run `keyvouch profile add` with --config {machine} before `profile`.",
            err=True,
        )


def require_new_name(name: str) -> None:
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
    path = configuration_path()
    own: dict[str, object] = {
        "tenant": tenant,
        "client-id": client_id,
        "scopes": list(scopes) or (["https://graph.microsoft.com/.default"] if tenant else []),
        "keys": list(keys),
    }
    config.add_profile(path, name, {**own, **(fields or {})})
    return path
