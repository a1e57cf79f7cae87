"""A wrong PIN is tried once."""

import errno
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from keyvouch._secrets import pin_attempts, pin_records
from keyvouch._secrets.pin_attempts import single_try
from keyvouch._system import files, forks
from keyvouch.errors import ConfigurationError, SecretIncorrect, StoreLocked, StoreUnavailable
from keyvouch.secrets import SecretResolver
from keyvouch.uri import Attribute, parse_uri

TOKEN = "maker/model/0001/prod"


class Token:
    """A token with one right PIN that counts the logins."""

    def __init__(self, pin: str = "right", name: str = TOKEN) -> None:
        self.pin, self.name, self.tries = pin, name, 0

    def log_in(self, pin: str) -> bool:
        """Log in under the protection against lock-out; return whether the PIN was accepted."""
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


def test_other_value_is_tried() -> None:
    """A corrected PIN is tried at once."""
    token = Token()
    token.log_in("wrong")
    assert token.log_in("right")


def test_alternating_wrong_values_are_tried_once_each() -> None:
    """Two jobs with different wrong PINs do not use up the token's attempts in turn."""
    token = Token()
    for pin in ("one", "other") * 3:
        token.log_in(pin)
    assert token.tries == 2


def test_success_forgets_refusals() -> None:
    """An accepted PIN resets the token's counter, and ours."""
    token = Token()
    token.log_in("wrong")
    token.log_in("right")
    assert not (list((files.state_folder() / "refused").glob("*.json")))
    token.pin = "wrong"
    assert token.log_in("wrong")


def test_records_are_separate_for_each_token() -> None:
    """A PIN that one token refused may be right for another, whatever characters its label has."""
    assert not Token(name="a/../\0\u2019").log_in("wrong")
    assert Token("wrong", name="b" * 1000).log_in("wrong")


def test_refusal_is_explained() -> None:
    """The error says that nothing was tried, and what to do."""
    Token().log_in("wrong")
    with pytest.raises(SecretIncorrect, match="not be retried") as caught, single_try(TOKEN, lambda: "wrong"):
        pytest.fail("was tried")
    assert "Correct the PIN" in caught.value.hint


def test_other_failures_record_nothing() -> None:
    """Only a refusal counts: an absent token has not judged the PIN, however often that happens."""
    for _ in range(3):
        with pytest.raises(StoreUnavailable), single_try(TOKEN, lambda: "right"):
            raise StoreUnavailable("gone")
    assert Token().log_in("right")


def test_other_failures_keep_refusals() -> None:
    """A refusal stays recorded until a PIN is accepted."""
    token = Token()
    token.log_in("wrong")
    with pytest.raises(StoreUnavailable), single_try(TOKEN, lambda: "right"):
        raise StoreUnavailable("gone")
    assert not token.log_in("wrong")
    assert token.tries == 1


def test_interrupted_value_of_an_earlier_version() -> None:
    """Its digest in the record counts as refused, and other values are tried."""
    token = Token()
    token.log_in("wrong")
    entry = json.loads(record().read_text())
    record().write_text(json.dumps({**entry, "digests": [], "interrupted": {entry["digests"][0]: 1}}))
    with pytest.raises(SecretIncorrect, match="rejected earlier"), single_try(TOKEN, "wrong".strip):
        pytest.fail("was tried")
    with single_try(TOKEN, "right".strip):
        pass


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"salt": 1, "digests": []}',
        b'{"salt": "", "digests": []}',
        b'{"salt": "00"}',
        b'{"salt": "00", "digests": 1}',
        b'{"salt": "00", "digests": {"00": 1}}',
        b'{"salt": "00", "digests": "0011"}',
        b'{"salt": "00", "digests": [null]}',
        b'{"salt": "zz", "digests": ["zz"]}',
        b'{"salt": "00", "digests": [], "interrupted": ["00"]}',
        b'{"salt": "00", "digests": [], "interrupted": {"00": "1"}}',
        b'{"salt": "00", "digests": [], "interrupted": {"00": true}}',
        b'{"salt": "00", "digests": [], "interrupted": {"0011": 1}}',
        b'{"salt": "00", "digests": [], "interrupted": {"zz": 1}}',
        b'{"salt": "00", "digests": [], "interrupted": {}, "shows-failures": 1}',
        b'{"salt": "00", "digests": []}' + b" " * 2**21,
    ],
)
def test_damaged_record_refuses_every_value(data: bytes) -> None:
    """An unreadable record may have held a refusal: nothing is tried until it is unsealed."""
    token = Token()
    token.log_in("wrong")
    record().write_bytes(data)
    for pin in ("wrong", "right"):
        with pytest.raises(SecretIncorrect, match="Cannot try the PIN") as caught, single_try(TOKEN, pin.strip):
            pytest.fail("was tried")
        assert "keyvouch doctor --unseal" in caught.value.hint
    assert pin_records.forget_refusals() == 1
    assert token.log_in("right")
    assert token.tries == 2


def test_truncated_record_refuses_every_value() -> None:
    """Every truncation of a record counts as damaged, as after a crash of the machine."""
    token = Token()
    token.log_in("wrong")
    whole = record().read_bytes()
    for length in range(0, len(whole), 7):
        record().write_bytes(whole[:length])
        assert not token.log_in("right")
    assert token.tries == 1


def make_link(path: Path) -> None:
    path.symlink_to("/dev/null")


def make_circle(path: Path) -> None:
    path.symlink_to(path)


def make_folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").touch()


SPOILED: dict[str, Callable[[Path], None]] = {
    "folder": make_folder,
    "fifo": os.mkfifo,
    "link": make_link,
    "circle": make_circle,
}


@pytest.mark.parametrize("kind", SPOILED)
def test_record_that_is_not_a_file_refuses_every_value(kind: str) -> None:
    """Anything but a file in place of the record is neither waited for nor followed, and can be unsealed."""
    token = Token()
    token.log_in("wrong")
    path = record()
    path.unlink()
    SPOILED[kind](path)
    assert not token.log_in("right")
    assert pin_records.forget_refusals() == 1
    assert token.log_in("right")


@pytest.mark.parametrize("mode", [0o660, 0o602, 0o620])
def test_record_that_others_can_write_refuses_every_value(mode: int) -> None:
    """Somebody else may have removed a refusal."""
    token = Token()
    token.log_in("wrong")
    record().chmod(mode)
    assert not token.log_in("right")
    assert pin_records.forget_refusals() == 1
    assert token.log_in("right")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_record_of_another_account_refuses_every_value() -> None:
    """The owner must be root, this account, or the owner of the folder, who could replace it anyway."""
    token = Token()
    token.log_in("wrong")
    os.chown(record(), 12345, -1)
    assert not token.log_in("right")
    os.chown(record().parent, 12345, -1)
    assert token.log_in("right")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second account")
def test_unreadable_record_can_be_unsealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that root left in an account's folder refuses every value, and the account itself can clear it."""
    with tempfile.TemporaryDirectory() as folder:  # another account can reach it
        monkeypatch.setenv("STATE_DIRECTORY", folder)
        assert Token("wrong", name="first").log_in("wrong")
        for path in (Path(folder), *Path(folder).rglob("*")):
            os.chown(path, 5, -1)
        Token().log_in("wrong")
        os.chown(record().with_suffix(".lock"), 5, -1)
        program = f"""
            import os
            from keyvouch._secrets import pin_attempts, pin_records
            from keyvouch.errors import SecretIncorrect
            with pin_attempts.single_try("first", lambda: "right"):
                pass  # all that is needed is imported, in case that account cannot
            os.chown({folder!r} + "/refused", 5, -1)
            os.setresuid(5, 5, 5)
            try:
                with pin_attempts.single_try({TOKEN!r}, lambda: "right"):
                    print("tried")
            except SecretIncorrect as error:
                print("Permission denied" in error.message, pin_records.forget_refusals())
        """
        command = [sys.executable, "-c", textwrap.dedent(program)]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.stdout == b"True 1\n", done.stderr


def test_record_does_not_contain_the_pin() -> None:
    """A record is a salted digest of the refused value, in a file accessible only to its owner."""
    Token().log_in("wrong")
    assert "wrong" not in record().read_text()
    assert set(json.loads(record().read_text())) == {"salt", "digests", "interrupted", "shows-failures"}
    assert record().stat().st_mode & 0o777 == 0o600


def test_interrupted_value_is_recorded_by_one_byte() -> None:
    """What was interrupted may be the PIN: the record says little about it, and always the same byte."""
    labels = set()
    for _ in range(3):
        assert interrupt("right", None)
        entry = json.loads(record().read_text())
        assert entry["digests"] == []
        labels |= {*entry["interrupted"]}
        record().unlink()  # the next record has another salt
    (label,) = labels
    assert len(bytes.fromhex(label)) == 1


def test_other_value_with_the_label_of_an_interrupted_one() -> None:
    """Of the values with one label, any may be the one that the token refused: they share the attempts."""
    path = pin_records.record_path(TOKEN)
    label = pin_records.label_of(path, lambda: "right")
    similar = next(pin for pin in map(str, range(10_000)) if pin_records.label_of(path, pin.strip) == label)
    assert [interrupt(similar, None) for _ in range(2)] == [True, True]
    assert not accepted("right", None)
    assert pin_records.forget_refusals() == 1
    assert accepted("right", None)


def test_accepted_value_needs_no_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest is slow on purpose: it is derived only for a refused value, and to compare a value with those."""
    token = Token()
    with monkeypatch.context() as patch:
        patch.delattr("hashlib.scrypt")
        assert token.log_in("right")
    assert not token.log_in("wrong")
    assert not token.log_in("wrong")
    assert token.tries == 2


def test_each_record_has_its_own_salt() -> None:
    """Equal PINs of two tokens have different records."""
    contents = set()
    for name in ("a", "b"):
        Token(name=name).log_in("wrong")
    contents = {path.read_text() for path in (files.state_folder() / "refused").glob("*.json")}
    assert len({json.loads(text)["digests"][0] for text in contents}) == 2


def test_unwritable_state_folder_is_an_error(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a refusal could not be recorded, the PIN is not tried at all."""
    (own_folders / "file").write_bytes(b"")
    monkeypatch.setenv("STATE_DIRECTORY", str(own_folders / "file"))
    with pytest.raises(ConfigurationError, match="cannot be written"), single_try(TOKEN, lambda: "right"):
        pytest.fail("was tried")


def test_full_disk_prevents_the_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a refusal could not be recorded, the PIN is not tried at all: it would be tried again and again."""

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_private", full)
    with pytest.raises(ConfigurationError, match="No space left"), single_try(TOKEN, lambda: "wrong"):
        pytest.fail("was tried")


def test_refusal_on_a_full_disk_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk is full by the time the token refuses, no value is tried until it is unsealed."""

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    def refuse() -> None:
        with monkeypatch.context() as patch, single_try(TOKEN, lambda: "wrong"):
            patch.setattr(files, "write_private", full)
            raise SecretIncorrect("no")

    with pytest.raises(SecretIncorrect, match="no"):
        refuse()
    with pytest.raises(SecretIncorrect, match="Cannot try the PIN"), single_try(TOKEN, lambda: "wrong"):
        pytest.fail("was tried")


# Interrupted attempts.


class Flags:
    """The flags with which a token may show failed attempts."""

    def __init__(self, *, shown: bool = False) -> None:
        self.shown, self.asked = shown, 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.shown


def interrupt(pin: str, flags: Flags | None, error: type[BaseException] = KeyboardInterrupt) -> bool:
    """Interrupt an attempt; return whether it began."""
    began = False
    try:
        with single_try(TOKEN, lambda: pin, shows_failure=flags):
            began = True
            raise error  # noqa: TRY301 - it is to leave the block
    except (error, SecretIncorrect):
        return began


def accepted(pin: str, flags: Flags | None) -> bool:
    try:
        with single_try(TOKEN, lambda: pin, shows_failure=flags):
            return True
    except SecretIncorrect:
        return False


def learn(flags: Flags) -> None:
    """Show that the token reports failed attempts, then reset them with a successful one."""
    flags.shown = True
    with pytest.raises(SecretIncorrect), single_try(TOKEN, lambda: "other", shows_failure=flags):
        raise SecretIncorrect("no")
    flags.shown = False
    assert accepted("right", flags)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError, MemoryError])
@pytest.mark.parametrize("shows", [True, False])
def test_interrupted_value_is_tried_once_more(error: type[BaseException], *, shows: bool) -> None:
    """An interruption is not a refusal: if the token shows no failed attempt, or never does, there is one more."""
    flags = Flags() if shows else None
    assert interrupt("right", flags, error)
    assert accepted("right", flags)


def test_interrupted_value_that_was_refused() -> None:
    """If the token shows a failed attempt after an interruption, the value counts as refused from then on."""
    flags = Flags()
    assert interrupt("wrong", flags)
    flags.shown = True
    assert not interrupt("wrong", flags)
    flags.shown = False  # somebody else has logged in with the right PIN
    assert not interrupt("wrong", flags)
    assert accepted("right", flags)


@pytest.mark.parametrize("flags", [None, Flags()])
def test_interrupted_value_on_a_token_without_flags(flags: Flags | None) -> None:
    """A token never seen to show a failed attempt may not support it: it gets the value twice at most."""
    assert [interrupt("wrong", flags) for _ in range(5)] == [True, True, False, False, False]
    assert accepted("right", flags)


def test_token_known_to_show_failures_is_trusted() -> None:
    """Once a token has shown a failed attempt, showing none means there was none, however often it is interrupted."""
    flags = Flags()
    learn(flags)
    assert [interrupt("right", flags) for _ in range(5)] == [True] * 5
    flags.shown = True
    assert not accepted("right", flags)


def test_token_that_stops_showing_failures() -> None:
    """A token is no longer trusted to show failures once it refuses a PIN without showing it."""
    flags = Flags()
    learn(flags)
    with pytest.raises(SecretIncorrect), single_try(TOKEN, lambda: "other", shows_failure=flags):
        raise SecretIncorrect("no")
    assert [interrupt("right", flags) for _ in range(3)] == [True, True, False]


def test_caller_that_does_not_query_flags() -> None:
    """What is known of a token helps only callers that query its flags."""
    learn(Flags())
    assert [interrupt("right", None) for _ in range(3)] == [True, True, False]


def test_flags_are_queried_only_after_interruptions() -> None:
    """A login that was not interrupted does not query the flags."""
    flags = Flags(shown=True)
    assert accepted("right", flags)
    assert flags.asked == 0


def test_interruptions_are_counted_per_value() -> None:
    """Each value has its own attempts, and a successful one resets all counts."""
    assert [interrupt(pin, None) for pin in ("one", "other", "one", "one", "other")] == [True, True, True, False, True]
    assert accepted("right", None)
    assert interrupt("one", None)


def test_lost_token_does_not_count_as_a_try() -> None:
    """If the token is gone in the second attempt, it has not judged the PIN, and the attempt is not used up."""
    assert interrupt("right", None)
    with pytest.raises(StoreUnavailable), single_try(TOKEN, lambda: "right"):
        raise StoreUnavailable("gone")
    assert accepted("right", None)


def test_unreadable_flags_prevent_the_try() -> None:
    """If the token's flags cannot be read, an interrupted value is neither tried nor refused."""

    def gone() -> bool:
        raise StoreUnavailable("gone")

    assert interrupt("right", None)
    with pytest.raises(StoreUnavailable), single_try(TOKEN, lambda: "right", shows_failure=gone):
        pytest.fail("was tried")
    assert accepted("right", Flags())


def test_token_that_locks_during_the_try() -> None:
    """A token may report "locked" instead of "wrong": the value is not tried again as if nothing had happened."""
    flags = Flags()
    with pytest.raises(StoreLocked), single_try(TOKEN, lambda: "wrong", shows_failure=flags):
        raise StoreLocked("locked")
    flags.shown = True
    assert not interrupt("wrong", flags)


def test_records_of_earlier_versions() -> None:
    """A record from an earlier version does not say what was interrupted: every value in it was refused."""
    assert not Token().log_in("wrong")
    entry = json.loads(record().read_text())
    record().write_text(json.dumps({"salt": entry["salt"], "digests": entry["digests"]}))
    assert not accepted("wrong", Flags())
    assert accepted("right", Flags())


@pytest.mark.parametrize(("status", "begun"), [(139, [True, True, False])])
def test_process_killed_during_the_try(status: int, begun: list[bool]) -> None:
    """A process that dies during an attempt and is restarted tries twice; another PIN, or --unseal, helps."""
    program = f"""
        import os
        from keyvouch._secrets.pin_attempts import single_try
        with single_try({TOKEN!r}, lambda: "wrong"):
            print("tried", flush=True)
            os._exit({status})
    """
    message = [
        subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, check=False).stdout
        for _ in begun
    ]
    assert message == [b"tried\n" if began else b"" for began in begun]
    token = Token(pin="wrong")
    assert not token.log_in("wrong")
    assert pin_records.forget_refusals() == 1
    assert token.log_in("wrong")


def test_unseal_counts_refusals() -> None:
    """What is known only about a token is forgotten too, but not counted."""
    learn(Flags())
    assert record().exists()
    assert pin_records.forget_refusals() == 0
    assert pin_records.forget_refusals() == 0


def test_unseal_of_an_unreadable_folder(own_folders: Path) -> None:
    """A folder that cannot be listed is an error, not "no PIN was refused"."""
    folder = files.state_folder()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "refused").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="refused") as caught:
        pin_records.forget_refusals()
    assert str(folder / "refused") in caught.value.message
    assert os.strerror(errno.ENOTDIR) in caught.value.message


def test_unremovable_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the folder of the records and the reason."""
    Token().log_in("wrong")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    path = record()
    monkeypatch.setattr(files.Folder, "remove_any", fail)
    with pytest.raises(ConfigurationError) as caught:
        pin_records.forget_refusals()
    assert str(path.parent) in caught.value.message
    assert os.strerror(errno.EROFS) in caught.value.message


def test_waiting_for_another_try_times_out() -> None:
    """A thread waits for another's attempt no longer than its timeout."""
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


def test_child_discards_its_parents_locks() -> None:
    """A fork creates new locks in the child, whoever holds the parent's."""
    locks = pin_attempts._Locks()
    with locks.held(TOKEN, 1):
        with pytest.raises(StoreUnavailable, match="after 0 seconds"), locks.held(TOKEN, -1):
            pass
        with locks.held("another", 0):
            pass
        for item in [item for item in forks._watched if item is locks]:  # as the fork hook does
            item.after_fork()
        with locks.held(TOKEN, 0):
            pass


def test_threads_try_a_value_once() -> None:
    """Of many threads with the same wrong PIN, one tries it."""
    token = Token()
    threads = [threading.Thread(target=token.log_in, args=("wrong",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert token.tries == 1


def test_processes_try_a_value_once(tmp_path: Path) -> None:
    """Of eight workers that start at once with the same wrong PIN, one tries it."""
    worker = f"""
        import os, sys
        from keyvouch.errors import SecretIncorrect
        from keyvouch._secrets.pin_attempts import single_try
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
    for each in workers:  # all wait for end of input
        assert each.stdin
        each.stdin.close()
    output = []
    for each in workers:
        with each:
            assert each.stdout
            output += each.stdout.read().split()
    assert (output.count(b"tried"), output.count(b"refused")) == (1, 8)


def test_forked_child_can_try() -> None:
    """A child forked while a thread of its parent was logging in is not blocked by that thread."""
    program = f"""
        import os, threading
        from keyvouch._secrets.pin_attempts import single_try
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


def test_attempt_of_a_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store gets this protection for a PIN, with the value that the URI refers to."""
    monkeypatch.setenv("PIN", "wrong")
    uri = parse_uri("pkcs11:?pin-source=env:PIN", [Attribute("pin-source", "PIN", query=True, secret=True)])
    token = Token()
    for _ in range(2):
        with pytest.raises(SecretIncorrect), SecretResolver().attempt(uri, "pin-source", target=TOKEN) as pin:
            token._try(pin.reveal())
    assert token.tries == 1
