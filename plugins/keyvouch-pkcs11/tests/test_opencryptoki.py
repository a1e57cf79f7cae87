"""Keys on opencryptoki's software token: the conformance kit, PIN counters, and a module that detects forks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from opencryptoki_token import require_opencryptoki

pytestmark = pytest.mark.server


def test_suite_passes() -> None:
    """The suite passes in a separate process, one test at a time, since there is only one token."""
    require_opencryptoki()
    suite = Path(__file__).with_name("opencryptoki_suite.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(suite)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout
