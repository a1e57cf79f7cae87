"""One server for all tests of this plugin, and one cluster for those that need it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import cluster as clusters
import openbao


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openbao.Server]:
    """OpenBao over TLS, with transit, AppRole and the tests' policies."""
    with openbao.running(tmp_path_factory.mktemp("openbao")) as running:
        running.configure()
        yield running


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.Cluster]:
    """Three nodes behind haproxy, set up in the same way."""
    with clusters.running(tmp_path_factory.mktemp("cluster")) as running:
        running.active.configure()
        yield running
