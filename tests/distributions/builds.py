"""The five distributions, as they are built for a release."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECTS = {"keyvouch": ROOT, **{each.name: each for each in sorted((ROOT / "plugins").iterdir())}}
"""The folder of each distribution."""


@dataclass(frozen=True)
class Built:
    """The source distribution of one project, and the wheel that was built from it."""

    project: str
    sdist: Path
    wheel: Path

    @property
    def module(self) -> str:
        """The name of the package that the distribution contains."""
        return self.project.replace("-", "_")

    def sdist_files(self) -> dict[str, bytes]:
        """Return the files in the source distribution, by their paths in it."""
        with tarfile.open(self.sdist) as archive:
            files = {each.name.partition("/")[2]: archive.extractfile(each) for each in archive.getmembers()}
            return {name: file.read() for name, file in files.items() if file is not None}

    def wheel_files(self) -> dict[str, bytes]:
        """Return the files in the wheel; the version is left out of the name of its metadata folder."""
        with zipfile.ZipFile(self.wheel) as archive:
            folder = next(name.partition("/")[0] for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            return {name.replace(folder, ".dist-info"): archive.read(name) for name in archive.namelist()}

    def metadata(self) -> Message:
        """Return the wheel's metadata."""
        return Parser().parsestr(self.wheel_files()[".dist-info/METADATA"].decode())


def build(project: str, folder: Path) -> Built:
    """Build the source distribution, and from it, unpacked elsewhere, the wheel. Needs no network."""
    _hatchling("sdist", folder, PROJECTS[project])
    (sdist,) = folder.glob(f"{project.replace('-', '_')}-*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    _hatchling("wheel", folder, folder / sdist.name.removesuffix(".tar.gz"))
    (wheel,) = folder.glob(f"{project.replace('-', '_')}-*.whl")
    return Built(project, sdist, wheel)


def _hatchling(target: str, folder: Path, project: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    subprocess.run(command, cwd=project, check=True, capture_output=True)
