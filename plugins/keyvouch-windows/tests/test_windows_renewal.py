"""The accounts that use a machine key and its successors, and what commands say to do next, on a double of the DLLs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509

from keyvouch._core.key_management import open_store
from keyvouch._system import files
from keyvouch.cli import group
from keyvouch.store import KeySpec
from keyvouch_windows.crypt32 import Container
from scripted_keys import DEFAULT_DESCRIPTOR, OLD_CSP, SOFTWARE, KeyRecord, make_key
from scripted_windows import ScriptedWindows, pinned

AT = "windows:friendly-name=nightly;location=LocalMachine"
FAMILY = f"{AT}?select=newest"
GMSA = r"CONTOSO\nightly$"
ACCOUNTS = {GMSA: ("S-1-5-21-1-2-3-1105", 1), r"NT AUTHORITY\SYSTEM": ("S-1-5-18", 5)}


@pytest.fixture
def machine(scripted: ScriptedWindows) -> Iterator[ScriptedWindows]:
    """Return a Windows with a family of three keys, one of which has expired."""
    scripted.accounts = ACCOUNTS
    for name, days in (("expired", -1), ("first", 30), ("second", 60)):
        add(scripted, name, days)
    yield scripted
    scripted.assert_all_released()


def add(scripted: ScriptedWindows, name: str, days: int) -> x509.Certificate:
    """Add a member of the family."""
    container = Container(SOFTWARE, name, 0, True, 0)
    made = scripted.add(make_key("RSA-2048"), container, subject=f"CN={name}", friendly_name="nightly", days=days)
    record(scripted, name).descriptor = DEFAULT_DESCRIPTOR
    return made


def record(scripted: ScriptedWindows, name: str) -> KeyRecord:
    return scripted.cng[SOFTWARE, name, True]


def granted(scripted: ScriptedWindows) -> list[str]:
    """Return the names of the keys whose access rules were changed."""
    return [name for name in ("expired", "first", "second") if record(scripted, name).descriptor != DEFAULT_DESCRIPTOR]


def keyvouch(*arguments: str) -> Result:
    done = CliRunner().invoke(group, [*arguments])
    assert done.exit_code == 0, done.output
    return done


def test_grant_covers_the_family(machine: ScriptedWindows) -> None:
    """An account that uses a family may sign with each member that has not expired, not only with today's."""
    with open_store(FAMILY) as store:
        store.grant(GMSA)
        assert granted(machine) == ["first", "second"]
        store.revoke(GMSA)
        assert granted(machine) == []


def test_grant_of_one_key_covers_only_that(machine: ScriptedWindows) -> None:
    """A pinned URI is one key."""
    certificate = add(machine, "third", 30)
    with open_store(pinned(certificate, "LocalMachine")) as store:
        store.grant(GMSA)
    assert granted(machine) == []


def test_command_names_the_keys_of_the_family(machine: ScriptedWindows) -> None:
    """The output lists each key with its accounts; `after` has those that can sign with all of them."""
    with open_store(FAMILY) as store:
        first, second = (uri.quoted for uri in store.family())
    shown = keyvouch("grant", GMSA, "--key", FAMILY).stdout.splitlines()
    assert [line for line in shown if line.startswith("'windows:")] == [first, second]
    assert shown.count(f"+ {GMSA}") == 2

    one = json.loads(keyvouch("grant", "--revoke", GMSA, "--key", first.strip("'"), "--output", "json").output)
    assert [GMSA in one[when] for when in ("before", "after")] == [True, False]
    both = json.loads(keyvouch("grant", "--list", "--key", FAMILY, "--output", "json").output)
    assert GMSA not in both["after"]
    assert [GMSA in each["after"] for each in both["keys"]] == [False, True]


def test_renewal_says_who_must_be_granted_the_new_key(machine: ScriptedWindows) -> None:
    """`new --further` prints a grant, with the new key's pinned URI, for each account that uses the family."""
    keyvouch("grant", GMSA, "--key", FAMILY)
    new = ("new", "--further", "--key", AT, "--subject", "CN=new")
    done = keyvouch(*new)
    uri = done.stdout.splitlines()[0]
    assert f"  keyvouch grant '{GMSA}' --key {uri}\n" in done.stderr
    assert "SYSTEM' --key" not in done.stderr
    assert json.loads(keyvouch(*new, "--output", "json").stdout)["accounts_to_grant"] == [GMSA]


@pytest.mark.parametrize(("named", "provider"), [("", OLD_CSP), (f";provider={SOFTWARE}", SOFTWARE)])
def test_new_key_is_in_the_provider_of_the_family(scripted: ScriptedWindows, named: str, provider: str) -> None:
    """Without provider=, a further key is created where the newest member of its family is."""
    scripted.add(make_key("RSA-2048"), Container(SOFTWARE, "old", 0, True), friendly_name="nightly")
    with open_store(f"{AT};provider={OLD_CSP}") as store:
        store.generate(KeySpec(further=True))
    with open_store(AT + named) as store:
        made = store.generate(KeySpec(further=True))
    with open_store(made) as store:
        (info,) = store.keys()
    assert info.provider == provider


def test_next_commands_are_for_the_account_of_the_task(scripted: ScriptedWindows, tmp_path: Path) -> None:
    """A new or imported machine key is granted, and used with the machine's configuration."""
    machine = files.configuration_files()[-1]
    add_profile = f"  keyvouch --config {machine} profile add NAME --tenant TENANT --client-id ID --key"
    grant = "  keyvouch grant 'DOMAIN\\ACCOUNT' --key"
    made = keyvouch("new", "--key", AT, "--certificate-out", str(tmp_path / "a.cer"))
    assert f"{grant} '{AT}?select=newest'\n{add_profile} '{AT}?select=newest'\n" in made.stderr

    pem = f"pem:{tmp_path}/app.pem"
    keyvouch("new", "--key", pem, "--subject", "CN=imported")
    imported = keyvouch("import", "--from", pem, "--key", "windows:location=LocalMachine")
    uri = imported.stdout.splitlines()[0]
    assert (
        f"  keyvouch export --certificate app.cer --key {uri}\n{grant} {uri}\n{add_profile} {uri}\n" in imported.stderr
    )

    exported = keyvouch("export", "--key", uri.strip("'"), "--certificate", str(tmp_path / "b.cer"))
    assert f"{grant} {uri}\n{add_profile} {uri}\n" in exported.stderr


def test_export_without_a_profile_says_how_to_add_one(tmp_path: Path) -> None:
    """Without a profile, the next command cannot be to get a token."""
    uri = f"pem:{tmp_path}/app.pem"
    keyvouch("new", "--key", uri)
    exported = keyvouch("export", "--key", uri, "--certificate", str(tmp_path / "a.cer"))
    assert f"Next: keyvouch profile add NAME --tenant TENANT --client-id ID --key {uri}\n" in exported.stderr
