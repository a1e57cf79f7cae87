"""The attributes of this store's URIs, and how their values are parsed."""

from __future__ import annotations

import re

from keyvouch.hosts import is_origin
from keyvouch.https import is_loopback
from keyvouch.proxies import parse_proxy
from keyvouch.store import Attribute
from keyvouch.uri import parse_choice, parse_flag, parse_path

_BOTH = frozenset({"open", "generate"})
METHODS = ("token", "approle", "kubernetes", "jwt", "cert", "userpass", "ldap", "none")
"""The values of `auth=`."""


def _address(octets: bytes) -> str:
    text = octets.decode().rstrip("/")
    if not is_origin(text, "https", "http"):
        raise ValueError("write https://host:port")
    if is_origin(text, "http") and not is_loopback(text):
        raise ValueError("http is for loopback alone, as tokens would be read on the way: write https://")
    return text


def _path(octets: bytes) -> str:
    text = octets.decode().strip("/")
    if not re.fullmatch(r"[\w.@+-]+(/[\w.@+-]+)*", text) or {".", ".."} & {*text.split("/")}:
        raise ValueError("it takes letters, digits and . _ @ + -, with / between names")
    return text


def _name(octets: bytes) -> str:
    text = octets.decode()
    if not is_name(text):
        raise ValueError("it takes letters, digits and . _ @ + -")
    return text


def is_name(text: str) -> bool:
    """Return whether this is a valid name for a key or a user."""
    return bool(re.fullmatch(r"\w[\w.@+-]*", text))


def _namespace(octets: bytes) -> str:
    text = _path(octets)
    if not text.isascii():
        raise ValueError("it is sent in a header, which takes ASCII")
    return text


def _version(octets: bytes) -> int:
    if not re.fullmatch(rb"[1-9][0-9]{0,8}", octets):
        raise ValueError("versions are numbers from 1")
    return int(octets)


def _reached(name: str, help_: str, **more: object) -> Attribute:
    return Attribute(name, help_, query=True, connection=True, **more)  # type: ignore[arg-type]


ATTRIBUTES = (
    Attribute(
        "address",
        "the server's, https://host:port; http on loopback alone",
        connection=True,
        required_for=_BOTH,
        environment=("BAO_ADDR", "VAULT_ADDR"),
        parse=_address,
    ),
    Attribute(
        "namespace",
        "the namespace of log-in and key",
        connection=True,
        environment=("BAO_NAMESPACE", "VAULT_NAMESPACE"),
        parse=_namespace,
    ),
    Attribute("mount", "where the transit engine is mounted", default="transit", parse=_path),
    Attribute("key", "the key's name", required_for=_BOTH, parse=_name),
    Attribute("version", "of the key; else the certificate's, else the newest settled", parse=_version),
    _reached("auth", f"how to log in: {', '.join(METHODS)}", required_for=_BOTH, parse=parse_choice(*METHODS)),
    _reached("auth-mount", "where that log-in is mounted, if not under its own name", parse=_path),
    _reached("token", "auth=token: the token", secret=True),
    _reached("role-id", "auth=approle: the role's id"),
    _reached("secret-id", "auth=approle: the secret id", secret=True),
    _reached("wrapped-secret-id", "auth=approle: a token that the secret id is wrapped in, once", secret=True),
    _reached("role", "auth=kubernetes, jwt, cert: the role's name"),
    _reached("jwt", "auth=jwt: the JWT; auth=kubernetes: the service account's, if not the mounted one", secret=True),
    _reached("profile", "auth=jwt: the profile whose access token is the JWT"),
    _reached("scope", "auth=jwt, with profile=: what that token is for, api://vault/.default"),
    _reached("client-certificate-file", "auth=cert: the client's certificate, PEM", parse=parse_path),
    _reached("client-key-file", "auth=cert: its key, PEM, not encrypted", parse=parse_path),
    _reached("username", "auth=userpass, ldap: the user's name", parse=_name),
    _reached("password", "auth=userpass, ldap: the password", secret=True, lockout=True),
    _reached(
        "ca-file",
        "the certificates to trust for TLS, PEM",
        environment=("BAO_CACERT", "VAULT_CACERT"),
        parse=parse_path,
    ),
    _reached("proxy", "an HTTP proxy's address, in place of the environment's", parse=parse_proxy),
    _reached("proxy-credentials", "where user:password for the proxy is", secret=True),
    Attribute(
        "deletion-allowed",
        "true: a key that is made may be deleted again",
        query=True,
        default=False,
        parse=parse_flag,
    ),
)
NEEDED = {
    "token": ("token",),
    "approle": ("role-id",),
    "kubernetes": ("role",),
    "jwt": ("jwt",),
    "cert": ("client-certificate-file", "client-key-file"),
    "userpass": ("username", "password"),
    "ldap": ("username", "password"),
    "none": (),
}
"""The attributes that each `auth=` requires; with `profile=`, `scope=` is required in place of `jwt=`."""
