"""Fixtures and hooks for all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from keyvouch.testing.fixtures import authority  # noqa: F401 - a fixture
from servers import fetching
from servers.fixtures import oidc_provider  # noqa: F401 - a fixture
from windows_fixtures import windows  # noqa: F401 - a fixture

# They run in a Windows Python, which one of the plugin's tests starts.
collect_ignore = ["plugins/keyvouch-windows/tests/inside"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the tests that take a count with far higher ones")


def pytest_sessionstart() -> None:
    """Remove the Azure SDK's settings of this machine; fixtures with a wider scope than a test's set their own."""
    for name in [each for each in os.environ if each.startswith("AZURE_")]:
        del os.environ[name]


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether there is time for the high iteration counts of `make soak`."""
    return bool(request.config.getoption("--soak"))


@pytest.fixture
def plenty(*, soak: bool) -> bool:
    """Whether there are a few minutes to spare: in `make soak`, and in CI."""
    return soak or bool(os.environ.get("CI"))


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep tests away from the user's own state, cache and configuration."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("STATE_DIRECTORY", "CACHE_DIRECTORY"):
        monkeypatch.setenv(name, str(home / name.lower()))
    for name in ("APP_PASSWORD", "CREDENTIALS_DIRECTORY", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in list(os.environ):
        if name.startswith("KEYVOUCH_"):
            monkeypatch.delenv(name)
    return home


@pytest.fixture(autouse=True)
def default_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reset TLS to its default trust, even if the environment names a CA for all programs."""
    for name in fetching.TRUST_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def no_challenges() -> None:
    """Clear the Azure SDK's cache of tenants by host and port: ports of earlier tests' vaults are reused."""
    for name, module in list(sys.modules.items()):
        if name.startswith("azure.keyvault.") and name.endswith(".http_challenge_cache"):
            module.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped test counts as failed."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped in CI: {report.longrepr}"
    return report
