"""What a token's policies must allow, checked before a change is begun."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from hvac.exceptions import VaultError

from keyvouch.errors import AccessDenied
from keyvouch_vault.responses import Capabilities

if TYPE_CHECKING:
    from collections.abc import Iterable

_CAPABILITIES = {"get": "read", "list": "list", "delete": "delete"}
"""By the method of a request; the others need `update`."""
WRONG_NAME = (
    "If key= or mount= is wrong, correct it: for a name that a policy does not mention, the server says the same."
)
WRONG_MOUNT = "If mount= is wrong, correct it: for a path that a policy does not mention, the server says the same."


class Permission(NamedTuple):
    """A capability of a token on a path."""

    path: str
    capability: str

    @classmethod
    def for_request(cls, error: VaultError) -> Permission:
        """Return what the denied request requires."""
        return cls(str(error.url).removeprefix("/v1/"), _CAPABILITIES.get(str(error.method).lower(), "update"))


def policy_hint(permissions: Iterable[Permission]) -> str:
    """Return the hint with the policy rules that are missing."""
    rules = [f'path "{path}" {{ capabilities = ["{capability}"] }}' for path, capability in permissions]
    separator = " " if len(rules) == 1 else "\n  "
    return separator.join(("Add to one of the token's policies:", *rules))


def require(client: Any, operation: str, permissions: Iterable[Permission]) -> None:
    """Raise `AccessDenied` that lists all missing permissions, so that a change is not begun that cannot be completed.

    A token that may not look up its own capabilities finds out with each request.
    """
    wanted = list(permissions)
    try:
        response = client.adapter.post("/v1/sys/capabilities-self", json={"paths": [path for path, _ in wanted]})
    except VaultError:
        return
    granted = response.data_as(Capabilities)
    missing = [each for each in wanted if not {each.capability, "root"} & {*granted.get(each.path, ())}]
    if missing:
        raise AccessDenied(f"Cannot {operation}: permission denied.", hint=f"{policy_hint(missing)}\n{WRONG_NAME}")
