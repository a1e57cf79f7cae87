"""Each handle is released exactly once, whether calls succeed or fail: counted on a double of the DLLs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

import pytest

import keyvouch
from keyvouch.errors import KeyvouchError
from keyvouch.secrets import Secret
from keyvouch.store import KeySpec
from keyvouch_windows.crypt32 import Container
from keyvouch_windows.error_codes import CODES
from scripted_keys import ACCOUNT, AES_CSP, OLD_CSP, SOFTWARE, make_key
from scripted_windows import install_double, make_certificate, pinned

IN_CNG, IN_CSP = Container(SOFTWARE, "app"), Container(OLD_CSP, "app", 1, spec=1)
OPENS = 10_000


@pytest.mark.parametrize("kind", ["of CNG", "cached", "of a legacy provider", "without certificate"])
def test_many_opens_leak_no_handle(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """No handle is left after 10,000 opens, signatures and closes, a quarter for each kind of key."""
    scripted = install_double(monkeypatch)
    scripted.recording = False
    legacy = kind == "of a legacy provider"
    certificate = scripted.add(make_key("RSA-2048" if legacy else "ECDSA_P256"), IN_CSP if legacy else IN_CNG)
    uri, algorithm = pinned(certificate), "RS256" if legacy else "ES256"
    scripted.my(machine=False)[0].caches_handle = kind == "cached"
    if kind == "without certificate":
        scripted.my(machine=False).clear()
        uri = f"windows:provider={SOFTWARE};container=app;location=CurrentUser"

    for _ in range(OPENS // 4):
        with keyvouch.open_signer(uri) as signer:
            signer.sign(b"x", algorithm)

    assert sum(scripted.handles_created.values()) >= OPENS
    scripted.assert_all_released()


def opening(uri: str, provider: str) -> None:
    with keyvouch.open_signer(uri) as signer:
        signer.sign(b"x", "RS256")


def opening_by_container(uri: str, provider: str) -> None:
    opening(f"windows:provider={provider};container=app", provider)


def listing(uri: str, provider: str) -> None:
    with keyvouch.open_store("windows:") as store:
        store.keys()


def making_in_cng(uri: str, provider: str) -> None:
    with keyvouch.open_store("windows:location=CurrentUser;friendly-name=new") as store:
        store.generate(KeySpec("RSA-2048", "CN=new"))


def making_in_a_legacy_provider(uri: str, provider: str) -> None:
    with keyvouch.open_store(f"windows:location=CurrentUser;friendly-name=new;provider={AES_CSP}") as store:
        store.generate(KeySpec("RSA-2048", "CN=new"))


def importing(uri: str, provider: str) -> None:
    with keyvouch.open_store("windows:location=CurrentUser;friendly-name=new") as store:
        store.import_key(make_key("RSA-2048"), [make_certificate(make_key("RSA-2048"))])


def importing_into_a_legacy_provider(uri: str, provider: str) -> None:
    with keyvouch.open_store(f"windows:location=CurrentUser;friendly-name=new;provider={AES_CSP}") as store:
        store.import_key(make_key("RSA-2048"), [make_certificate(make_key("RSA-2048"))])


def installing(uri: str, provider: str) -> None:
    with keyvouch.open_store(uri) as store:
        store.install_certificate([make_certificate(make_key("RSA-2048"))])


def exporting(uri: str, provider: str) -> None:
    with keyvouch.open_store(uri) as store:
        store.export_pfx(Secret("secret"))


def deleting(uri: str, provider: str) -> None:
    with keyvouch.open_store(uri) as store:
        store.delete()


def granting(uri: str, provider: str) -> None:
    with keyvouch.open_store(uri) as store:
        store.grant(ACCOUNT)
        assert len(store.readers()) == 3


def revoking(uri: str, provider: str) -> None:
    with keyvouch.open_store(uri) as store:
        store.revoke(r"NT AUTHORITY\SYSTEM")
        assert len(store.readers()) == 1


ACTS = [
    *(opening, opening_by_container, listing, making_in_cng, making_in_a_legacy_provider),
    *(importing, importing_into_a_legacy_provider, installing, exporting, deleting, granting, revoking),
]


@pytest.mark.parametrize("code", ["NTE_PERM", "NTE_NOT_SUPPORTED", "NTE_INVALID_HANDLE"])
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(("container", "caches_handle"), [(IN_CNG, False), (IN_CNG, True), (IN_CSP, False)])
def test_failing_calls_leak_no_handle(
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[str, str], None],
    container: Container,
    code: str,
    *,
    caches_handle: bool,
) -> None:
    """Whichever call of a sequence fails, and whether or not that raises an error, no handle is left."""
    key = make_key("RSA-2048")
    calls, number = 1, 0
    while number <= calls:
        scripted = install_double(monkeypatch)
        machine = act in (granting, revoking)
        certificate = scripted.add(key, replace(container, machine=machine), exportable=True)
        uri = pinned(certificate, "LocalMachine" if machine else "CurrentUser")
        scripted.my(machine=machine)[0].caches_handle = caches_handle
        scripted.fail_call(number, CODES[code])
        with contextlib.suppress(KeyvouchError) if number else contextlib.nullcontext():
            act(uri, container.provider)
        scripted.assert_all_released()
        calls = max(calls, scripted.call_count) if number == 0 else calls
        number += 1

    assert calls > 10
