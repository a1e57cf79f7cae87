"""Grant and revoke accounts' permission to use a key, on a double of the DLLs."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result
from cryptography import x509

from keyvouch._core.key_management import Store, open_store
from keyvouch.cli import group
from keyvouch.errors import AccessDenied, ConfigurationError, KeyvouchError, NotSupported, StoreUnavailable
from keyvouch.security_descriptor import SecurityDescriptor
from keyvouch_windows.crypt32 import Container
from keyvouch_windows.error_codes import CODES
from scripted_keys import DEFAULT_DESCRIPTOR, OLD_CSP, SMART_CARD, SOFTWARE, KeyRecord, make_key
from scripted_windows import ScriptedWindows, pinned

# DEFAULT_DESCRIPTOR plus (A;;0x80120089;;;NS)
WITH_NETWORK_SERVICE = bytes.fromhex(
    "0100049400000000000000000000000014000000020048000300000000001400ff011fd001010000000000051200000000001800ff011f"
    "d0010200000000000520000000200200000000140089001280010100000000000514000000"
)
# D:(D;;GA;;;S-1-5-21-1-2-3-1104)(A;;FA;;;SY)(A;ID;FR;;;S-1-5-32-545)
DENIED_AND_INHERITED = bytes.fromhex(
    "01000480000000000000000000000000140000000200580003000000010024000000001001050000000000051500000001000000020000"
    "00030000005004000000001400ff011f00010100000000000512000000001018008900120001020000000000052000000021020000"
)
NO_LIST = bytes.fromhex("0100048000000000000000000000000000000000")
SERVICE, GMSA, POOL = "S-1-5-21-1-2-3-1104", "S-1-5-21-1-2-3-1105", "S-1-5-82-1-2-3-4-5"
ACCOUNTS = {
    r"CONTOSO\somebody": ("S-1-5-21-1-2-3-1009", 1),
    r"CONTOSO\svc": (SERVICE, 1),
    r"CONTOSO\nightly$": (GMSA, 1),
    r"IIS APPPOOL\reports": (POOL, 5),
    r"NT-AUTORITÄT\SYSTEM": ("S-1-5-18", 5),
    r"NT-AUTORITÄT\Netzwerkdienst": ("S-1-5-20", 5),
    r"VORDEFINIERT\Administratoren": ("S-1-5-32-544", 4),
    r"VORDEFINIERT\Benutzer": ("S-1-5-32-545", 4),
    "Jeder": ("S-1-1-0", 5),
    "SERVER1": ("S-1-5-21-1-2-3", 3),
}
"""The accounts of a German Windows."""
USUAL = [r"NT-AUTORITÄT\SYSTEM", r"VORDEFINIERT\Administratoren"]


@pytest.fixture
def german(scripted: ScriptedWindows) -> Iterator[ScriptedWindows]:
    """Return a German Windows; check at the end that every handle was released."""
    scripted.accounts, scripted.account = ACCOUNTS, r"CONTOSO\somebody"
    yield scripted
    scripted.assert_all_released()


def added(
    german: ScriptedWindows,
    name: str = "key",
    *,
    provider: str = SOFTWARE,
    machine: bool = True,
    rules: bytes = DEFAULT_DESCRIPTOR,
) -> tuple[KeyRecord, x509.Certificate]:
    """Add a key with these access rules, and its certificate."""
    legacy = int(provider == OLD_CSP)
    container = Container(provider, name, legacy, machine, legacy)
    certificate = german.add(make_key("RSA-2048"), container, subject=f"CN={name}")
    record = german.csp[name, machine][1] if legacy else german.cng[provider, name, machine]
    record.descriptor = rules
    return record, certificate


def opened(certificate: x509.Certificate, location: str = "LocalMachine") -> Store:
    return open_store(pinned(certificate, location))


def changes(german: ScriptedWindows) -> int:
    """Return the number of times access rules were written."""
    return len(german.called("NCryptSetProperty")) + len(german.called("CryptSetProvParam"))


def refused(store: Store, account: str, *, revoke: bool = False) -> KeyvouchError:
    with pytest.raises(KeyvouchError) as caught:
        (store.revoke if revoke else store.grant)(account)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("provider", [SOFTWARE, OLD_CSP])
def test_granted_rule_is_as_in_microsofts_samples(german: ScriptedWindows, provider: str) -> None:
    """NETWORK SERVICE gets the mask from Microsoft's documentation, and the descriptor is as Windows writes it."""
    key, certificate = added(german, provider=provider)
    with opened(certificate) as store:
        assert store.readers() == USUAL
        for _ in range(2):
            store.grant("NETWORK SERVICE")

        assert (key.descriptor, changes(german)) == (WITH_NETWORK_SERVICE, 1)
        assert store.readers() == [*USUAL, r"NT-AUTORITÄT\Netzwerkdienst"]

        for _ in range(2):
            store.revoke(r"NT AUTHORITY\Network Service")
        assert (key.descriptor, changes(german)) == (DEFAULT_DESCRIPTOR, 2)


@pytest.mark.parametrize(
    ("written", "named"),
    [
        (r"CONTOSO\svc", r"CONTOSO\svc"),
        (r"contoso\Nightly$", r"CONTOSO\nightly$"),
        (r"IIS AppPool\reports", r"IIS APPPOOL\reports"),
        (r"BUILTIN\Users", r"VORDEFINIERT\Benutzer"),
        ("users", r"VORDEFINIERT\Benutzer"),
        (r"VORDEFINIERT\Benutzer", r"VORDEFINIERT\Benutzer"),
        ("S-1-5-32-545", r"VORDEFINIERT\Benutzer"),
        ("s-1-5-21-9-9-9-500", "S-1-5-21-9-9-9-500"),
    ],
)
def test_account_has_several_spellings(german: ScriptedWindows, written: str, named: str) -> None:
    """An account may be named in English or in Windows' language, and an unknown account by its SID."""
    key, certificate = added(german)
    with opened(certificate) as store:
        store.grant(written)
        assert store.readers() == [*USUAL, named]
        store.revoke(written)
        assert key.descriptor == DEFAULT_DESCRIPTOR


@pytest.mark.parametrize(
    ("account", "remedy"),
    [
        (r"CONTOSO\nightly", r"CONTOSO\nightly$"),
        (r"CONTOSO\nobody", r"DOMAIN\name$"),
        (r"NT SERVICE\job", "sc.exe query job"),
        (r"IIS AppPool\other", "Start the application pool once"),
        ("SERVER1", r"DOMAIN\name"),
        ("S-1-5-x", "whoami /user"),
    ],
)
def test_unknown_account_is_reported(german: ScriptedWindows, account: str, remedy: str) -> None:
    """The error for a mistyped account shows the correct form; a computer's own name is not an account."""
    _, certificate = added(german)
    with opened(certificate) as store:
        error = refused(store, account)
    assert isinstance(error, ConfigurationError)
    assert account in error.message
    assert remedy in str(error.hint)
    assert changes(german) == 0


def test_unreachable_domain_is_reported(german: ScriptedWindows) -> None:
    """Without a domain controller names cannot be looked up; SIDs are accepted and shown instead."""
    for function in ("LookupAccountNameW", "LookupAccountSidW"):
        german.fail(function, CODES["RPC_S_SERVER_UNAVAILABLE"])
    _, certificate = added(german)
    with opened(certificate) as store:
        assert isinstance(refused(store, r"CONTOSO\svc"), StoreUnavailable)
        store.grant(SERVICE)
        assert store.readers() == ["S-1-5-18", "S-1-5-32-544", SERVICE]


def test_denied_account_is_reported(german: ScriptedWindows) -> None:
    """A deny rule takes precedence over any permission, so granting is refused and changes nothing."""
    _, certificate = added(german, rules=DENIED_AND_INHERITED)
    with opened(certificate) as store:
        assert store.readers() == [r"NT-AUTORITÄT\SYSTEM", r"VORDEFINIERT\Benutzer"]
        error = refused(store, r"CONTOSO\svc")
    assert isinstance(error, AccessDenied)
    assert "denies" in str(error)
    assert changes(german) == 0


def test_inherited_permission_is_reported(german: ScriptedWindows) -> None:
    """An inherited permission cannot be revoked at the key, and need not be granted."""
    _, certificate = added(german, rules=DENIED_AND_INHERITED)
    with opened(certificate) as store:
        store.grant("Users")
        error = refused(store, "Users", revoke=True)
    assert isinstance(error, NotSupported)
    assert "folder" in str(error)
    assert changes(german) == 0


def test_rules_of_others_are_unchanged(german: ScriptedWindows) -> None:
    """Deny rules stay first and inherited ones last; other accounts' rules are unchanged."""
    key, certificate = added(german, rules=DENIED_AND_INHERITED)
    before = SecurityDescriptor.from_bytes(key.descriptor).dacl or ()
    with opened(certificate) as store:
        store.grant(r"CONTOSO\nightly$")
        granted = SecurityDescriptor.from_bytes(key.descriptor).dacl or ()
        store.revoke(r"CONTOSO\nightly$")

    assert [*granted[:2], granted[3]] == [*before]
    assert granted[2].sid == GMSA
    assert SecurityDescriptor.from_bytes(key.descriptor).dacl == before


def test_key_without_rules_is_open_to_everyone(german: ScriptedWindows) -> None:
    """Without a DACL everyone may sign: granting does nothing, and revoking is refused."""
    _, certificate = added(german, rules=NO_LIST)
    with opened(certificate) as store:
        assert store.readers() == ["Jeder"]
        store.grant(r"CONTOSO\svc")
        assert "everyone may use it" in str(refused(store, r"CONTOSO\svc", revoke=True))
    assert changes(german) == 0


def test_user_key_is_not_granted(german: ScriptedWindows) -> None:
    """Other accounts cannot see CurrentUser, so granting is refused; listing readers and revoking work."""
    _, certificate = added(german, machine=False)
    with opened(certificate, "CurrentUser") as store:
        assert store.readers() == USUAL
        error = refused(store, r"CONTOSO\svc")
        assert isinstance(error, NotSupported)
        assert "location=LocalMachine" in str(error.hint)
        store.revoke("Administrators")
        assert store.readers() == [r"NT-AUTORITÄT\SYSTEM"]


def test_key_without_certificate_is_granted(german: ScriptedWindows) -> None:
    """Access to a key identified only by its container can be granted too, in either location."""
    key, _ = added(german)
    german.my(machine=True).clear()
    with open_store(f"windows:provider={SOFTWARE};container=key") as store:
        store.grant("NETWORK SERVICE")
    assert key.descriptor == WITH_NETWORK_SERVICE


def test_card_does_not_support_rules(german: ScriptedWindows) -> None:
    """Access to a smart card's key cannot be granted: anyone with the PIN may sign."""
    german.fail("NCryptGetProperty", CODES["NTE_NOT_SUPPORTED"])
    _, certificate = added(german, provider=SMART_CARD)
    with opened(certificate) as store:
        for error in (refused(store, r"CONTOSO\svc"), refused(store, r"CONTOSO\svc", revoke=True)):
            assert isinstance(error, NotSupported)
            assert "PIN" in str(error.hint)


@pytest.mark.parametrize(
    ("function", "provider", "code"),
    [
        ("NCryptOpenKey", SOFTWARE, "NTE_BAD_KEYSET"),
        ("NCryptSetProperty", SOFTWARE, "NTE_PERM"),
        ("CryptSetProvParam", OLD_CSP, "ERROR_ACCESS_DENIED"),
    ],
)
def test_administrator_is_required(german: ScriptedWindows, function: str, provider: str, code: str) -> None:
    """If this account may not change the rules, the hint says that an administrator may."""
    german.fail(function, CODES[code])
    _, certificate = added(german, provider=provider)
    with opened(certificate) as store:
        error = refused(store, r"CONTOSO\svc")
    assert isinstance(error, AccessDenied)
    assert r"CONTOSO\somebody" in str(error)
    assert "administrator" in str(error.hint)


def test_rules_that_are_not_stored_are_reported(german: ScriptedWindows) -> None:
    """A provider's success is verified by reading the rules again."""
    key, certificate = added(german)
    key.stores_rules = False
    with opened(certificate) as store:
        assert "did not store" in str(refused(store, r"CONTOSO\svc"))


def test_listing_shows_provider_and_readers(german: ScriptedWindows) -> None:
    """Each key is listed with its provider and readers, even if it cannot be opened."""
    added(german, "ours")
    added(german, "legacy", provider=OLD_CSP, rules=WITH_NETWORK_SERVICE)
    german.fail("CryptGetUserKey", CODES["NTE_NO_KEY"])
    added(german, "foreign")
    german.fail("NCryptOpenKey", CODES["NTE_BAD_KEYSET"], 2)
    with open_store("windows:location=LocalMachine") as store:
        found = store.keys()
    listed = {str(info.subject): (info.provider, info.exportable, info.readers) for info in found}

    assert listed == {
        "CN=ours": (SOFTWARE, False, tuple(USUAL)),
        "CN=legacy": (OLD_CSP, None, (*USUAL, r"NT-AUTORITÄT\Netzwerkdienst")),
        "CN=foreign": (SOFTWARE, None, None),
    }


def test_command_shows_before_and_after(german: ScriptedWindows) -> None:
    """The text output shows what changed; the JSON output has both lists."""
    _, certificate = added(german, "nightly")
    uri = pinned(certificate, "LocalMachine")

    def keyvouch(*arguments: str) -> Result:
        done = CliRunner().invoke(group, [*arguments])
        assert done.exit_code == 0, done.output
        return done

    result = json.loads(keyvouch("grant", r"CONTOSO\nightly$", "--key", uri, "--output", "json").output)
    assert (result["before"], result["after"]) == (USUAL, [*USUAL, r"CONTOSO\nightly$"])
    shown = keyvouch("grant", "--revoke", r"CONTOSO\nightly$", "--key", uri).stdout
    assert shown.splitlines() == [rf"  {USUAL[0]}", rf"  {USUAL[1]}", r"- CONTOSO\nightly$"]
    listed = keyvouch("keys", "--key", "windows:location=LocalMachine").stdout
    assert f"{SOFTWARE}; may sign: {', '.join(USUAL)}" in listed
