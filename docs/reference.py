"""Write what the pages take from the code, so that it can also be read in the checkout. `make reference` runs this.

- On each error's page the two paragraphs below the title: its meaning, class and exit status.
- The table of exit statuses in `errors/index.md`.
- The table of commands in `commands.md`.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from keyvouch import errors
from keyvouch.cli import COMMANDS

DOCS = Path(__file__).parent
MEANINGS = {
    1: "a defect of keyvouch or of a store",
    2: "usage, configuration, URI, plugin",
    3: "the key was not found, is ambiguous, or already exists",
    4: "the store refused access",
    5: "the store or the authority is unavailable",
    6: "the key, its certificate or a signature is invalid, does not match, or cannot be used",
    7: "the authority refused the request",
}

OTHER = "| 8 | `keyvouch bench --fail-if-slower` has found something slower | |"
"""The status that is not of an error."""


def pages() -> dict[Path, str]:
    """Return the text that each of these pages should have."""
    wanted = {}
    for kind in all_errors():
        path = DOCS / "errors" / f"{kind.code}.md"
        title, _, _, rest = path.read_text(encoding="utf-8").split("\n\n", 3)
        wanted[path] = f"{title}\n\n{facts(kind)}\n\n{rest}"
    for path, table in ((DOCS / "errors" / "index.md", exit_statuses()), (DOCS / "commands.md", commands())):
        wanted[path] = with_table(path.read_text(encoding="utf-8"), table)
    return wanted


def all_errors(kind: type[errors.KeyvouchError] = errors.KeyvouchError) -> Iterator[type[errors.KeyvouchError]]:
    """Yield every error class derived from this one, except those of plugins and tests."""
    for each in kind.__subclasses__():
        if each.__module__ == errors.__name__:
            yield each
            yield from all_errors(each)


def facts(kind: type[errors.KeyvouchError]) -> str:
    """Describe an error: its meaning, and what programs need to know about it."""
    base = kind.__mro__[1].__name__
    later = "The same call may succeed later." if kind.transient else "Trying again does not help."
    following = "goes on to the next one" if kind.try_next_key else "does not try the next one"
    if kind is errors.AuthorityRefused:
        following = "goes on to the next one if the key was refused, but not if the request was"
    meaning = (inspect.getdoc(kind) or "").partition("\n")[0]
    details = f"`keyvouch.errors.{kind.__name__}`, a `{base}`; exit status {kind.exit_status}. {later}"
    return f"{meaning}\n\n" + textwrap.fill(f"{details} A client with several keys {following}.", 120)


def exit_statuses() -> str:
    """Return the table of exit statuses, with the codes of each."""
    codes = defaultdict(list)
    for each in all_errors():
        codes[each.exit_status].append(f"[`{each.code}`]({each.code}.md)")
    rows = [f"| {status} | {meaning} | {', '.join(codes[status])} |" for status, meaning in MEANINGS.items()]
    head, last = ["| status | meaning | codes |", "| --- | --- | --- |", "| 0 | done | |"], "| 130 | interrupted | |"
    return "\n".join([*head, *rows, OTHER, last])


def commands() -> str:
    """Return the table of commands, with what each does."""
    rows = [f"| `keyvouch {name}` | {purpose} |" for name, purpose in COMMANDS.items()]
    return "\n".join(["| command | what it does |", "| --- | --- |", *rows])


def with_table(text: str, table: str) -> str:
    """Return a page's text with this table in place of the one with the same heading. Raises ValueError."""
    heading = re.escape(table.partition("\n")[0])
    replaced, count = re.subn(rf"^{heading}\n(\|.*\n)+", lambda _: f"{table}\n", text, flags=re.MULTILINE)
    if count != 1:
        raise ValueError(f"Expected one table {heading}")
    return replaced


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")
