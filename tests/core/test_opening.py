"""From URIs and profiles to signers and stores."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from keyvouch import KeySpec, open_signer, open_store
from keyvouch._core.key_management import Store
from keyvouch._core.opening import open_first, open_uri
from keyvouch.certificate import spki_sha256
from keyvouch.errors import (
    AccessDenied,
    AmbiguousKey,
    CertificateMismatch,
    ConfigurationError,
    KeyChanged,
    KeyExists,
    KeyNotFound,
    KeyUnusable,
    KeyvouchError,
    NotSupported,
    PluginMissing,
    SecretIncorrect,
    SecretRequired,
    SessionLost,
    StoreLocked,
    StoreUnavailable,
)
from keyvouch.secrets import Secret, SecretResolver
from keyvouch.uri import parse_uri
from scripted_store import MESSAGE, Script, ScriptedStore, certify, in_threads, is_signed, new_key


def write_profile(folder: Path, monkeypatch: pytest.MonkeyPatch, *keys: str) -> None:
    """Set the keys of the profile `nightly`."""
    path = folder / "config.toml"
    path.write_text(f"[profiles.nightly]\nkeys = {json.dumps(keys)}\n", encoding="utf-8")
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(path))


# Signers.


def test_pinned_uri_opens_the_same_key() -> None:
    """The pinned URI that a signer shows opens the same key, whatever was added since."""
    with Script() as script:
        with open_signer(script.uri) as signer:
            pinned, public_key = signer.uri, signer.public_key
        script.rotate()
        with open_signer(pinned) as signer:
            assert (signer.uri, signer.requested_uri) == (pinned, pinned)
            assert is_signed(public_key, signer.sign(MESSAGE, "ES256"), MESSAGE, "ES256")


def test_parsed_uri_is_taken() -> None:
    """A KeyUri, as stores return it, opens like its text."""
    with Script() as script, open_store(script.able_uri) as store:
        made = store.keys()[0].uri
        with open_signer(made) as signer:
            assert signer.uri == str(made)


def test_failed_open_gives_the_connection_back() -> None:
    """A key that fails to open leaves no connection behind."""
    with Script() as script:
        script.fail("open", KeyNotFound("none"))
        with pytest.raises(KeyNotFound) as caught:
            open_signer(script.uri)
        assert caught.value.uri == script.uri
        assert script.count("close") == 1


def test_interrupted_open_gives_the_connection_back() -> None:
    """An interrupted open leaves no connection behind."""
    with Script() as script:
        script.fail("open", KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            open_signer(script.uri)
        assert script.count("close") == 1


def test_uri_parsed_without_its_store_opens() -> None:
    """A `KeyUri` that was parsed with attributes only, and knows no store class, opens like its text."""
    with Script() as script, open_signer(parse_uri(script.uri, ScriptedStore.attributes)) as signer:
        assert signer.requested_uri == script.uri


def test_uri_that_names_no_key() -> None:
    """A URI without what opening needs is refused before the store is created; the error names what is missing."""
    with Script() as script:
        with pytest.raises(ConfigurationError, match="missing key") as caught:
            open_signer(f"scripted:server={script.number}")
        assert "single quotes" in caught.value.hint
        assert not script.events


def test_unknown_scheme() -> None:
    """If no store claims a scheme, the error says so."""
    with pytest.raises(PluginMissing):
        open_signer("unheard-of:key=app")


@pytest.mark.parametrize("uri", ["pfx:/etc/app.pfx", "scripted:server=1;key=app", "pfx:/x?password=hunter2"])
def test_untrusted_uri_is_refused(uri: str) -> None:
    """With `trusted=False` a URI is not opened, since it is trusted like code; a secret in it is not shown."""
    with pytest.raises(ConfigurationError) as caught:
        open_signer(uri, trusted=False)
    assert "hunter2" not in f"{caught.value} {caught.value.uri}"


def test_untrusted_profile_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `trusted=False` the name of a profile is accepted."""
    with Script() as script:
        write_profile(tmp_path, monkeypatch, script.uri)
        with open_signer("profile:nightly", trusted=False) as signer:
            assert signer.requested_uri == script.uri


@pytest.mark.parametrize("uri", ["profile:", "profile:unknown", "profile:nightly;x"])
def test_profile_that_there_is_not(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile with an empty or unknown name is refused."""
    write_profile(tmp_path, monkeypatch, "pfx:/x")
    with pytest.raises(ConfigurationError):
        open_signer(uri)


def test_profile_without_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile without keys opens nothing."""
    write_profile(tmp_path, monkeypatch)
    for opens in (open_signer, open_store):
        with pytest.raises(ConfigurationError, match="key"):
            opens("profile:nightly")


def test_profile_in_a_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile's keys are URIs, not profiles."""
    write_profile(tmp_path, monkeypatch, "profile:other")
    with pytest.raises(ConfigurationError, match="Expected the URI of a key"):
        open_signer("profile:nightly")


@pytest.mark.parametrize(
    "error",
    [
        KeyNotFound("x"),
        SecretRequired("x"),
        SecretIncorrect("x"),
        StoreLocked("x"),
        AccessDenied("x"),
        StoreUnavailable("x"),
        CertificateMismatch("x"),
    ],
)
def test_profile_goes_on_to_the_next_key(
    error: KeyvouchError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If the first key cannot be used, the second is opened, with one warning."""
    with Script() as first, Script() as second:
        first.always["open"] = error
        write_profile(tmp_path, monkeypatch, first.uri, second.uri)
        with open_signer("profile:nightly") as signer:
            assert signer.requested_uri == second.uri
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert first.count("close") == 1


@pytest.mark.parametrize(
    "error",
    [ConfigurationError("x"), NotSupported("x"), AmbiguousKey("x")],
)
def test_profile_stops_at_what_must_be_corrected(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that must be corrected is raised, not skipped."""
    with Script() as first, Script() as second:
        first.always["open"] = error
        write_profile(tmp_path, monkeypatch, first.uri, second.uri)
        with pytest.raises(type(error)) as caught:
            open_signer("profile:nightly")
        assert caught.value is error
        assert not second.events


def test_last_error_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no key opens, the last one's error is raised."""
    with Script() as first, Script() as second:
        first.fail("open", KeyNotFound("first"))
        second.fail("open", AccessDenied("second"))
        write_profile(tmp_path, monkeypatch, first.uri, second.uri)
        with pytest.raises(AccessDenied, match="second"):
            open_signer("profile:nightly")


def test_keys_share_the_timeout() -> None:
    """A store that stalls leaves time for the next key: all of them together stay within the timeout."""
    with Script() as first, Script() as second:
        first.fail("open", StoreUnavailable("stalled"))
        open_first([first.uri, second.uri], SecretResolver(), timeout=1.8).close()
        assert first.timeouts("open")[0] <= 0.9


@pytest.mark.parametrize("interactive", [True, False])
def test_interactive_opener_may_be_asked(interactive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `prompt:` is shown only if the opener said that a person is present."""
    monkeypatch.setattr("getpass.getpass", lambda prompt: "1234")
    with Script() as script:
        if interactive:
            open_signer(f"{script.uri}?pin=prompt:", interactive=True).close()
            assert script.secrets == ["1234"]
        else:
            with pytest.raises(SecretRequired):
                open_signer(f"{script.uri}?pin=prompt:")


def test_commands_are_for_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `command:` is run only for a profile's key."""
    with Script() as script:
        uri = f"{script.uri}?pin=command:/bin/echo%201234"
        with pytest.raises(ConfigurationError):
            open_signer(uri)
        write_profile(tmp_path, monkeypatch, uri)
        open_signer("profile:nightly").close()
        assert script.secrets == ["1234"]


def test_open_uri_takes_the_resolver() -> None:
    """The resolver's permissions decide which connection is shared."""
    with (
        Script() as script,
        open_uri(script.uri, SecretResolver()),
        open_uri(script.uri, SecretResolver(commands=True)),
    ):
        assert script.count("connect") == 2


# Stores.


def test_store_does_everything() -> None:
    """An open store lists, makes, imports, certifies, exports and deletes keys, over one connection."""
    with Script() as script, open_store(f"scripted-able:server={script.number};key=new") as store:
        made = store.generate(KeySpec(key_type="P-256"))
        [info] = store.keys()
        assert info.uri == made
        certificate = certify(script.newest.private_key)
        assert str(store.install_certificate([certificate])) == f"scripted-able:server={script.number};key=new"
        assert store.export_pfx(Secret("x")) == b"pfx"
        with pytest.raises(ConfigurationError, match="may refer to another key later") as caught:
            store.delete()
        assert str(made) in caught.value.hint
        with open_store(made) as pinned:
            pinned.delete()
        store.import_key(new_key("P-256", 3), [])
        assert list(script.keys) == ["app", "new"]
        assert script.count("connect") == 1


def test_store_without_a_key_means_all() -> None:
    """A URI that selects no key lists them all."""
    with Script() as script, open_store(f"scripted-able:server={script.number}") as store:
        script.keys["other"] = script.keys["app"]
        infos = store.keys()
        assert {info.uri.get("key") for info in infos} == {"app", "other"}


def test_store_of_a_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile's store is its first key's."""
    with Script() as script, Script() as other:
        write_profile(tmp_path, monkeypatch, script.able_uri, other.able_uri)
        with open_store("profile:nightly") as store:
            assert str(store.uri) == script.able_uri


CHANGES: list[tuple[str, Callable[[Store], object]]] = [
    ("generate", lambda store: store.generate(KeySpec(key_type="P-256", further=True))),
    ("import", lambda store: store.import_key(new_key(), [])),
    ("install", lambda store: store.install_certificate([certify(new_key())])),
    ("export", lambda store: store.export_pfx(Secret("hunter2"))),
    ("delete", lambda store: store.delete()),
]
STEPS = {"import": "import_key", "install": "install_certificate", "export": "export_pfx"}
ABLE: list[tuple[str, Callable[[Store], object]]] = [*CHANGES, ("keys", lambda store: store.keys())]


@pytest.mark.parametrize(("what", "act"), ABLE)
def test_missing_capability_names_who_has_it(what: str, act: Callable[[Store], object]) -> None:
    """An unsupported operation raises NotSupported, naming the stores that support it, without a call."""
    with Script() as script, open_store(script.uri) as store:
        with pytest.raises(NotSupported) as caught:
            act(store)
        assert "scripted-able" in caught.value.hint
        assert "scripted," not in caught.value.hint
        assert script.count("connect") == 0


def changing(script: Script, what: str) -> str:
    """The URI used for a change; deleting requires a pinned one."""
    return f"{script.able_uri};version=1" if what == "delete" else script.able_uri


@pytest.mark.parametrize(("what", "act"), CHANGES)
def test_change_is_recorded(what: str, act: Callable[[Store], object], caplog: pytest.LogCaptureFixture) -> None:
    """A change is recorded with the key's URI and its outcome, and without a secret."""
    caplog.set_level(logging.INFO, "keyvouch.audit")
    with Script() as script, open_store(changing(script, what)) as store:
        if what == "import":
            script.keys.clear()
        act(store)
    [line] = caplog.messages
    record = json.loads(line)
    assert (record["event"], record["uri"], record["outcome"]) == (what, changing(script, what), "done")
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("error", "outcome"), [(AccessDenied("no"), "access-denied"), (RuntimeError("a defect"), "internal-error")]
)
@pytest.mark.parametrize(("what", "act"), CHANGES)
def test_failed_change_is_recorded(
    what: str,
    act: Callable[[Store], object],
    error: Exception,
    outcome: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A change that failed in any way is not recorded as done."""
    caplog.set_level(logging.INFO, "keyvouch.audit")
    with Script() as script, open_store(changing(script, what)) as store:
        script.fail(STEPS.get(what, what), error)
        with pytest.raises(KeyvouchError):
            act(store)
    assert [json.loads(line)["outcome"] for line in caplog.messages] == [outcome]


@pytest.mark.parametrize(("what", "act"), CHANGES)
@pytest.mark.parametrize("performed", [True, False])
def test_change_is_made_once(what: str, act: Callable[[Store], object], performed: bool) -> None:
    """A change whose session was lost is repeated only if it was certainly not made."""
    step = STEPS.get(what, what)
    with Script() as script, open_store(changing(script, what)) as store:
        if what == "import":
            script.keys.clear()
        script.fail(step, SessionLost("gone", performed=performed))
        if performed:
            with pytest.raises(StoreUnavailable) as caught:
                act(store)
            assert type(caught.value) is StoreUnavailable
            assert script.count(step) == 1
        else:
            act(store)
            assert script.count(step) == 2


def test_listing_is_repeated() -> None:
    """Listing keys does not change anything: it is repeated after a lost session."""
    with Script() as script, open_store(script.able_uri) as store:
        script.fail("keys", SessionLost("gone"))
        assert len(store.keys()) == 1


def test_generate_suspects_the_shell() -> None:
    """A URI that a shell cut at `;` does not make a key, and the hint says so."""
    with Script() as script, open_store(f"scripted-able:server={script.number}") as store:
        with pytest.raises(ConfigurationError, match="requires key") as caught:
            store.generate(KeySpec())
        assert "Add key=" in caught.value.hint
        assert "shell" in caught.value.hint
        assert script.count("generate") == 0


def test_generate_touches_no_key() -> None:
    """Generating a key that exists raises KeyExists."""
    with Script() as script, open_store(script.able_uri) as store, pytest.raises(KeyExists):
        store.generate(KeySpec(key_type="P-256"))


def test_no_certificate_to_install() -> None:
    """Installing an empty chain is refused before the store is asked."""
    with Script() as script, open_store(script.able_uri) as store:
        with pytest.raises(ConfigurationError):
            store.install_certificate([])
        assert script.count("connect") == 0


def test_store_and_signer_share_a_connection() -> None:
    """A store and the signers of its keys connect once, and the last one closes the connection."""
    with Script() as script:
        with open_store(script.able_uri) as store:
            store.keys()
            signer = open_signer(script.able_uri)
        assert (script.count("connect"), script.count("close")) == (1, 0)
        signer.close()
        assert script.count("close") == 1


def test_closed_store_is_unusable() -> None:
    """After close, a store is not called again."""
    with Script() as script:
        with open_store(script.able_uri) as store:
            store.keys()
        asked = len(script.events)
        for _, act in ABLE:
            with pytest.raises(KeyUnusable, match="The store is closed"):
                act(store)
        assert len(script.events) == asked


def test_store_is_closed_once() -> None:
    """If eight threads close a store, it is released once: a signer beside it still signs."""
    with Script() as script, open_signer(script.able_uri) as signer, open_signer(script.able_uri):
        store = open_store(script.able_uri)
        assert in_threads(8, store.close) == [None] * 8
        assert script.count("close") == 0
        signer.sign(MESSAGE, "ES256")


def test_store_that_ignores_the_digest() -> None:
    """A URI with `spki-sha256` opens no other key, even if the store does not compare it."""
    with Script() as script:
        with open_signer(script.uri) as signer:
            digest = spki_sha256(signer.public_key)
        with pytest.raises(KeyChanged):
            open_signer(f"{script.uri};spki-sha256={digest[::-1]}")
        assert script.count("open") == script.count("close key") == 2
        with open_signer(f"{script.uri};spki-sha256={digest}"):
            pass
