"""Keys on opencryptoki's software token: the conformance kit, PIN counters, forks that the module detects."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.server


def test_all_that_is_tried_with_it() -> None:
    """The suite passes in a separate process, one test at a time, since there is only one token."""
    if os.geteuid() != 0 or shutil.which("pkcsslotd") is None:
        pytest.skip("there is no opencryptoki, or this is not root: apt-get install opencryptoki")
    suite = Path(__file__).with_name("opencryptoki_suite.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(suite)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout
