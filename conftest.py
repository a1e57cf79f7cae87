"""What holds for all tests."""

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

# They run in a Python of Windows, which one of the plugin's tests starts.
collect_ignore = ["plugins/keyvouch-windows/tests/inside"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the tests that take a count with far higher ones")


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether there is time for the high counts of `make soak`."""
    return bool(request.config.getoption("--soak"))


@pytest.fixture
def plenty(*, soak: bool) -> bool:
    """Whether there is time for some minutes: in `make soak`, and in CI."""
    return soak or bool(os.environ.get("CI"))


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's own state, cache or configuration."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("STATE_DIRECTORY", "CACHE_DIRECTORY"):
        monkeypatch.setenv(name, str(home / name.lower()))
    for name in ("APP_PASSWORD", "KEYVOUCH_CONFIG", "KEYVOUCH_PROFILE", "CREDENTIALS_DIRECTORY", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture(autouse=True)
def default_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS trusts what it trusts by default, also where the environment names a CA for all programs."""
    for name in fetching.TRUST_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def no_challenges() -> None:
    """Let the Azure SDK forget which tenant a host and port demanded: ports of former tests' vaults come again."""
    for name, module in list(sys.modules.items()):
        if name.startswith("azure.keyvault.") and name.endswith(".http_challenge_cache"):
            vars(module)["_cache"].clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI nothing is skipped: a test that would be has failed."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped in CI: {report.longrepr}"
    return report
