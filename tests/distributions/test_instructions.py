"""Until the distributions are on a package index, nothing says to install them from there."""

from __future__ import annotations

import re

import pytest

from distributions.builds import ROOT

FROM_AN_INDEX = re.compile(r"pip install (-\S+ )*['\"]?(keyvouch|\{)")
"""A name of ours, or one known only at run time: whoever registers it on an index decides what this installs."""
TEXTS = ["README.md", "SECURITY.md", "docs/**/*.md", "plugins/*/README.md", "src/**/*.py", "plugins/*/src/**/*.py"]


@pytest.mark.parametrize("pattern", TEXTS)
def test_nothing_is_installed_from_an_index(pattern: str) -> None:
    """Pages, messages and hints install from a checkout."""
    files = list(ROOT.glob(pattern))

    assert files
    assert [str(file) for file in files if FROM_AN_INDEX.search(file.read_text(encoding="utf-8"))] == []
