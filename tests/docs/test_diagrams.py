"""The diagrams show modules that exist, and pictures are drawn from their sources."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DIAGRAMS = ROOT / "docs/diagrams"
SOURCES = sorted(DIAGRAMS.glob("*.dot"))
NOT_MODULES = {"plugins", "keyvouch"}


def existing_modules() -> set[str]:
    """The names of keyvouch's modules and packages, without the packages that they are in."""
    return {path.stem for path in (ROOT / "src/keyvouch").rglob("*.py")} | {
        path.name for path in (ROOT / "src/keyvouch").rglob("*") if path.is_dir()
    }


def test_layout_names_existing_modules() -> None:
    """Every name in bold is a package or module, and so is every name in the row below it that looks like one."""
    text = (DIAGRAMS / "layout.dot").read_text(encoding="utf-8")
    names = {name for bold in re.findall(r"<b>([^<]*)</b>", text) for name in bold.split(", ")} - {"the contract"}
    names |= set(re.findall(r"\b[a-z]+_[a-z_]+\b", re.sub(r"//.*", "", text)))
    assert names - NOT_MODULES <= existing_modules()


def test_path_names_existing_modules() -> None:
    """The modules on the path of a signature exist."""
    text = (DIAGRAMS / "signature.dot").read_text(encoding="utf-8")
    dotted = set(re.findall(r"\b(?:entra|_core)\.(\w+)", text))
    assert dotted
    assert dotted <= existing_modules()


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_picture_has_the_labels_of_its_source(source: Path) -> None:
    """A picture that was not drawn again after a change of its source lacks a name."""
    picture = source.with_suffix(".svg").read_text(encoding="utf-8")
    for name in re.findall(r"<b>([^<]*)</b>|[a-z_]+\.[a-z_]+", source.read_text(encoding="utf-8")):
        assert name in picture
