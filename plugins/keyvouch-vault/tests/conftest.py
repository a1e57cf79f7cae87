"""One server for all tests of this plugin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import openbao


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openbao.Server]:
    """OpenBao over TLS, with transit, AppRole and the policies of the tests."""
    with openbao.running(tmp_path_factory.mktemp("openbao")) as running:
        running.prepare()
        yield running
