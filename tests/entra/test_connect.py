"""Signing in with a profile, and the token cached for the next time."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msal
import pytest

import keyvouch
from keyvouch import config
from keyvouch._system import files
from keyvouch.entra import locked_token_cache, profile
from keyvouch.entra.authority import authority_options
from keyvouch.entra.azure import KeyvouchCredential
from keyvouch.entra.cached_token import cache_path, find_token
from keyvouch.entra.msal import ConfidentialClient, client_credential
from keyvouch.errors import ConfigurationError, StoreUnavailable
from keyvouch.testing.authority import App, Authority
from signing_in import SCOPE, Key, make_key, run, write_profile


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return make_key(tmp_path)


@pytest.fixture
def app(authority: Authority, key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    """An app registration with the key, and its profile `nightly`."""
    app = authority.register(certificates=[key.certificate])
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(write_profile(tmp_path, authority, app, [key.uri])))
    return app


def test_profile_signs_in(app: App, authority: Authority) -> None:
    """One call returns a client that is signed in."""
    assert keyvouch.connect("nightly").access_token()
    assert authority.exchanges[0].client_id == app.client_id


@pytest.mark.usefixtures("app")
def test_same_client_is_returned_again(authority: Authority) -> None:
    """A second call returns the same client, without a request."""
    assert keyvouch.connect("nightly") is keyvouch.connect()
    assert len(authority.exchanges) == 1


@pytest.mark.usefixtures("app")
def test_second_process_signs_nothing(authority: Authority, tmp_path: Path) -> None:
    """A second `keyvouch token` needs neither key nor authority: the token is in the cache."""
    first = run("token", "--profile", "nightly")
    (tmp_path / "app.pfx").unlink()
    second = run("token", "--profile", "nightly")

    assert (second.status, second.output) == (0, first.output)
    assert len(authority.exchanges) == 1


@pytest.mark.usefixtures("app")
def test_cached_token_private(own_folders: Path) -> None:
    """The token file is accessible only to its owner."""
    run("token")
    (file,) = (own_folders / "cache_directory" / "tokens").glob("*.json")

    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.usefixtures("app")
def test_damaged_cache_is_ignored(own_folders: Path) -> None:
    """An unreadable cache costs only another sign-in."""
    run("token")
    (file,) = (own_folders / "cache_directory" / "tokens").glob("*.json")
    file.write_bytes(b'{"AccessToken": {')

    assert run("token").status == 0


def test_memory_cache_writes_no_file(
    authority: Authority, key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_folders: Path
) -> None:
    """With `token-cache = "memory"` no token is written."""
    app = authority.register(certificates=[key.certificate])
    path = write_profile(tmp_path, authority, app, [key.uri], **{"token-cache": "memory"})
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(path))
    keyvouch.connect().access_token()

    assert not (own_folders / "cache_directory").exists()


@pytest.mark.usefixtures("app")
def test_other_tenant_has_other_cache(authority: Authority) -> None:
    """A token of one tenant is never given for another."""
    run("token")
    done = run("token", "--tenant", "nowhere.example")

    assert done.status == 7
    assert len(authority.exchanges) == 1


@pytest.mark.usefixtures("app")
def test_assertion_options_apply(authority: Authority, key: Key, tmp_path: Path) -> None:
    """The profile's assertion options are used."""
    app = authority.register(certificates=[key.certificate])
    write_profile(tmp_path, authority, app, [key.uri], assertion=None)
    path = tmp_path / "config.toml"
    path.write_text(path.read_text().replace("assertion = null", "assertion = {send-x5c = true, lifetime = 300}"))
    keyvouch.connect().access_token()

    header, claims = authority.exchanges[-1].header or {}, authority.exchanges[-1].claims or {}
    assert "x5c" in header
    assert claims["exp"] == claims["iat"] + 300  # type: ignore[operator]


@pytest.mark.parametrize("field", ["client-id", "keys", "scopes", "tenant"])
def test_missing_field_named(authority: Authority, app: App, key: Key, tmp_path: Path, field: str) -> None:
    """A profile that lacks a field required for signing in is refused, with the field's name."""
    path = write_profile(tmp_path, authority, app, [key.uri])
    lines = [line for line in path.read_text().splitlines() if not line.startswith((f"{field} ", "authority "))]
    path.write_text("\n".join(lines))

    with pytest.raises(ConfigurationError, match=f"has no {field}"):
        keyvouch.connect("nightly")


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"tenant": "t"}, {"authority": "https://login.microsoftonline.com/t", "instance_discovery": True}),
        (
            {"tenant": "t", "cloud": "china"},
            {"authority": "https://login.partner.microsoftonline.cn/t", "instance_discovery": True},
        ),
        (
            {"tenant": "t", "authority": "https://h/"},
            {"authority": "https://h/t", "instance_discovery": False},
        ),
        ({"authority": "https://h/issuer"}, {"oidc_authority": "https://h/issuer"}),
    ],
)
def test_authority_options_chosen(fields: dict[str, str], options: dict[str, object]) -> None:
    """A cloud, a server shaped like Entra ID, or an issuer."""
    assert authority_options(config.Profile(**fields), "nightly") == options  # type: ignore[arg-type]


def test_token_for_other_scope_not_found(app: App, authority: Authority) -> None:
    """The cache returns a token only for the requested scope."""
    keyvouch.connect("nightly")
    path = cache_path(config.load().profile("nightly"))

    assert find_token(path, app.client_id, [SCOPE])
    assert not find_token(path, app.client_id, ["api://other/.default"])


@pytest.mark.usefixtures("app")
def test_forked_child_signs_in(authority: Authority) -> None:
    """A child of a program that is signed in creates its own client."""
    client = keyvouch.connect("nightly")
    child = os.fork()
    if child == 0:
        own = keyvouch.connect("nightly")
        fine = own is not client and bool(own.access_token(["api://child/.default"]))
        os._exit(0 if fine else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert client.access_token(["api://parent/.default"])


@pytest.mark.usefixtures("app")
def test_closed_client_is_replaced(authority: Authority) -> None:
    """Closing a profile's client, as a `with` block does, does not affect its other users."""
    with keyvouch.connect("nightly") as client:
        assert client.access_token(["api://first/.default"])
    again = keyvouch.connect("nightly")

    assert again is not client
    assert again.access_token(["api://second/.default"])


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize(
    "claims",
    [
        "no JSON",
        "[]",
        "5",
        "null",
        '{"access_token": 5}',
        '{"access_token": null}',
        '{"access_token": []}',
        "[" * 100_000,
    ],
    ids=lambda claims: claims[:25],
)
@pytest.mark.parametrize("cae", [False, True])
def test_invalid_claims_challenge_of_a_store(authority: Authority, claims: str, *, cae: bool) -> None:
    """A store's claims challenge that cannot be requested is the store's fault, which a store may raise (contract)."""
    with pytest.raises(StoreUnavailable, match="Unexpected claims challenge"):
        profile.access_token("nightly", SCOPE, 30, cae=cae, claims=claims)
    assert not authority.exchanges


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize(
    "claims", [None, "", "{}", '{"id_token": null}', '{"access_token": {"nbf": {"essential": true}}}']
)
def test_claims_challenge_of_a_store(authority: Authority, claims: str | None) -> None:
    """Any other claims are requested."""
    assert profile.access_token("nightly", SCOPE, 30, cae=True, claims=claims).reveal()
    requested = json.loads(authority.exchanges[-1].form["claims"])
    assert requested.keys() >= json.loads(claims or "{}").keys()


def cache_file(own_folders: Path) -> Path:
    (file,) = (own_folders / "cache_directory" / "tokens").glob("*.json")
    return file


@pytest.mark.usefixtures("app")
def test_killed_writer_does_not_block_others(authority: Authority, own_folders: Path) -> None:
    """Leftovers of a process killed while it wrote tokens do not block the next."""
    run("token")
    for suffix in (".lockfile", ".lock"):
        cache_file(own_folders).with_name(f"{cache_file(own_folders).name}{suffix}").write_bytes(b"1 keyvouch")
    done = run("token", "--scope", "api://other/.default")

    assert done.status == 0, done.errors
    assert run("token", "--scope", "api://other/.default").output == done.output
    assert len(authority.exchanges) == 2


@pytest.mark.usefixtures("app")
def test_held_lock_does_not_prevent_a_token(
    authority: Authority, own_folders: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: Key
) -> None:
    """If another process holds the cache's lock forever, the token is still returned, and no key is blamed."""
    monkeypatch.setattr(locked_token_cache, "_LOCK_TIMEOUT", 0.05)
    client = keyvouch.connect("nightly")
    with files.locked(cache_file(own_folders).with_suffix(".lock"), timeout=1):
        assert client.access_token(["api://other/.default"])
    assert [exchange.status for exchange in authority.exchanges] == [200, 200]


@pytest.mark.usefixtures("app")
def test_adding_and_removing_tokens_at_once(own_folders: Path) -> None:
    """Threads that add and remove tokens do not deadlock on each other's locks."""
    client = keyvouch.connect("nightly")

    def add(number: int) -> None:
        client.access_token([f"api://{number}/.default"])

    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(add, number) for number in range(12)]
        work += [pool.submit(client.remove_tokens_for_client) for _ in range(12)]
        for each in work:
            each.result(timeout=60)


@pytest.mark.usefixtures("app")
def test_processes_share_the_cache(authority: Authority) -> None:
    """Six processes that write tokens concurrently do not lose each other's."""
    scopes = [f"api://{number}/.default" for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        first = list(pool.map(lambda scope: run("token", "--scope", scope), scopes))
    assert [done.status for done in first] == [0] * 6, first
    again = [run("token", "--scope", scope) for scope in scopes]

    assert [done.output for done in again] == [done.output for done in first]
    assert len(authority.exchanges) == 6


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "null",
        '{"AccessToken": []}',
        '{"AccessToken": {"x": {}}}',
        '{"AccessToken": {"x": null, "y": 7, "z": []}}',
        '{"AccessToken": {"x": {"expires_on": "soon", "target": "t"}}}',
        '{"AccessToken": {"x": {"expires_on": "9999999999", "target": 7, "client_id": "c", "secret": "s"}}}',
    ],
)
def test_cache_in_another_format(tmp_path: Path, content: str) -> None:
    """A cache in another format is treated as empty."""
    (tmp_path / "cache.json").write_text(content)

    assert find_token(tmp_path / "cache.json", "c", ["t"]) is None


def test_configuration_can_be_given(app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`connect(config=path)` reads that file, whatever the environment names."""
    given = tmp_path / "given.toml"
    (tmp_path / "config.toml").rename(given)

    assert keyvouch.connect("nightly", config=given).client_id == app.client_id
    assert keyvouch.connect(config=str(given)) is keyvouch.connect("nightly", config=given)


@pytest.mark.usefixtures("app")
def test_given_configuration_must_exist(tmp_path: Path) -> None:
    """A missing file is an error: no other one is used instead."""
    with pytest.raises(ConfigurationError, match=r"missing\.toml does not exist"):
        keyvouch.connect("nightly", config=tmp_path / "missing.toml")


def test_changed_profile_is_noticed(app: App, authority: Authority, key: Key, tmp_path: Path) -> None:
    """A program that runs for months gets a client with the new settings from its next `connect`; the old one works."""
    before = keyvouch.connect("nightly")
    other = authority.register(certificates=[key.certificate])
    write_profile(tmp_path, authority, other, [key.uri])
    after = keyvouch.connect("nightly")

    assert (before.client_id, after.client_id) == (app.client_id, other.client_id)
    assert keyvouch.connect("nightly") is after
    assert before.access_token()


def test_changed_profile_is_noticed_by_a_credential(app: App, authority: Authority, key: Key, tmp_path: Path) -> None:
    """A credential for the Azure SDK that names a profile follows it."""
    credential = KeyvouchCredential("nightly")
    credential.get_token(SCOPE)
    other = authority.register(certificates=[key.certificate])
    write_profile(tmp_path, authority, other, [key.uri])
    credential.get_token(SCOPE)

    assert [each.client_id for each in authority.exchanges] == [app.client_id, other.client_id]


def test_change_elsewhere_keeps_the_client(app: App, tmp_path: Path) -> None:
    """A comment, or another profile, does not change the client."""
    before = keyvouch.connect("nightly")
    with (tmp_path / "config.toml").open("a") as file:
        file.write('\n# nothing\n[profiles.other]\nclient-id = "c"\n')

    assert keyvouch.connect("nightly") is before
    assert before.client_id == app.client_id


def test_parsed_uri_is_accepted_as_key(authority: Authority, key: Key) -> None:
    """A `KeyUri`, such as `Store.generate` returns, is accepted wherever a URI is."""
    with keyvouch.open_store(key.uri) as store:
        (info,) = store.keys()
    app = authority.register(certificates=[key.certificate])
    options: dict[str, Any] = {"authority": f"{authority.url}/{app.tenant}", "instance_discovery": False}

    with ConfidentialClient(app.client_id, keys=[info.uri], ca_file=authority.ca_file, **options) as client:
        assert client.access_token([SCOPE])
    unmodified = msal.ConfidentialClientApplication(
        app.client_id, client_credential=client_credential(info.uri), verify=authority.ca_file, **options
    )
    assert "access_token" in unmodified.acquire_token_for_client([SCOPE])
    with keyvouch.open_signer(info.uri) as signer, keyvouch.open_store(info.uri):
        assert signer.uri == str(info.uri)


def test_single_parsed_uri_is_not_a_list(authority: Authority, key: Key) -> None:
    """Like a string, a single `KeyUri` is refused as `keys`."""
    with keyvouch.open_store(key.uri) as store:
        (info,) = store.keys()
    with pytest.raises(ConfigurationError, match="must be a non-empty list"):
        ConfidentialClient("client", keys=info.uri, authority=authority.url)  # type: ignore[arg-type]
