"""Each statement of the threat model names the tests that show it, and they all exist."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from docs.pages import DOCS, ROOT

PAGE = (DOCS / "threat-model.md").read_text(encoding="utf-8")
PROMISES = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
DEFINITION = re.compile(r"^\[\^([a-z0-9-]+)\]: (.+(?:\n    .+)*)", re.MULTILINE)
REFERENCE = re.compile(r"\[\^([a-z0-9-]+)\](?!:)")
TEST = re.compile(r"`([\w/-]+\.py)::([\w:]+)`")


def statements(page: str) -> list[str]:
    """Return the list items of a page, and the paragraphs with a footnote."""
    text = DEFINITION.sub("", page)
    items = re.findall(r"^- (.+(?:\n  .+)*)", text, re.MULTILINE)
    paragraphs = [each for each in text.split("\n\n") if REFERENCE.search(each) and not each.startswith("- ")]
    return [*items, *paragraphs]


def footnotes(page: str) -> dict[str, list[tuple[str, str]]]:
    """Return the tests of each footnote, as file and name."""
    found = DEFINITION.findall(page)
    assert len(dict(found)) == len(found), "a footnote is defined twice"
    return {name: TEST.findall(text) for name, text in found}


@cache
def names_in(path: str) -> frozenset[str]:
    """Return the names of the tests in a file, as pytest names them, without parameters."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(_names(tree.body, ""))


def _names(body: list[ast.stmt], prefix: str) -> list[str]:
    names: list[str] = []
    for each in body:
        if isinstance(each, ast.ClassDef):
            names += _names(each.body, f"{prefix}{each.name}::")
        elif isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and each.name.startswith("test_"):
            names.append(prefix + each.name)
    return names


@pytest.mark.parametrize("statement", statements(PAGE), ids=lambda text: text[:50])
def test_statement_names_its_tests(statement: str) -> None:
    """A statement without a footnote, or with a footnote that has no test, is only a claim."""
    names = REFERENCE.findall(statement)
    assert names, statement
    assert all(footnotes(PAGE).get(name) for name in names), statement


@pytest.mark.parametrize("footnote", footnotes(PAGE))
def test_named_tests_exist(footnote: str) -> None:
    """A test that was renamed or removed no longer shows anything."""
    for path, name in footnotes(PAGE)[footnote]:
        assert (ROOT / path).is_file(), path
        assert name in names_in(path), f"{path}::{name}"


def test_every_footnote_is_used_once() -> None:
    """Each footnote belongs to one statement."""
    assert sorted(REFERENCE.findall(DEFINITION.sub("", PAGE))) == sorted(footnotes(PAGE))


def test_page_says_what_is_possible_too() -> None:
    """For each kind of attacker, the page has both what it can do and what it cannot do."""
    attackers = re.split(r"^#{2,3} ", PAGE, flags=re.MULTILINE)[1:]
    assert len(attackers) > 10
    for attacker in attackers:
        text = attacker.lower()
        assert " can" in text, attacker
        assert "cannot" in text or "can not" in text or "none of them can" in text, attacker


def test_security_policy_leads_here() -> None:
    """SECURITY.md makes promises, and refers to this page for their meaning."""
    assert "docs/threat-model.md" in PROMISES


def test_a_statement_without_a_test_fails() -> None:
    """The checks detect what is missing."""
    claims = "- can do a;\n- can do b.[^b]\n\nAnd c.[^c]\n\n"
    page = f"{claims}[^b]: nothing\n[^c]: `tests/x.py::test_x`,\n    `tests/y.py::test_y`\n"
    assert statements(page) == ["can do a;", "can do b.[^b]", "And c.[^c]"]
    assert footnotes(page) == {"b": [], "c": [("tests/x.py", "test_x"), ("tests/y.py", "test_y")]}
