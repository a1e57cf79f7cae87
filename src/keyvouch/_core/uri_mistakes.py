"""What people type instead of a key's URI, and the line to type.

Nothing here is accepted as a URI: a store may one day declare a scheme that is a mistake today.
"""

from __future__ import annotations

import re
import sys
from pathlib import PurePosixPath

from keyvouch._secrets.redaction import REFERENCE_KINDS, redact
from keyvouch.errors import ConfigurationError

_SEPARATORS = "[ :\u200e\u200f-]"
_BYTE = rf"(?:[0-9a-fA-F]{{2}}{_SEPARATORS}*)"
_THUMBPRINT = re.compile(rf"{_SEPARATORS}*{_BYTE}{{20}}(?:{_BYTE}{{12}})?")
"""SHA-1 or SHA-256, as OpenSSL, PowerShell and the certificate dialog show it."""
_CERTIFICATE_DRIVE = re.compile(
    r"(?:Microsoft\.PowerShell\.Security\\Certificate::|cert:)[\\/]*(CurrentUser|LocalMachine)[\\/](\w+)(?:[\\/](.*))?",
    re.IGNORECASE,
)
_SCHEMES = {
    "pfx": ("p12", "pkcs12", "pkcs#12", "pfx12"),
    "pem": ("key", "crt", "cer", "der", "pkcs8", "p8", "rsa"),
    "azure-keyvault": ("azure", "akv", "keyvault", "key-vault", "azurekeyvault", "kv", "azurekv"),
    "vault": ("hashivault", "hashicorp", "hcvault", "openbao", "bao", "transit"),
    "windows": ("win", "cert", "certstore", "wincert", "capi", "cng", "ncrypt"),
    "pkcs11": ("p11", "hsm", "softhsm", "yubikey", "tpm", "tpm2", "smartcard"),
}
"""The scheme of a store, and what it is called elsewhere."""
_AS_TYPED = ("pfx", "pem")
"""What follows a wrong scheme is valid after these."""


def require_no_mistake(text: str) -> None:
    """Raise `ConfigurationError` for a text that is certainly something else than a URI."""
    if re.search("[\udc80-\udcff]", text) and not re.search("[\ud800-\udc7f\udd00-\udfff]", text):
        raise _undecoded(text)
    if _THUMBPRINT.fullmatch(text):
        digits = re.sub(_SEPARATORS, "", text).upper()
        raise ConfigurationError(
            "Expected a key's URI, got a certificate's thumbprint.", hint=f"Write windows:thumbprint={digits}."
        )
    if found := _CERTIFICATE_DRIVE.fullmatch(text):
        raise ConfigurationError(
            f"Expected a key's URI, got a path of PowerShell's certificate drive: {text}.",
            hint=f"Write '{_windows_uri(*found.groups())}'.",
        )


def _windows_uri(location: str, store: str, thumbprint: str | None) -> str:
    place = f"location={'LocalMachine' if location.lower() == 'localmachine' else 'CurrentUser'}"
    if store.lower() != "my":
        place += f";store={store}"
    return f"windows:thumbprint={thumbprint.upper()};{place}" if thumbprint else f"windows:{place}"


def _undecoded(text: str) -> ConfigurationError:
    """Return the error for bytes of a command line that Python could not decode."""
    identity, query, rest = text.partition("?")
    typed = "".join(each if each.isascii() else _percent(each) for each in identity)
    line = redact(typed + query) + ("..." if rest else "")
    return ConfigurationError(
        f"Invalid URI: this process cannot decode its command line, whose encoding is {sys.getfilesystemencoding()}.",
        hint=f"Set PYTHONUTF8=1, or write the bytes percent-encoded: '{line}'.",
    )


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogateescape"))


def hint_for_scheme(text: str) -> str:
    """Return a hint for a URI whose scheme no store has: the one that is meant; empty if that is unknown."""
    scheme, _, rest = text.partition(":")
    shown = redact(rest.partition("?")[0]) + ("?..." if "?" in rest else "")
    if scheme in ("http", "https"):
        return _hint_for_address(f"{scheme}:{shown}")
    if scheme == "file":
        path = re.sub("^//(localhost)?(?=/)", "", shown)
        suffix = PurePosixPath(path.partition("?")[0]).suffix.lower()
        return f"Write {'pfx' if suffix in ('.pfx', '.p12') else 'pem'}:{path}"
    meant = next((each for each, names in _SCHEMES.items() if scheme in names), None)
    if meant is None:
        return ""
    return f"Write {meant}:{shown}" if meant in _AS_TYPED else f"Write {meant}:..., see `keyvouch stores {meant}`."


def _hint_for_address(address: str) -> str:
    host = address.partition("//")[2].partition("/")[0].lower()
    if host.endswith((".vault.azure.net", ".vault.azure.cn", ".vault.usgovcloudapi.net", ".managedhsm.azure.net")):
        return f"Write 'azure-keyvault:{address.partition('?')[0]}?auth=...', see `keyvouch stores azure-keyvault`."
    return f"Write the scheme of its store first, such as vault:address={address};key=NAME?auth=..."


def require_no_reference(name: str, data: bytes) -> None:
    """Raise `ConfigurationError` for a reference to a secret as the value of an attribute that is not a secret."""
    kind, colon, _ = data.partition(b":")
    if colon and kind.decode(errors="replace") in REFERENCE_KINDS and not name.startswith("x-"):
        raise ConfigurationError(
            f'The attribute "{name}" cannot be a reference ({kind.decode()}:...): its value is not a secret.',
            hint=f"Write the value itself: {name}=VALUE.",
        )
