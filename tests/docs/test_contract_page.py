"""The contract page lists what plugins may import, and import-linter enforces exactly that."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def allowed_by_import_linter() -> set[str]:
    """The modules that the allow-list for plugins contains."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (allow_list,) = (each for each in contracts if each["name"] == "Plugins import only the modules of the contract")
    simulators = "*.testing.** -> keyvouch.testing.**"  # which are not stores
    return {line.removeprefix("** -> ") for line in allow_list["ignore_imports"] if line != simulators}


def listed_on_the_page() -> set[str]:
    """The modules in the table of the contract page."""
    page = (ROOT / "docs/stores/contract.md").read_text()
    return set(re.findall(r"^\| `(keyvouch\.\w+)` \|", page, re.MULTILINE))


def test_page_and_allow_list_agree() -> None:
    """What the page promises is what plugins may import."""
    assert listed_on_the_page() == allowed_by_import_linter()


def test_described_objects_are_in_listed_modules() -> None:
    """Everything that the page describes is in a module that it lists."""
    page = (ROOT / "docs/stores/contract.md").read_text()
    described = re.findall(r"auto(?:class|function|module|data):: (keyvouch\.\w+)", page)
    assert described
    assert set(described) - {"keyvouch.testing"} <= listed_on_the_page()
