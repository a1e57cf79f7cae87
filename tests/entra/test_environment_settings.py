"""Settings from environment variables alone: what they select, what they exclude, and which mistakes are reported."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)

import keyvouch
from keyvouch import config
from keyvouch._core import environment
from keyvouch.entra.azure import KeyvouchCredential
from keyvouch.errors import ConfigurationError
from keyvouch.testing.authority import App, Authority
from signing_in import PASSWORD, SCOPE, make_key, run, write_profile
from stores.key_material import certify, new_key, pem_of, write

KEY = new_key("RSA-2048")
PEM = pem_of(KEY, certify(KEY))


@pytest.fixture
def app(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> App:
    """An app registration, with everything that signing in needs in variables."""
    app = authority.register(certificates=[certify(KEY)])
    values = {
        "KEYVOUCH_TENANT": app.tenant,
        "KEYVOUCH_CLIENT_ID": app.client_id,
        "KEYVOUCH_KEY": "pem:env:APP_KEY",
        "KEYVOUCH_SCOPES": SCOPE,
        "KEYVOUCH_AUTHORITY": authority.url,
        "KEYVOUCH_CA_FILE": str(authority.ca_file),
        "APP_KEY": PEM.decode(),
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return app


def client_of(token: str) -> str:
    return str(jwt.decode(token.strip(), options={"verify_signature": False})["appid"])


def test_connect(app: App) -> None:
    """`connect()` signs in with nothing but variables, and returns the same client until one of them changes."""
    client = keyvouch.connect()
    assert client_of(client.access_token()) == app.client_id
    assert keyvouch.connect() is client


def test_credential_for_the_azure_sdk(app: App) -> None:
    """A credential without a profile's name signs in with the variables too."""
    assert client_of(KeyvouchCredential().get_token(SCOPE).token) == app.client_id


def test_connect_after_a_change(app: App, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another client ID is another client."""
    first = keyvouch.connect()
    other = authority.register(certificates=[certify(KEY)])
    monkeypatch.setenv("KEYVOUCH_CLIENT_ID", other.client_id)
    monkeypatch.setenv("KEYVOUCH_TENANT", other.tenant)

    second = keyvouch.connect()
    assert second is not first
    assert client_of(second.access_token()) == other.client_id != app.client_id


def test_commands(app: App, tmp_path: Path) -> None:
    """The commands use the variables if no profile is named, and the key may come on standard input."""
    assert client_of(run("token").output) == app.client_id
    done = run("token", stdin=PEM, environment={"KEYVOUCH_KEY": "pem:stdin:"})
    assert client_of(done.output) == app.client_id
    assert json.loads(run("profile", "show", "--output", "json").output)["client-id"] == app.client_id
    for command in (["assertion"], ["sign", str(write(tmp_path / "m", b"x"))], ["keys"]):
        assert run(*command).status == 0
    assert "keyvouch token\n" in run("export", "--certificate", str(tmp_path / "a.cer")).errors + "\n"


@pytest.mark.usefixtures("app")
def test_options_take_precedence(authority: Authority) -> None:
    """An option replaces the variable; `--authority` and `--ca-file` sign in anywhere."""
    other = authority.register(certificates=[certify(KEY)])
    wrong = {"KEYVOUCH_AUTHORITY": "https://unreachable.invalid", "KEYVOUCH_CA_FILE": "", "KEYVOUCH_TENANT": "x"}
    options = ["--tenant", other.tenant, "--client-id", other.client_id, "--scope", SCOPE]
    done = run("token", *options, "--authority", authority.url, "--ca-file", str(authority.ca_file), environment=wrong)
    assert client_of(done.output) == other.client_id, done.errors


def test_options_without_any_settings(app: App, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a configuration and variables, options are enough; a relative `--ca-file` is allowed."""
    for name in environment.VARIABLES.values():
        monkeypatch.delenv(name, raising=False)
    where = Path(authority.ca_file)
    options = ["--key", "pem:env:APP_KEY", "--tenant", app.tenant, "--client-id", app.client_id, "--scope", SCOPE]
    done = run("token", *options, "--authority", authority.url, "--ca-file", where.name, folder=where.parent)
    assert client_of(done.output) == app.client_id, done.errors

    done = run("assertion", *options[:6], "--authority", "https://login.example")
    claims = jwt.decode(done.output.strip(), options={"verify_signature": False})
    assert claims["aud"] == f"https://login.example/{app.tenant}/oauth2/v2.0/token"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--authority", "http://login.example"], "https"),
        (["--authority", "localhost:8443"], "Write --authority https://localhost:8443"),
        (["--authority", "https://user:pass@login.example"], "user name"),
        (["--ca-file", "/nonexistent"], "does not exist"),
    ],
)
def test_invalid_options(options: list[str], said: str) -> None:
    """Invalid options are reported before anything is signed."""
    done = run("token", "--key", "pem:env:UNSET", "--tenant", "t", "--client-id", "c", "--scope", "s", *options)
    assert done.status == 2
    assert said in done.errors
    assert "pass" not in done.errors


def test_named_profile_takes_precedence(
    app: App, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A named profile is used as it is; without a name, the variables are, even if there is a single profile."""
    key = make_key(tmp_path)
    other = authority.register(certificates=[key.certificate])
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(write_profile(tmp_path, authority, other, [key.uri])))

    assert client_of(keyvouch.connect("nightly").access_token()) == other.client_id
    assert client_of(keyvouch.connect().access_token()) == app.client_id
    monkeypatch.setenv("KEYVOUCH_PROFILE", "nightly")
    with pytest.raises(ConfigurationError, match="KEYVOUCH_PROFILE and KEYVOUCH_TENANT are both set"):
        keyvouch.connect()
    assert client_of(keyvouch.connect("nightly").access_token()) == other.client_id


@pytest.mark.usefixtures("app")
def test_defaults_apply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`[defaults]` of a configuration apply to what variables leave out; a token is then not cached unless they say."""
    path = write(tmp_path / "config.toml", b'[defaults]\ncloud = "china"\npermissions = "any"\nclient-id = "7"\n')
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(path))
    found = config.load().profile(environment.NAME)
    assert (found.permissions, found.cloud, found.token_cache) == ("any", "public", "memory")
    assert found.client_id != "7"

    path.write_text('[defaults]\ntoken-cache = "user"\n')
    assert config.load().profile(environment.NAME).token_cache == "user"


ASSERTION = {"ALGORITHM": "RS256", "KID": "key-1", "AUDIENCE": "https://aud.example", "X5T": "sha256"}


def test_assertion_options(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables set the options of assertions."""
    for name, value in ASSERTION.items():
        monkeypatch.setenv(f"KEYVOUCH_ASSERTION_{name}", value)
    found = run("assertion").output.strip()
    header, claims = jwt.get_unverified_header(found), jwt.decode(found, options={"verify_signature": False})
    assert (header["alg"], header["kid"], claims["aud"]) == ("RS256", "key-1", "https://aud.example")
    assert "x5t#S256" in header
    assert claims["iss"] == app.client_id


@pytest.mark.usefixtures("app")
def test_invalid_assertion_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """An invalid value is reported with the name of the variable and the values that it can have."""
    monkeypatch.setenv("KEYVOUCH_ASSERTION_X5T", "sha3")
    with pytest.raises(ConfigurationError, match="in KEYVOUCH_ASSERTION_X5T") as caught:
        keyvouch.connect()
    assert caught.value.hint == "Set KEYVOUCH_ASSERTION_X5T to sha1. The values are auto, sha256, sha1, none."


@pytest.mark.usefixtures("app")
def test_no_token_on_disk(own_folders: Path) -> None:
    """Settings in variables leave no token behind."""
    keyvouch.connect()
    assert not list((own_folders / "cache_directory").rglob("*.json"))


@pytest.mark.parametrize("missing", ["CLIENT_ID", "KEY", "SCOPES", "TENANT"])
def test_missing_variable(app: App, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable that is missing, in a program and in a command."""
    assert app
    monkeypatch.delenv(f"KEYVOUCH_{missing}")
    if missing == "TENANT":
        monkeypatch.delenv("KEYVOUCH_AUTHORITY")
    with pytest.raises(ConfigurationError, match=f"KEYVOUCH_{missing} is not set"):
        keyvouch.connect()
    assert f"KEYVOUCH_{missing} is not set" in run("token").errors


@pytest.mark.parametrize("missing", ["KEYVOUCH_SCOPES", "KEYVOUCH_TENANT"])
def test_neither_tenant_nor_authority(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the authority is missing too, the hint says what is needed for Entra ID and for another server."""
    values = {"KEYVOUCH_CLIENT_ID": "app", "KEYVOUCH_KEY": "pem:/a.pem", "KEYVOUCH_SCOPES": SCOPE}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(missing, raising=False)
    with pytest.raises(ConfigurationError, match=f"{missing} is not set") as caught:
        keyvouch.connect()
    assert f"Set {missing}" in caught.value.hint
    assert "KEYVOUCH_AUTHORITY to its issuer" in caught.value.hint


@pytest.mark.usefixtures("app")
def test_scopes_for_the_authority_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the authority is set, the hint about missing scopes is that an issuer has no tenant."""
    monkeypatch.delenv("KEYVOUCH_SCOPES")
    with pytest.raises(ConfigurationError, match="KEYVOUCH_SCOPES is not set") as caught:
        keyvouch.connect()
    assert "for an OpenID Connect issuer, unset KEYVOUCH_TENANT" in caught.value.hint
    assert "KEYVOUCH_AUTHORITY" not in caught.value.hint


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("KEYVOUCH_KEY", "KEYVOUCH_KEYS"),
        ("KEYVOUCH_CLIENT_ID", "KEYVOUCH_CLIENTID"),
        ("KEYVOUCH_AUTHORITY", "KEYVOUCH_ISSUER"),
        ("KEYVOUCH_SCOPES", "KEYVOUCH_SCOPE"),
    ],
)
def test_misspelled_variable(right: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a setting is missing, a variable with another name for one that is not set is mentioned."""
    monkeypatch.delenv("KEYVOUCH_TENANT")
    monkeypatch.delenv("KEYVOUCH_AUTHORITY")
    monkeypatch.delenv(right, raising=False)
    monkeypatch.setenv(wrong, "x")
    with pytest.raises(ConfigurationError, match="is not set") as caught:
        keyvouch.connect()
    assert f"Unknown variable {wrong}: did you mean {right}?" in caught.value.hint
    for name in environment.VARIABLES.values():
        monkeypatch.delenv(name, raising=False)
    assert f"did you mean {right}?" in run("token").errors


@pytest.mark.usefixtures("app")
def test_name_of_a_profile_without_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a configuration, a profile's name is superfluous if variables have the settings: the hint says so."""
    for attempt in (
        lambda: keyvouch.connect("partner"),
        lambda: keyvouch.open_signer("profile:partner"),
    ):
        with pytest.raises(ConfigurationError, match="Profile not found: 'partner'") as caught:
            attempt()
        assert "leave out the name" in caught.value.hint
        assert "pem:env:APP_KEY" in caught.value.hint
        assert "No configuration file was found" in caught.value.hint
        assert "`keyvouch profile add` creates one." in caught.value.hint
    monkeypatch.delenv("KEYVOUCH_KEY")
    assert "leave out the name" in run("token", "--profile", "partner").errors


def test_profile_and_another_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a profile's name, a variable with a setting is refused; the setting may be added to the profile."""
    monkeypatch.setenv("KEYVOUCH_PROFILE", "nightly")
    monkeypatch.setenv("KEYVOUCH_CA_FILE", "/a.pem")
    with pytest.raises(ConfigurationError, match="KEYVOUCH_PROFILE and KEYVOUCH_CA_FILE are both set") as caught:
        keyvouch.connect()
    assert caught.value.hint == "Unset one of them. For the profile, write ca-file into its table."


def test_no_settings() -> None:
    """Without a profile and variables, the hint names the variables for both kinds of servers."""
    with pytest.raises(ConfigurationError, match="No profile") as caught:
        keyvouch.connect()
    assert "KEYVOUCH_TENANT" in caught.value.hint
    assert "KEYVOUCH_AUTHORITY" in caught.value.hint


def test_docstring_of_connect() -> None:
    """The docstring of `connect` lists every variable."""
    for name in (*environment.VARIABLES.values(), environment.USE_AZURE):
        assert f"`{name}" in str(keyvouch.connect.__doc__)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("KEYVOUCH_AUTHORITY", "https://idp.example/.well-known/openid-configuration", "discovery document"),
        ("KEYVOUCH_TENANT", '"contoso"', "KEYVOUCH_TENANT is in quotes"),
        ("KEYVOUCH_KEY", "/etc/app.pem", "KEYVOUCH_KEY: "),
        ("KEYVOUCH_KEY", "pem:command:/bin/cat /etc/app.pem", "not allowed"),
        ("KEYVOUCH_KEY", "pfx:/etc/app.pfx?password=secret", "reference to a secret"),
        ("KEYVOUCH_AUTHORITY", "http://login.example", "https"),
        ("KEYVOUCH_USE_AZURE_VARIABLES", "yes", "KEYVOUCH_USE_AZURE_VARIABLES"),
    ],
)
@pytest.mark.usefixtures("app")
def test_invalid_value(name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable, or what is wrong with it; a program is never run for a variable."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        keyvouch.connect()
    assert said in caught.value.message
    assert caught.value.hint


@pytest.mark.usefixtures("app")
def test_tenant_in_the_authority(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint is what to set the variables to; for options, what to type."""
    address = "https://login.microsoftonline.com"
    monkeypatch.setenv("KEYVOUCH_AUTHORITY", f"{address}/a.example")
    monkeypatch.setenv("KEYVOUCH_TENANT", "a.example")
    with pytest.raises(ConfigurationError) as caught:
        keyvouch.connect()
    assert caught.value.hint == f"Write KEYVOUCH_TENANT=a.example and KEYVOUCH_AUTHORITY={address}."
    monkeypatch.setenv("KEYVOUCH_AUTHORITY", address)
    assert (
        f"Write --tenant a.example and --authority {address}."
        in run("token", "--authority", f"{address}/a.example").errors
    )


@pytest.mark.parametrize(
    "encode",
    [
        bytes.decode,
        lambda data: base64.b64encode(data).decode(),
        lambda data: data.decode().replace("\n", "\\n"),
    ],
    ids=["PEM", "base64", "one line"],
)
@pytest.mark.usefixtures("app")
def test_key_in_place_of_its_uri(encode: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`KEYVOUCH_KEY` with the key itself is refused: the hint has the line to type, and nothing repeats the key."""
    value = encode(pem_of(KEY))
    monkeypatch.setenv("KEYVOUCH_KEY", value)
    for command in (["token"], ["keys"], ["profile", "show"], ["--debug", "token"]):
        done = run(*command)
        assert done.status == 2
        assert "KEYVOUCH_KEY=pem:env:APP_KEY" in done.errors
        assert value[100:130] not in done.errors + done.output


def azure_files(folder: Path) -> dict[str, Path]:
    """A PEM and a PFX file for azure-identity, whose names say nothing about their format."""
    encryption = BestAvailableEncryption(PASSWORD.encode())
    encrypted = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    return {
        "pem": write(folder / "a & b?;%41", PEM),
        "encrypted pem": write(folder / "encrypted", encrypted + pem_of(certify(KEY))),
        "pfx": write(folder / "pfx", pkcs12.serialize_key_and_certificates(b"a", KEY, certify(KEY), None, encryption)),
        "plain pfx": write(
            folder / "plain", pkcs12.serialize_key_and_certificates(b"a", KEY, certify(KEY), None, NoEncryption())
        ),
    }


@pytest.mark.parametrize("kind", ["pem", "encrypted pem", "pfx", "plain pfx"])
def test_azure_variables(
    kind: str, app: App, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On request, azure-identity's variables are enough, whatever the certificate's format, except for the scopes."""
    for name in ("KEYVOUCH_TENANT", "KEYVOUCH_CLIENT_ID", "KEYVOUCH_KEY", "KEYVOUCH_AUTHORITY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AZURE_TENANT_ID", app.tenant)
    monkeypatch.setenv("AZURE_CLIENT_ID", app.client_id)
    monkeypatch.setenv("AZURE_CLIENT_CERTIFICATE_PATH", str(azure_files(tmp_path)[kind]))
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", authority.url.removeprefix("https://"))
    monkeypatch.setenv("AZURE_CLIENT_SEND_CERTIFICATE_CHAIN", "true")
    if "plain" not in kind:
        monkeypatch.setenv("AZURE_CLIENT_CERTIFICATE_PASSWORD", PASSWORD)
    with pytest.raises(ConfigurationError):
        keyvouch.connect()

    monkeypatch.setenv("KEYVOUCH_USE_AZURE_VARIABLES", "true")
    assert client_of(keyvouch.connect().access_token()) == app.client_id
    assert "x5c" in (authority.exchanges[-1].header or {})
    assert PASSWORD not in repr(config.load().profile(environment.NAME))


def test_azure_variables_yield_to_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """keyvouch's variables take precedence over azure-identity's; a cloud's host selects that cloud."""
    values = {"AZURE_TENANT_ID": "theirs", "AZURE_CLIENT_ID": "7", "KEYVOUCH_TENANT": "ours"}
    host = {"AZURE_AUTHORITY_HOST": "login.microsoftonline.us", "KEYVOUCH_USE_AZURE_VARIABLES": "1"}
    for name, value in (values | host).items():
        monkeypatch.setenv(name, value)
    found = config.load().profile(config.load().pick())
    assert (found.tenant, found.client_id, found.cloud, found.authority) == ("ours", "7", "usgov", None)
    with pytest.raises(ConfigurationError, match="KEYVOUCH_KEY or AZURE_CLIENT_CERTIFICATE_PATH is not set"):
        keyvouch.connect()


def test_import_of_settings_is_light() -> None:
    """Reading the settings loads neither MSAL nor `cryptography`."""
    program = "import sys; from keyvouch import config; config.load(); print({'msal', 'cryptography'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"set()"
