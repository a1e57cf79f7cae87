"""`keyvouch assertion`"""

from __future__ import annotations

import click
import msgspec

from keyvouch.cli.common import Chosen, choose, key_options, output_option, print_json
from keyvouch.errors import ConfigurationError


@click.command("assertion")
@key_options
@click.option("--client-id", metavar="ID", help="For which client; in place of the profile's.")
@click.option("--tenant", metavar="TENANT", help="At which tenant; in place of the profile's.")
@click.option("--endpoint", metavar="URL", help="For which token endpoint; in place of the tenant's.")
@output_option
def command(
    profile: str | None,
    key: str | None,
    client_id: str | None,
    tenant: str | None,
    endpoint: str | None,
    output: str,
) -> None:
    """Print a signed client assertion, for programs that send it themselves.

    It is good for ten minutes, and for whoever has it: treat it like a password.
    """
    from keyvouch.entra.assertion import EntraAssertion
    from keyvouch.entra.authority import require_fields

    chosen = choose(profile, key, client_id=client_id, tenant=tenant)
    require_fields(chosen.profile, chosen.name, "client_id", "keys")
    endpoint = endpoint or _endpoint(chosen)
    with chosen.open() as signer:
        make = EntraAssertion(signer, **msgspec.structs.asdict(chosen.profile.assertion))
        made = make({"client_id": str(chosen.profile.client_id), "token_endpoint": endpoint})
    if output == "json":
        print_json(
            {
                "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                "client_assertion": made,
                "token_endpoint": endpoint,
            }
        )
    else:
        click.echo(made)


def _endpoint(chosen: Chosen) -> str:
    """Return a tenant's token endpoint, which follows from Entra ID's URL scheme; for an issuer it must be given."""
    from keyvouch.entra.authority import authority_options

    options = authority_options(chosen.profile, chosen.name)
    if "authority" not in options:
        raise ConfigurationError("The authority's token endpoint is not known.", hint="Give --endpoint URL.")
    return f"{options['authority']}/oauth2/v2.0/token"
