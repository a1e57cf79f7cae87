"""What importing the store or the simulator loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def loaded_by(module: str) -> set[str]:
    """Return the names of the modules in a new Python process after importing one."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = f"import sys, {module}; print(*sys.modules)"
    return {
        *subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
        ).stdout.split()
    }


def test_store_does_not_load_the_simulator() -> None:
    """The store needs neither the simulator nor what that depends on."""
    modules = loaded_by("keyvouch_azure_keyvault.store")
    assert not {"keyvouch_azure_keyvault.testing", "keyvouch.testing", "pytest"} & modules


def test_simulator_does_not_load_the_store() -> None:
    """The simulator loads neither the Azure SDK nor the code that it tests, and pytest only for its fixture."""
    modules = loaded_by("keyvouch_azure_keyvault.testing")
    assert {each for each in modules if each.startswith("keyvouch_azure_keyvault.")} == {
        each for each in modules if each.startswith("keyvouch_azure_keyvault.testing")
    }
    assert not {"azure", "msal", "jwt", "pytest", "requests", "keyvouch.assertion", "keyvouch.algorithms"} & modules


def test_fixture_is_a_plugin(tmp_path: Path) -> None:
    """`pytest_plugins` provides the fixture `key_vault`, with the authority that it accepts tokens from."""
    (tmp_path / "conftest.py").write_text(
        'pytest_plugins = ["keyvouch.testing.fixtures", "keyvouch_azure_keyvault.testing.fixtures"]\n'
    )
    (tmp_path / "test_it.py").write_text(
        "def test_vault(key_vault, authority): assert key_vault.authority is authority and key_vault.url\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", f"--rootdir={tmp_path}", str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "1 passed" in done.stdout, done.stdout
