"""A wrong PIN is tried once."""

import json
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from keyvouch import files, lockout
from keyvouch.errors import ConfigurationError, SecretIncorrect, StoreUnavailable
from keyvouch.lockout import single_try
from keyvouch.secrets import SecretResolver
from keyvouch.uri import Attribute, parse_uri

TOKEN = "maker/model/0001/prod"


class Token:
    """A token with one right PIN, which counts how often it is asked."""

    def __init__(self, pin: str = "right", name: str = TOKEN) -> None:
        self.pin, self.name, self.tries = pin, name, 0

    def log_in(self, pin: str) -> bool:
        """Log in under the protection of the lock-out; tell whether the PIN was accepted."""
        try:
            with single_try(self.name, lambda: pin):
                self._try(pin)
        except SecretIncorrect:
            return False
        return True

    def _try(self, pin: str) -> None:
        self.tries += 1
        if pin != self.pin:
            raise SecretIncorrect("The token refused the PIN.")


def record() -> Path:
    (path,) = (files.state_folder() / "refused").glob("*.json")
    return path


def test_refused_value_is_not_tried_again() -> None:
    """The token sees a wrong PIN once, however often it is given."""
    token = Token()
    assert [token.log_in("wrong") for _ in range(3)] == [False] * 3
    assert token.tries == 1


def test_other_values_are_tried() -> None:
    """A corrected PIN is tried at once."""
    token = Token()
    token.log_in("wrong")
    assert token.log_in("right")


def test_refused_values_do_not_take_turns() -> None:
    """Two jobs with different wrong PINs do not wear the token out one after the other."""
    token = Token()
    for pin in ("one", "other") * 3:
        token.log_in(pin)
    assert token.tries == 2


def test_success_forgets_refusals() -> None:
    """After an accepted PIN the token counts anew, and so do we."""
    token = Token()
    token.log_in("wrong")
    token.log_in("right")
    assert not (list((files.state_folder() / "refused").glob("*.json")))
    token.pin = "wrong"
    assert token.log_in("wrong")


def test_tokens_are_told_apart() -> None:
    """A PIN that one token refused may be right for another, whatever its label is made of."""
    assert not Token(name="a/../\0\u2019").log_in("wrong")
    assert Token("wrong", name="b" * 1000).log_in("wrong")


def test_refusal_is_explained() -> None:
    """The error says that nothing was tried, and what to do."""
    Token().log_in("wrong")
    with pytest.raises(SecretIncorrect, match="not tried again") as caught, single_try(TOKEN, lambda: "wrong"):
        pytest.fail("was tried")
    assert "Correct the PIN" in caught.value.hint


def test_other_failures_record_nothing() -> None:
    """Only a refusal counts: a token that is gone says nothing of the PIN."""
    for error in (StoreUnavailable("gone"), RuntimeError(), KeyboardInterrupt()):
        with pytest.raises(type(error)), single_try(TOKEN, lambda: "right"):
            raise error
    assert Token().log_in("right")


def test_other_failures_forget_nothing() -> None:
    """A refusal stays known until a PIN is accepted."""
    token = Token()
    token.log_in("wrong")
    with pytest.raises(StoreUnavailable), single_try(TOKEN, lambda: "right"):
        raise StoreUnavailable("gone")
    assert not token.log_in("wrong")
    assert token.tries == 1


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"\xff",
        b'{"salt": 1, "digests": []}',
        b'{"salt": "00", "digests": 1}',
        b'{"salt": "zz", "digests": ["zz"]}',
    ],
)
def test_damaged_record_tells_nothing(octets: bytes) -> None:
    """A record that cannot be read is no refusal, and is written anew at the next."""
    token = Token()
    token.log_in("wrong")
    record().write_bytes(octets)
    assert not token.log_in("wrong")
    assert token.tries == 2
    assert not token.log_in("wrong")
    assert token.tries == 2


def test_record_holds_no_pin() -> None:
    """What is kept is a salted digest of the refused value, in a file for its owner alone."""
    Token().log_in("wrong")
    assert "wrong" not in record().read_text()
    assert set(json.loads(record().read_text())) == {"salt", "digests"}
    assert record().stat().st_mode & 0o777 == 0o600


def test_each_record_has_its_own_salt() -> None:
    """Equal PINs of two tokens do not look alike."""
    contents = set()
    for name in ("a", "b"):
        Token(name=name).log_in("wrong")
    contents = {path.read_text() for path in (files.state_folder() / "refused").glob("*.json")}
    assert len({json.loads(text)["digests"][0] for text in contents}) == 2


def test_unreadable_record_is_a_clear_error() -> None:
    """State that cannot be read stops the try: it may hold the refusal."""
    Token().log_in("wrong")
    path = record()
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigurationError, match="cannot be read"), single_try(TOKEN, lambda: "right"):
        pytest.fail("was tried")


def test_unwritable_state_is_a_clear_error(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a refusal could not be kept the PIN is not tried at all."""
    (own_folders / "file").write_bytes(b"")
    monkeypatch.setenv("STATE_DIRECTORY", str(own_folders / "file"))
    with pytest.raises(ConfigurationError, match="cannot be written"), single_try(TOKEN, lambda: "right"):
        pytest.fail("was tried")


def test_full_disk_stops_the_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a refusal could not be kept the PIN is not tried at all: it would be tried again and again."""

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_private", full)
    with pytest.raises(ConfigurationError, match="No space left"), single_try(TOKEN, lambda: "wrong"):
        pytest.fail("was tried")


def test_death_in_the_try_costs_no_other(tmp_path: Path) -> None:
    """A process that dies while it tries, started again and again, tries once; another PIN, or --unseal, helps."""
    program = f"""
        import os
        from keyvouch.lockout import single_try
        with single_try({TOKEN!r}, lambda: "wrong"):
            print("tried", flush=True)
            os._exit(139)
    """
    said = [
        subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, check=False).stdout
        for _ in range(3)
    ]
    assert said == [b"tried\n", b"", b""]
    token = Token(pin="wrong")
    assert not token.log_in("wrong")
    assert lockout.forget() == 1
    assert token.log_in("wrong")


def test_other_try_is_waited_for_in_time() -> None:
    """A thread waits for another's try no longer than it was told to."""
    entered, go_on = threading.Event(), threading.Event()

    def log_in() -> None:
        with single_try(TOKEN, lambda: "right"):
            entered.set()
            go_on.wait(60)

    thread = threading.Thread(target=log_in)
    thread.start()
    entered.wait(60)
    with pytest.raises(StoreUnavailable), single_try(TOKEN, lambda: "right", timeout=0.01):
        pytest.fail("was tried")
    go_on.set()
    thread.join()


def test_threads_try_a_value_once() -> None:
    """Of many threads with the same wrong PIN one tries it."""
    token = Token()
    threads = [threading.Thread(target=token.log_in, args=("wrong",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert token.tries == 1


def test_processes_try_a_value_once(tmp_path: Path) -> None:
    """Of eight workers that start at once with the same wrong PIN one tries it."""
    worker = f"""
        import os, sys
        from keyvouch.errors import SecretIncorrect
        from keyvouch.lockout import single_try
        sys.stdin.read()
        try:
            with single_try({TOKEN!r}, lambda: "wrong"):
                print("tried")
                raise SecretIncorrect("no")
        except SecretIncorrect:
            print("refused")
    """
    workers = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(worker)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(8)
    ]
    for each in workers:  # all wait for the end of their input
        assert each.stdin
        each.stdin.close()
    said = []
    for each in workers:
        with each:
            assert each.stdout
            said += each.stdout.read().split()
    assert (said.count(b"tried"), said.count(b"refused")) == (1, 8)


def test_child_of_a_fork_can_try() -> None:
    """A child that was forked while a thread of its parent was trying is not stuck behind that thread."""
    program = f"""
        import os, threading
        from keyvouch.lockout import single_try
        inside, done = threading.Event(), threading.Event()
        def hold():
            with single_try({TOKEN!r}, lambda: "right"):
                inside.set()
                done.wait()
        thread = threading.Thread(target=hold)
        thread.start()
        inside.wait()
        child = os.fork()
        if not child:
            with single_try({TOKEN!r}, lambda: "right"):
                os._exit(7)
        done.set()
        thread.join()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)]
    assert subprocess.run(command, capture_output=True, check=True, timeout=50).stdout == b"7\n"


def test_attempt_protects_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a store uses for a PIN is this protection, with the value that the URI leads to."""
    monkeypatch.setenv("PIN", "wrong")
    uri = parse_uri("pkcs11:?pin-source=env:PIN", [Attribute("pin-source", "PIN", query=True, secret=True)])
    token = Token()
    for _ in range(2):
        with pytest.raises(SecretIncorrect), SecretResolver().attempt(uri, "pin-source", target=TOKEN) as pin:
            token._try(pin.reveal())
    assert token.tries == 1
