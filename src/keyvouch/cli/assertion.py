"""`keyvouch assertion`"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from keyvouch.cli.options import ca_file_option, client_options, key_options, output_option
from keyvouch.cli.output import present
from keyvouch.cli.selection import Selection, select
from keyvouch.errors import KeyvouchError

if TYPE_CHECKING:
    from keyvouch.entra.assertion import Discovered

JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
"""RFC 7523, section 2.2."""


@click.command("assertion")
@key_options
@client_options
@ca_file_option
@click.option("--endpoint", metavar="URL", help="Token endpoint, instead of the authority's.")
@output_option
def command(
    profile: str | None,
    key: str | None,
    client_id: str | None,
    tenant: str | None,
    authority: str | None,
    ca_file: str | None,
    endpoint: str | None,
    output: str,
) -> None:
    """Print a signed client assertion, for programs that send it themselves.

    It is valid for ten minutes, for anyone who has it. Treat it like a password.

    The algorithm and the token endpoint of an OpenID Connect issuer come from its discovery document. If that cannot be
    read, --endpoint is required, and an RSA key signs with RS256.
    """
    from keyvouch.entra.assertion import EntraAssertion
    from keyvouch.entra.authority import require_fields

    selection = select(profile, key, client_id=client_id, tenant=tenant, authority=authority, ca_file=ca_file)
    require_fields(selection.profile, selection.name, "client_id", "keys")
    endpoint, discovered = _discover(selection, endpoint)
    options = msgspec.structs.asdict(selection.profile.assertion)
    with selection.open() as signer:
        build = EntraAssertion(signer, discovered=discovered, profile=selection.name, **options)
        assertion = build({"client_id": str(selection.profile.client_id), "token_endpoint": endpoint})
    result = {"client_assertion_type": JWT_BEARER, "client_assertion": assertion, "token_endpoint": endpoint}
    present(result, output, lambda shown: click.echo(shown["client_assertion"]))


def _discover(selection: Selection, endpoint: str | None) -> tuple[str, Discovered | None]:
    """Return the token endpoint, unless it is given, and what an issuer's discovery document says.

    A tenant's token endpoint follows from Entra ID's URL scheme, without a request.
    """
    from keyvouch.entra.authority import authority_options, is_issuer

    if not is_issuer(selection.profile):
        if endpoint is None:
            endpoint = f"{authority_options(selection.profile, selection.name)['authority']}/oauth2/v2.0/token"
        return endpoint, None
    try:
        return _ask(selection, endpoint)
    except KeyvouchError as error:
        if endpoint is None:
            error.hint += "\nTo make an assertion without the discovery document, use --endpoint URL."
            raise
        click.echo(
            f"Using the default algorithm, since the discovery document cannot be read: {error.message}", err=True
        )
        return endpoint, None


def _ask(selection: Selection, endpoint: str | None) -> tuple[str, Discovered]:
    from keyvouch.entra.profile import make_client  # imported late, since MSAL is slow to import

    uncached = msgspec.structs.replace(selection.profile, token_cache="memory")  # noqa: S106 - not a secret
    with make_client(uncached, selection.name, selection.secrets) as client:
        return endpoint or str(client.authority.token_endpoint), client.discovered
