"""Two Sphinx directives for the error pages, which take their facts from the error classes.

`{error-facts} CODE` describes an error: its meaning, class, exit status, and whether to try again.
`{error-table}` lists every exit status with its codes, each linked to its page. A code without a page is a broken link,
which fails the build.
"""

import inspect
from collections import defaultdict
from collections.abc import Iterator
from typing import ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from keyvouch import errors

MEANINGS = {
    1: "a defect of keyvouch or of a store; or the reader of the output has closed it",
    2: "usage, configuration, URI, plugin",
    3: "the key was not found, is ambiguous, or already exists",
    4: "the store refused access",
    5: "the store or the authority is unavailable",
    6: "the key, its certificate or a signature is invalid, does not match, or cannot be used",
    7: "the authority refused the request",
}


def all_errors(kind: type[errors.KeyvouchError] = errors.KeyvouchError) -> Iterator[type[errors.KeyvouchError]]:
    """Yield every error class derived from this one."""
    for each in kind.__subclasses__():
        if each.__module__ == errors.__name__:
            yield each
            yield from all_errors(each)


class ErrorFacts(SphinxDirective):
    """The meaning of an error, and what programs need to know about it, from its class."""

    required_arguments = 1
    has_content = False
    option_spec: ClassVar = {}

    def run(self) -> list[nodes.Node]:
        """Describe the class with this code."""
        kind = next(each for each in all_errors() if each.code == self.arguments[0])
        base = kind.__mro__[1].__name__
        later = "The same call may succeed later." if kind.transient else "Trying again does not help."
        following = "goes on to the next one" if kind.try_next_key else "does not try the next one"
        if kind is errors.AuthorityRefused:
            following = "goes on to the next one if the key was refused, but not if the request was"
        meaning = (inspect.getdoc(kind) or "").partition("\n")[0]
        return self.parse_text_to_nodes(
            f"{meaning}\n\n`keyvouch.errors.{kind.__name__}`, a `{base}`; exit status {kind.exit_status}. {later}"
            f" A client with several keys {following}."
        )


class ErrorTable(SphinxDirective):
    """The exit statuses."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        """List each status with its codes."""
        codes = defaultdict(list)
        for each in all_errors():
            codes[each.exit_status].append(f"[`{each.code}`]({each.code}.md)")
        rows = [f"| {status} | {meaning} | {', '.join(codes[status])} |" for status, meaning in MEANINGS.items()]
        lines = [
            "| status | meaning | codes |",
            "| --- | --- | --- |",
            "| 0 | done | |",
            *rows,
            "| 130 | interrupted | |",
        ]
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("error-facts", ErrorFacts)
    app.add_directive("error-table", ErrorTable)
    return {"parallel_read_safe": True}
