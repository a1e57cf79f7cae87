"""The reference pages name everything that is in the code, and nothing else."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator

import msgspec
import pytest

from docs.pages import DOCS
from keyvouch import config, errors
from keyvouch._core import registry
from keyvouch._secrets.redaction import REFERENCE_KINDS
from keyvouch.cli import COMMANDS
from keyvouch.testing.conformance import NAMES
from keyvouch.uri import CORE_ATTRIBUTES

TABLE_NAME = re.compile(r"^\| `([a-z0-9-]+)`", re.MULTILINE)


def section(page: str, heading: str) -> str:
    """Return the text under a heading, up to the next one of the same or a higher level."""
    text = (DOCS / page).read_text(encoding="utf-8")
    level = heading.partition(" ")[0]
    found = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no heading {heading!r}"
    return found[1]


def all_errors(kind: type[errors.KeyvouchError] = errors.KeyvouchError) -> Iterator[type[errors.KeyvouchError]]:
    """Every error derived from the base class, except those of plugins and tests."""
    for each in kind.__subclasses__():
        if each.__module__ == errors.__name__:
            yield each
        yield from all_errors(each)


@pytest.mark.parametrize(
    ("heading", "struct"),
    [("## Fields", config.Profile), ("## How assertions look", config.AssertionOptions)],
)
def test_every_field_documented(heading: str, struct: type[msgspec.Struct]) -> None:
    """The table has each field once, by its name in the file."""
    assert TABLE_NAME.findall(section("profiles.md", heading)) == [
        field.encode_name for field in msgspec.structs.fields(struct)
    ]


def test_every_secret_reference_documented() -> None:
    """The table has each kind of reference once."""
    rows = re.findall(r"^\| `([a-z]+):", section("profiles.md", "## Secrets"), re.MULTILINE)
    assert tuple(rows) == REFERENCE_KINDS


@pytest.mark.parametrize("kind", list(all_errors()), ids=lambda kind: kind.code)
def test_every_error_has_page(kind: type[errors.KeyvouchError]) -> None:
    """A page has a table of causes and remedies."""
    text = (DOCS / "errors" / f"{kind.code}.md").read_text(encoding="utf-8")

    assert text.startswith(f"# {kind.code}\n\n")
    assert re.search(r"^\| .*usual cause.*\n\| --- \| --- \|\n\| .{10,} \| .{10,} \|$|^\| AADSTS ", text, re.MULTILINE)


def test_pages_have_what_the_code_says() -> None:
    """Facts of errors, exit statuses and commands are those of the code; if not, run `make reference`."""
    for page, text in runpy.run_path(str(DOCS / "reference.py"))["pages"]().items():
        assert page.read_text(encoding="utf-8") == text, f"{page.name}: run `make reference`"


def test_every_page_has_error() -> None:
    """Every error page belongs to an existing error."""
    pages = {path.stem for path in (DOCS / "errors").glob("*.md")} - {"index"}

    assert pages == {each.code for each in all_errors()}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_documented(command: str) -> None:
    """Each command is in the section on output."""
    assert re.search(rf"keyvouch {command}\b", section("commands.md", "## JSON output"))


@pytest.mark.parametrize("scheme", ["pfx", "pem"])
def test_every_attribute_of_files_documented(scheme: str) -> None:
    """The table has each attribute that the store declares."""
    declared = [attribute.name for attribute in registry.store_class(scheme).attributes]
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|(.*)$", section("stores/file.md", "## Attributes"), re.MULTILINE)

    assert [name for name, row in rows if f"`{scheme}:`" in row] == declared


def test_every_declaration_of_the_kit_documented() -> None:
    """The table has each name that a store's author may declare, or its category."""
    table = section("stores/conformance.md", "## What is provided or declared")

    assert not [name for name in NAMES if f"`{name}`" not in table and name != "PS256"]


def test_every_attribute_of_the_core_documented() -> None:
    """The table has each attribute that every scheme understands."""
    assert TABLE_NAME.findall(section("uris.md", "## What every URI understands")) == [
        attribute.name for attribute in CORE_ATTRIBUTES
    ]
