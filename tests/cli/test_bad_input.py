"""User mistakes on the way to a token give a clear error, a hint and an exit status; no traceback and no secret."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from keyvouch.certificate import self_signed
from keyvouch.testing.authority import Authority
from scripted_store import certify, new_key
from signing_in import PASSWORD, SCOPE, Done, Key, make_key, run, write_profile
from stores.key_material import pem_of, write


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return make_key(tmp_path)


def check(done: Done, status: int, *texts: str) -> None:
    """Compare the status, look for the texts, and for what must never appear."""
    assert done.status == status, done
    for text in texts:
        assert text in done.errors
    assert "Traceback" not in done.errors
    assert PASSWORD not in done.output + done.errors
    assert done.output == ""


@pytest.mark.parametrize(
    ("uri", "status", "texts"),
    [
        ("pfx:{folder}/app.pfx?password=env:WRONG", 4, ["password", "Correct the password"]),
        ("pfx:{folder}/app.pfx", 4, ["password=env:"]),
        ("pfx:{folder}/app.pfx?password=env:UNSET_VARIABLE", 4, ["UNSET_VARIABLE is not set"]),
        ("pfx:{folder}/nothing.pfx", 3, ["does not exist", "app.pfx"]),
        ("pfx:{folder}/text.pfx", 6, ["PFX"]),
        (
            "pfx:{folder}/app.pfx?password=env:APP_PASSWORD&certificate-file={folder}/other.pem",
            6,
            ["certificate of CN=other.pfx"],
        ),
        ("yubikey:slot=9c", 2, ["No store is installed for yubikey:"]),
        ("pfx:{folder}/app.pfx?passwordd=env:X", 2, ['Did you mean "password"?']),
        ("pfx:{folder}/app.pfx?password=hunter2", 2, ["reference"]),
        ("C:\\keys\\app.pfx", 2, ["Write 'pfx:C:/keys/app.pfx"]),
        ("app.pfx", 2, ["Write 'pfx:app.pfx'"]),
        ("profile:unknown", 2, ["Profile not found: 'unknown'", ".config/keyvouch/config.toml", "/etc/keyvouch"]),
    ],
)
def test_key_errors(
    key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, status: int, texts: list[str]
) -> None:
    """Every mistake in a key's URI, file or password has its own error."""
    monkeypatch.setenv("WRONG", "wrong-password")
    monkeypatch.delenv("UNSET_VARIABLE", raising=False)
    (tmp_path / "text.pfx").write_text("no PFX")
    (tmp_path / "text.pfx").chmod(0o600)
    other = make_key(tmp_path, "other.pfx")
    (tmp_path / "other.pem").write_bytes(other.certificate.public_bytes(Encoding.PEM))

    done = run("sign", "--key", uri.format(folder=tmp_path), stdin=b"x")

    check(done, status, "error[", *texts)
    assert "wrong-password" not in done.errors
    assert "hunter2" not in done.errors


@pytest.mark.parametrize(
    ("uri", "cut"),
    [
        ("pfx:path={folder}/app.pfx", True),  # ;friendly-name=...
        ("pfx:path={folder}/app.pfx?verify=always", True),  # &password=...
        ("pfx:{folder}/app.pfx", False),
        ("pfx:path={folder}/app.pfx;friendly-name=app.pfx", False),
        ("pfx:{folder}/app.pfx?password=env:UNSET_VARIABLE", False),
    ],
)
@pytest.mark.parametrize("option", ["--key ", "--key="])
def test_uri_that_the_shell_cut_off(key: Key, tmp_path: Path, uri: str, option: str, *, cut: bool) -> None:
    """If only one attribute arrived and others are missing, the hint mentions the quotes."""
    arguments = f"{option}{uri.format(folder=tmp_path)}".split(" ")
    done = run("sign", *arguments, stdin=b"x")
    check(done, 4, "error[secret-required]")
    assert ("put it in single quotes" in done.errors) == cut


def test_expired_certificate(tmp_path: Path, key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    """An expired certificate does not sign assertions: exit status 6, and what to create."""
    from keyvouch import open_signer

    with open_signer(key.uri) as signer:
        expired = self_signed(signer.private_key(), "CN=old", days=-1 + 1)
    path = tmp_path / "expired.pem"
    path.write_bytes(expired.public_bytes(Encoding.PEM))
    time.sleep(1.1)

    done = run(
        "assertion", "--key", f"{key.uri}&certificate-file={path}", "--client-id", "c", "--endpoint", "https://a/t"
    )
    check(done, 6, "expired", "keyvouch new")


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("[profiles.nightly\n", ["config.toml", "line 1"]),
        ("[profiles.nightly]\ntenat = 't'\n", ["config.toml", "nightly", "tenat"]),
        ("[profiles.nightly]\nscopes = 'x'\n", ["config.toml", "nightly", "scopes"]),
        ("[profils.nightly]\n", ["config.toml", "profils"]),
        ('[profiles.nightly]\nkeys = ["pfx:C:\\temp\\new.pfx"]\n', ["single quotes"]),
        ("[profiles.nightly]\nauthority = 'http://a'\n", ["https"]),
    ],
)
def test_invalid_configuration(tmp_path: Path, text: str, texts: list[str]) -> None:
    """The file, the line or the field is named."""
    (tmp_path / "config.toml").write_text(text)

    check(run("--config", str(tmp_path / "config.toml"), "sign", "--profile", "nightly", stdin=b"x"), 2, *texts)


def test_missing_configuration(tmp_path: Path) -> None:
    """A configuration that was named but does not exist is an error."""
    check(run("--config", str(tmp_path / "nothing.toml"), "token"), 2, "nothing.toml does not exist")


def test_unknown_profile(tmp_path: Path) -> None:
    """The error lists the existing profiles."""
    (tmp_path / "config.toml").write_text("[profiles.nightly]\n[profiles.weekly]\n")

    check(run("--config", str(tmp_path / "config.toml"), "token", "--profile", "nitely"), 2, "nightly, weekly")


def test_unreachable_authority(key: Key, tmp_path: Path) -> None:
    """An authority where nothing listens: exit status 5."""
    (tmp_path / "config.toml").write_text(
        f"[profiles.n]\nauthority = 'https://localhost:9'\ntenant = 't'\nclient-id = 'c'\nscopes = ['s/.default']\n"
        f"keys = ['{key.uri}']\n"
    )

    check(run("--config", str(tmp_path / "config.toml"), "token"), 5, "https://localhost:9/t cannot be reached")


@pytest.mark.parametrize(
    ("minutes", "status", "texts"), [(20, 7, ["AADSTS700024", "clock"]), (-20, 6, ["not valid before", "clock"])]
)
def test_wrong_clock(
    authority: Authority, key: Key, tmp_path: Path, minutes: int, status: int, texts: list[str]
) -> None:
    """If the clock is 20 minutes fast or slow, the hint says so."""
    (tmp_path / "sitecustomize.py").write_text(
        "import datetime, time\n"
        f"now, offset = time.time, {minutes * 60}\n"
        "time.time = lambda: now() + offset\n"
        "class Late(datetime.datetime):\n"
        "    @classmethod\n"
        "    def now(cls, tz=None): return super().fromtimestamp(time.time(), tz)\n"
        "datetime.datetime = Late\n"
    )
    path = write_profile(tmp_path, authority, authority.register(certificates=[key.certificate]), [key.uri])
    done = run("--config", str(path), "token", environment={"PYTHONPATH": str(tmp_path)})

    check(done, status, *texts)


def test_proxy_that_refuses(key: Key, tmp_path: Path) -> None:
    """A proxy that refuses is named as the reason."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=refuse, daemon=True).start()
        (tmp_path / "config.toml").write_text(
            f"[profiles.n]\ntenant = 't'\nclient-id = 'c'\nscopes = ['s/.default']\nkeys = ['{key.uri}']\n"
            f"authority = 'https://login.test'\nproxy = 'http://127.0.0.1:{server.getsockname()[1]}'\n"
        )
        done = run("--config", str(tmp_path / "config.toml"), "token")

    check(done, 5, "requires credentials (407 Proxy Authentication Required)")


def test_unregistered_certificate(authority: Authority, key: Key, tmp_path: Path) -> None:
    """AADSTS700027: the error has the thumbprint sent, and what to register; exit status 7."""
    path = write_profile(tmp_path, authority, authority.register(), [key.uri])
    done = run("--config", str(path), "token")

    from keyvouch.certificate import thumbprint

    check(done, 7, "AADSTS700027", thumbprint(key.certificate), "export --certificate app.cer")


def test_unknown_tenant(authority: Authority, key: Key, tmp_path: Path) -> None:
    """The authority does not know the tenant: exit status 7."""
    path = write_profile(tmp_path, authority, authority.register(), [key.uri])
    done = run("--config", str(path), "token", "--tenant", "nowhere.example")

    check(done, 7, "the tenant does not exist")


def test_error_as_json(authority: Authority, key: Key, tmp_path: Path) -> None:
    """With `--output json` the error is JSON too, and has its code."""
    path = write_profile(tmp_path, authority, authority.register(), [key.uri])
    done = run("--config", str(path), "token", "--output", "json")
    error = json.loads(done.errors)["error"]

    assert done.status == 7
    assert error["code"] == "authority-refused"
    assert error["error_codes"] == [700027]


def test_missing_profile(tmp_path: Path) -> None:
    """Without a configuration, the error lists the locations searched."""
    check(run("token"), 2, "No profile was specified", "/etc/keyvouch/config.toml")


@pytest.mark.parametrize(
    ("arguments", "message", "usage"),
    [
        (("keyz",), "No such command 'keyz'. Did you mean 'keys'?", "keyvouch [OPTIONS] COMMAND [ARGS]..."),
        (("new",), "Missing option '--key'.", "keyvouch new [OPTIONS]"),
        (
            ("export", "--key", "pem:/x"),
            "Use one of --certificate, --pfx, --jwk and --jwks.",
            "keyvouch export [OPTIONS]",
        ),
    ],
)
@pytest.mark.parametrize("output", [(), ("--output", "json")])
def test_usage_error(arguments: tuple[str, ...], output: tuple[str, ...], message: str, usage: str) -> None:
    """An error in the arguments has the code `usage`, and is followed by the usage; it is always text."""
    command = usage.partition(" [")[0]
    done = run(*arguments, *output)
    assert done.errors == f"error[usage]: {message}\nUsage: {usage}\nSee `{command} --help`.\n"
    assert (done.status, done.output) == (2, "")


def test_help_without_arguments() -> None:
    """Without arguments the help is printed, and is not an error's text."""
    done = run()
    assert done.status == 2
    assert done.errors.startswith("Usage: keyvouch [OPTIONS] COMMAND")
    assert "error[" not in done.errors


def test_error_is_red_only_on_a_terminal() -> None:
    """Colors do not reach a file or pipe."""
    arguments = ("stores", "yubikey")
    assert "\x1b" not in run(*arguments).errors
    terminal, device = pty.openpty()
    try:
        subprocess.run([sys.executable, "-P", "-m", "keyvouch", *arguments], stderr=device, check=False)
        assert os.read(terminal, 4096).startswith(b"\x1b[31merror[plugin-missing]: ")
    finally:
        os.close(terminal)
        os.close(device)


def test_interrupt_ends_quietly(tmp_path: Path, key: Key) -> None:
    """Ctrl-C gives one word and exit status 130, without a traceback."""
    message = tmp_path / "message"
    os.mkfifo(message)
    with (
        subprocess.Popen(
            [sys.executable, "-P", "-m", "keyvouch", "sign", "--key", key.uri, str(message)],
            stderr=subprocess.PIPE,
            text=True,
            # It may be ignored if the tests run in the background, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads are about
        ) as process,
        message.open("wb"),  # returns once the command has opened it too, and waits for the message
    ):
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "Interrupted" in errors
    assert "Traceback" not in errors


_PIPED = ["stores", "keys --key {key}", "keys --help", "new --key pem:{folder}/n.pem", "sign --key {key}"]


@pytest.mark.parametrize("reader", ["| head -n 1", "| head -n 0", "2>&1 | head -n 0"])
@pytest.mark.parametrize("arguments", _PIPED)
def test_reader_that_ends_early_is_not_an_error(key: Key, tmp_path: Path, arguments: str, reader: str) -> None:
    """`| head` ends a command silently and with status 0: what it had to do is done."""
    command = f"{sys.executable} -P -m keyvouch {arguments.format(key=repr(key.uri), folder=tmp_path)}"
    # The reader has ended before the output is written, or after its first line.
    script = f"set -o pipefail; (sleep 0.1; exec {command} </dev/null) {reader}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    assert "error" not in done.stderr
    assert "Traceback" not in done.stderr
    assert ("new" in arguments) == (tmp_path / "n.pem").exists()


def test_error_for_a_reader_that_has_ended_keeps_its_status() -> None:
    """An error that nobody reads still has its exit status."""
    command = f"{sys.executable} -P -m keyvouch keys --key pem:/nowhere/a.pem"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; (sleep 0.1; exec {command}) 2>&1 | true"], check=False)
    assert done.returncode == 3


@pytest.mark.parametrize("arguments", [("stores",), ("profile", "path"), ("--help",), ("stores", "--output", "json")])
def test_full_disk_is_not_a_defect(arguments: tuple[str, ...]) -> None:
    """Output that cannot be written is reported, and not as our defect."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "keyvouch", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert "Cannot write to standard output: No space left on device." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", ["keys --key {}", "sign --key {}", "token", "new --key pem:{folder}/n.pem"])
def test_closed_streams_are_not_a_defect(key: Key, tmp_path: Path, arguments: str) -> None:
    """The parent process may have closed standard input, output or error."""
    command = f"{sys.executable} -P -m keyvouch {arguments.format(repr(key.uri), folder=tmp_path)}"
    for streams in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        done = subprocess.run(["bash", "-c", f"{command} {streams}"], capture_output=True, text=True, check=False)
        assert done.returncode in (0, 2, 3), (streams, done)
        assert "defect" not in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "latin-1"])
def test_unencodable_characters_are_escaped(tmp_path: Path, encoding: str) -> None:
    """Characters that the terminal's encoding lacks are escaped, and the new key is not lost."""
    environment = {"PYTHONIOENCODING": encoding}
    made = run("new", "--key", f"pem:{tmp_path}/app.pem", "--subject", "CN=日本", environment=environment)
    listed = run("keys", "--key", f"pem:{tmp_path}", environment=environment)
    assert (made.status, listed.status) == (0, 0), made.errors + listed.errors
    assert r"CN=\u65e5\u672c" in listed.output


def test_control_characters_are_replaced(tmp_path: Path) -> None:
    """Control characters in a certificate's subject do not reach the terminal."""
    key = new_key("P-256")
    write(tmp_path / "app.pem", pem_of(key, certify(key, name="a\x1b[2Jb")))
    assert "\x1b" not in run("keys", "--key", f"pem:{tmp_path}").output


def test_sigterm_removes_temporary_files(tmp_path: Path) -> None:
    """SIGTERM while a key is being written does not leave a partial file."""
    program = f"""
        import os, signal
        from keyvouch import cli
        os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGTERM)
        cli.main(["new", "--key", "pem:{tmp_path}/app.pem"])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, check=False)
    assert done.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.glob("*.pem*")) + list(tmp_path.glob(".*pem*")) == []


def test_nohup_is_respected(tmp_path: Path) -> None:
    """SIGHUP stays ignored if the parent process ignores it."""
    program = f"""
        import os, signal
        from keyvouch import cli
        os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGHUP)
        cli.main(["new", "--key", "pem:{tmp_path}/app.pem"])
    """
    done = subprocess.run(
        ["nohup", sys.executable, "-c", textwrap.dedent(program)], capture_output=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0
    assert (tmp_path / "app.pem").exists()


def test_store_of_standby_key_may_be_missing(key: Key, tmp_path: Path) -> None:
    """The first key opens even if the second one's store is not installed on this machine."""
    (tmp_path / "config.toml").write_text(f"[profiles.n]\nkeys = ['{key.uri}', 'yubikey:slot=9c']\n")
    assert run("--config", str(tmp_path / "config.toml"), "sign", stdin=b"x").status == 0


def test_unencrypted_file_is_reported(tmp_path: Path) -> None:
    """The output says so if a key is not encrypted, and asks about a cut URI only if it may have been cut at `&`."""
    done = run("new", "--key", f"pem:{tmp_path}/app.pem")
    assert done.status == 0
    assert "not encrypted: the URI has no password=.\n" in done.errors
    for number, uri in enumerate((f"pem:path={tmp_path}/c", f"pem:{tmp_path}/d?certificate-file={tmp_path}/d")):
        assert "Did the shell cut it at `&`?" in run("new", "--key", f"{uri}{number}.pem").errors
    assert "not encrypted" not in run("new", "--key", f"pem:{tmp_path}/b.pem?password=file:{_secret(tmp_path)}").errors


def _secret(folder: Path) -> Path:
    return write(folder / "secret", b"correct horse")


def test_error_after_creation_mentions_the_key(tmp_path: Path) -> None:
    """If a step after the key's creation fails, the error says that the key exists, and its URI."""
    (tmp_path / "config").mkdir(mode=0o500)
    (tmp_path / "config" / "config.toml").mkdir()
    done = run(
        *("--config", str(tmp_path / "config" / "config.toml"), "new", "--key", f"pem:{tmp_path}/app.pem"),
        *("--certificate-out", "/proc/app.cer"),
    )
    assert done.status == 2
    done = run("new", "--key", f"pem:{tmp_path}/app.pem", "--certificate-out", "/proc/app.cer")
    assert done.status == 2
    assert (
        f"The new key was kept. Use it, or delete it: keyvouch delete --key 'pem:path={tmp_path}/app.pem;spki-sha256="
        in done.errors
    )


@pytest.mark.parametrize("where", ["key", "certificate-file", "verify", "config"])
def test_fifo_does_not_block(key: Key, tmp_path: Path, where: str) -> None:
    """A FIFO instead of a file is refused without blocking."""
    fifo = tmp_path / "fifo.pem"
    os.mkfifo(fifo, 0o600)
    done = {
        "key": lambda: run("sign", "--key", f"pem:{fifo}", stdin=b"x"),
        "certificate-file": lambda: run("sign", "--key", f"{key.uri}&certificate-file={fifo}", stdin=b"x"),
        "verify": lambda: run("verify", "--certificate", str(fifo), stdin=b"x"),
        "config": lambda: run("--config", str(fifo), "profile", "list"),
    }[where]()
    assert done.status in (2, 4, 6), done
    assert "Not a regular file" in done.errors


@pytest.mark.parametrize(
    "uri",
    [
        "pfx:{folder}/p.pfx&password=hunter2",
        "pfx:{folder}/p.pfx;Password=hunter2",
        "pfx:{folder}/p.pfx?password=env:APP;password=hunter2",
        "pfx:{folder}/p.pfx&password=hun?hunter2",
        "profile:nightly?password=hunter2",
    ],
)
def test_misplaced_secret_is_not_shown(tmp_path: Path, uri: str) -> None:
    """A misplaced secret appears in no error, and no file of that name is created."""
    for command in ("new", "sign"):
        done = run(command, "--key", uri.format(folder=tmp_path), "--output", "json", stdin=b"x")
        assert done.status in (2, 4), done
        assert "hunter2" not in done.errors + done.output
    assert list(tmp_path.glob("*hunter*")) == []


def test_secrets_in_a_profile_are_not_shown(tmp_path: Path) -> None:
    """Secrets in the configuration, whether required or misplaced, are not printed."""
    (tmp_path / "config.toml").write_text(
        "[profiles.n]\nkeys = ['pfx:/x?password=hunter2']\nproxy = 'http://user:hunter2@proxy:3128'\n"
    )
    for form in ("text", "json"):
        done = run("--config", str(tmp_path / "config.toml"), "profile", "show", "--output", form)
        assert "hunter2" not in done.output
        assert "//***@proxy:3128" in done.output


def test_deleted_working_directory(tmp_path: Path) -> None:
    """If the working directory was deleted, the error says so."""
    command = f"mkdir {tmp_path}/gone && cd {tmp_path}/gone && rmdir {tmp_path}/gone && {sys.executable} -P -m keyvouch"
    done = subprocess.run(
        ["bash", "-c", f"{command} --config x profile list"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "working directory no longer exists" in done.stderr


def test_defect_hides_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception gives exit status 1, with the traceback only if requested, and without its text."""
    broken = tmp_path / "sitecustomize.py"
    broken.write_text("import keyvouch.config as c\ndef load(**_): raise RuntimeError('unforeseen')\nc.load = load\n")
    environment = {"PYTHONPATH": str(tmp_path)}

    quiet = run("token", environment=environment)
    loud = run("--debug", "token", environment=environment)

    assert quiet.status == loud.status == 1
    assert quiet.errors.startswith("error[defect]: Unexpected RuntimeError")
    assert "Traceback" not in quiet.errors
    assert f'File "{broken}", line 2, in load\nRuntimeError' in loud.errors
    assert "unforeseen" not in quiet.errors + loud.errors  # it might be a secret


def test_working_directory_is_not_trusted(tmp_path: Path) -> None:
    """Neither configuration nor plugins are loaded from the working directory, even by `python -m keyvouch`."""
    (tmp_path / "config.toml").write_text("[profiles.planted]\n")
    (tmp_path / "click.py").write_text("raise SystemExit('planted')\n")
    done = subprocess.run(
        [sys.executable, "-m", "keyvouch", "profile", "list"],
        cwd=tmp_path,
        env={**os.environ, "SCOPE": SCOPE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "planted" not in done.stdout + done.stderr


def test_full_disk_stops_audit(key: Key, tmp_path: Path) -> None:
    """With `audit-required`, failing to write a record is an error, not a traceback beside a signature."""
    (tmp_path / "config.toml").write_text(
        f"[profiles.n]\nkeys = ['{key.uri}']\naudit = 'file:/dev/full'\naudit-required = true\n"
    )

    check(run("--config", str(tmp_path / "config.toml"), "sign", stdin=b"x"), 2, "audit record to file:/dev/full")
