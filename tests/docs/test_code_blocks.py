"""The code blocks of README.md and the documentation are run one by one, as a reader would.

- `console`, `sh`: by `bash -eu`; in a console block lines with `$ ` are typed, the rest is output. It is compared
  if `<!-- exact -->` precedes the block. Exported variables apply to the blocks that follow.
- `python`: in one namespace per page; a block that begins with `# name.py` is saved under that name.
- `toml`: loaded as a configuration, which replaces the reader's after `<!-- saved -->`. `json`: parsed; after a console
  block with JSON output, it must have the same members. `text`: not run, but a line that is a key's URI must be valid.
- `<!-- not run: why -->` before a block excuses it.

`reader.py` has the reader's machine, and the replacements for the pages' addresses and paths.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.pages import PAGES, ROOT, Block, blocks_of, name_of
from docs.reader import Reader, split_console
from keyvouch.testing.authority import Authority

FROM_NOTHING = ("README.md", "docs/quick-start.md")
"""Pages that create key and profile themselves."""
RUN_ELSEWHERE = ("docs/how-to/other-libraries.md",)
"""Pages whose blocks call public services: `test_other_libraries.py` runs them."""


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[None]:
    """Remove the handlers that a page attaches."""
    loggers = [logging.getLogger(name) for name in (None, "keyvouch", "keyvouch.audit")]
    before = [(logger, logger.handlers[:], logger.level) for logger in loggers]
    yield
    for logger, handlers, level in before:
        for handler in set(logger.handlers) - set(handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(level)


@pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks_of(page) and name_of(page) not in RUN_ELSEWHERE], ids=name_of
)
def test_page_does_what_it_says(
    page: Path, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block of the page runs, in order; a failure names the line."""
    reader = Reader(tmp_path, authority, monkeypatch, prepared=name_of(page) not in FROM_NOTHING)
    for block in blocks_of(page):
        try:
            reader.run(block)
        except Exception as error:
            error.add_note(f"in the block at {block.location}")
            raise


def test_blocks_are_found_with_their_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comment belongs only to the block directly after it."""
    monkeypatch.setattr("docs.pages.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: needs a moon -->\n```sh\nfly\n```\n\n```python\nx = 1\n```\n\n% exact\n```console\n$ a\n```\n"
        "\n```{toctree}\nindex\n```\n"
    )
    excused, plain, exact = blocks_of(page)

    assert (excused.not_run, excused.location, excused.line) == ("needs a moon", "page.md:2", 3)
    assert (plain.not_run, plain.note) == (None, "")
    assert exact.exact


@pytest.mark.parametrize(
    ("language", "code", "note", "reason"),
    [
        ("sh", "false\n", "", "status 1"),
        ("console", "only output\n", "", "no line"),
        ("console", "$ echo a\nb\n", "exact", "page.md:1"),
        ("python", "raise LookupError('nothing')\n", "", "nothing"),
        ("toml", "[profiles.x]\nnope = 1\n", "", "nope"),
        ("json", "{", "", "Expecting"),
        ("text", "pfx:/a?passwort=env:A\n", "", "passwort"),
        ("cobol", "STOP RUN.\n", "", "cannot run"),
        ("sh", "true\n", "not run:", "does not say why"),
    ],
)
def test_wrong_block_fails(
    language: str,
    code: str,
    note: str,
    reason: str,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wrong block of any kind fails."""
    reader = Reader(tmp_path, authority, monkeypatch, prepared=False)
    with pytest.raises(Exception, match=reason):
        reader.run(Block("page.md:1", 2, language, code, note))


def test_json_is_compared_with_real_output(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member that the command does not print, or that the page lacks, fails."""
    reader = Reader(tmp_path, authority, monkeypatch, prepared=False)
    command = "$ keyvouch profile path --output json\n"
    for shown, good in (('{"path": "", "exists": true}', True), ('{"path": ""}', False), ('{"place": ""}', False)):
        reader.run(Block("page.md:1", 2, "console", command, ""))
        after = Block("page.md:4", 5, "json", shown, "")
        if good:
            reader.run(after)
        else:
            with pytest.raises(AssertionError, match=r"page.md:4"):
                reader.run(after)


def test_continued_command_is_one_command() -> None:
    """A backslash at the end of a line continues the command; what follows is output."""
    assert split_console("$ a \\\n    b\nc\n") == ("a \\\n    b", "c\n")


def test_every_page_is_tested() -> None:
    """The pages are found, including the README."""
    assert ROOT / "README.md" in PAGES
    assert len(PAGES) > len(FROM_NOTHING)
