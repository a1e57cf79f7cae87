"""Each denied request names its own path and capability; a change that cannot be completed is not begun."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import pytest

import keyvouch
from keyvouch.certificate import self_signed
from keyvouch.errors import AccessDenied, KeyExists, KeyvouchError
from keyvouch.store import KeySpec
from openbao import Server
from scripted_store import new_key
from vault_keys import key_uri

pytestmark = pytest.mark.server
RULES = {
    "keys": "list",
    "keys/{}": "read update",
    "keys/{}/rotate": "update",
    "keys/{}/config": "update",
    "keys/{}/import": "update",
    "keys/{}/set-certificate": "update",
    "sign/{}": "update",
    "wrapping_key": "read",
}
"""All that the plugin needs of a transit engine."""


def _use_policy(
    server: Server, monkeypatch: pytest.MonkeyPatch, name: str, denied: Iterable[str], **more: bool
) -> None:
    """Use a token with all rules for this key, except for the denied ones."""
    capabilities = {path: each for path, each in RULES.items() if path not in denied}
    lines = [
        f'path "transit/{path.format(name)}" {{ capabilities = {str(each.split()).replace(chr(39), chr(34))} }}'
        for path, each in capabilities.items()
    ]
    server.write(f"sys/policies/acl/{name}", policy="\n".join(lines))
    monkeypatch.setenv("VAULT_TEST_TOKEN", server.token(name, **more))


def _generate(uri: str, *, further: bool = False) -> None:
    with keyvouch.open_store(uri) as store:
        store.generate(KeySpec(key_type="P-256", subject="CN=app", further=further))


def _rotate(uri: str) -> None:
    _generate(uri, further=True)


def _import(uri: str) -> None:
    key = new_key("P-256")
    with keyvouch.open_store(uri) as store:
        store.import_key(key, [self_signed(key, "CN=app", 1)])


def _install(uri: str) -> None:
    with keyvouch.open_store(uri) as store, keyvouch.open_signer(uri) as signer:
        store.install_certificate(signer.chain)


def _sign(uri: str) -> None:
    with keyvouch.open_signer(uri) as signer:
        signer.sign(b"message", "ES256")


def _list(uri: str) -> None:
    with keyvouch.open_store(re.sub(";key=[a-z0-9-]+", "", uri)) as store:
        store.keys()


def _delete(uri: str) -> None:
    with keyvouch.open_signer(uri) as signer:
        pinned = str(signer.uri)
    with keyvouch.open_store(pinned) as store:
        store.delete()


CASES: list[tuple[Callable[[str], None], str, str]] = [
    (_generate, "keys/{}", "read"),
    (_generate, "keys/{}/config", "update"),
    (_generate, "keys/{}/set-certificate", "update"),
    (_generate, "sign/{}", "update"),
    (_rotate, "keys/{}", "read"),
    (_rotate, "keys/{}/rotate", "update"),
    (_rotate, "keys/{}/set-certificate", "update"),
    (_rotate, "sign/{}", "update"),
    (_import, "keys/{}", "read"),
    (_import, "keys/{}/config", "update"),
    (_import, "keys/{}/import", "update"),
    (_import, "keys/{}/set-certificate", "update"),
    (_import, "wrapping_key", "read"),
    (_install, "keys/{}", "read"),
    (_install, "keys/{}/set-certificate", "update"),
    (_sign, "keys/{}", "read"),
    (_sign, "sign/{}", "update"),
    (_list, "keys", "list"),
    (_delete, "keys/{}", "read"),
    (_delete, "keys/{}", "delete"),
]


@pytest.mark.parametrize("default_policy", [True, False])
@pytest.mark.parametrize(("action", "path", "capability"), CASES)
def test_denied_request_names_its_rule(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    action: Callable[[str], None],
    path: str,
    capability: str,
    default_policy: bool,
) -> None:
    """If one rule is missing, the hint is that rule, whether or not the token may look up its capabilities."""
    name = re.sub("[^a-z0-9]", "-", f"{action.__name__}-{path}-{capability}-{default_policy}".lower()).strip("-")
    uri = key_uri(server, name) + "&deletion-allowed=true"
    if action not in (_generate, _import):
        _use_policy(server, monkeypatch, name, ())
        _generate(uri)
    denied = () if capability == "delete" else (path,)  # no rule allows that
    _use_policy(server, monkeypatch, name, denied, no_default_policy=not default_policy)
    with pytest.raises(AccessDenied) as caught:
        action(uri)
    rule = f'path "transit/{path.format(name)}" {{ capabilities = ["{capability}"] }}'
    assert rule in caught.value.hint
    if path != "keys/{}":  # without it, a key can neither be read nor created
        assert caught.value.hint.count("capabilities") == 1
    assert ("key= or mount=" in caught.value.hint) is (action is not _list)
    assert "mount= is wrong" in caught.value.hint


def test_listing_skips_keys_that_may_not_be_read(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a mount that teams share, the other team's keys are reported, and the own ones are listed."""
    for name in ("theirs", "ours"):
        _use_policy(server, monkeypatch, name, ())
        _generate(key_uri(server, name))
    with keyvouch.open_store(key_uri(server, "ours").replace(";key=ours", "")) as store:
        listed = store.keys()
        (skipped,) = (each for each in store.unusable_keys() if ";key=theirs?" in each.name)
    assert {info.uri.get("key") for info in listed} == {"ours"}
    assert skipped.reason == "Cannot read the key: permission denied."


def test_denied_listing_of_a_key_has_its_own_hint(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """`version=` and `certificate-file=` allow opening a key that may not be read, but not listing its versions."""
    _use_policy(server, monkeypatch, "unread", ("keys/{}",))
    with keyvouch.open_store(key_uri(server, "unread")) as store, pytest.raises(AccessDenied) as caught:
        store.keys()
    assert "certificate-file=" not in caught.value.hint


def test_all_missing_rules_are_listed_before_a_change(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version is not created if the token may not sign with it or store its certificate."""
    uri = key_uri(server, "incomplete")
    _use_policy(server, monkeypatch, "incomplete", ())
    _generate(uri)
    _use_policy(server, monkeypatch, "incomplete", ("keys/{}/rotate", "keys/{}/set-certificate"))
    with pytest.raises(AccessDenied) as caught:
        _rotate(uri)
    assert 'path "transit/keys/incomplete/rotate" { capabilities = ["update"] }' in caught.value.hint
    assert 'path "transit/keys/incomplete/set-certificate" { capabilities = ["update"] }' in caught.value.hint
    with keyvouch.open_store(uri) as store:
        assert len(store.keys()) == 1


def test_version_without_certificate_is_reported(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the certificate is refused after all, the error and a retry say what exists, and how to continue."""
    uri = key_uri(server, "uncertified")
    _use_policy(server, monkeypatch, "uncertified", ("keys/{}/set-certificate",), no_default_policy=True)
    for kind in (AccessDenied, KeyExists):
        with pytest.raises(KeyvouchError) as caught:
            _generate(uri)
        assert type(caught.value) is kind
        assert "without a certificate" in f"{caught.value.message} {caught.value.hint}"
        assert f"keyvouch new --further --key '{uri}'" in caught.value.hint
        assert f"keyvouch install FILE --key '{uri}'" in caught.value.hint
    _use_policy(server, monkeypatch, "uncertified", ())
    _rotate(uri)
