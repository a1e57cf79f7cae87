"""The pages of the documentation, and their code blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)]


@dataclass(frozen=True)
class Block:
    """A fenced code block."""

    location: str
    """Page and line, in the form that editors open."""
    line: int
    """Line number of the first line of code."""
    language: str
    """The word after the fence; a directive's is in braces."""
    code: str
    note: str
    """The comment directly before the block, without its delimiters."""

    @property
    def not_run(self) -> str | None:
        """Why it cannot be run; None if it can."""
        why = re.fullmatch(r"not run:(.*)", self.note, re.DOTALL)
        return why[1].strip() if why else None

    @property
    def exact(self) -> bool:
        """Whether the output must be exactly what the page shows."""
        return self.note == "exact"


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page in order, without directives of the documentation builder."""
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    blocks = []
    for index, token in enumerate(tokens):
        if token.type != "fence" or token.map is None or token.info.startswith("{"):
            continue
        location = f"{name_of(page)}:{token.map[0] + 1}"
        note = _comment_before(tokens[:index])
        blocks.append(Block(location, token.map[0] + 2, token.info.strip(), token.content, note))
    return blocks


def _comment_before(tokens: list[Token]) -> str:
    if tokens and tokens[-1].type == "html_block":
        comment = re.fullmatch(r"<!--(.*)-->", tokens[-1].content.strip(), re.DOTALL)
        return comment[1].strip() if comment else ""
    if len(tokens) > 1 and tokens[-1].type == "paragraph_close" and tokens[-2].content.startswith("%"):
        return tokens[-2].content.removeprefix("%").strip()
    return ""
