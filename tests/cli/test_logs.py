"""Destinations of audit records."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from accounts import SERVICE, answer_as, only_root, public, shell  # noqa: F401 - a fixture
from keyvouch._core.audit import record_audit
from keyvouch.cli import logs
from keyvouch.errors import ConfigurationError


@pytest.fixture(autouse=True)
def clean_logger() -> Iterator[None]:
    """Restore the audit logger afterwards."""
    logger = logging.getLogger("keyvouch.audit")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    for handler in logger.handlers[:]:
        handler.close()
    logger.handlers[:], logger.level, logger.propagate = before


def test_syslog_gets_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record is one message that begins with our name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "log"))
        monkeypatch.setattr(logs, "SYSLOG", str(tmp_path / "log"))
        logs.write_audit("syslog", required=True)
        record_audit("sign", {"outcome": "signed"})
        message = listener.recv(4096).decode().rstrip("\0")

    tag, _, record = message.partition("keyvouch: ")
    assert tag.startswith("<")
    assert json.loads(record)["outcome"] == "signed"


def test_missing_syslog_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no syslog listens, the record is not lost silently."""
    monkeypatch.setattr(logs, "SYSLOG", str(tmp_path / "nothing"))
    with pytest.raises(ConfigurationError, match="audit"):  # noqa: PT012 - it shows at the first or second call
        logs.write_audit("syslog", required=True)
        record_audit("sign", {})


@pytest.mark.parametrize(
    "destination", ["", "file:", "file:relative", "stdout", "syslog:remote", "file:/nonexistent/x"]
)
def test_invalid_destinations_are_refused(destination: str) -> None:
    """Only a file with an absolute path, or syslog, is accepted."""
    with pytest.raises(ConfigurationError):
        logs.write_audit(destination, required=True)


def audit_of(path: Path) -> str:
    """The hint for another account that has to write audit records to this file; empty if it can."""

    def act() -> str:
        try:
            logs.write_audit(f"file:{path}", required=True)
        except ConfigurationError as error:
            return f"{error.message}\n{error.hint}"
        return ""

    return answer_as(SERVICE, act)


@only_root
def test_file_of_another_account(public: Path) -> None:
    """The hint names the file or the folder that the account may not write, and root's line, after which it can."""
    folder = public / "log"
    folder.mkdir(mode=0o700)
    path = folder / "audit.jsonl"
    found: list[str] = []
    while (told := audit_of(path)) and len(found) < 3:
        assert told.startswith(f"{path} cannot be written: Permission denied.")
        found.append(told.partition("\n")[2].partition(" does not let ")[0])
        shell(told.partition("un as root: ")[2])
    assert found == [str(folder), str(folder)]
    path.chmod(0o600)
    os.chown(path, 0, 0)
    assert audit_of(path).partition("\n")[2].startswith(str(path))


@only_root
def test_warning_has_the_hint(public: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the records are not required, the warning has the same hint as the error."""
    public.chmod(0o755)

    def act() -> str:
        logs.write_audit(f"file:{public}/audit.jsonl", required=False)
        return caplog.text

    assert f"as root: touch {public}/audit.jsonl" in answer_as(SERVICE, act)


def test_records_are_appended(tmp_path: Path) -> None:
    """Earlier records are kept."""
    path = tmp_path / "audit.jsonl"
    path.write_text("{}\n")
    logs.write_audit(f"file:{path}", required=True)
    record_audit("sign", {})

    assert len(path.read_text().splitlines()) == 2
