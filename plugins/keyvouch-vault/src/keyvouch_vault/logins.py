"""Log-in methods, each of which returns a token and its lifetime."""

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
from keyvouch_vault.failures import as_log_in_error, is_dead_token
from keyvouch_vault.replies import SecretId, Token, Wrapping

if TYPE_CHECKING:
    from keyvouch.secrets import SecretResolver
    from keyvouch.uri import KeyUri

_CONTROL = re.compile(r"[\x00-\x1F\x7F]")
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


@dataclass(frozen=True)
class Grant:
    """The token that a log-in returned."""

    token: Secret
    seconds: float
    """The token's lifetime; 0 if it never expires."""
    renewable: bool
    ours: bool = True
    """Whether the token was created for this log-in, and may be revoked at its end."""


class LogIn:
    """The log-in method that a URI selects. Secrets are read again each time; a wrapped secret is unwrapped once."""

    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:
        self._uri = uri
        self._secrets = secrets
        self._method: str = uri.get("auth")
        self._mount: str = uri.get("auth-mount") or self._method
        self._unwrapped: tuple[Secret, Secret] | None = None
        """The wrapping token that was unwrapped, and the secret id in it."""

    def do(self, client: Any) -> Grant:
        """Log in with a client that has no token; a token given in the URI is verified by looking it up.

        Raises `SecretIncorrect`, `SecretRequired`, `AccessDenied`, `ConfigurationError`, `StoreUnavailable`.
        """
        way: Callable[[Any], Grant] = getattr(self, f"_{self._method}")
        try:
            return way(client)
        except VaultError as error:
            raise as_log_in_error(error, self._method) from error

    def _post(self, client: Any, path: str = "login", **fields: str | None) -> Grant:
        given = {name: value for name, value in fields.items() if value is not None}
        auth = client.adapter.post(f"/v1/auth/{quote(self._mount)}/{path}", json=given).granted()
        return Grant(Secret(auth.client_token), auth.lease_duration, auth.renewable)

    def _read_token(self, name: str) -> Secret:
        """Read a secret that must have the syntax of a token. Raises `SecretIncorrect`, and what `get` raises."""
        token = self._secrets.get(self._uri, name)
        require_token(token.reveal(), name, self._uri.get(name))
        return token

    def _token(self, client: Any) -> Grant:
        return _looked_up(client, self._read_token("token"))

    def _none(self, client: Any) -> Grant:
        """Look up the token that a local proxy adds to each request."""
        return _looked_up(client, Secret(""))

    def _approle(self, client: Any) -> Grant:
        secret_id = self._secret_id(client)
        return self._post(
            client, role_id=self._uri.get("role-id"), secret_id=secret_id.reveal() if secret_id is not None else None
        )

    def _secret_id(self, client: Any) -> Secret | None:
        if "secret-id" in self._uri:
            return self._read_token("secret-id")
        if "wrapped-secret-id" not in self._uri:
            return None  # some roles require no secret id
        wrapping = self._read_token("wrapped-secret-id")
        if self._unwrapped is None or self._unwrapped[0] != wrapping:
            self._unwrapped = wrapping, self._unwrap(client, wrapping)
        return self._unwrapped[1]

    def _unwrap(self, client: Any, wrapping: Secret) -> Secret:
        """Unwrap the secret id, which works only once.

        Raises `SecretIncorrect` if it was unwrapped before, has expired or belongs to another log-in.
        """
        header = {"X-Vault-Token": wrapping.reveal()}
        try:
            looked_up = client.adapter.post("/v1/sys/wrapping/lookup", json={"token": wrapping.reveal()})
            path = looked_up.data_as(Wrapping).creation_path
            if not (path.startswith(f"auth/{self._mount}/role/") and path.endswith("/secret-id")):
                raise SecretIncorrect(
                    "What is wrapped is no secret id of this log-in.",
                    hint="Somebody may have put it there: tell who runs the server, and wrap a new one.",
                )
            answer = client.adapter.post("/v1/sys/wrapping/unwrap", headers=header)
        except (exceptions.InvalidRequest, exceptions.Forbidden, exceptions.InvalidPath) as error:
            raise SecretIncorrect(
                "The wrapped secret id was unwrapped before, or its time is over.",
                hint="If it was not unwrapped here, somebody else has it: destroy it. Wrap a new one.",
            ) from error
        return Secret(answer.data_as(SecretId).secret_id)

    def _kubernetes(self, client: Any) -> Grant:
        if "jwt" in self._uri:
            return self._jwt(client)
        try:
            # Not read like other secret files: Kubernetes mounts it so that everyone in the pod can read it.
            token = Secret(files.read(_SERVICE_ACCOUNT).decode(errors="replace").strip())
        except OSError:
            raise SecretRequired(
                "There is no service account's token here.",
                hint="Is this a pod? Else name the token's place: jwt=file:/path.",
            ) from None
        require_token(token.reveal(), "service account's token", str(_SERVICE_ACCOUNT))
        return self._post(client, role=self._uri.get("role"), jwt=token.reveal())

    def _jwt(self, client: Any) -> Grant:
        if "profile" in self._uri:
            profile, scope = self._uri.get("profile"), self._uri.get("scope")
            token: Secret = self._secrets.access_token(
                profile, scope, timeout=max(0.0, client.adapter.pools.limits.left())
            )
        else:
            token = self._read_token("jwt")
        return self._post(client, role=self._uri.get("role"), jwt=token.reveal())

    def _cert(self, client: Any) -> Grant:
        return self._post(client, name=self._uri.get("role"))

    def _userpass(self, client: Any) -> Grant:
        user = self._uri.get("username")
        target = f"{self._uri.get('address')} {self._uri.get('namespace') or ''} {self._mount} {user}"
        with self._secrets.attempt(self._uri, "password", target=target) as password:
            try:
                if _CONTROL.search(password.reveal()) is None:
                    return self._post(client, f"login/{quote(user)}", password=password.reveal())
            except VaultError as error:  # inside the block, which records that this password was refused
                raise as_log_in_error(error, self._method) from error
        # Outside the block, which would record that the server refused it.
        raise SecretIncorrect(
            f"The password from {self._uri.get('password')} contains line breaks or other control characters.",
            hint="Store only the password there.",
        )

    _ldap = _userpass


def _looked_up(client: Any, token: Secret) -> Grant:
    headers = {"X-Vault-Token": token.reveal()} if token.reveal() else {}
    try:
        found = client.adapter.get("/v1/auth/token/lookup-self", headers=headers).data_as(Token)
    except exceptions.Forbidden as error:
        if is_dead_token(error):
            raise
        return Grant(token, 0, renewable=False, ours=False)  # a policy denies the look-up, so the token is valid
    return Grant(token, found.ttl, found.renewable, ours=False)


def client_certificate(uri: KeyUri, secrets: SecretResolver) -> tuple[str, str] | None:
    """Return the paths of the client certificate and its key, or None if the log-in method does not use them."""
    if uri.get("auth") != "cert":
        return None
    key = uri.get("client-key-file")
    try:
        secrets.read_private(Path(key))
    except OSError as error:
        raise _unreadable(key) from error
    return uri.get("client-certificate-file"), key


def _unreadable(key: str) -> KeyvouchError:
    return SecretRequired(f"The client's key {key} cannot be read.", hint="Correct client-key-file=.")
