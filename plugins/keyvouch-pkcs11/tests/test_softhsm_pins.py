"""PINs of SoftHSM tokens: each is tried once, even if the process is killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import keyvouch
from keyvouch.errors import ConfigurationError, SecretIncorrect, SecretRequired
from pkcs11_modules import loaded_module
from scripted_store import is_signed
from softhsm_keys import UriOf, generate, record_pins
from softhsm_tokens import PIN, SOFTHSM, softhsm  # noqa: F401 - a fixture

pytestmark = pytest.mark.server


def test_one_log_in_for_all_keys(softhsm: UriOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that open several keys of a token log in only once."""
    for name in "abcd":
        generate(softhsm(f"object={name}"))
    pins = record_pins(monkeypatch)
    opened: list[keyvouch.Signer] = []
    threads = [
        threading.Thread(target=lambda name=name: opened.append(keyvouch.open_signer(softhsm(f"object={name}"))))
        for name in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for signer in opened:
        signer.close()
    assert pins == [PIN.encode()]


def test_wrong_pin_is_tried_once(softhsm: UriOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused PIN is rejected without asking the token again; another PIN is tried."""
    generate(softhsm())
    monkeypatch.setenv("WRONG", "wrong-horse")
    pins = record_pins(monkeypatch)
    for _ in range(3):
        with pytest.raises(SecretIncorrect):
            keyvouch.open_signer(softhsm(pin="WRONG"))
    assert pins == [b"wrong-horse"]
    keyvouch.open_signer(softhsm()).close()


def test_eight_processes_try_a_wrong_pin_once(softhsm: UriOf) -> None:
    """If eight workers start at once with the same wrong PIN, only one tries it on the token."""
    generate(softhsm())
    workers = [start_log_in(softhsm(pin="WRONG"), WRONG="wrong-horse") for _ in range(8)]
    outputs = [worker.communicate()[0].split() for worker in workers]
    assert sum(each.count(b"tried") for each in outputs) == 1
    assert [each[-1] for each in outputs] == [b"secret-incorrect"] * 8


LOG_IN_PROGRAM = """
import os, sys
import keyvouch
from keyvouch_pkcs11 import cryptoki as ck
login, stop = ck.Cryptoki.login, os.environ.get("STOP")
def recorded(self, session, pin, user=ck.CKU_USER):
    if stop == "before":
        os.kill(os.getpid(), 9)
    os.write(1, b"tried ")
    try:
        login(self, session, pin, user)
    finally:
        if stop == "after":
            os.kill(os.getpid(), 9)
ck.Cryptoki.login = recorded
os.write(1, b"begun ")
try:
    keyvouch.open_signer(sys.argv[1]).close()
except keyvouch.KeyvouchError as error:
    print(error.code)
else:
    print("opened")
"""


def start_log_in(uri: str, **variables: str) -> subprocess.Popen[bytes]:
    """Start a process that opens the key and prints whether it called C_Login, and the outcome."""
    command = [sys.executable, "-c", LOG_IN_PROGRAM, uri]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | variables)


def log_in_outcome(uri: str, **variables: str) -> bytes:
    return start_log_in(uri, **variables).communicate()[0].split()[-1]


@pytest.mark.parametrize("stop", ["before", "after"])
def test_right_pin_survives_kills(softhsm: UriOf, stop: str) -> None:
    """Processes killed during the login do not prevent the correct PIN from being tried."""
    generate(softhsm())
    log_in_outcome(softhsm(pin="WRONG"), WRONG="wrong-horse")  # shows that the token reports failed attempts
    assert log_in_outcome(softhsm()) == b"opened"
    for _ in range(4):
        assert log_in_outcome(softhsm(), STOP=stop) != b"opened"
    assert log_in_outcome(softhsm()) == b"opened"


def test_wrong_pin_is_tried_once_despite_kills(softhsm: UriOf) -> None:
    """A wrong PIN is tried once even if the process is killed before it has recorded the token's refusal."""
    generate(softhsm())
    variables = {"WRONG": "wrong-horse", "STOP": "after"}
    outputs = [start_log_in(softhsm(pin="WRONG"), **variables).communicate()[0] for _ in range(3)]
    assert [each.count(b"tried") for each in outputs] == [1, 0, 0]
    assert outputs[-1].split()[-1] == b"secret-incorrect"
    assert log_in_outcome(softhsm()) == b"opened"


@pytest.mark.parametrize("right", [True, False])
def test_kills_at_any_moment(softhsm: UriOf, *, right: bool, plenty: bool) -> None:
    """After kills at any moment of the login the correct PIN works, and a wrong one was tried only once in total."""
    generate(softhsm())
    if right:  # show that the token reports failed attempts
        log_in_outcome(softhsm(pin="WRONG"), WRONG="wrong-horse")
        assert log_in_outcome(softhsm()) == b"opened"
    uri, tries, points = softhsm(pin="SOME"), 0, 40 if plenty else 12
    variables = {"SOME": PIN if right else "wrong-horse"}
    for point in range(points):
        process = start_log_in(uri, **variables)
        assert process.stdout
        process.stdout.read(6)  # begun
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.3 * point / points)
        process.kill()
        tries += process.communicate()[0].count(b"tried")
    last = start_log_in(uri, **variables).communicate()[0]
    tries += last.count(b"tried")
    assert last.split()[-1] == (b"opened" if right else b"secret-incorrect")
    assert right or tries == 1


def test_log_in_by_the_program_keeps_the_record(softhsm: UriOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the program itself has logged in, no PIN is tried, so none counts as accepted."""
    generate(softhsm())
    monkeypatch.setenv("WRONG", "wrong-horse")
    with pytest.raises(SecretIncorrect):
        keyvouch.open_signer(softhsm(pin="WRONG"))
    module = loaded_module(SOFTHSM)
    with module as functions:
        session = functions.open_session(functions.slots()[0])
        functions.login(session, PIN.encode())
    keyvouch.open_signer(softhsm(pin="WRONG")).close()
    with module as functions:
        functions.close_session(session)
    pins = record_pins(monkeypatch)
    with pytest.raises(SecretIncorrect, match="rejected earlier"):
        keyvouch.open_signer(softhsm(pin="WRONG"))
    assert pins == []


def test_two_pin_sources_for_one_token(softhsm: UriOf) -> None:
    """A PIN reference other than the one used to log in is a configuration error."""
    generate(softhsm())
    with keyvouch.open_signer(softhsm()), pytest.raises(ConfigurationError, match="a different pin-source"):
        keyvouch.open_signer(softhsm(pin="OTHER_PIN"))


def test_without_a_pin(softhsm: UriOf) -> None:
    """Opening requires a PIN; listing without one shows only the token's public objects."""
    generate(softhsm())
    with pytest.raises(SecretRequired, match="requires a PIN"):
        keyvouch.open_signer(softhsm(pin=""))
    with keyvouch.open_store(softhsm(pin="")) as store:
        assert store.keys() == []


@pytest.mark.parametrize("form", ["{}", "file:{}", "file://{}"])
def test_pin_in_a_file(softhsm: UriOf, tmp_path: Path, form: str) -> None:
    """RFC 7512 specifies a file as a path or a URI; both are the same reference."""
    generate(softhsm())
    file = tmp_path / "pin"
    file.write_text(f"{PIN}\n")
    file.chmod(0o600)
    with keyvouch.open_signer(softhsm(pin="") + f"&pin-source={form.format(file)}") as signer:
        assert is_signed(signer.public_key, signer.sign(b"message", "ES256"), b"message", "ES256")


def test_pin_from_a_program_requires_a_profile(softhsm: UriOf) -> None:
    """RFC 7512's | is equivalent to keyvouch's command:, with the same rules."""
    generate(softhsm())
    with pytest.raises(ConfigurationError, match="command:"):
        keyvouch.open_signer(softhsm(pin="") + "&pin-source=%7C/usr/bin/pinomatic")
