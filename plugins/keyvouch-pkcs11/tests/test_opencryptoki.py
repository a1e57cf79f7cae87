"""Keys on opencryptoki's software token: the kit, PINs that are counted, forks that the module notices."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.server


def test_all_that_is_tried_with_it() -> None:
    """In a process of its own, one test after the other: there is one token."""
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
