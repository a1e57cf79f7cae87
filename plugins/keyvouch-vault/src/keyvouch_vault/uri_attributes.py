"""The attributes of this store's URIs, and how their values are parsed."""

from __future__ import annotations

import re

from keyvouch.hosts import is_origin
from keyvouch.https import is_loopback
from keyvouch.proxies import parse_proxy
from keyvouch.store import Attribute
from keyvouch.uri import parse_choice, parse_flag, parse_path

_REQUIRED_FOR = frozenset({"open", "generate"})
AUTH_METHODS = ("token", "approle", "kubernetes", "jwt", "cert", "userpass", "ldap", "none")
"""The values of `auth=`."""


def _parse_address(data: bytes) -> str:
    text = data.decode().rstrip("/")
    if not is_origin(text, "https", "http"):
        raise ValueError("expected https://host:port")
    if is_origin(text, "http") and not is_loopback(text):
        raise ValueError("http would expose tokens and is allowed only on loopback: use https://")
    return text


def _parse_mount_path(data: bytes) -> str:
    text = data.decode().strip("/")
    if not re.fullmatch(r"[\w.@+-]+(/[\w.@+-]+)*", text) or {".", ".."} & {*text.split("/")}:
        raise ValueError("expected names separated by /, of letters, digits and . _ @ + -")
    return text


def _parse_name(data: bytes) -> str:
    text = data.decode()
    if not is_valid_name(text):
        raise ValueError("expected letters, digits and . _ @ + -")
    return text


def is_valid_name(text: str) -> bool:
    """Return True if this is a valid name for a key or a user."""
    return bool(re.fullmatch(r"\w[\w.@+-]*", text))


def _parse_namespace(data: bytes) -> str:
    text = _parse_mount_path(data)
    if not text.isascii():
        raise ValueError("expected ASCII, because it is sent in an HTTP header")
    return text


def _parse_version(data: bytes) -> int:
    if not re.fullmatch(rb"[1-9][0-9]{0,8}", data):
        raise ValueError("expected a number, 1 or higher")
    return int(data)


def _connection_attribute(name: str, help_: str, **more: object) -> Attribute:
    return Attribute(name, help_, query=True, connection=True, **more)  # type: ignore[arg-type]


ATTRIBUTES = (
    Attribute(
        "address",
        "the server's address, https://host:port; http only on loopback",
        connection=True,
        required_for=_REQUIRED_FOR,
        environment=("BAO_ADDR", "VAULT_ADDR"),
        parse=_parse_address,
    ),
    Attribute(
        "namespace",
        "the namespace of the auth method and the key",
        connection=True,
        environment=("BAO_NAMESPACE", "VAULT_NAMESPACE"),
        parse=_parse_namespace,
    ),
    Attribute("mount", "the mount path of the transit engine", default="transit", parse=_parse_mount_path),
    Attribute("key", "the key's name", required_for=_REQUIRED_FOR, parse=_parse_name),
    Attribute(
        "version", "the key version; else the one with this certificate, else the newest settled", parse=_parse_version
    ),
    _connection_attribute(
        "auth",
        f"the auth method: {', '.join(AUTH_METHODS)}",
        required_for=_REQUIRED_FOR,
        parse=parse_choice(*AUTH_METHODS),
    ),
    _connection_attribute(
        "auth-mount", "the mount path of the auth method, if not its own name", parse=_parse_mount_path
    ),
    _connection_attribute("token", "auth=token: the token", secret=True),
    _connection_attribute("role-id", "auth=approle: the role ID"),
    _connection_attribute("secret-id", "auth=approle: the secret ID", secret=True),
    _connection_attribute(
        "wrapped-secret-id", "auth=approle: the wrapping token of a secret ID; it works only once", secret=True
    ),
    _connection_attribute("role", "auth=kubernetes, jwt, cert: the role's name"),
    _connection_attribute(
        "jwt", "auth=jwt: the JWT; auth=kubernetes: the service account token, if not the mounted one", secret=True
    ),
    _connection_attribute("profile", "auth=jwt: the profile whose access token is the JWT"),
    _connection_attribute("scope", "auth=jwt with profile=: the access token's scope, such as api://vault/.default"),
    _connection_attribute("client-certificate-file", "auth=cert: the client certificate, PEM", parse=parse_path),
    _connection_attribute("client-key-file", "auth=cert: its private key, PEM, not encrypted", parse=parse_path),
    _connection_attribute("username", "auth=userpass, ldap: the user name", parse=_parse_name),
    _connection_attribute("password", "auth=userpass, ldap: the password", secret=True),
    _connection_attribute(
        "ca-file",
        "the certificates to trust for TLS, PEM",
        environment=("BAO_CACERT", "VAULT_CACERT"),
        parse=parse_path,
    ),
    _connection_attribute("proxy", "the address of an HTTP proxy, instead of the environment's", parse=parse_proxy),
    _connection_attribute("proxy-credentials", "user:password for the proxy", secret=True),
    Attribute(
        "deletion-allowed",
        "true: a newly created key may be deleted later",
        query=True,
        default=False,
        parse=parse_flag,
    ),
)
REQUIRED_BY_METHOD = {
    "token": ("token",),
    "approle": ("role-id",),
    "kubernetes": ("role",),
    "jwt": ("jwt",),
    "cert": ("client-certificate-file", "client-key-file"),
    "userpass": ("username", "password"),
    "ldap": ("username", "password"),
    "none": (),
}
"""The attributes that each `auth=` requires; with `profile=`, `scope=` is required instead of `jwt=`."""
