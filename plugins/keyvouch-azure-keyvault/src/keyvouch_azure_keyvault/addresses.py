"""The attributes of this store's URIs, and a key's location."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from keyvouch.errors import ConfigurationError
from keyvouch.hosts import is_origin
from keyvouch.proxies import parse_proxy
from keyvouch.store import Attribute
from keyvouch.uri import parse_choice, parse_flag, parse_path

if TYPE_CHECKING:
    from keyvouch.uri import KeyUri

METHODS = ("default", "managed-identity", "workload", "cli", "environment", "profile")
"""The values of `auth=`; azure-identity implements all but the last."""
RESOURCES = (
    "https://vault.azure.net",
    "https://vault.azure.cn",
    "https://vault.usgovcloudapi.net",
    "https://vault.microsoftazure.de",
    "https://managedhsm.azure.net",
    "https://managedhsm.azure.cn",
    "https://managedhsm.usgovcloudapi.net",
)
"""The resources that tokens are for, in each cloud; a vault's host ends with the host of one of these."""

_NAME = r"[0-9A-Za-z-]{1,127}"
_VERSION = r"[0-9a-fA-F]{32}"
_PASTED = re.compile(
    rf"(?P<vault>https://[^/]+)/(?P<kind>certificates|keys)/(?P<name>{_NAME})(/(?P<version>{_VERSION}))?/?"
)


class Place(NamedTuple):
    """A key's location: the vault's address, whether it is a certificate's key, its name, and its version if given."""

    vault: str
    is_certificate: bool
    name: str
    version: str | None

    @property
    def kind(self) -> str:
        """The name of its URI attribute, which is also its name in `az keyvault`."""
        return "certificate" if self.is_certificate else "key"

    def id_of(self, version: str) -> str:
        """Return the key identifier of a version."""
        return f"{self.vault}/keys/{self.name}/{version}"


def vault_of(uri: KeyUri) -> str:
    """Return the vault's address, from `vault=` or the pasted `url=`. Raises `ConfigurationError`."""
    if pasted := uri.get("url"):
        if "vault" in uri:
            raise ConfigurationError("The vault stands there twice.", hint="Keep vault= or url=, not both.", uri=uri)
        return f"{_PASTED.fullmatch(pasted)['vault'].lower()}"  # type: ignore[index]  # it matched when it was parsed
    address: str | None = uri.get("vault")
    if not address:
        raise ConfigurationError(
            "The vault's address is missing.", hint="Write vault=https://NAME.vault.azure.net before the `?`.", uri=uri
        )
    return address


def named(uri: KeyUri) -> KeyUri:
    """Return the URI with `url=` split into its attributes. Raises `ConfigurationError` if it names two objects."""
    pasted = uri.get("url")
    found = _PASTED.fullmatch(pasted) if pasted else None
    if found:
        if [name for name in ("vault", "certificate", "key", "version") if name in uri]:
            raise ConfigurationError("The key stands there twice.", hint="Keep url= alone before the `?`.", uri=uri)
        kind = "certificate" if found["kind"] == "certificates" else "key"
        uri = uri.replace(
            {"url": None, "vault": found["vault"].lower(), kind: found["name"], "version": found["version"]}
        )
    if "certificate" in uri and "key" in uri:
        raise ConfigurationError(
            "The URI names a certificate and a key.", hint="Write certificate=; its key has the same name.", uri=uri
        )
    return uri


def place_of(uri: KeyUri) -> Place:
    """Return the location of a URI's key. Raises `ConfigurationError` if the URI names no key, or two."""
    uri = named(uri)
    name = uri.get("certificate") or uri.get("key")
    if not name:
        raise ConfigurationError(
            "The URI names no certificate and no key.", hint="Write certificate=NAME, or key=NAME.", uri=uri
        )
    return Place(vault_of(uri), "certificate" in uri, name, uri.get("version"))


def pinned(uri: KeyUri, name: str, version: str) -> KeyUri:
    """Return the URI of exactly one version."""
    uri = named(uri)
    kind = "key" if "key" in uri else "certificate"
    return uri.replace({kind: name, "version": version, "select": None, "settle": None, "spki-sha256": None})


def is_version(text: object) -> bool:
    """Return whether this is the version of a certificate or key: 32 hexadecimal digits."""
    return isinstance(text, str) and bool(re.fullmatch(_VERSION, text))


def _vault(octets: bytes) -> str:
    text = octets.decode().rstrip("/")
    if not is_origin(text, "https"):
        raise ValueError("write https://NAME.vault.azure.net")
    return text.lower()


def _url(octets: bytes) -> str:
    text = octets.decode()
    if re.match(r"https://[^/]+/secrets/", text):
        raise ValueError("it is a secret's address, which holds the key itself: write that of the certificate")
    if not _PASTED.fullmatch(text):
        raise ValueError("it is https://HOST/certificates/NAME/VERSION, or /keys/NAME/VERSION")
    _vault(_PASTED.fullmatch(text)["vault"].encode())  # type: ignore[index]
    return text


def _name(octets: bytes) -> str:
    text = octets.decode()
    if not re.fullmatch(_NAME, text):
        raise ValueError("it takes letters, digits and -, 127 at most")
    return text


def _version(octets: bytes) -> str:
    text = octets.decode()
    if not re.fullmatch(_VERSION, text):
        raise ValueError("a version has 32 hexadecimal digits")
    return text.lower()


def _reached(name: str, help_: str, **more: object) -> Attribute:
    return Attribute(name, help_, query=True, connection=True, **more)  # type: ignore[arg-type]


ATTRIBUTES = (
    Attribute("vault", "the vault's address, https://NAME.vault.azure.net", connection=True, parse=_vault),
    Attribute("certificate", "the certificate's name; the key is its own", parse=_name),
    Attribute("key", "the name of a key without certificate", parse=_name),
    Attribute("version", "of the certificate or key; else the newest enabled, valid and settled one", parse=_version),
    Attribute(
        "url",
        "in place of all these: the address that the portal shows, https://HOST/certificates/NAME/VERSION",
        connection=True,
        positional=True,
        parse=_url,
    ),
    _reached(
        "auth",
        f"how to sign in: {', '.join(METHODS)}",
        required_for=frozenset({"open", "generate"}),
        parse=parse_choice(*METHODS),
    ),
    _reached("profile", "auth=profile: the profile that signs in, with a key of its own"),
    _reached("client-id", "of the user-assigned managed identity, or of the workload's application"),
    _reached("ca-file", "the certificates to trust for TLS, PEM", parse=parse_path),
    _reached("proxy", "an HTTP proxy's address, in place of the environment's", parse=parse_proxy),
    _reached("proxy-credentials", "where user:password for the proxy is", secret=True),
    Attribute(
        "hsm", "true: a key that is made is made in an HSM (Premium)", query=True, default=False, parse=parse_flag
    ),
    Attribute(
        "disable",
        "true: deleting disables the version, which can be enabled again",
        query=True,
        default=False,
        parse=parse_flag,
    ),
    Attribute(
        "purge", "true: what is deleted is purged as well, for good", query=True, default=False, parse=parse_flag
    ),
)
