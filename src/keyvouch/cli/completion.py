"""What the tab key completes besides commands, options and choices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyvouch.errors import KeyvouchError

if TYPE_CHECKING:
    import click


def complete_profiles(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Return the names of the profiles that start with the typed text; none if the configuration cannot be read."""
    from keyvouch import config

    given = context.find_root().params.get("config")
    try:
        names = config.load(given).profiles
    except (KeyvouchError, OSError):  # there is no place for an error while a line is typed
        return []
    return [name for name in names if name.startswith(incomplete)]
