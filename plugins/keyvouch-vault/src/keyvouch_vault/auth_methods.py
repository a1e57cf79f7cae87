"""Auth methods, each of which logs in and returns a token with its lifetime."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from hvac import exceptions
from hvac.exceptions import VaultError

from keyvouch import files
from keyvouch.errors import KeyvouchError, SecretIncorrect, SecretRequired
from keyvouch.secrets import Secret
from keyvouch.tokens import require_token
from keyvouch_vault.error_translation import is_invalid_token, login_error
from keyvouch_vault.responses import TokenLookup, UnwrappedSecretId, WrappingLookup

if TYPE_CHECKING:
    from keyvouch.secrets import SecretResolver
    from keyvouch.uri import KeyUri

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1F\x7F]")
_SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


@dataclass(frozen=True)
class ClientToken:
    """The token that a login returned, or that the URI refers to."""

    value: Secret
    ttl: float
    """The lifetime in seconds from the login; 0 if it never expires."""
    renewable: bool
    created_by_login: bool = True
    """True if the token was created for this login, and is revoked at its end."""


class AuthMethod:
    """The auth method that a URI selects. Secrets are read at each login; a wrapped secret ID is unwrapped once."""

    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:
        self._uri = uri
        self._secrets = secrets
        self._method: str = uri.get("auth")
        self._mount: str = uri.get("auth-mount") or self._method
        self._unwrapped: tuple[Secret, Secret] | None = None
        """The wrapping token that was unwrapped, and the secret ID that it contained."""

    def log_in(self, client: Any) -> ClientToken:
        """Log in with a client that has no token; a token given in the URI is verified by looking it up.

        Raises `SecretIncorrect`, `SecretRequired`, `AccessDenied`, `ConfigurationError`, `StoreUnavailable`.
        """
        log_in: Callable[[Any], ClientToken] = getattr(self, f"_{self._method}")
        try:
            return log_in(client)
        except VaultError as error:
            raise login_error(error, self._method, self._mount) from error

    def _post(self, client: Any, path: str = "login", **fields: str | None) -> ClientToken:
        given = {name: value for name, value in fields.items() if value is not None}
        auth = client.adapter.post(f"/v1/auth/{quote(self._mount)}/{path}", json=given).auth()
        return ClientToken(Secret(auth.client_token), auth.lease_duration, auth.renewable)

    def _read_token(self, name: str) -> Secret:
        """Read a secret that must have the syntax of a token. Raises `SecretIncorrect`, and what `get` raises."""
        token = self._secrets.get(self._uri, name)
        require_token(token.reveal(), name, self._uri.get(name))
        return token

    def _token(self, client: Any) -> ClientToken:
        return _look_up(client, self._read_token("token"))

    def _none(self, client: Any) -> ClientToken:
        """Look up the token that a local proxy adds to each request."""
        return _look_up(client, Secret(""))

    def _approle(self, client: Any) -> ClientToken:
        secret_id = self._secret_id(client)
        return self._post(
            client, role_id=self._uri.get("role-id"), secret_id=secret_id.reveal() if secret_id is not None else None
        )

    def _secret_id(self, client: Any) -> Secret | None:
        if "secret-id" in self._uri:
            return self._read_token("secret-id")
        if "wrapped-secret-id" not in self._uri:
            return None  # some roles require no secret ID
        wrapping_token = self._read_token("wrapped-secret-id")
        if self._unwrapped is None or self._unwrapped[0] != wrapping_token:
            self._unwrapped = wrapping_token, self._unwrap(client, wrapping_token)
        return self._unwrapped[1]

    def _unwrap(self, client: Any, wrapping_token: Secret) -> Secret:
        """Unwrap the secret ID, which works only once.

        Raises `SecretIncorrect` if it was unwrapped before, has expired or belongs to another auth method.
        """
        header = {"X-Vault-Token": wrapping_token.reveal()}
        try:
            response = client.adapter.post("/v1/sys/wrapping/lookup", json={"token": wrapping_token.reveal()})
            path = response.data_as(WrappingLookup).creation_path
            if not (path.startswith(f"auth/{self._mount}/role/") and path.endswith("/secret-id")):
                raise SecretIncorrect(
                    "The wrapping token does not contain a secret ID of this auth method.",
                    hint="Somebody may have replaced it: notify the server's administrator, and wrap a new secret ID.",
                )
            response = client.adapter.post("/v1/sys/wrapping/unwrap", headers=header)
        except (exceptions.InvalidRequest, exceptions.Forbidden, exceptions.InvalidPath) as error:
            raise SecretIncorrect(
                "The wrapped secret ID was already unwrapped, or has expired.",
                hint="If you did not unwrap it, revoke the secret ID: someone else has it. Then wrap a new one.",
            ) from error
        return Secret(response.data_as(UnwrappedSecretId).secret_id)

    def _kubernetes(self, client: Any) -> ClientToken:
        if "jwt" in self._uri:
            return self._jwt(client)
        try:
            # Not read like other secret files: Kubernetes mounts it so that everyone in the pod can read it.
            token = Secret(files.read(_SERVICE_ACCOUNT_TOKEN).decode(errors="replace").strip())
        except OSError:
            raise SecretRequired(
                f"Cannot read the service account token {_SERVICE_ACCOUNT_TOKEN}.",
                hint="Outside a pod, say where the token is: jwt=file:/path.",
            ) from None
        require_token(token.reveal(), "service account token", str(_SERVICE_ACCOUNT_TOKEN))
        return self._post(client, role=self._uri.get("role"), jwt=token.reveal())

    def _jwt(self, client: Any) -> ClientToken:
        if "profile" in self._uri:
            profile, scope = self._uri.get("profile"), self._uri.get("scope")
            token: Secret = self._secrets.access_token(
                profile, scope, timeout=max(0.0, client.adapter.pools.limits.left())
            )
        else:
            token = self._read_token("jwt")
        return self._post(client, role=self._uri.get("role"), jwt=token.reveal())

    def _cert(self, client: Any) -> ClientToken:
        return self._post(client, name=self._uri.get("role"))

    def _userpass(self, client: Any) -> ClientToken:
        user = self._uri.get("username")
        target = f"{self._uri.get('address')} {self._uri.get('namespace') or ''} {self._mount} {user}"
        with self._secrets.attempt(self._uri, "password", target=target) as password:
            try:
                if _CONTROL_CHARACTERS.search(password.reveal()) is None:
                    return self._post(client, f"login/{quote(user)}", password=password.reveal())
            except VaultError as error:  # inside the block, which records that this password was refused
                raise login_error(error, self._method, self._mount) from error
        # Outside the block, which would record that the server refused it.
        raise SecretIncorrect(
            f"The password from {self._uri.get('password')} contains line breaks or other control characters.",
            hint="Store only the password there.",
        )

    _ldap = _userpass


def _look_up(client: Any, token: Secret) -> ClientToken:
    headers = {"X-Vault-Token": token.reveal()} if token.reveal() else {}
    try:
        lookup = client.adapter.get("/v1/auth/token/lookup-self", headers=headers).data_as(TokenLookup)
    except exceptions.Forbidden as error:
        if is_invalid_token(error):
            raise
        # A policy denies the look-up, so the token is valid.
        return ClientToken(token, 0, renewable=False, created_by_login=False)
    return ClientToken(token, lookup.ttl, lookup.renewable, created_by_login=False)


def client_certificate(uri: KeyUri, secrets: SecretResolver) -> tuple[str, str] | None:
    """Return the paths of the client certificate and its key, or None if the auth method does not use them."""
    if uri.get("auth") != "cert":
        return None
    key = uri.get("client-key-file")
    try:
        secrets.read_private(Path(key))
    except OSError as error:
        raise _unreadable(key) from error
    return uri.get("client-certificate-file"), key


def _unreadable(key: str) -> KeyvouchError:
    return SecretRequired(f"Cannot read the client key {key}.", hint="Correct client-key-file=.")
