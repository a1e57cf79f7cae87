"""A development authority: an HTTPS server on loopback that is as strict as Microsoft Entra ID.

It has tenants and applications, checks client assertions by Entra ID's rules and responds with Entra ID's messages, so
that a program's sign-in can be tested without a tenant, network access or a secret:

    with Authority() as authority:
        app = authority.register(certificates=[certificate])
        session = requests.Session()
        session.trust_env, session.verify = False, authority.ca_file      # REQUESTS_CA_BUNDLE would win otherwise
        client = msal.ConfidentialClientApplication(
            app.client_id, authority=authority.authority, client_credential=..., http_client=session,
            instance_discovery=False,
        )
        client.acquire_token_for_client(["https://graph.microsoft.com/.default"])
        authority.exchanges[-1].claims                                    # what was sent, and how it was answered

It shares no code with the rest of keyvouch, and verifies with `cryptography` only: code that makes an assertion must
not also verify it. All its data is discarded when it closes.
"""

from keyvouch.testing.authority.directory import App
from keyvouch.testing.authority.endpoints import Exchange
from keyvouch.testing.authority.service import Authority

__all__ = ["App", "Authority", "Exchange"]
