"""`keyvouch token`"""

from __future__ import annotations

import click

from keyvouch.cli.options import key_options, output_option
from keyvouch.cli.output import present
from keyvouch.cli.selection import select
from keyvouch.entra.cached_token import cached_token


@click.command("token")
@key_options
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="Scope, instead of the profile's.")
@click.option("--tenant", metavar="TENANT", help="Tenant, instead of the profile's.")
@click.option("--client-id", metavar="ID", help="Client ID, instead of the profile's.")
@click.option("--no-cache", is_flag=True, help="Sign in again: do not read or write the token cache.")
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
    """Print an access token on one line.

    A valid token comes from the cache. Then nothing is signed, and mistakes in the profile are not noticed. A token
    that cannot be cached is still printed, with a warning on standard error.
    """
    cache = "memory" if no_cache else None
    selection = select(profile, key, scopes=scopes or None, tenant=tenant, client_id=client_id, token_cache=cache)
    token = cached_token(selection.profile, selection.name)
    from_cache = token is not None
    if token is None:
        from keyvouch.entra.profile import make_client  # imported late, since MSAL is slow to import

        with make_client(selection.profile, selection.name, selection.secrets) as client:
            token = client.access_token()
    result = {"access_token": token, "token_type": "Bearer", "from_cache": from_cache}
    present(result, output, lambda shown: click.echo(shown["access_token"]))
