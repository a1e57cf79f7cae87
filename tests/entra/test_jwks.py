"""Keys that an OAuth server of another project knows as a JWKS: found in one of several ways."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jwt
import msal
import pytest

import keyvouch
from keyvouch.entra.msal import ConfidentialClient, client_credential
from keyvouch.errors import AlgorithmUnsupported, AuthorityRefused, ConfigurationError
from servers.oidc import Client, OidcProvider, identified_jwk
from signing_in import Key, make_key, run

pytestmark = pytest.mark.server

MATCHING: list[Literal["all", "nimbus", "kid"]] = ["all", "nimbus", "kid"]


@pytest.fixture
def client_id() -> str:
    return f"client-{uuid.uuid4()}"


@pytest.fixture
def keys(tmp_path: Path) -> list[Key]:
    return [make_key(tmp_path, "first.pem"), make_key(tmp_path, "second.pem")]


def jwk(key: Key, **members: str) -> dict[str, str]:
    """The public JWK, with other members if given."""
    return {**identified_jwk(key.certificate), **members}


def sign_in(provider: OidcProvider, client_id: str, *uris: str, issuer: str | None = None, **options: Any) -> str:
    with ConfidentialClient(
        client_id,
        uris,
        oidc_authority=issuer or provider.issuer_without_path,
        ca_file=provider.ca_file,
        **options,
    ) as client:
        return client.access_token([provider.scope])


@pytest.mark.parametrize("issuer", ["issuer_without_path", "oidc_authority"])
@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("matching", MATCHING)
def test_each_of_two_keys_signs_in(
    oidc_provider: OidcProvider,
    client_id: str,
    keys: list[Key],
    matching: Literal["all", "nimbus", "kid"],
    position: int,
    issuer: str,
) -> None:
    """With the default options, both keys of a plain JWKS are found, however the server looks for them.

    A token endpoint at the path of Entra ID makes no difference.
    """
    oidc_provider.register(Client(client_id, "PS256", [jwk(each) for each in keys], matching))

    assert sign_in(oidc_provider, client_id, keys[position].uri, issuer=getattr(oidc_provider, issuer))
    assert oidc_provider.refusals(client_id) == []


@pytest.mark.parametrize("slash", ["", "/"])
def test_issuer_without_path(oidc_provider: OidcProvider, client_id: str, keys: list[Key], slash: str) -> None:
    """An issuer need not have a path, and may end with a slash, as at Auth0; also with another `http_client`.

    keyvouch does not see the discovery document then, so an RSA key signs with RS256.
    """
    oidc_provider.register(Client(client_id, "PS256", keys[0].certificate))
    issuer = oidc_provider.issuer_without_path + slash

    assert sign_in(oidc_provider, client_id, keys[0].uri, issuer=issuer)
    oidc_provider.register(Client(client_id, "RS256", keys[0].certificate))
    assert sign_in(oidc_provider, client_id, keys[0].uri, issuer=issuer, http_client=oidc_provider.session())


def test_standby_key_sends_its_own_kid(oidc_provider: OidcProvider, client_id: str, keys: list[Key]) -> None:
    """If the preferred key is not registered, the standby key is sent with its own `kid`."""
    oidc_provider.register(Client(client_id, "PS256", jwk(keys[1]), "kid"))

    assert sign_in(oidc_provider, client_id, keys[0].uri, keys[1].uri)


def test_kid_of_each_key(oidc_provider: OidcProvider, client_id: str, keys: list[Key]) -> None:
    """A server that chose the `kid` of each key itself gets the one of the key that signs."""
    chosen = {jwk(key)["kid"]: f"chosen {number}" for number, key in enumerate(keys)}
    registered = [jwk(key, kid=f"chosen {number}") for number, key in enumerate(keys)]
    oidc_provider.register(Client(client_id, "PS256", registered, "kid"))

    for key in keys:
        assert sign_in(oidc_provider, client_id, key.uri, assertion={"kid": chosen})


@pytest.mark.parametrize(
    ("options", "accepted"),
    [({}, True), ({"x5t": "none"}, True), ({"x5t": "sha256"}, False), ({"kid": "none"}, True), ({"kid": "no"}, False)],
)
def test_nimbus_with_options(
    oidc_provider: OidcProvider, client_id: str, keys: list[Key], options: dict[str, str], accepted: bool
) -> None:
    """Nimbus finds a plain JWK unless a certificate thumbprint or another `kid` is configured."""
    oidc_provider.register(Client(client_id, "PS256", [jwk(each) for each in keys], "nimbus"))

    if accepted:
        assert sign_in(oidc_provider, client_id, keys[1].uri, assertion=options)
        return
    with pytest.raises(AuthorityRefused) as caught:
        sign_in(oidc_provider, client_id, keys[1].uri, assertion=options)
    assert caught.value.error == "invalid_client"


def test_refusal_names_what_was_sent(oidc_provider: OidcProvider, client_id: str, keys: list[Key]) -> None:
    """A refusal names the algorithm and the `kid`, and the command that prints the JWK; it mentions no portal."""
    oidc_provider.register(Client(client_id, "PS256", jwk(keys[0]), "kid"))

    with pytest.raises(AuthorityRefused) as caught:
        sign_in(oidc_provider, client_id, keys[1].uri)

    audience = oidc_provider.issuer_without_path
    assert f"Sent: algorithm PS256, kid {jwk(keys[1])['kid']}, audience {audience}" in caught.value.hint
    assert "keyvouch export --jwk --key 'pem:" in caught.value.hint
    assert not any(word in caught.value.hint.lower() for word in ("portal", "app registration", "entra"))


def test_refusal_of_a_profile(oidc_provider: OidcProvider, client_id: str, keys: list[Key], tmp_path: Path) -> None:
    """A refusal names the command that prints the profile's JWKS, with its `kid`; it works when typed."""
    oidc_provider.register(Client(client_id, "PS256", jwk(keys[1]), "kid"))
    environment = write_profile(tmp_path, oidc_provider, client_id, keys[0].uri)
    with (tmp_path / "config.toml").open("a") as file:
        file.write(f'[profiles.partner.assertion.kid]\n"{jwk(keys[0])["kid"]}" = "chosen"\n')
    refused = run("token", environment=environment)

    assert "kid chosen" in refused.errors
    assert "kid (none if it is registered without one), algorithm or audience in the profile's table" in refused.errors
    line = refused.errors.partition("`keyvouch ")[2].partition("`")[0]
    assert line == "export --profile partner --jwks"
    assert json.loads(run(*line.split(), environment=environment).output)["keys"][0]["kid"] == "chosen"

    other = run("token", "--profile", "partner", "--key", keys[0].uri, environment=environment)
    assert "`keyvouch export --jwk --key 'pem:" in other.errors


def test_refusal_with_variables(oidc_provider: OidcProvider, client_id: str, keys: list[Key]) -> None:
    """If the settings are in variables, the hint names those."""
    oidc_provider.register(Client(client_id, "PS256", jwk(keys[1]), "kid"))
    environment = {
        "KEYVOUCH_AUTHORITY": oidc_provider.issuer_without_path,
        "KEYVOUCH_CA_FILE": oidc_provider.ca_file,
        "KEYVOUCH_CLIENT_ID": client_id,
        "KEYVOUCH_KEY": keys[0].uri,
        "KEYVOUCH_ASSERTION_KID": "chosen",
    }
    refused = run("token", environment=environment)

    assert "`keyvouch export --jwks`" in refused.errors
    assert "set KEYVOUCH_ASSERTION_KID (none" in refused.errors
    assert "Sent: algorithm PS256, kid chosen, audience https://" in refused.errors


@pytest.mark.parametrize("options", [("--profile", "partner"), ()], ids=["option", "variable"])
def test_issuer_with_a_tenant(
    oidc_provider: OidcProvider, client_id: str, keys: list[Key], tmp_path: Path, options: tuple[str, ...]
) -> None:
    """An issuer has no tenant: if there is one, from an option or a variable, the hint is to leave it out."""
    environment = write_profile(tmp_path, oidc_provider, client_id, keys[0].uri)
    if not options:
        environment = {
            "KEYVOUCH_AUTHORITY": oidc_provider.issuer_without_path,
            "KEYVOUCH_CA_FILE": oidc_provider.ca_file,
            "KEYVOUCH_CLIENT_ID": client_id,
            "KEYVOUCH_KEY": keys[0].uri,
            "KEYVOUCH_TENANT": "contoso",
        }
    options += ("--tenant", "contoso") if options else ()
    assert "for an OpenID Connect issuer, " in run("token", *options, environment=environment).errors
    errors = run("token", *options, "--scope", "s", environment=environment).errors
    assert "If authority is an OpenID Connect issuer, leave out tenant" in errors


def test_scopes_are_optional(oidc_provider: OidcProvider, client_id: str, keys: list[Key]) -> None:
    """At an issuer, a client without scopes gets a token with the server's default scopes, and it is cached."""
    oidc_provider.register(Client(client_id, "PS256", keys[0].certificate))
    with ConfidentialClient(
        client_id, [keys[0].uri], oidc_authority=oidc_provider.issuer_without_path, ca_file=oidc_provider.ca_file
    ) as client:
        assert client.access_token() == client.access_token()


@pytest.fixture(params=[["RS256", "ES256"], ["PS256", "ES256"], ["PS384", "ES256"]], ids=lambda each: each[0])
def choosy(request: pytest.FixtureRequest) -> Iterator[tuple[OidcProvider, str]]:
    with OidcProvider(algorithms=request.param) as provider:
        yield provider, request.param[0]


def test_algorithm_from_discovery(choosy: tuple[OidcProvider, str], client_id: str, tmp_path: Path) -> None:
    """The key signs with an algorithm that the discovery document lists; without one, nothing is sent."""
    provider, algorithm = choosy
    key = make_key(tmp_path)
    provider.register(Client(client_id, algorithm, jwk(key), "nimbus"))

    assert sign_in(provider, client_id, key.uri)

    with pytest.raises(AlgorithmUnsupported, match=f"{algorithm}, ES256"):
        sign_in(provider, client_id, make_key(tmp_path, "other.pem", "P-384").uri)
    assert provider.refusals(client_id) == []


def write_profile(folder: Path, provider: OidcProvider, client_id: str, *uris: str, **fields: object) -> dict[str, str]:
    """Write a profile of this issuer without scopes; return the environment that selects it."""
    values = {
        "authority": provider.issuer_without_path,
        "ca-file": provider.ca_file,
        "client-id": client_id,
        "keys": list(uris),
        **fields,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    (folder / "config.toml").write_text("\n".join(["[profiles.partner]", *lines]) + "\n")
    return {"KEYVOUCH_CONFIG": str(folder / "config.toml"), "CACHE_DIRECTORY": str(folder)}


def test_profile_of_an_issuer(oidc_provider: OidcProvider, client_id: str, keys: list[Key], tmp_path: Path) -> None:
    """From the JWKS to the token: register what the command exports; the profile needs no tenant and no scopes."""
    environment = write_profile(tmp_path, oidc_provider, client_id, *(key.uri for key in keys))
    exported = run("export", "--jwks", environment=environment)
    jwks = json.loads(exported.output)["keys"]
    assert [each["kid"] for each in jwks] == [jwk(key)["kid"] for key in keys]
    oidc_provider.register(Client(client_id, "PS256", jwks, "nimbus"))

    token, cached = (run("token", "--output", "json", environment=environment) for _ in range(2))

    assert (token.status, cached.status) == (0, 0), token.errors
    assert json.loads(cached.output)["from_cache"]
    assert json.loads(cached.output)["access_token"] == json.loads(token.output)["access_token"]


def test_unmodified_msal(oidc_provider: OidcProvider, client_id: str, keys: list[Key]) -> None:
    """With unmodified MSAL, which needs an issuer with a path, a token endpoint outside Entra ID gets a `kid`."""
    oidc_provider.register(Client(client_id, "RS256", [jwk(each) for each in keys], "nimbus"))
    app = msal.ConfidentialClientApplication(
        client_id,
        oidc_authority=f"{oidc_provider.issuer_without_path}/.",
        client_credential=client_credential(keys[1].uri),
        http_client=oidc_provider.session(),
    )

    assert "access_token" in app.acquire_token_for_client([oidc_provider.scope])


@pytest.mark.parametrize("options", [(), ("--endpoint", "https://other.example/token")])
def test_assertion_for_an_issuer(
    oidc_provider: OidcProvider, client_id: str, keys: list[Key], tmp_path: Path, options: tuple[str, ...]
) -> None:
    """`keyvouch assertion` takes algorithm and token endpoint from the discovery document, and sends the `kid`."""
    environment = write_profile(tmp_path, oidc_provider, client_id, keys[0].uri)
    done = run("assertion", *options, environment=environment)

    claims = jwt.decode(done.output.strip(), options={"verify_signature": False})
    assert claims["aud"] == (options[1] if options else f"{oidc_provider.issuer_without_path}/token")
    header = jwt.get_unverified_header(done.output.strip())
    assert header == {"alg": "PS256", "typ": "JWT", "kid": jwk(keys[0])["kid"]}


def test_assertion_for_an_unreachable_issuer(
    oidc_provider: OidcProvider, client_id: str, keys: list[Key], tmp_path: Path
) -> None:
    """Without the discovery document, `--endpoint` is required, and an RSA key signs with RS256."""
    nowhere = "https://localhost:1"
    environment = write_profile(tmp_path, oidc_provider, client_id, keys[0].uri, authority=nowhere)
    refused = run("assertion", environment=environment)
    assert (refused.status, "--endpoint URL" in refused.errors) == (5, True)

    done = run("assertion", "--endpoint", f"{nowhere}/token", environment=environment)
    assert jwt.get_unverified_header(done.output.strip())["alg"] == "RS256"
    assert f"{nowhere} cannot be reached" in done.errors


@pytest.mark.parametrize("kid", ["", {"short": "a"}, {"A" * 43: ""}])
def test_invalid_kid(kid: object) -> None:
    """An empty `kid`, and one for something other than a key's thumbprint, are refused when they are given."""
    with pytest.raises(ConfigurationError, match="Invalid kid"):
        keyvouch.ClientAssertion(None, kid=kid)  # type: ignore[arg-type]
