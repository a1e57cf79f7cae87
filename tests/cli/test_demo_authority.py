"""`keyvouch demo --serve`: an authority for a job in another process."""

from __future__ import annotations

import re
import shlex
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from keyvouch.cli import demo_authority
from keyvouch.testing.authority.directory import App
from signing_in import make_key, run


@pytest.fixture
def key(tmp_path: Path) -> str:
    """The URI of a key, whose certificate is also in `app.cer`."""
    uri = f"pem:{tmp_path}/app.pem"
    assert run("new", "--key", uri, "--certificate-out", str(tmp_path / "app.cer")).status == 0
    return uri


@pytest.fixture
def serving(tmp_path: Path, key: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A running authority that knows two certificates, and the lines that it prints."""
    other = make_key(tmp_path, "other.pem")
    (tmp_path / "other.cer").write_bytes(other.certificate.public_bytes(Encoding.PEM))
    registered = [part for name in ("app.cer", "other.cer") for part in ("--register", str(tmp_path / name))]
    command = [sys.executable, "-P", "-m", "keyvouch", "demo", "--serve", *registered]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        lines: list[str] = []
        while not lines or "keyvouch token" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1], "the authority has ended"
        yield process, lines
        process.terminate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_printed_lines_sign_in(
    serving: tuple[subprocess.Popen[str], list[str]],
    key: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    """What is printed adds a profile that signs in; other accounts can read the certificate, and nothing remains."""
    process, lines = serving
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").touch()
    text = "".join(lines)
    (ca_file,) = map(Path, re.findall(r"--ca-file (\S+)", text))
    assert stat.S_IMODE(ca_file.stat().st_mode) == 0o644
    assert stat.S_IMODE(ca_file.parent.stat().st_mode) == 0o755

    _, *commands = text.replace("\\\n", "").split("\nkeyvouch ")
    for command in commands:
        done = run(*shlex.split(command.replace("URI", key)))
        assert done.status == 0, done.errors
    assert done.output.startswith("ey")

    process.send_signal(number)
    assert process.wait(30) == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert not ca_file.parent.exists()


@pytest.mark.parametrize("arguments", [["--serve"], ["--register", "app.cer"]])
def test_both_options_belong_together(arguments: list[str]) -> None:
    """An authority without a certificate could only refuse."""
    done = run("demo", *arguments)
    assert done.status == 2
    assert "--serve requires --register FILE" in done.errors


def test_lines_for_windows(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows each command is on one line, with double quotes, as PowerShell and cmd.exe accept them."""
    monkeypatch.setattr(sys, "platform", "win32")
    app = App("c", "t", (), ())
    demo_authority._print_lines(app, "https://localhost:1", PureWindowsPath(r"C:\Users\me\ca.pem"))
    monkeypatch.undo()
    add, token = capsys.readouterr().out.splitlines()[-2:]
    assert add.startswith("keyvouch profile add demo --tenant t --client-id c --authority https://localhost:1 ")
    assert add.endswith(' --ca-file "C:\\Users\\me\\ca.pem" --key URI')
    assert token == "keyvouch token --profile demo"


def test_quotes_in_a_file_name() -> None:
    """The quotes of another shell are named."""
    done = run("token", "--ca-file", "'C:/ca.pem'")
    assert done.status == 2
    assert "Remove the quotes around it." in done.errors
