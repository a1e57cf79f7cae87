"""One Key Vault simulator per module of this plugin's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import azure_simulator


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[azure_simulator.Vault]:
    """A separate vault for the module, with a login in the environment."""
    with azure_simulator.running(tmp_path_factory.mktemp("vault")) as running:
        yield running
