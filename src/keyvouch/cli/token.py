"""`keyvouch token`"""

from __future__ import annotations

import time
from typing import Any

import click

from keyvouch._core import environment
from keyvouch.cli.options import ca_file_option, client_options, key_options, output_option
from keyvouch.cli.output import present
from keyvouch.cli.selection import Selection, select, warn_of_hidden_profile
from keyvouch.entra.cached_token import cached_token


@click.command("token")
@key_options
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="Scope, instead of the profile's.")
@client_options
@ca_file_option
@click.option("--no-cache", is_flag=True, help="Sign in again: do not read or write the token cache.")
@output_option
def command(
    profile: str | None,
    key: str | None,
    scopes: tuple[str, ...],
    tenant: str | None,
    client_id: str | None,
    authority: str | None,
    ca_file: str | None,
    no_cache: bool,
    output: str,
) -> None:
    """Print an access token on one line.

    A valid token comes from the cache. Then nothing is signed, and mistakes in the profile are not noticed. A token
    that cannot be cached is still printed, with a warning on standard error.
    """
    cache = "memory" if no_cache else None
    own: dict[str, Any] = {"tenant": tenant, "client_id": client_id, "authority": authority, "ca_file": ca_file}
    selection = select(profile, key, scopes=scopes or None, token_cache=cache, **own)
    warn_of_hidden_profile(selection.name)
    cached = cached_token(selection.profile, selection.name)
    token, expires_on = cached or _request(selection)
    result = {
        "access_token": token,
        "token_type": "Bearer",
        "expires_on": expires_on,
        "from_cache": cached is not None,
    }
    present(result, output, lambda shown: click.echo(shown["access_token"]))


def _request(selection: Selection) -> tuple[str, int]:
    """Sign in; return the token and when it expires, in seconds since 1970."""
    from keyvouch.entra.profile import make_client  # imported late, since MSAL is slow to import

    has_own_keys = selection.own_key or selection.name == environment.NAME
    with make_client(selection.profile, selection.name, selection.secrets, has_own_keys=has_own_keys) as client:
        now = int(time.time())  # before the request, so that the reported expiry is never too late
        found = client.token_result()
    return str(found["access_token"]), now + int(found["expires_in"])
