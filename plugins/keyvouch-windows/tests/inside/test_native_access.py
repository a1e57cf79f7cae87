"""Access to keys on Windows, as administrator: verified by icacls, and by another account's scheduled task."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import keyvouch
from keyvouch.store import KeySpec

LEGACY = "Microsoft Enhanced RSA and AES Cryptographic Provider"
FOLDERS = (r"Microsoft\Crypto\Keys", r"Microsoft\Crypto\RSA\MachineKeys")
"""The folders of machine keys of CNG and the legacy providers, under %ProgramData%."""
ACCOUNT = r"NT AUTHORITY\LOCAL SERVICE"
TASK = "keyvouch-native"
UNFINISHED = (0x41301, 0x41303, 0x41325)
"""Result codes of a task that is running, has not run yet, or is queued."""


@pytest.fixture(params=["", f";provider={LEGACY}"], ids=["CNG", "legacy"])
def key(request: pytest.FixtureRequest) -> Iterator[str]:
    """Create a machine key."""
    with keyvouch.open_store(f"windows:location=LocalMachine;friendly-name=native-access{request.param}") as store:
        uri = str(store.generate(KeySpec("RSA-2048", "CN=native access")))
    yield uri
    with keyvouch.open_store(uri) as store:
        store.delete()


def output_of(*arguments: str | Path) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def accounts_of(uri: str) -> list[str]:
    """Return the accounts that icacls lists for the key's file."""
    digits = uri.partition("thumbprint=")[2].partition(";")[0]
    output = output_of("certutil", "-v", "-store", "My", digits)
    found = re.search(r"Unique container name: (\S+)", output)
    assert found, output
    paths = [Path(os.environ["PROGRAMDATA"], folder, found[1]) for folder in FOLDERS]
    path = next(path for path in paths if path.exists())
    rules = output_of("icacls", path).replace(str(path), "")
    return sorted(re.findall(r"^\s*(\S.*?):\(", rules, re.MULTILINE))


def test_granted_and_revoked(key: str) -> None:
    """Granting and revoking are idempotent and leave other accounts' rules unchanged."""
    with keyvouch.open_store(key) as store:
        readers, accounts = store.readers(), accounts_of(key)
        assert ACCOUNT not in readers

        for _ in range(2):
            store.grant(ACCOUNT)
            assert sorted(store.readers()) == sorted([*readers, ACCOUNT])
            assert accounts_of(key) == sorted([*accounts, ACCOUNT])

        for _ in range(2):
            store.revoke(ACCOUNT)
            assert sorted(store.readers()) == sorted(readers)
            assert accounts_of(key) == accounts


@pytest.mark.parametrize(
    "spelled", ["LOCAL SERVICE", "S-1-5-19", r"NT AUTHORITY\LOCAL SERVICE", r"NT SERVICE\EventLog"]
)
def test_accounts_in_all_spellings(key: str, spelled: str) -> None:
    """Accounts are accepted by name and by SID, including a service's virtual account."""
    with keyvouch.open_store(key) as store:
        before = {*store.readers()}
        store.grant(spelled)
        assert len({*store.readers()} - before) == 1
        store.revoke(spelled)
        assert {*store.readers()} == before


def result_of_task(key: str) -> int:
    """Sign with the key in a service account's scheduled task, and return the command's exit status."""
    steps = (
        f"""$arguments = '-m keyvouch sign --key "{key}" "{sys.executable}"'""",
        f"$action = New-ScheduledTaskAction -Execute '{sys.executable}' -Argument $arguments -WorkingDirectory 'C:\\'",
        "$principal = New-ScheduledTaskPrincipal -UserId 'LOCALSERVICE' -LogonType ServiceAccount",
        f"Register-ScheduledTask -Force -TaskName {TASK} -Action $action -Principal $principal",
        f"Start-ScheduledTask {TASK}",
    )
    output_of("powershell", "-NoProfile", "-Command", "; ".join(steps))
    try:
        return _wait_for_result()
    finally:
        output_of("schtasks", "/delete", "/f", "/tn", TASK)


def _wait_for_result() -> int:
    query = f"$t = Get-ScheduledTask {TASK}; $t.State; ($t | Get-ScheduledTaskInfo).LastTaskResult"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        state, result = output_of("powershell", "-NoProfile", "-Command", query).split()
        if state == "Ready" and int(result) not in UNFINISHED:
            return int(result)
    raise AssertionError("timed out waiting for the task to end")


def test_service_account_signs_after_grant(key: str) -> None:
    """A service account's task is denied access to the key (4), and signs (0) once access is granted."""
    assert result_of_task(key) == 4

    granting = [sys.executable, "-m", "keyvouch", "grant", ACCOUNT, "--key", key]
    done = subprocess.run(granting, capture_output=True, text=True, check=False)
    assert (done.returncode, f"+ {ACCOUNT}" in done.stdout) == (0, True), done

    assert result_of_task(key) == 0
