"""Each distribution is complete, whether it is built from a checkout or from a source distribution."""

from __future__ import annotations

from pathlib import Path

import pytest

import keyvouch
from distributions.builds import PROJECTS, ROOT, Built, build

pytestmark = pytest.mark.xdist_group("distributions")
PLUGINS = [each for each in PROJECTS if each != "keyvouch"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    return {project: build(project, tmp_path_factory.mktemp(project)) for project in PROJECTS}


@pytest.mark.parametrize("project", PROJECTS)
def test_version_has_one_source(built: dict[str, Built], project: str) -> None:
    """Every distribution has the version in `keyvouch.__version__`, through an sdist too."""
    assert built[project].metadata()["Version"] == keyvouch.__version__


@pytest.mark.parametrize("project", PLUGINS)
def test_plugin_requires_keyvouch_of_its_version(built: dict[str, Built], project: str) -> None:
    """A plugin is released together with keyvouch, and tested only with that release."""
    assert f"keyvouch=={keyvouch.__version__}" in built[project].metadata().get_all("Requires-Dist", [])


@pytest.mark.parametrize("project", PROJECTS)
def test_licence_in_each_archive(built: dict[str, Built], project: str) -> None:
    """The text of the license is in the sdist and the wheel, and an SPDX expression in the metadata."""
    licence = (ROOT / "LICENSE").read_bytes()

    assert built[project].sdist_files()["LICENSE"] == licence
    assert built[project].wheel_files()[".dist-info/licenses/LICENSE"] == licence
    assert built[project].metadata()["License-Expression"] == "Apache-2.0"


@pytest.mark.parametrize("project", PROJECTS)
def test_wheel_has_the_whole_package(built: dict[str, Built], project: str) -> None:
    """Every file of the package is in the wheel, among them `py.typed`, and nothing else."""
    source = PROJECTS[project] / "src"
    expected = {path.relative_to(source).as_posix() for path in _files(source / built[project].module)}

    assert {name for name in built[project].wheel_files() if not name.startswith(".dist-info/")} == expected
    assert f"{built[project].module}/py.typed" in expected
    assert "Typing :: Typed" in built[project].metadata().get_all("Classifier", [])


@pytest.mark.parametrize("project", PLUGINS)
def test_build_hook_is_one(project: str) -> None:
    """The plugins' build hooks are copies, since an sdist contains only its own folder."""
    hook = "hatch_build.py"

    assert (PROJECTS[project] / hook).read_bytes() == (PROJECTS[PLUGINS[0]] / hook).read_bytes()


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
