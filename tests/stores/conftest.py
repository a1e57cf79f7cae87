from pathlib import Path

import pytest

from stores.key_material import PASSWORD


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    """URIs in these tests refer to the password as `env:PASSWORD`."""
    monkeypatch.setenv("PASSWORD", PASSWORD)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for keys."""
    path = tmp_path / "keys"
    path.mkdir()
    return path
