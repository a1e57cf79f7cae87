"""Run the tests in the folder `inside` with a Windows Python.

Its modules `test_native_*.py` need features that Wine lacks: `.github/workflows/windows.yml` runs them on Windows.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from wine import Windows, path_in_windows

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("windows")]


@pytest.mark.parametrize(
    "module", sorted(each.name for each in Path(__file__).with_name("inside").glob("test_inside_*.py"))
)
def test_inside(windows: Windows, module: str) -> None:
    """All tests of a module pass there, and none is skipped."""
    folder = Path(__file__).with_name("inside")
    # Not in this machine's /tmp: everyone can write there, so keyvouch does not trust a configuration in it.
    done = windows.run("-m", "pytest", "-q", "-ra", "--basetemp", r"C:\tests", path_in_windows(folder / module))
    assert done.status == 0, f"{done.output}\n{done.errors}"
    assert " skipped" not in done.output, done.output
