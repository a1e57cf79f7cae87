"""`keyvouch token` and `keyvouch assertion`, and their audit records."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import jwt
import pytest

from keyvouch.certificate import thumbprint
from keyvouch.testing.authority import App, Authority
from signing_in import SCOPE, Key, make_key, run, write_profile


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return make_key(tmp_path)


@pytest.fixture
def app(authority: Authority, key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    """An app registration with the key, and its profile `nightly`."""
    app = authority.register(certificates=[key.certificate])
    path = write_profile(tmp_path, authority, app, [key.uri], audit=f"file:{tmp_path / 'audit.jsonl'}")
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(path))
    return app


def test_token_is_printed_on_one_line(app: App) -> None:
    """Only the token is printed, and it is for the app and the resource."""
    done = run("token", "--profile", "nightly")
    claims = jwt.decode(done.output.strip(), options={"verify_signature": False})

    assert done.output.count("\n") == 1
    assert (claims["appid"], claims["aud"]) == (app.client_id, SCOPE.removesuffix("/.default"))
    assert done.errors == ""


@pytest.mark.usefixtures("app")
def test_json_reports_the_cache() -> None:
    """The JSON output says whether the token came from the cache."""
    answers = [json.loads(run("token", "--output", "json").output)["from_cache"] for _ in range(2)]

    assert answers == [False, True]


@pytest.mark.usefixtures("app")
def test_json_reports_the_expiry() -> None:
    """`expires_on` is when the token expires, in seconds since 1970, whether it was cached or not."""
    for _ in range(2):
        answer = json.loads(run("token", "--output", "json").output)
        claims = jwt.decode(answer["access_token"], options={"verify_signature": False})
        assert abs(answer["expires_on"] - claims["exp"]) <= 5


def test_scope_option(app: App, authority: Authority) -> None:
    """`--scope` replaces the profile's."""
    run("token", "--scope", "https://vault.azure.net/.default")

    assert authority.exchanges[-1].form["scope"] == "https://vault.azure.net/.default"


def test_key_option_replaces_the_keys_of_the_profile(app: App, authority: Authority, tmp_path: Path) -> None:
    """`--key` with `--profile` replaces its keys."""
    other = make_key(tmp_path, "other.pfx")
    app.add_certificate(other.certificate)

    assert run("token", "--profile", "nightly", "--key", other.uri).status == 0
    assert authority.exchanges[-1].status == 200


def test_key_without_profile_uses_defaults(app: App, authority: Authority, key: Key, tmp_path: Path) -> None:
    """With only `--key`, the defaults apply."""
    (tmp_path / "config.toml").write_text(
        f'[defaults]\nauthority = "{authority.url}"\nca-file = "{authority.ca_file}"\n'
    )

    done = run("token", "--key", key.uri, "--tenant", app.tenant, "--client-id", app.client_id, "--scope", SCOPE)
    assert done.status == 0, done.errors


def test_assertion_is_for_the_token_endpoint(app: App, authority: Authority, key: Key) -> None:
    """The assertion is for the tenant's token endpoint."""
    done = run("assertion", "--profile", "nightly")
    claims = jwt.decode(
        done.output.strip(),
        key.certificate.public_key(),  # type: ignore[arg-type]
        ["PS256"],
        audience=f"{authority.authority}/oauth2/v2.0/token",
    )

    assert claims["iss"] == claims["sub"] == app.client_id


@pytest.mark.usefixtures("app")
def test_audit_record_is_written(tmp_path: Path, key: Key) -> None:
    """Each signature gives one line, with who and what, in a file accessible only to its owner."""
    run("token")
    (line,) = (tmp_path / "audit.jsonl").read_text().splitlines()
    record = json.loads(line)

    assert record["event"] == "sign"
    assert record["outcome"] == "signed"
    assert record["thumbprint"] == thumbprint(key.certificate)
    assert record["jti"]
    assert stat.S_IMODE((tmp_path / "audit.jsonl").stat().st_mode) == 0o600


def test_named_key_is_used(app: App, authority: Authority, tmp_path: Path) -> None:
    """A key named with --key signs even if another key's token is cached; its own token is not cached for others."""
    assert run("token").status == 0
    done = run("token", "--profile", "nightly", "--key", f"pem:{tmp_path}/nothing.pem")
    assert done.status == 3
    other = make_key(tmp_path, "other.pem")
    app.add_certificate(other.certificate)
    assert run("token", "--profile", "nightly", "--key", other.uri).status == 0
    assert len(authority.exchanges) == 2


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("status", [403, 429])
def test_response_without_json_is_reported_once(authority: Authority, status: int) -> None:
    """MSAL's own message about such a response, with a traceback, is not printed beside our error."""
    authority.answer_next(status)
    done = run("token", "--output", "json")

    assert done.status == 5
    assert json.loads(done.errors)["error"]["code"] == "authority-unavailable"


def test_mistake_in_a_key_names_the_profile(authority: Authority, app: App, key: Key, tmp_path: Path) -> None:
    """An invalid URI in the configuration is reported with its profile and position, and without the secret in it."""
    write_profile(tmp_path, authority, app, [key.uri, "pfx:/x?password=hunter2"])
    for command in ("token", "sign"):
        done = run(command, "--profile", "nightly", stdin=b"x")
        assert done.status == 2
        assert "Profile 'nightly', key 2:" in done.errors
        assert "hunter2" not in done.errors


def test_mistake_in_an_option_names_the_option(authority: Authority, app: App, key: Key, tmp_path: Path) -> None:
    """An invalid URI in `--key` is not reported as one in the profile."""
    write_profile(tmp_path, authority, app, [key.uri])
    for command in ("token", "sign", "keys"):
        done = run(command, "--profile", "nightly", "--key", "pfx:/x?password=hunter2", stdin=b"x")
        assert done.status == 2
        assert done.errors.startswith("error[configuration]: --key: ")
        assert "key 1" not in done.errors
        assert "hunter2" not in done.errors


def test_demo_runs() -> None:
    """The demonstration runs to its end, including the mistakes, and leaves nothing behind."""
    done = run("demo")

    assert done.status == 0, done.errors
    assert "requests to the authority: 0" in done.output
    assert "(exit status 4)" in done.output
    assert "AADSTS700027" in done.output
    assert "Traceback" not in done.output


def test_unwritable_cache_warns(app: App, own_folders: Path) -> None:
    """A cache that cannot be written causes a warning with the remedies; the token is still printed."""
    (own_folders / "cache_directory").write_text("a file is in the way")
    done = run("token")

    assert (done.status, done.output[:2]) == (0, "ey")
    assert 'token-cache = "memory"' in done.errors
    assert "Traceback" not in done.errors


def test_demo_as_json() -> None:
    """As JSON the demonstration is a list of commands with their results."""
    steps = json.loads(run("demo", "--output", "json").output)

    assert [step["exit_status"] for step in steps[:6]] == [0, 0, 0, 0, 4, 7]
    assert {step["exit_status"] for step in steps[6:]} == {0}  # the second part, if SoftHSM is installed
