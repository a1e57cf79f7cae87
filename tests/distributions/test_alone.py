"""Each distribution works when it is installed alone, with the core and what these require, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from distributions.builds import PROJECTS, ROOT, build
from servers import fetching

pytestmark = pytest.mark.xdist_group("distributions")
NEED_AN_EXTRA = {
    "keyvouch.bench": "hdrh",
    "keyvouch.entra.azure": "azure",
    "keyvouch.testing.conformance": "pytest",
    "keyvouch.testing.fixtures": "pytest",
    "keyvouch_azure_keyvault.testing.fixtures": "pytest",
}
"""Modules, and what they import from an extra."""
NEED_WINDOWS = {} if sys.platform == "win32" else {"keyvouch._system.windows.files": "msvcrt"}
IMPORT_ALL = """
import importlib, json, pkgutil, sys
failed = {}
def walk(name):
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        failed[name] = error.name
        return
    for each in pkgutil.iter_modules(getattr(module, "__path__", []), f"{name}."):
        if not each.name.endswith(".__main__"):
            walk(each.name)
walk(sys.argv[1])
print(json.dumps(failed))
"""


class Installed:
    """An environment with one distribution."""

    def __init__(self, folder: Path, project: str) -> None:
        """Install the distribution and the core from wheels, and the tested versions of what they require."""
        self.project = project
        self.module = project.replace("-", "_")
        self._scripts = folder / ("Scripts" if sys.platform == "win32" else "bin")
        wheels = {str(build(each, folder / each).wheel) for each in ("keyvouch", project)}
        self._uv("venv", "--python", sys.executable, str(folder), "--allow-existing")
        self._uv("pip", "install", "--python", self._program("python"), "--constraint", "constraints.txt", *wheels)

    def python(self, *arguments: str) -> str:
        """Run the environment's Python, and return the output."""
        return self._run(self._program("python"), "-I", *arguments)

    def _program(self, name: str) -> str:
        return str(self._scripts / name)

    def _uv(self, *arguments: str) -> None:
        self._run(sys.executable, "-m", "uv", "--quiet", *arguments)

    def _run(self, *command: str) -> str:
        environment = {name: value for name, value in fetching.environment().items() if name != "PYTHONPATH"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module", params=PROJECTS)
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("alone"), request.param)


def test_command_lists_its_stores(installed: Installed) -> None:
    """`keyvouch stores` lists the built-in stores and the plugin's, and no other."""
    stores = json.loads(installed.python("-m", "keyvouch", "stores", "--output", "json"))

    expected = {"keyvouch", installed.project}
    assert {each["distribution"] for each in stores} == expected
    assert all(each["contract"] == "contract1" for each in stores)


def test_every_module_imports(installed: Installed) -> None:
    """No module needs a package that is not required, except those for an extra and those for Windows."""
    failed = json.loads(installed.python("-W", "error", "-c", IMPORT_ALL, installed.module))

    expected = {**NEED_AN_EXTRA, **NEED_WINDOWS}
    assert failed == {name: needed for name, needed in expected.items() if name.startswith(f"{installed.module}.")}
