"""The attributes of this store's URIs, and the location of the key that a URI names."""

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

AUTH_METHODS = ("default", "managed-identity", "workload", "cli", "environment", "profile")
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

DEFAULT_API_VERSION = "7.4"
"""The version of the service's API that is requested, whatever the SDK's default: older servers support it too."""
_API_VERSION = re.compile(r"(\d{1,2}\.\d{1,2}|\d{4}-\d{2}-\d{2})(-preview(\.\d{1,2})?)?")
_NAME = r"[0-9A-Za-z-]{1,127}"
_VERSION = r"[0-9a-fA-F]{32}"
_IDENTIFIER = re.compile(
    rf"(?P<vault>https://[^/]+)/(?P<kind>certificates|keys)/(?P<name>{_NAME})(/(?P<version>{_VERSION}))?/?"
)
"""The identifier of a certificate or key, as the portal shows it."""


class KeyLocation(NamedTuple):
    """A key's location: the vault's URL, whether it is a certificate's key, its name, and its version if given."""

    vault: str
    is_certificate: bool
    name: str
    version: str | None

    @property
    def kind(self) -> str:
        """The name of its URI attribute, which is also its name in `az keyvault`."""
        return "certificate" if self.is_certificate else "key"

    def key_id(self, version: str) -> str:
        """Return the key identifier of a version."""
        return f"{self.vault}/keys/{self.name}/{version}"

    def identifier(self, version: str = "") -> str:
        """Return the identifier of the certificate or key, or of a version, for `az keyvault ... --id`."""
        return f"{self.vault}/{self.kind}s/{self.name}/{version}".rstrip("/")


def vault_url(uri: KeyUri) -> str:
    """Return the vault's URL, from `vault=` or the identifier in `url=`. Raises `ConfigurationError`."""
    if identifier := uri.get("url"):
        if "vault" in uri:
            raise ConfigurationError(
                "The URI contains both vault= and url=.", hint="Keep only one of them before the `?`.", uri=uri
            )
        return f"{_IDENTIFIER.fullmatch(identifier)['vault'].lower()}"  # type: ignore[index]  # matched when parsed
    url: str | None = uri.get("vault")
    if not url:
        raise ConfigurationError(
            "Missing vault URL.", hint="Write vault=https://NAME.vault.azure.net before the `?`.", uri=uri
        )
    return url


def is_managed_hsm(vault: str) -> bool:
    """Return whether a vault's URL is that of a Managed HSM, which has only keys."""
    return ".managedhsm." in vault


def split_identifier(uri: KeyUri) -> KeyUri:
    """Return the URI with `url=` split into its attributes. Raises `ConfigurationError` if it names two objects."""
    identifier = uri.get("url")
    found = _IDENTIFIER.fullmatch(identifier) if identifier else None
    if found:
        if [name for name in ("vault", "certificate", "key", "version") if name in uri]:
            raise ConfigurationError(
                "The URI names the key more than once.", hint="Keep only url= before the `?`.", uri=uri
            )
        kind = "certificate" if found["kind"] == "certificates" else "key"
        uri = uri.replace(
            {"url": None, "vault": found["vault"].lower(), kind: found["name"], "version": found["version"]}
        )
    if "certificate" in uri and "key" in uri:
        raise ConfigurationError(
            "The URI names both a certificate and a key.",
            hint="Write only certificate=; its key has the same name.",
            uri=uri,
        )
    return uri


def location_of(uri: KeyUri) -> KeyLocation:
    """Return the location of a URI's key. Raises `ConfigurationError` if the URI names no key, or two."""
    uri = split_identifier(uri)
    name = uri.get("certificate") or uri.get("key")
    if not name:
        raise ConfigurationError(
            "The URI names neither a certificate nor a key.", hint="Write certificate=NAME, or key=NAME.", uri=uri
        )
    return KeyLocation(vault_url(uri), "certificate" in uri, name, uri.get("version"))


def pin_version(uri: KeyUri, name: str, version: str) -> KeyUri:
    """Return the URI of exactly one version."""
    uri = split_identifier(uri).with_absolute_files()
    kind = "key" if "key" in uri else "certificate"
    return uri.replace({kind: name, "version": version, "select": None, "settle": None, "spki-sha256": None})


def is_version(text: object) -> bool:
    """Return whether this is the version of a certificate or key: 32 hexadecimal digits."""
    return isinstance(text, str) and bool(re.fullmatch(_VERSION, text))


def _parse_vault(value: bytes) -> str:
    text = value.decode().rstrip("/")
    if not is_origin(text, "https"):
        raise ValueError("expected https://NAME.vault.azure.net")
    return text.lower()


def _parse_identifier(value: bytes) -> str:
    text = value.decode()
    if re.match(r"https://[^/]+/secrets/", text):
        raise ValueError("a secret's identifier leads to the key itself: use the certificate's identifier")
    if not _IDENTIFIER.fullmatch(text):
        raise ValueError("expected https://HOST/certificates/NAME/VERSION or https://HOST/keys/NAME/VERSION")
    _parse_vault(_IDENTIFIER.fullmatch(text)["vault"].encode())  # type: ignore[index]
    return text


def _parse_name(value: bytes) -> str:
    text = value.decode()
    if not re.fullmatch(_NAME, text):
        raise ValueError("expected at most 127 letters, digits and hyphens")
    return text


def _parse_api_version(value: bytes) -> str:
    text = value.decode()
    if not _API_VERSION.fullmatch(text):
        raise ValueError(f"expected a version of the Key Vault API, such as {DEFAULT_API_VERSION} or 2025-07-01")
    return text


def _parse_version(value: bytes) -> str:
    text = value.decode()
    if not re.fullmatch(_VERSION, text):
        raise ValueError("expected 32 hexadecimal digits")
    return text.lower()


def _connection_attribute(name: str, help_: str, **more: object) -> Attribute:
    return Attribute(name, help_, query=True, connection=True, **more)  # type: ignore[arg-type]


ATTRIBUTES = (
    Attribute("vault", "the vault's URL, https://NAME.vault.azure.net", connection=True, parse=_parse_vault),
    Attribute("certificate", "the certificate's name; its key has the same name", parse=_parse_name),
    Attribute("key", "the name of a key without a certificate", parse=_parse_name),
    Attribute(
        "version",
        "the version of the certificate or key; default: the newest enabled, valid and settled one",
        parse=_parse_version,
    ),
    Attribute(
        "url",
        "the identifier that the portal shows, https://HOST/certificates/NAME/VERSION, instead of other attributes",
        connection=True,
        positional=True,
        parse=_parse_identifier,
    ),
    _connection_attribute(
        "auth",
        f"how to sign in: {', '.join(AUTH_METHODS)}",
        required_for=frozenset({"open", "generate"}),
        parse=parse_choice(*AUTH_METHODS),
    ),
    _connection_attribute("profile", "for auth=profile: the profile that signs in, with its own key"),
    _connection_attribute(
        "client-id", "the client ID of the user-assigned managed identity, or of the workload's application"
    ),
    _connection_attribute("ca-file", "CA certificates to trust for TLS, in PEM", parse=parse_path),
    _connection_attribute(
        "proxy", "the URL of an HTTP proxy, instead of the one in the environment", parse=parse_proxy
    ),
    _connection_attribute("proxy-credentials", "a reference to user:password for the proxy", secret=True),
    _connection_attribute(
        "api-version",
        "the version of the Key Vault API, for servers that support no newer or no older one",
        default=DEFAULT_API_VERSION,
        parse=_parse_api_version,
    ),
    Attribute("hsm", "true: create new keys in an HSM (Premium)", query=True, default=False, parse=parse_flag),
    Attribute(
        "disable",
        "true: deleting disables the version, which can be enabled again",
        query=True,
        default=False,
        parse=parse_flag,
    ),
    Attribute("purge", "true: deleting also purges, permanently", query=True, default=False, parse=parse_flag),
)
