"""A Key Vault simulator: an HTTPS server on loopback that is as strict as Azure Key Vault, or as a Managed HSM.

It holds keys, certificates and secrets, checks the tokens issued by a development authority, and fails on demand, so
that a program can be tested with the unmodified Azure SDK, without a subscription or network access:

    with Authority() as authority, KeyVault(authority) as vault:
        app = authority.register(certificates=[certificate])
        vault.make_certificate("app")
        client = KeyClient(
            vault.url, credential, connection_verify=vault.ca_file, verify_challenge_resource=False
        )
        client.get_key("app")
        vault.fail("keys/sign", refusals.throttled(retry_after=2), Drop())    # the next two signatures

It is based on the service's documentation, recorded responses and the SDK's models. It shares no code with the rest of
keyvouch, and signs with `cryptography` only. All its data is discarded when it closes.
"""

from keyvouch_azure_keyvault.testing.faults import Body, Cut, Drop, Fault, Stall, Trickle
from keyvouch_azure_keyvault.testing.objects import Item, Version
from keyvouch_azure_keyvault.testing.refusals import Refusal
from keyvouch_azure_keyvault.testing.vault import KeyVault

__all__ = ["Body", "Cut", "Drop", "Fault", "Item", "KeyVault", "Refusal", "Stall", "Trickle", "Version"]
