"""The example store of the documentation is short, installable like any other, and correct."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs.pages import DOCS
from signing_in import run

EXAMPLE = DOCS / "examples" / "keyvouch-sqlite"
WITH_CONNECTION = DOCS / "examples" / "keyvouch-ssh-agent"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the examples."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    for example in (EXAMPLE, WITH_CONNECTION):
        copy = tmp_path_factory.mktemp("source")
        for file in (example / "pyproject.toml", *example.glob("*.py")):
            (copy / file.name).write_bytes(file.read_bytes())
        subprocess.run([*pip, "--target", str(folder), str(copy)], check=True)
    return folder


def judged(example: Path, site: Path) -> str:
    """Run the example's own tests, as its author would and separate from ours, and return the output."""
    tests = site / example.name
    shutil.copytree(example / "tests", tests)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, str(tests)],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_example_is_short() -> None:
    """A store can be written in an hour, and fits on two screens."""
    assert len((EXAMPLE / "keyvouch_sqlite.py").read_text(encoding="utf-8").splitlines()) <= 120


def test_example_keeps_the_contract(site: Path) -> None:
    """The example passes the conformance kit."""
    assert "TestSqliteStore: 50 kept, 22 declared unsupported, 0 broken" in judged(EXAMPLE, site)


@pytest.mark.server
def test_example_with_connection_keeps_the_contract(site: Path) -> None:
    """So does the example with a connection, to a real agent that is cut off and stalled."""
    if shutil.which("ssh-agent") is None:
        pytest.skip("ssh-agent not found: apt-get install openssh-client")
    assert "TestAgentStore: 47 kept, 25 declared unsupported, 0 broken" in judged(WITH_CONNECTION, site)


def test_example_is_found_by_its_entry_point(site: Path, tmp_path: Path) -> None:
    """The commands find the store, show what it declares, and create and use its keys."""
    environment = {"PYTHONPATH": str(site)}
    shown = json.loads(run("stores", "sqlite", "--output", "json", environment=environment).output)
    assert (shown["distribution"], shown["contract"]) == ("keyvouch-sqlite", "contract1")
    assert shown["capabilities"] == ["lists keys", "generates keys"]

    uri = f"sqlite:path={tmp_path}/keys.db;name=nightly"
    made = run("new", "--key", uri, "--certificate-out", str(tmp_path / "app.cer"), environment=environment)
    assert made.status == 0, made.errors
    assert run("sign", "--key", uri, stdin=b"x", environment=environment).status == 0
    assert run("sign", "--key", f"{uri}2", stdin=b"x", environment=environment).status == 3
