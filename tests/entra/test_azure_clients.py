"""`KeyvouchCredential` in an SDK client with azure-core's own policy, and in azure-identity's chains."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from azure.appconfiguration import AzureAppConfigurationClient
from azure.appconfiguration.aio import AzureAppConfigurationClient as AsyncAppConfigurationClient
from azure.core.credentials import TokenRequestOptions
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import ChainedTokenCredential, DefaultAzureCredential
from azure.identity.aio import ChainedTokenCredential as AsyncChainedTokenCredential
from azure.identity.aio import DefaultAzureCredential as AsyncDefaultAzureCredential

import keyvouch
from keyvouch.assertion import ClientAssertion
from keyvouch.entra.azure import KeyvouchCredential, aio
from keyvouch.entra.msal import ConfidentialClient
from keyvouch.testing.authority import App, Authority
from keyvouch.testing.authority.server import HttpsServer, Request, Response
from keyvouch.testing.authority.tls import make_context
from keyvouch.testing.throwaway import throwaway_signer
from signing_in import make_key, write_profile

AUDIENCE = "https://appconfig.azure.com"
SCOPE = f"{AUDIENCE}/.default"
CAPABLE = {"access_token": {"xms_cc": {"values": ["CP1"]}}}
DEMAND = {"access_token": {"nbf": {"essential": True, "value": "1700000000"}}}


class Registered:
    """A client with its own key, and the app that it signs in as."""

    def __init__(self, authority: Authority, signer: keyvouch.Signer | None = None, **options: Any) -> None:
        self.authority = authority
        self.signer = signer or throwaway_signer()
        self.app: App = authority.register(certificates=[self.signer.chain[0]])
        where = options if "oidc_authority" in options else {"authority": authority.authority, **options}
        self.client = ConfidentialClient(
            self.app.client_id, [self.signer], ca_file=authority.ca_file, instance_discovery=False, **where
        )

    @property
    def forms(self) -> list[dict[str, str]]:
        """The forms sent to get its tokens."""
        return [each.form for each in self.authority.exchanges if each.client_id == self.app.client_id]

    @property
    def claims(self) -> list[Any]:
        """The claims in each request."""
        return [json.loads(each["claims"]) if "claims" in each else None for each in self.forms]


@pytest.fixture
def registered(authority: Authority) -> Iterator[Registered]:
    made = Registered(authority)
    yield made
    made.client.close()
    made.signer.close()


class Service:
    """A service that returns settings for a valid token, and may demand another one."""

    def __init__(self, authority: Authority, folder: Path) -> None:
        context, self.ca_file = make_context(folder)
        self._server = HttpsServer(context)
        self._server.serve(self._respond)
        self.address = f"https://localhost:{self._server.port}"
        self.revoked: set[str] = set()
        self.seen: list[str] = []
        with requests.Session() as session:
            session.trust_env = False
            url = f"{authority.authority}/discovery/v2.0/keys"
            found = session.get(url, verify=authority.ca_file, timeout=10).json()["keys"]
        self._keys = {each["kid"]: jwt.PyJWK(each, algorithm="RS256").key for each in found}

    def close(self) -> None:
        self._server.close()

    def _respond(self, request: Request) -> Response:
        token = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
        try:
            key = self._keys[jwt.get_unverified_header(token)["kid"]]
            jwt.decode(token, key, ["RS256"], audience=AUDIENCE)
        except (jwt.InvalidTokenError, KeyError):
            return Response(401, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
        if token in self.revoked:
            claims = base64.urlsafe_b64encode(json.dumps(DEMAND).encode()).decode()
            demand = f'Bearer realm="", error="insufficient_claims", claims="{claims}"'
            return Response(401, headers={"WWW-Authenticate": demand})
        self.seen.append(token)
        setting = {"key": request.path.rpartition("/")[2], "value": "hello", "etag": "1"}
        kind = "application/vnd.microsoft.appconfig.kv+json; charset=utf-8"
        return Response(200, json.dumps(setting).encode(), {"Content-Type": kind})


@pytest.fixture
def service(authority: Authority, tmp_path: Path) -> Iterator[Service]:
    made = Service(authority, tmp_path)
    yield made
    made.close()


def options(service: Service, **more: Any) -> dict[str, Any]:
    return {"connection_verify": str(service.ca_file), "retry_total": 0, **more}


def test_client_with_azure_cores_own_policy(service: Service, registered: Registered) -> None:
    """The token is for that service, is requested once, and the next client gets it too."""
    credential = KeyvouchCredential(registered.client)
    for _ in range(2):
        with AzureAppConfigurationClient(service.address, credential, **options(service)) as client:
            for _ in range(2):
                assert getattr(client.get_configuration_setting("greeting"), "value", None) == "hello"
    assert len({*service.seen}) == 1
    assert [each["scope"] for each in registered.forms] == [SCOPE]
    assert registered.claims == [None]


def test_client_with_continuous_access_evaluation(service: Service, registered: Registered) -> None:
    """A claims challenge is answered with a new token, in one request; the authority gets the capability."""
    credential = KeyvouchCredential(registered.client)
    with AzureAppConfigurationClient(service.address, credential, **options(service, enable_cae=True)) as client:
        client.get_configuration_setting("greeting")
        service.revoked.update(service.seen)
        assert getattr(client.get_configuration_setting("greeting"), "value", None) == "hello"
        client.get_configuration_setting("greeting")
    demanded = {"access_token": {**CAPABLE["access_token"], **DEMAND["access_token"]}}
    assert registered.claims == [CAPABLE, demanded]


def test_asynchronous_client(service: Service, registered: Registered) -> None:
    """An asynchronous client from `azure.*.aio` behaves the same."""

    async def read() -> None:
        async with (
            aio.KeyvouchCredential(registered.client) as credential,
            AsyncAppConfigurationClient(service.address, credential, **options(service, enable_cae=True)) as client,
        ):
            settings = await asyncio.gather(*(client.get_configuration_setting("greeting") for _ in range(4)))
            assert {each.value for each in settings if each} == {"hello"}
            service.revoked.update(service.seen)
            assert getattr(await client.get_configuration_setting("greeting"), "value", None) == "hello"

    asyncio.run(read())
    demanded = {"access_token": {**CAPABLE["access_token"], **DEMAND["access_token"]}}
    assert registered.claims == [CAPABLE, demanded]


def test_tokens_for_continuous_evaluation_are_cached_separately(registered: Registered) -> None:
    """A caller that cannot answer a claims challenge never gets a token that may be revoked; both kinds are cached."""
    credential = KeyvouchCredential(registered.client)
    capable: TokenRequestOptions = {"enable_cae": True}
    for _ in range(2):
        plain = credential.get_token(SCOPE)
        revocable = credential.get_token_info(SCOPE, options=capable)
        assert plain.token != revocable.token
        assert credential.get_token(SCOPE, enable_cae=True).token == revocable.token
        assert credential.get_token_info(SCOPE).token == plain.token
        assert registered.client.access_token([SCOPE]) == plain.token
    assert registered.claims == [None, CAPABLE]


def test_client_with_its_own_capability(authority: Authority) -> None:
    """If a program has given MSAL the capability itself, there is one cache."""
    made = Registered(authority, client_capabilities=["CP1"])
    with made.client, made.signer:
        credential = KeyvouchCredential(made.client)
        assert credential.get_token(SCOPE).token == credential.get_token(SCOPE, enable_cae=True).token
    assert made.claims == [CAPABLE]


def test_tenants_share_the_key_but_not_the_tokens(authority: Authority, registered: Registered) -> None:
    """An additional allowed tenant has its own tokens of both kinds, and no other key is opened."""
    authority.register(registered.app.client_id, "fabrikam.example", certificates=[registered.signer.chain[0]])
    credential = KeyvouchCredential(registered.client, additionally_allowed_tenants=["Fabrikam.example"])
    tokens = [
        credential.get_token_info(SCOPE, options={"tenant_id": tenant, "enable_cae": cae}).token
        for _ in range(2)
        for tenant in (authority.tenant, "fabrikam.example")
        for cae in (False, True)
    ]
    assert len({*tokens[:4]}) == 4
    assert tokens[4:] == tokens[:4]
    assert len(registered.forms) == 4


def test_tenant_that_is_not_allowed_ends_a_chain(registered: Registered) -> None:
    """As with azure-identity's own credentials, another identity must not silently take its place."""
    other = KeyvouchCredential(registered.client, additionally_allowed_tenants=["*"])
    chain = ChainedTokenCredential(KeyvouchCredential(registered.client), other)
    with pytest.raises(ClientAuthenticationError, match="additionally_allowed_tenants"):
        chain.get_token(SCOPE, tenant_id="fabrikam.example")
    assert registered.forms == []


def test_authority_without_tenants(authority: Authority) -> None:
    """An OpenID Connect issuer knows neither tenants nor the capability, and is sent neither."""
    made = Registered(authority, oidc_authority=f"{authority.authority}/v2.0")
    with made.client, made.signer:
        assert KeyvouchCredential(made.client).get_token(SCOPE, tenant_id="fabrikam.example", enable_cae=True).token
    assert made.claims == [None]


def test_time_for_renewal_is_told(authority: Authority, registered: Registered) -> None:
    """If the authority says when to renew, the SDK gets that time, both for a new and for a cached token."""
    answer = {"access_token": "opaque", "token_type": "Bearer", "expires_in": 86400, "refresh_in": 43200}
    authority.answer_next(200, json.dumps(answer), {"Content-Type": "application/json"})
    for _ in range(2):
        info = KeyvouchCredential(registered.client).get_token_info(SCOPE)
        assert info.refresh_on is not None
        assert abs(info.refresh_on - time.time() - 43200) < 60
        assert abs(info.expires_on - time.time() - 86400) < 60
    assert KeyvouchCredential(registered.client).get_token_info("api://other/.default").refresh_on is None


def test_scope_is_required(registered: Registered) -> None:
    """Without a scope there is no token, not even one for the profile's scopes."""
    with pytest.raises(ValueError, match="at least one scope"):
        KeyvouchCredential(registered.client).get_token()


def test_second_program_finds_the_tokens(
    authority: Authority, own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile's tokens of both kinds outlive the process, and stay separate."""
    key = make_key(own_folders)
    app = authority.register(certificates=[key.certificate])
    path = write_profile(own_folders, authority, app, [key.uri])
    path.chmod(0o600)
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(path))
    from keyvouch.entra.profile import client_of

    tokens = []
    for _ in range(2):
        credential = KeyvouchCredential("nightly")
        tokens += [credential.get_token(SCOPE, enable_cae=cae).token for cae in (False, True)]
        client_of("nightly").close()  # the next use creates it again, as another process would
    assert tokens[:2] == tokens[2:]
    assert tokens[0] != tokens[1]
    assert len([each for each in authority.exchanges if each.client_id == app.client_id]) == 2


@pytest.fixture
def environment(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registered]:
    """A login that DefaultAzureCredential finds, and no other."""
    pem = tmp_path / "login.pem"
    with keyvouch.open_store(f"pem:{pem}") as store:
        store.generate(keyvouch.KeySpec(subject="CN=login"))
    with keyvouch.open_signer(f"pem:{pem}") as signer:
        made = Registered(authority, signer)
        monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
        monkeypatch.setenv("AZURE_CLIENT_ID", made.app.client_id)
        monkeypatch.setenv("AZURE_TENANT_ID", authority.tenant)
        monkeypatch.setenv("AZURE_CLIENT_CERTIFICATE_PATH", str(pem))
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", authority.url)
        yield made
        made.client.close()


def found(authority: Authority) -> dict[str, Any]:
    return {"connection_verify": authority.ca_file, "disable_instance_discovery": True}


def test_chain_goes_on_to_the_default_credential(authority: Authority, environment: Registered) -> None:
    """If the profile does not exist, DefaultAzureCredential is tried next."""
    chain = ChainedTokenCredential(KeyvouchCredential("nowhere"), DefaultAzureCredential(**found(authority)))
    assert chain.get_token(SCOPE).token
    assert len(environment.forms) == 1


def test_chain_takes_the_profile_first(authority: Authority, environment: Registered, registered: Registered) -> None:
    """If keyvouch can sign in, it does."""
    chain = ChainedTokenCredential(KeyvouchCredential(registered.client), DefaultAzureCredential(**found(authority)))
    assert chain.get_token_info(SCOPE, options={"enable_cae": True}).token
    assert registered.claims == [CAPABLE]
    assert environment.forms == []


def test_chain_with_the_default_credential_first(
    authority: Authority, environment: Registered, registered: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DefaultAzureCredential is tried first; if it finds nothing, azure-identity ends the chain."""
    chain = ChainedTokenCredential(DefaultAzureCredential(**found(authority)), KeyvouchCredential(registered.client))
    assert chain.get_token(SCOPE).token
    assert len(environment.forms) == 1
    monkeypatch.delenv("AZURE_CLIENT_CERTIFICATE_PATH")
    ending = ChainedTokenCredential(DefaultAzureCredential(), KeyvouchCredential(registered.client))
    with pytest.raises(ClientAuthenticationError):
        ending.get_token(SCOPE)
    assert registered.forms == []


def test_asynchronous_chain(
    authority: Authority,
    environment: Registered,
    registered: Registered,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Asynchronous chains behave the same, in both orders."""

    async def ask() -> None:
        nowhere, ours = aio.KeyvouchCredential("nowhere"), aio.KeyvouchCredential(registered.client)
        async with AsyncDefaultAzureCredential(**found(authority)) as default:
            theirs = await AsyncChainedTokenCredential(nowhere, default).get_token_info(SCOPE)
            assert (await AsyncChainedTokenCredential(default, ours).get_token(SCOPE)).token == theirs.token
            mine = await AsyncChainedTokenCredential(ours, default).get_token(SCOPE)
            assert mine.token == registered.client.access_token([SCOPE])

    # A federated token: azure-identity's asynchronous certificate credential pads its JWTs, contrary to RFC 7515.
    assertion = ClientAssertion(environment.signer)(
        {"client_id": environment.app.client_id, "token_endpoint": f"{authority.authority}/oauth2/v2.0/token"}
    )
    (tmp_path / "token").write_text(assertion)
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "WorkloadIdentityCredential")
    asyncio.run(ask())
    assert [len(each.forms) for each in (environment, registered)] == [1, 1]
