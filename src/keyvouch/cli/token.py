"""`keyvouch token`"""

from __future__ import annotations

import click

from keyvouch.cli.common import choose, key_options, output_option, print_json
from keyvouch.entra.cached_token import cached_token


@click.command("token")
@key_options
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="What for; in place of the profile's.")
@click.option("--tenant", metavar="TENANT", help="Where to sign in; in place of the profile's.")
@click.option("--client-id", metavar="ID", help="As which app; in place of the profile's.")
@click.option("--no-cache", is_flag=True, help="Sign in again: neither read nor write the token cache.")
@output_option
def command(
    profile: str | None,
    key: str | None,
    scopes: tuple[str, ...],
    tenant: str | None,
    client_id: str | None,
    no_cache: bool,
    output: str,
) -> None:
    """Print an access token, bare and on one line.

    A token that is still valid is taken from the cache: then nothing is signed, and a mistake in the profile does not
    show. A token that cannot be cached is printed all the same, with a warning on standard error.
    """
    cache = "memory" if no_cache else None
    chosen = choose(profile, key, scopes=scopes or None, tenant=tenant, client_id=client_id, token_cache=cache)
    found = cached_token(chosen.profile, chosen.name)
    from_cache = found is not None
    if found is None:
        from keyvouch.entra.profile import make_client  # imported late, since MSAL is slow to import

        with make_client(chosen.profile, chosen.name, chosen.secrets) as client:
            found = client.access_token()
    if output == "json":
        print_json({"access_token": found, "token_type": "Bearer", "from_cache": from_cache})
    else:
        click.echo(found)
