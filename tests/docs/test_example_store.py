"""The store that the documentation writes: short, installed as any other, and right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from docs.pages import DOCS
from signing_in import run

EXAMPLE = DOCS / "examples" / "keyvouch-sqlite"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example installed in it by pip."""
    folder = tmp_path_factory.mktemp("site")
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "keyvouch_sqlite.py"):
        (copy / name).write_bytes((EXAMPLE / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(folder), str(copy)], check=True)
    return folder


def test_it_is_short() -> None:
    """A store takes an hour, and fits on two screens."""
    assert len((EXAMPLE / "keyvouch_sqlite.py").read_text(encoding="utf-8").splitlines()) <= 120


def test_it_keeps_the_contract(site: Path) -> None:
    """Its own tests, run as its author would, pass."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, str(EXAMPLE / "tests")],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "TestSqliteStore: 38 kept, 10 declared unsupported, 0 broken" in done.stdout


def test_it_is_found_by_its_entry_point(site: Path, tmp_path: Path) -> None:
    """The commands know it, show what it declares, and make and use its keys."""
    environment = {"PYTHONPATH": str(site)}
    shown = json.loads(run("stores", "sqlite", "--output", "json", environment=environment).output)
    assert (shown["distribution"], shown["contract"]) == ("keyvouch-sqlite", "contract1")
    assert shown["capabilities"] == ["lists keys", "generates keys"]

    uri = f"sqlite:path={tmp_path}/keys.db;name=nightly"
    made = run("new", "--key", uri, "--certificate-out", str(tmp_path / "app.cer"), environment=environment)
    assert made.status == 0, made.errors
    assert run("sign", "--key", uri, stdin=b"x", environment=environment).status == 0
    assert run("sign", "--key", f"{uri}2", stdin=b"x", environment=environment).status == 3
