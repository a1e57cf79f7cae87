"""What a user may do wrong on the way to a token: a clear error, a hint, an exit status; no traceback, no secret."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from keyvouch.certificate import self_signed
from keyvouch.testing.authority import Authority
from signing_in import PASSWORD, SCOPE, Done, Key, make_key, run, write_profile


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return make_key(tmp_path)


def check(done: Done, status: int, *texts: str) -> None:
    """Compare the status, look for the texts, and for what must never be there."""
    assert done.status == status, done
    for text in texts:
        assert text in done.errors
    assert "Traceback" not in done.errors
    assert PASSWORD not in done.output + done.errors
    assert done.output == ""


@pytest.mark.parametrize(
    ("uri", "status", "texts"),
    [
        ("pfx:{folder}/app.pfx?password=env:WRONG", 4, ["password", "Correct it"]),
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
        ("pkcs11:token=prod;object=app", 2, ["pip install keyvouch-pkcs11"]),
        ("pfx:{folder}/app.pfx?passwordd=env:X", 2, ["Did you mean password?"]),
        ("pfx:{folder}/app.pfx?password=hunter2", 2, ["reference"]),
        ("C:\\keys\\app.pfx", 2, ["Write pfx:C:/keys/app.pfx"]),
        ("app.pfx", 2, ["Write pfx:app.pfx"]),
        ("profile:unknown", 2, ["There is no profile 'unknown'", ".config/keyvouch/config.toml", "/etc/keyvouch"]),
    ],
)
def test_wrong_key_told(
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

    check(done, status, "Error: ", *texts)
    assert "wrong-password" not in done.errors
    assert "hunter2" not in done.errors


def test_expired_certificate_told(tmp_path: Path, key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    """An expired certificate signs no assertion: exit status 6, and what to make."""
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
def test_broken_configuration_told(tmp_path: Path, text: str, texts: list[str]) -> None:
    """The file, the line or the field are named."""
    (tmp_path / "config.toml").write_text(text)

    check(run("--config", str(tmp_path / "config.toml"), "sign", "--profile", "nightly", stdin=b"x"), 2, *texts)


def test_named_configuration_missing(tmp_path: Path) -> None:
    """A configuration that was named and is not there is not passed over."""
    check(run("--config", str(tmp_path / "nothing.toml"), "token"), 2, "nothing.toml does not exist")


def test_unknown_profile_names_known(tmp_path: Path) -> None:
    """The profiles that there are are named."""
    (tmp_path / "config.toml").write_text("[profiles.nightly]\n[profiles.weekly]\n")

    check(run("--config", str(tmp_path / "config.toml"), "token", "--profile", "nitely"), 2, "nightly, weekly")


def test_unreachable_authority_told(key: Key, tmp_path: Path) -> None:
    """Nothing listens there: exit status 5."""
    (tmp_path / "config.toml").write_text(
        f"[profiles.n]\nauthority = 'https://localhost:9'\ntenant = 't'\nclient-id = 'c'\nscopes = ['s/.default']\n"
        f"keys = ['{key.uri}']\n"
    )

    check(run("--config", str(tmp_path / "config.toml"), "token"), 5, "https://localhost:9/t cannot be reached")


def test_unregistered_certificate_told(authority: Authority, key: Key, tmp_path: Path) -> None:
    """AADSTS700027: which thumbprint was sent, and what to register; exit status 7."""
    path = write_profile(tmp_path, authority, authority.register(), [key.uri])
    done = run("--config", str(path), "token")

    from keyvouch.certificate import thumbprint

    check(done, 7, "AADSTS700027", thumbprint(key.certificate), "keyvouch export --certificate app.cer")


def test_unknown_tenant_told(authority: Authority, key: Key, tmp_path: Path) -> None:
    """The authority has no such tenant: exit status 7."""
    path = write_profile(tmp_path, authority, authority.register(), [key.uri])
    done = run("--config", str(path), "token", "--tenant", "nowhere.example")

    check(done, 7, "knows no such tenant")


def test_error_as_json(authority: Authority, key: Key, tmp_path: Path) -> None:
    """With `--output json` the error is JSON too, with its code."""
    path = write_profile(tmp_path, authority, authority.register(), [key.uri])
    done = run("--config", str(path), "token", "--output", "json")
    error = json.loads(done.errors)["error"]

    assert done.status == 7
    assert error["code"] == "authority-refused"
    assert error["error_codes"] == [700027]


def test_no_profile_named(tmp_path: Path) -> None:
    """Without any configuration the places that were tried are told."""
    check(run("token"), 2, "No profile was named", "/etc/keyvouch/config.toml")


def test_interrupt_ends_quietly(tmp_path: Path, key: Key) -> None:
    """Ctrl-C: one word, exit status 130, no traceback."""
    message = tmp_path / "message"
    os.mkfifo(message)
    with (
        subprocess.Popen(
            [sys.executable, "-P", "-m", "keyvouch", "sign", "--key", key.uri, str(message)],
            stderr=subprocess.PIPE,
            text=True,
            # Who starts the tests in the background may have it ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads are about
        ) as process,
        message.open("wb"),  # opened when the command has opened it too, and waits for the message
    ):
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "Interrupted" in errors
    assert "Traceback" not in errors


def test_closed_pipe_ends_quietly() -> None:
    """Who reads our output may go away."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "keyvouch", "stores", "--output", "json"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.parametrize("arguments", [("stores",), ("profile", "path"), ("--help",), ("stores", "--output", "json")])
def test_full_disk_is_no_defect(arguments: tuple[str, ...]) -> None:
    """Output that cannot be written is told, and is not ours to mend."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "keyvouch", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert "The output cannot be written: No space left on device." in done.stderr
    assert "Traceback" not in done.stderr


def test_defect_hides_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw is exit status 1, with the traceback only where it is asked for."""
    broken = tmp_path / "sitecustomize.py"
    broken.write_text("import keyvouch.config as c\ndef load(**_): raise RuntimeError('unforeseen')\nc.load = load\n")
    environment = {"PYTHONPATH": str(tmp_path)}

    quiet = run("token", environment=environment)
    loud = run("--debug", "token", environment=environment)

    assert quiet.status == loud.status == 1
    assert "Traceback" not in quiet.errors
    assert "unforeseen" in loud.errors


def test_working_directory_not_trusted(tmp_path: Path) -> None:
    """Neither configuration nor plugin is taken from the working directory, even by `python -m keyvouch`."""
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
    """A record that cannot be written is an error, and not a traceback beside a signature."""
    (tmp_path / "config.toml").write_text(f"[profiles.n]\nkeys = ['{key.uri}']\naudit = 'file:/dev/full'\n")

    check(run("--config", str(tmp_path / "config.toml"), "sign", stdin=b"x"), 2, "audit record")
