"""`keyvouch assertion`"""

from __future__ import annotations

import click
import msgspec

from keyvouch.cli.options import client_options, key_options, output_option
from keyvouch.cli.output import present
from keyvouch.cli.selection import Selection, select
from keyvouch.errors import ConfigurationError

JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
"""RFC 7523, section 2.2."""


@click.command("assertion")
@key_options
@client_options
@click.option("--endpoint", metavar="URL", help="Token endpoint, instead of the tenant's.")
@output_option
def command(
    profile: str | None,
    key: str | None,
    client_id: str | None,
    tenant: str | None,
    authority: str | None,
    endpoint: str | None,
    output: str,
) -> None:
    """Print a signed client assertion, for programs that send it themselves.

    It is valid for ten minutes, for anyone who has it. Treat it like a password.
    """
    from keyvouch.entra.assertion import EntraAssertion
    from keyvouch.entra.authority import require_fields

    selection = select(profile, key, client_id=client_id, tenant=tenant, authority=authority)
    require_fields(selection.profile, selection.name, "client_id", "keys")
    endpoint = endpoint or _token_endpoint(selection)
    with selection.open() as signer:
        build = EntraAssertion(signer, **msgspec.structs.asdict(selection.profile.assertion))
        assertion = build({"client_id": str(selection.profile.client_id), "token_endpoint": endpoint})
    result = {"client_assertion_type": JWT_BEARER, "client_assertion": assertion, "token_endpoint": endpoint}
    present(result, output, lambda shown: click.echo(shown["client_assertion"]))


def _token_endpoint(selection: Selection) -> str:
    """Return a tenant's token endpoint, which follows from Entra ID's URL scheme; for an issuer it must be given."""
    from keyvouch.entra.authority import authority_options

    options = authority_options(selection.profile, selection.name)
    if "authority" not in options:
        raise ConfigurationError("Unknown token endpoint of the authority.", hint="Use --endpoint URL.")
    return f"{options['authority']}/oauth2/v2.0/token"
