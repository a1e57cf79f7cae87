"""Support for Microsoft Entra ID: MSAL integration, Entra's rules, and the meaning of its errors.

The path of a token request, from `keyvouch.connect` to the POST:

1. `profile`: `connect` finds the profile's client (`client_of`, `make_client`) and asks it for a token.
2. `msal`: `ConfidentialClient.access_token` makes one request for all threads that ask for the same token.
3. `key_failover`: `KeyFailover.try_keys` calls MSAL with each of the client's keys until one is accepted.
4. MSAL calls back `KeyFailover.make_assertion`, and an `EntraAssertion` from `assertion` is signed.
5. `transport`: MSAL sends it with `Session.request`, which also checks the documents of `discovery`.
6. `outcome`: an `Outcome` holds MSAL's result; `msal_errors` and `aadsts_advice` make errors of everything but a token.
"""
