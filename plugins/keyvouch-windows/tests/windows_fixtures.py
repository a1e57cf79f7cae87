"""A Windows shared by all tests of a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from wine import Windows, running


@pytest.fixture(scope="session")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Windows]:
    """Return a new Windows with empty certificate stores; its processes are terminated after the tests."""
    started = running(tmp_path_factory.mktemp("windows"))
    yield started
    started.end()
