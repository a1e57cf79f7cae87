"""The service's refusals: status, headers and JSON, with the service's messages.

The bodies are the service's, as recorded in its SDKs' tests, its troubleshooting guides and user reports. If no message
is known, ours begins like a known one, and a comment says so.
"""

from datetime import UTC, datetime
from email.utils import format_datetime

CALLER = "a4b0c1d2-3e4f-4a5b-9c6d-7e8f90a1b2c3"
"""The object ID that the refusals name as the caller's."""


class Refusal(Exception):
    """An error response: `{"error": {"code", "message", "innererror": {"code"}}}`, or without a `code` no body."""

    def __init__(
        self, status: int, code: str = "", message: str = "", inner: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(f"{status} {inner or code}: {message}")
        self.status = status
        self.headers = headers or {}
        self.body: dict[str, object] | None = None
        if code:
            error: dict[str, object] = {"code": code, "message": message}
            self.body = {"error": error | ({"innererror": {"code": inner}} if inner else {})}


# Invalid requests.


def bad(message: str, inner: str = "") -> Refusal:
    """400: a parameter is invalid."""
    return Refusal(400, "BadParameter", message, inner)


def required(member: str) -> Refusal:
    """400: a member of the body is missing."""
    return bad(f"Property '{member}' is required.\r\n")


def invalid(member: str, why: str = "") -> Refusal:
    """400: a member of the body has an invalid value."""
    return bad(f"Property {member} has invalid value\r\n{why}")


def missing(kind: str, name: str) -> Refusal:
    """404: the key, certificate or secret does not exist, or not in this version."""
    word = kind.lower()
    return Refusal(
        404,
        f"{kind}NotFound",
        f"A {word} with (name/id) {name} was not found in this key vault. If you recently deleted this {word} you may "
        "be able to recover it using the correct recovery command. For help resolving this issue, please see "
        "https://go.microsoft.com/fwlink/?linkid=2125182",
    )


def not_deleted(kind: str, name: str) -> Refusal:
    """404: no object of this name was deleted, or it is still being deleted."""
    return Refusal(404, f"{kind}NotFound", f"Deleted {kind} not found: {name}")


def being_deleted(kind: str) -> Refusal:
    """409: the deleted object is not ready to be recovered or purged."""
    return Refusal(409, "Conflict", f"{kind} is currently being deleted.", "ObjectIsBeingDeleted")


def deleted_name(kind: str, name: str) -> Refusal:
    """409: the name belongs to a deleted object that can be recovered."""
    return Refusal(
        409,
        "Conflict",
        f"{kind} {name} is currently in a deleted but recoverable state, and its name cannot be reused; in this state, "
        f"the {kind.lower()} can only be recovered or purged.",
        "ObjectIsDeletedButRecoverable",
    )


def being_changed(name: str) -> Refusal:
    """409: another change to the certificate is in progress."""
    message = (
        "A new key vault certificate can not be created or imported while a pending key vault certificate's status is"
    )
    return Refusal(409, "Conflict", f"{message} inProgress: {name}.")


def purge_protected() -> Refusal:
    """403: the vault keeps deleted objects for the retention period. The message is ours."""
    message = "Operation is not allowed because purge protection is enabled on this vault."
    return Refusal(403, "Forbidden", message, "PurgeNotAllowed")


# Keys that do not permit the operation.


def disabled(operation: str = "sign", kind: str = "key") -> Refusal:
    """403: the key or secret is disabled."""
    message = f"Operation {operation} is not allowed on a disabled {kind}."
    return Refusal(403, "Forbidden", message, f"{kind.capitalize()}Disabled")


def expired(operation: str = "sign") -> Refusal:
    """403: the key has expired. The message is derived from that for a disabled key."""
    return Refusal(403, "Forbidden", f"Operation {operation} is not allowed on an expired key.", "KeyExpired")


def not_yet_valid(operation: str = "sign") -> Refusal:
    """403: the key is not yet valid. The message is derived from that for a disabled key."""
    message = f"Operation {operation} is not allowed on a key that is not yet valid."
    return Refusal(403, "Forbidden", message, "KeyNotYetValid")


def not_permitted(operation: str = "sign") -> Refusal:
    """403: the key does not permit the operation."""
    message = f"Operation {operation} is not permitted on this key."
    return Refusal(403, "Forbidden", message, "KeyOperationForbidden")


# Callers without permission, network restrictions, and throttling.


def missing_role(permission: str) -> Refusal:
    """403: in a vault with roles, no role of the caller includes this permission (`keys/sign`)."""
    message = (
        "Caller is not authorized to perform action on resource.\r\nIf role assignments, deny assignments or role"
        " definitions were changed recently, please observe propagation time.\r\n"
        f"Caller: appid=(left out);oid={CALLER};iss=(left out)\r\n"
        f"Action: 'Microsoft.KeyVault/vaults/{permission}/action'\r\nAssignment: (not found)\r\n"
        "DenyAssignmentId: null\r\nDecisionReason: null\r\n"
    )
    return Refusal(403, "Forbidden", message, "ForbiddenByRbac")


def missing_policy(permission: str) -> Refusal:
    """403: in a vault with access policies, no policy grants the caller this permission (`keys/sign`)."""
    collection, _, operation = permission.partition("/")
    message = (
        f"The user, group or application 'appid=(left out);oid={CALLER};iss=(left out)' does not have "
        f"{collection} {operation} permission on key vault 'test;location=here'."
    )
    return Refusal(403, "Forbidden", message, "ForbiddenByPolicy")


def firewall() -> Refusal:
    """403: the vault's firewall blocks the caller's address."""
    message = "Client address is not authorized and caller is not a trusted service.\r\nClient address: 127.0.0.1\r\n"
    return Refusal(403, "Forbidden", message, "ForbiddenByFirewall")


def private_link() -> Refusal:
    """403: the vault can be reached only through its private endpoint."""
    message = (
        "Public network access is disabled and request is not from a trusted service nor via an approved private link."
    )
    return Refusal(403, "Forbidden", message, "ForbiddenByConnection")


def throttled(
    retry_after: int | datetime | None = None, *, header: str = "Retry-After", code: str = "Throttled"
) -> Refusal:
    """429: too many requests. `retry_after`: seconds, a time, or None to omit the header.

    `header`: an alternative header name, such as `retry-after-ms` or `x-ms-retry-after-ms`, for milliseconds.
    """
    message = "Request was not processed because too many requests were received. Reason: VaultRequestTypeLimitReached"
    if isinstance(retry_after, datetime):
        value = format_datetime(retry_after.astimezone(UTC), usegmt=True)
    else:
        value = "" if retry_after is None else str(retry_after)
    return Refusal(429, code, message, headers={header: value} if value else {})


def failing(status: int = 503) -> Refusal:
    """5xx: the service failed."""
    codes = {500: "InternalServerError", 503: "ServiceUnavailable", 504: "GatewayTimeout"}
    return Refusal(status, codes.get(status, "InternalServerError"), "An internal error has occurred.")
