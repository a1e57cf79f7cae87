"""Translate the errors of the service and the log-in into keyvouch's."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)

from keyvouch.errors import (
    AccessDenied,
    AlgorithmUnsupported,
    ConfigurationError,
    KeyExists,
    KeyNotFound,
    KeyUnusable,
    KeyvouchError,
    NotSupported,
    SecretIncorrect,
    SecretRequired,
    SessionLost,
    StoreUnavailable,
    Throttled,
)
from keyvouch_azure_keyvault.addresses import Place
from keyvouch_azure_keyvault.transport import NotAnswered, NotSent, NotUsable, seconds_to_wait

MISREAD = (AzureError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What the SDK raises, including when the JSON of a response does not fit its models."""
_LONGEST = 500
"""Maximum length, in characters, of the service's text quoted in an error."""
_UNAUTHORISED, _DENIED, _MISSING, _CONFLICT, _TOO_MANY = 401, 403, 404, 409, 429
_REFUSED = 400
_REDIRECTS = range(300, 400)
_COLLECTIONS = ("/keys", "/certificates", "/deletedkeys", "/deletedcertificates")


@dataclass(frozen=True)
class Doing:
    """The operation in progress, for errors: its description, the key, and the permission and role it requires."""

    words: str
    place: Place | None = None
    permission: str = ""
    """As in an access policy: `keys/sign`."""
    role: str = ""
    """A role that includes the permission."""

    @property
    def kind(self) -> str:
        """The kind of object, by its name in `az keyvault`."""
        return self.place.kind if self.place else "key"


class _Inner(msgspec.Struct):
    code: str | None = None


class _Error(msgspec.Struct):
    code: str | None = None
    message: str | None = None
    innererror: _Inner | None = None


class _Refusal(msgspec.Struct):
    """The body of an error response."""

    error: _Error


class _Said(NamedTuple):
    status: int
    code: str
    """The service's inner error code, else its outer code."""
    text: str
    headers: Any


_HINTS = {
    "default": "See which of them should work here: environment, workload identity, managed identity or `az login`.",
    "managed-identity": "Assign an identity to this machine; a user-assigned one is named by client-id=.",
    "workload": "See that the pod has the label azure.workload.identity/use, and its service account the client id.",
    "cli": "Run: az login",
    "environment": "Set AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_CERTIFICATE_PATH or another credential.",
    "profile": "Try it by itself: keyvouch token --profile NAME",
}
_BESIDE_THE_REASON = re.compile(
    r"(Visit|See the troubleshooting guide for more information:) https://aka\.ms/\S+( to troubleshoot this issue)?\.?"
    r"|To mitigate this issue, please refer to .*"
    r"|\w+Credential failed to retrieve a token from the included credentials\.|Attempted credentials:"
)
_STATES = (
    (
        r"disabled key|KeyDisabled",
        "The key is disabled.",
        "Enable it: az keyvault {kind} set-attributes --enabled true ...",
    ),
    (
        r"expired key|KeyExpired",
        "The key's end has passed, and it signs no more.",
        "Make a further one: keyvouch new --further.",
    ),
    (
        r"not yet valid|KeyNotYetValid",
        "The key's beginning lies ahead.",
        "Wait until then, or change its nbf attribute.",
    ),
)
"""States of existing keys that cannot sign: a pattern for the service's code and text, the message, and the hint."""


@contextlib.contextmanager
def told(doing: Doing, auth: str) -> Iterator[None]:
    """Translate the errors in the block into keyvouch's."""
    try:
        yield
    except KeyvouchError:
        raise
    except MISREAD as error:
        raise as_error(error, doing, auth) from error


def as_error(error: Exception, doing: Doing, auth: str) -> KeyvouchError:
    """Return keyvouch's error for one raised by the SDK."""
    if (own := _own(error)) is not None:
        return own
    if isinstance(error, HttpResponseError) and _is_vaults(error):
        return _refusal(_read(error), doing)
    if isinstance(error, ClientAuthenticationError):
        return _log_in(error, auth)
    if isinstance(error, ServiceRequestError | ServiceResponseError | HttpResponseError):
        return StoreUnavailable(_line(str(error)), hint="Check network and proxy, and try again later.")
    if "challenge" in str(error):  # the SDK's check that the token is for this vault's cloud
        return ConfigurationError(
            f"The server's demand for a token does not fit its name: {_line(str(error))}",
            hint="Correct vault=: does it lead to Key Vault?",
        )
    return StoreUnavailable(
        f"The service answers {doing.words} in a way that is not understood: {type(error).__name__}.",
        hint="Does the address lead to Key Vault, and not to a proxy?",
    )


def no_credential(error: Exception, auth: str) -> KeyvouchError:
    """Return the error for a log-in for which the environment provides no credentials."""
    return SecretRequired(f"Signing in with auth={auth} is not possible: {_reason(error)}", hint=_HINTS[auth])


def _reason(error: Exception) -> str:
    """Return azure-identity's message, without links and without its remarks about the credential chain."""
    return _line(_BESIDE_THE_REASON.sub("", getattr(error, "message", None) or str(error)))


def is_denied(error: KeyvouchError) -> bool:
    """Return whether a permission is missing, in which case the log-in itself succeeded."""
    return isinstance(error, AccessDenied) and error.message.startswith((_BY_ROLE, _BY_POLICY))


def _own(error: BaseException | None) -> KeyvouchError | None:
    """Return the transport's error, however deeply the SDK has wrapped it, or None."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, NotSent | NotAnswered | NotUsable):
            return error.told
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def _is_vaults(error: HttpResponseError) -> bool:
    """Return whether the service refused, and not the log-in, for which azure-identity raises the same class."""
    request = getattr(error.response, "request", None)
    if request is None:
        return False
    parts = urlsplit(request.url)
    return "api-version=" in parts.query and parts.path.startswith(_COLLECTIONS)


def _read(error: HttpResponseError) -> _Said:
    response: Any = error.response
    try:
        body = msgspec.json.decode(response.body(), type=_Refusal).error
    except (ValueError, RecursionError):
        return _Said(response.status_code, "", _line(response.reason or ""), response.headers)
    code = (body.innererror.code if body.innererror else None) or body.code or ""
    return _Said(response.status_code, code, _line(body.message or ""), response.headers)


def _line(text: str) -> str:
    """Return the text on one line, truncated, with a full stop at its end."""
    text = " ".join(text.split())
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST].rstrip()} ..."
    return text if text.endswith(".") else f"{text}."


def _refusal(said: _Said, doing: Doing) -> KeyvouchError:
    if said.status in _REFUSALS:
        return _REFUSALS[said.status](said, doing)
    if said.status in _REDIRECTS:
        return StoreUnavailable(
            "The server answers with a redirect, which is not followed with a token.",
            hint="Write the vault's own address.",
        )
    return StoreUnavailable(f"The service fails at {doing.words}: {said.status}, {said.text}", hint="Try again later.")


_BY_POLICY = "The vault's access policy denies"
_BY_ROLE = "A role is missing for"
_CLOCK = "See that the log-in is of the vault's tenant, and this machine's clock is right."


def _unauthorised(said: _Said, doing: Doing) -> KeyvouchError:
    return SessionLost(
        f"The vault does not accept the token for {doing.words}: {said.text}", hint=_CLOCK, performed=False
    )


def _denial(said: _Said, doing: Doing) -> KeyvouchError:
    kind = doing.kind
    words = f"{said.code} {said.text}".lower()
    for pattern, message, hint in _STATES:
        if re.search(pattern, f"{said.code} {said.text}"):
            return KeyUnusable(message, hint=hint.format(kind=kind))
    if "firewall" in words or "client address" in words:
        return AccessDenied(
            f"The vault's firewall does not let this machine in: {said.text}",
            hint="Add its address: az keyvault network-rule add --name VAULT --ip-address ...",
        )
    if "connection" in said.code.lower() or "public network access" in words:
        return AccessDenied(
            f"The vault is reached by its private endpoint alone: {said.text}",
            hint="Use the network of the private endpoint, or let the vault be reached publicly.",
        )
    if "policy" in said.code.lower() or doing.permission.replace("/", " ") in words.replace("'", ""):
        operation = doing.permission.rpartition("/")[2]
        return AccessDenied(
            f"{_BY_POLICY} {doing.words}: {said.text}",
            hint=f"az keyvault set-policy --name VAULT --{kind}-permissions {operation} --spn CLIENT-ID",
        )
    return AccessDenied(
        f"{_BY_ROLE} {doing.words}: {said.text}",
        hint=f'az role assignment create --role "{doing.role}" --assignee CLIENT-ID --scope VAULT-RESOURCE-ID\n'
        "A new assignment takes some minutes to be heeded.",
    )


def _absence(said: _Said, doing: Doing) -> KeyvouchError:
    kind = doing.kind
    if doing.place is None or not said.code:
        return ConfigurationError(
            f"There is nothing of Key Vault at that address: {said.text}",
            hint="Correct vault=; a Managed HSM has keys, and no certificates.",
        )
    version = f" with the version {doing.place.version}" if doing.place.version else ""
    return KeyNotFound(
        f"There is no {kind} {doing.place.name}{version} in {doing.place.vault}.",
        hint=f"List what is there: keyvouch keys, without {kind}=. One that was deleted may be recovered: "
        f"az keyvault {kind} recover.",
    )


def _conflict(said: _Said, doing: Doing) -> KeyvouchError:
    kind = doing.kind
    name = doing.place.name if doing.place else ""
    if "deleted" in f"{said.code} {said.text}".lower():
        return KeyExists(
            f"The name {name} is that of a {kind} that was deleted, and is kept until it is purged.",
            hint=f"Take another name; or az keyvault {kind} recover (or purge) --name {name} --vault-name VAULT",
        )
    return Throttled(f"Another change is under way: {said.text}", hint="Try again later.")


def _throttled(said: _Said, doing: Doing) -> Throttled:
    return Throttled(
        f"The vault asks to wait before {doing.words}: {said.text}",
        hint="A vault takes some thousand operations in 10 seconds: let assertions be reused (`reuse`), or use two.",
        retry_after=seconds_to_wait(said.headers),
    )


def _bad(said: _Said, doing: Doing) -> KeyvouchError:
    if doing.permission == "keys/sign":
        return AlgorithmUnsupported(
            f"The vault does not sign so with this key: {said.text}", hint="Use an algorithm of the key's type."
        )
    return NotSupported(f"The vault refuses {doing.words}: {said.text}", hint="Ask for another type of key or name.")


def _log_in(error: ClientAuthenticationError, auth: str) -> KeyvouchError:
    from azure.identity import CredentialUnavailableError

    # A credential chain raises the same error if it finds no credentials and if an authority refuses them.
    nothing_there = auth == "default" and "AADSTS" not in error.message
    if nothing_there or isinstance(error, CredentialUnavailableError):
        return no_credential(error, auth)
    return SecretIncorrect(f"Signing in with auth={auth} is refused: {_reason(error)}", hint=_HINTS[auth])


_REFUSALS: dict[int, Callable[[_Said, Doing], KeyvouchError]] = {
    _REFUSED: _bad,
    _UNAUTHORISED: _unauthorised,
    _DENIED: _denial,
    _MISSING: _absence,
    _CONFLICT: _conflict,
    _TOO_MANY: _throttled,
}
"""The functions that translate error responses of the service, by status."""
