"""One Windows for all tests of a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from wine import Windows, running


@pytest.fixture(scope="session")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Windows]:
    """A new Windows, whose stores of certificates are empty; its processes end with the tests."""
    started = running(tmp_path_factory.mktemp("windows"))
    yield started
    started.end()
