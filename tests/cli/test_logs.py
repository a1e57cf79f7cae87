"""Destinations of audit records."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def test_records_are_appended(tmp_path: Path) -> None:
    """Earlier records are kept."""
    path = tmp_path / "audit.jsonl"
    path.write_text("{}\n")
    logs.write_audit(f"file:{path}", required=True)
    record_audit("sign", {})

    assert len(path.read_text().splitlines()) == 2
