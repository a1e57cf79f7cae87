"""Translate the errors of the service and of signing in to keyvouch's."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

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
from keyvouch.https import describe_response
from keyvouch_azure_keyvault.transports import NoResponse, RequestNotSent, UnusableToken, retry_delay
from keyvouch_azure_keyvault.uri_attributes import KeyLocation, split_identifier

if TYPE_CHECKING:
    from keyvouch.uri import KeyUri

SDK_ERRORS = (AzureError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What the SDK raises, including when the JSON of a response does not fit its models."""
_LONGEST_QUOTE = 500
"""Maximum length, in characters, of the service's text quoted in an error."""
_BAD_REQUEST, _UNAUTHORISED, _FORBIDDEN, _NOT_FOUND, _CONFLICT, _TOO_MANY_REQUESTS = 400, 401, 403, 404, 409, 429
_REDIRECTS = range(300, 400)
_NOT_FROM_KEY_VAULT = "Check that vault= leads to Key Vault, and which proxy or gateway responds instead."
_COLLECTIONS = ("/keys", "/certificates", "/deletedkeys", "/deletedcertificates")


READER_ROLE = "Key Vault Reader"
"""The role that includes all permissions for listing and reading."""


@dataclass(frozen=True)
class Operation:
    """The operation in progress, for errors: its description, the key, and the permission and role it requires."""

    description: str
    """A gerund: `signing`."""
    location: KeyLocation | None = None
    permission: str = ""
    """As in an access policy: `keys/sign`."""
    role: str = ""
    """A role that includes the permission."""

    @property
    def kind(self) -> str:
        """The kind of object, by its name in `az keyvault`."""
        return self.location.kind if self.location else "key"


class _InnerError(msgspec.Struct):
    code: str | None = None


class _Error(msgspec.Struct):
    code: str | None = None
    message: str | None = None
    innererror: _InnerError | None = None


class _ErrorBody(msgspec.Struct):
    """The body of an error response."""

    error: _Error


class _ErrorResponse(NamedTuple):
    status: int
    code: str
    """The service's inner error code, else its outer code; empty if the response is not the service's."""
    text: str
    headers: Any
    api_version: str
    """The version of the API in the request."""


_SIGN_IN_HINTS = {
    "default": "Check which of these should work here: environment, workload identity, managed identity or `az login`.",
    "managed-identity": "Assign an identity to this machine; write client-id= for a user-assigned one.",
    "workload": "Check that the pod has the label azure.workload.identity/use, and its service account the client ID.",
    "cli": "Run: az login",
    "environment": "Set AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_CERTIFICATE_PATH or another credential.",
    "profile": "Run: keyvouch token --profile NAME, to try the profile itself.",
}
_BOILERPLATE = re.compile(
    r"(Visit|See the troubleshooting guide for more information:) https://aka\.ms/\S+( to troubleshoot this issue)?\.?"
    r"|To mitigate this issue, please refer to .*"
    r"|\w+Credential failed to retrieve a token from the included credentials\.|Attempted credentials:"
)
"""The parts of azure-identity's messages that do not say what failed."""
_UNUSABLE_STATES = (
    (
        r"disabled key|KeyDisabled",
        "The key is disabled.",
        "Run: az keyvault {kind} set-attributes --enabled true ...",
    ),
    (
        r"expired key|KeyExpired",
        "The key has expired.",
        "Run: keyvouch new --further --key URI, which creates another version.",
    ),
    (
        r"not yet valid|KeyNotYetValid",
        "The key is not yet valid.",
        "Wait until it is, or change its attribute nbf.",
    ),
)
"""States of existing keys that cannot sign: a pattern for the service's code and text, the message, and the hint."""


@contextlib.contextmanager
def translate_errors(operation: Operation, auth: str) -> Iterator[None]:
    """Translate the errors in the block to keyvouch's."""
    try:
        yield
    except KeyvouchError:
        raise
    except SDK_ERRORS as error:
        raise to_keyvouch_error(error, operation, auth) from error


def to_keyvouch_error(error: Exception, operation: Operation, auth: str) -> KeyvouchError:
    """Return keyvouch's error for one raised by the SDK."""
    if (known := _transport_error(error)) is not None:
        return known
    if isinstance(error, HttpResponseError) and _is_from_vault(error):
        return _from_response(_read_response(error), operation)
    if isinstance(error, ClientAuthenticationError):
        return _from_sign_in(error, auth)
    if isinstance(error, ServiceRequestError | ServiceResponseError | HttpResponseError):
        return StoreUnavailable(_one_line(str(error)), hint="Check the network and the proxy, and try again later.")
    if "challenge" in str(error):  # the SDK's check that the token is for this vault's cloud
        return ConfigurationError(
            f"The server's challenge does not match its name: {_one_line(str(error))}",
            hint="Correct vault=, and check that it leads to Key Vault.",
        )
    return StoreUnavailable(
        f"Unexpected response while {operation.description}: {type(error).__name__}.",
        hint="Check that vault= leads to Key Vault, and not to a proxy.",
    )


def missing_credential(error: Exception, auth: str) -> KeyvouchError:
    """Return the error for a login for which the environment provides no credentials."""
    hint = _SIGN_IN_HINTS[auth]
    if auth == "cli" and not shutil.which("az"):
        hint = "Install the Azure CLI, then run: az login"
    return SecretRequired(f"Cannot sign in with auth={auth}: {_reason(error)}", hint=hint)


def _reason(error: Exception) -> str:
    """Return azure-identity's message, without links and without its remarks about the credential chain."""
    return _one_line(_BOILERPLATE.sub("", getattr(error, "message", None) or str(error)))


def is_permission_denied(error: KeyvouchError) -> bool:
    """Return whether a permission is missing, in which case the login itself succeeded."""
    return isinstance(error, AccessDenied) and error.message.startswith((_DENIED_BY_ROLE, _DENIED_BY_POLICY))


def _transport_error(error: BaseException | None) -> KeyvouchError | None:
    """Return the transport's error, however deeply the SDK has wrapped it, or None."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, RequestNotSent | NoResponse | UnusableToken):
            return error.keyvouch_error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def _is_from_vault(error: HttpResponseError) -> bool:
    """Return whether the service refused, and not the authority, for which azure-identity raises the same class."""
    request = getattr(error.response, "request", None)
    if request is None:
        return False
    parts = urlsplit(request.url)
    return "api-version=" in parts.query and parts.path.startswith(_COLLECTIONS)


def _read_response(error: HttpResponseError) -> _ErrorResponse:
    response: Any = error.response
    status, headers = response.status_code, response.headers
    version = dict(parse_qsl(urlsplit(response.request.url).query)).get("api-version", "")
    try:
        body = msgspec.json.decode(response.body(), type=_ErrorBody).error
    except (ValueError, RecursionError):
        body = _Error()
    code = (body.innererror.code if body.innererror else None) or body.code or ""
    text = body.message if code and body.message else describe_response(status, response.reason or "", response.body())
    return _ErrorResponse(status, code, _one_line(text), headers, version)


def _one_line(text: str) -> str:
    """Return the text on one line, truncated, with a full stop at its end."""
    text = " ".join(text.split())
    if len(text) > _LONGEST_QUOTE:
        text = f"{text[:_LONGEST_QUOTE].rstrip()} ..."
    return text if text.endswith(".") else f"{text}."


def _from_response(response: _ErrorResponse, operation: Operation) -> KeyvouchError:
    if response.status in _REDIRECTS:
        return StoreUnavailable(
            f"The server returned a redirect (HTTP status {response.status}), which is not followed because the request"
            " contains a token.",
            hint="Write the vault's own URL.",
        )
    if response.code:
        if _refuses_api_version(response):
            return _unsupported_api_version(response)
        if response.status in _BY_STATUS:
            return _BY_STATUS[response.status](response, operation)
    elif response.status in _WITHOUT_CODE:
        return _WITHOUT_CODE[response.status](response, operation)
    return _service_failed(response, operation)


def _service_failed(response: _ErrorResponse, operation: Operation) -> StoreUnavailable:
    if not response.code:
        return StoreUnavailable(
            f"Unexpected response while {operation.description}: {response.text}", hint=_NOT_FROM_KEY_VAULT
        )
    return StoreUnavailable(
        f"The service failed while {operation.description}: HTTP status {response.status}, {response.text}",
        hint="Try again later.",
    )


def _refuses_api_version(response: _ErrorResponse) -> bool:
    words = f"{response.code} {response.text}".lower()
    return response.status in (_BAD_REQUEST, _NOT_FOUND) and bool(
        re.search(r"api[- ]?version|specified version", words)
    )


def _unsupported_api_version(response: _ErrorResponse) -> ConfigurationError:
    return ConfigurationError(
        f"The server does not support the Key Vault API version {response.api_version}: {response.text}",
        hint="Set api-version= to a version that the server supports: after the `?`, write api-version=2025-07-01.",
    )


_DENIED_BY_POLICY = "The vault's access policy does not permit"
_DENIED_BY_ROLE = "No role permits"


def _unauthorised(response: _ErrorResponse, operation: Operation) -> KeyvouchError:
    return SessionLost(
        f"The vault rejected the token while {operation.description}: {response.text}",
        hint="Check that the login is for the vault's tenant, and this machine's clock.",
        performed=False,
    )


def _forbidden_by_another(response: _ErrorResponse, operation: Operation) -> AccessDenied:
    return AccessDenied(
        f"Access denied while {operation.description}, not by Key Vault: {response.text}", hint=_NOT_FROM_KEY_VAULT
    )


def _forbidden(response: _ErrorResponse, operation: Operation) -> KeyvouchError:
    for pattern, message, hint in _UNUSABLE_STATES:
        if re.search(pattern, f"{response.code} {response.text}"):
            return KeyUnusable(message, hint=hint.format(kind=operation.kind))
    words = f"{response.code} {response.text}".lower()
    if "firewall" in words or "client address" in words:
        return AccessDenied(
            f"The vault's firewall blocks this machine: {response.text}",
            hint="Run: az keyvault network-rule add --name VAULT --ip-address ...",
        )
    if "connection" in response.code.lower() or "public network access" in words:
        return AccessDenied(
            f"The vault can be reached only through its private endpoint: {response.text}",
            hint="Use the private endpoint's network, or enable public network access for the vault.",
        )
    return _permission_denied(response, operation)


def _permission_denied(response: _ErrorResponse, operation: Operation) -> AccessDenied:
    refused = re.search(r"does not have (\w+?)s?[ /](\w+) permission", response.text)
    if "policy" in response.code.lower() or refused:
        kind, verb = refused.groups() if refused else operation.permission.replace("s/", "/").split("/")
        caller = _caller(response.text)
        return AccessDenied(
            f"{_DENIED_BY_POLICY} {operation.description}: {response.text}",
            hint=f"Run: az keyvault set-policy --name VAULT --{kind}-permissions {verb} "
            f"{f'--object-id {caller}' if caller else '--spn CLIENT-ID'}",
        )
    return AccessDenied(
        f"{_DENIED_BY_ROLE} {operation.description}: {response.text}",
        hint=f'Run: az role assignment create --role "{operation.role}" '
        f"--assignee {_caller(response.text) or 'CLIENT-ID'} --scope VAULT-RESOURCE-ID\n"
        "A new assignment takes effect after some minutes.",
    )


def _caller(text: str) -> str:
    """Return the object ID of the refused user or application, if the service's text contains it."""
    found = re.search(r"\boid=([0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})\b", text)
    return found[1] if found else ""


def key_not_found(location: KeyLocation, uri: KeyUri | None = None) -> KeyNotFound:
    """Return the error for a certificate, a key or a version that does not exist."""
    kind = location.kind
    version = f" (version {location.version})" if location.version else ""
    listing = f"keyvouch keys --key {_vault_uri(uri).quoted}" if uri else f"keyvouch keys --key URI, without {kind}="
    vault_name = (urlsplit(location.vault).hostname or "").partition(".")[0]
    return KeyNotFound(
        f"{kind.capitalize()} not found: {location.name}{version} in {location.vault}.",
        hint=f"List the keys: {listing}\n"
        f"If the {kind} was deleted, run: az keyvault {kind} recover --name {location.name} --vault-name {vault_name}",
        uri=uri,
    )


def _vault_uri(uri: KeyUri) -> KeyUri:
    names = ("certificate", "key", "version", "spki-sha256", "certificate-file", "select", "settle")
    return split_identifier(uri).replace(dict.fromkeys(names))


def enabling_hint(location: KeyLocation, version: str) -> str:
    """Return the hint for a version that is disabled."""
    identifier = location.identifier(version)
    return f"Run: az keyvault {location.kind} set-attributes --enabled true --id {identifier}"


def _not_found(response: _ErrorResponse, operation: Operation) -> KeyvouchError:
    return _not_key_vault(response, operation) if operation.location is None else key_not_found(operation.location)


def _not_key_vault(response: _ErrorResponse, operation: Operation) -> StoreUnavailable:
    return StoreUnavailable(
        f"The server at this address is not Key Vault, or does not support {operation.description}"
        f" (API version {response.api_version}): {response.text}",
        hint="Correct vault=, or set api-version=. A Managed HSM has keys, but no certificates.",
    )


def _conflict(response: _ErrorResponse, operation: Operation) -> KeyvouchError:
    kind = operation.kind
    name = operation.location.name if operation.location else ""
    if "deleted" in f"{response.code} {response.text}".lower():
        return KeyExists(
            f"The name {name} belongs to a soft-deleted {kind}, until that is purged.",
            hint=f"Run: az keyvault {kind} recover --name {name} --vault-name VAULT\n"
            f"Or choose another name, or purge the {kind}: the same with `purge`.",
        )
    return Throttled(f"Another change is in progress: {response.text}", hint="Try again later.")


def _throttled(response: _ErrorResponse, operation: Operation) -> Throttled:
    return Throttled(
        f"The vault throttled the request while {operation.description}: {response.text}",
        hint="A vault allows a few thousand operations in 10 seconds: reuse assertions (`reuse`), or use two vaults.",
        retry_after=retry_delay(response.headers),
    )


def _bad_request(response: _ErrorResponse, operation: Operation) -> KeyvouchError:
    if operation.permission == "keys/sign":
        return AlgorithmUnsupported(
            f"The vault rejected the algorithm for this key: {response.text}",
            hint="Use an algorithm of the key's type.",
        )
    return NotSupported(
        f"The vault rejected the request while {operation.description}: {response.text}",
        hint="Use another type of key or another name.",
    )


def _from_sign_in(error: ClientAuthenticationError, auth: str) -> KeyvouchError:
    from azure.identity import CredentialUnavailableError

    # A credential chain raises the same error if it finds no credentials and if an authority refuses them.
    found_none = auth == "default" and "AADSTS" not in error.message
    if found_none or isinstance(error, CredentialUnavailableError):
        return missing_credential(error, auth)
    return SecretIncorrect(f"Failed to sign in with auth={auth}: {_reason(error)}", hint=_SIGN_IN_HINTS[auth])


_BY_STATUS: dict[int, Callable[[_ErrorResponse, Operation], KeyvouchError]] = {
    _BAD_REQUEST: _bad_request,
    _UNAUTHORISED: _unauthorised,
    _FORBIDDEN: _forbidden,
    _NOT_FOUND: _not_found,
    _CONFLICT: _conflict,
    _TOO_MANY_REQUESTS: _throttled,
}
"""The functions that translate error responses of the service, by status."""
_WITHOUT_CODE: dict[int, Callable[[_ErrorResponse, Operation], KeyvouchError]] = {
    _UNAUTHORISED: _unauthorised,
    _FORBIDDEN: _forbidden_by_another,
    _NOT_FOUND: _not_key_vault,
    _CONFLICT: _conflict,
    _TOO_MANY_REQUESTS: _throttled,
}
"""The same for responses that are not the service's; the other statuses are unexpected responses."""
