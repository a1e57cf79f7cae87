"""What is often written instead of a key's URI, and the URI to write.

Nothing here is accepted as a URI: a store may one day declare a scheme that is a mistake today.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import Any

from keyvouch._secrets.redaction import KEY_REFERENCE_KINDS, REFERENCE_KINDS, redact
from keyvouch.errors import ConfigurationError

_SUFFIXES = {"pfx": (".pfx", ".p12"), "pem": (".pem", ".key", ".crt", ".cer", ".jwk"), "pkcs11": (".so", ".dylib")}
"""The files of each scheme; for `pkcs11`, those of modules."""
_ALIASES = {
    **dict.fromkeys(("p12", "pkcs12", "pkcs-12"), "pfx"),
    **dict.fromkeys(("crt", "cer", "der", "key", "pkcs8", "p8", "rsa", "jwk", "jwks", "ssh"), "pem"),
    **dict.fromkeys(("p11", "pkcs-11", "hsm", "softhsm", "tpm", "tpm2", "smartcard"), "pkcs11"),
    **dict.fromkeys(("win", "certstore", "cert-store", "wincert", "capi", "cng", "ncrypt"), "windows"),
    **dict.fromkeys(("azure", "akv", "kv", "keyvault", "key-vault", "azurekeyvault", "azurekv"), "azure-keyvault"),
    **dict.fromkeys(("bao", "openbao", "hashicorp", "hashicorp-vault", "hashivault", "transit"), "vault"),
}
"""Names that users give to the schemes of this project."""
_FIRST_ATTRIBUTES = {
    "windows": ("thumbprint", "subject", "issuer", "store", "location", "container"),
    "pkcs11": ("token", "object", "slot-id", "serial", "module-path"),
    "azure-keyvault": ("vault", "certificate"),
    "pfx": ("path",),
}
_DIGITS = r"[0-9A-Fa-f]{40}|[0-9A-Fa-f]{64}"
_SEPARATORS = ":-\u200e\u200f"
_PROVIDER_PATH = re.compile(
    r"(?:[\w.\\/]*certificate::|cert:|windows:)?[\\/]*(LocalMachine|CurrentUser)[\\/]+(\w+)(?:[\\/]+(.*))?",
    re.IGNORECASE,
)
"""A path in PowerShell's drive `Cert:`; without the drive, as curl and stunnel write it."""
_REFERENCED_KEY = re.compile(rf"(?:pem|pfx):(?:(?:{'|'.join(KEY_REFERENCE_KINDS)}):|[/.]).*")
"""The beginning of a URI of a file or reference, where a text may contain several."""
_UNNAMED_THUMBPRINT = r"(?i)windows:(?:(\w+)[\\/]+)?([^;=?&\\/]+)((?:[;&][\w-]+=[^?]*)?)(?:\?.*)?"
_BYTE = "[ :]?[0-9A-Fa-f]{2}"
_MARKED_THUMBPRINT = rf"(?i)windows:(?:[^?]*;)?thumbprint=\?+(?:{_BYTE}){{20}}(?:(?:{_BYTE}){{12}})?(?![0-9A-Fa-f])"
"""With the invisible mark that Windows' dialog copies, in a file whose encoding does not have it."""
_VAULT_OBJECT = r"//([\w.-]+\.(?:vault|managedhsm)\.[\w.]+)(?::443)?/(keys|certificates|secrets)/([\w-]+)(?:/(\w+))?/?"
_TRANSIT_KEY = r"v1/([\w/-]+)/(?:keys|sign)/([\w.-]+)/?"
"""The path of a key in Vault's API."""


def undecoded(text: str) -> ConfigurationError | None:
    """Return the error for bytes of a command line that Python could not decode; None if there are none."""
    if text.isascii() or not re.search("[\udc80-\udcff]", text) or re.search("[\ud800-\udc7f\udd00-\udfff]", text):
        return None
    identity, query, rest = text.partition("?")
    typed = "".join(each if each.isascii() else _percent(each) for each in identity)
    line = redact(typed + query) + ("..." if rest else "")
    return ConfigurationError(
        f"Invalid URI: this process cannot decode its command line, whose encoding is {sys.getfilesystemencoding()}.",
        hint=f"Set PYTHONUTF8=1, or write the bytes percent-encoded: '{line}'.",
    )


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogateescape"))


def certificate_in_windows(text: str) -> ConfigurationError | None:
    """Return the error for a thumbprint, or a path in the Windows certificate store; None if the text is neither."""
    if digits := _thumbprint(text):
        return ConfigurationError(
            "Expected a key's URI, got a thumbprint.",
            hint=f"For a key in the Windows certificate store, write windows:thumbprint={digits}; for one in a file,"
            " pfx:PATH or pem:PATH.",
        )
    is_windows = text[:8].lower() == "windows:"
    if is_windows and re.match(_MARKED_THUMBPRINT, text):
        return ConfigurationError(
            "Unexpected character in front of the thumbprint.",
            hint="Delete it: it was copied from the certificate dialog, and may be invisible in an editor.",
        )
    found = _PROVIDER_PATH.fullmatch(text)
    if found is None:
        return _without_name(text) if is_windows else None
    location = "LocalMachine" if found[1].lower() == "localmachine" else "CurrentUser"
    where = f"store={'My' if found[2].lower() == 'my' else found[2]};location={location}"
    digits = _thumbprint(found[3] or "")
    hint = (
        f"Write 'windows:thumbprint={digits};{where}'."
        if digits
        else f"List the keys: keyvouch keys --key 'windows:{where}'"
    )
    return ConfigurationError("Expected a key's URI, got a path in the Windows certificate store.", hint=hint)


def _without_name(text: str) -> ConfigurationError | None:
    """Return the error for a thumbprint without `thumbprint=`, perhaps after the name of its store."""
    found = re.fullmatch(_UNNAMED_THUMBPRINT, text)
    if found is None or not (digits := _thumbprint(found[2])):
        return None
    store = f";store={found[1]}" if found[1] else ""
    rest = redact(found[3].replace("&", ";"))
    return ConfigurationError(
        "Expected name=value in every part of the URI.", hint=f"Write 'windows:thumbprint={digits}{store}{rest}'."
    )


def require_no_ampersand(value: str, declared: Mapping[str, Any]) -> None:
    """Raise `ConfigurationError` if `&` separates a declared attribute from this value, as it does after the `?`."""
    for part in value.split("&")[1:]:
        name, equals, _ = part.partition("=")
        if equals and name in declared:
            right = "?" if declared[name].query else ";"
            raise ConfigurationError(f'Expected {right} before "{name}", got &.', hint=f"Write ...{right}{name}=...")


def _thumbprint(text: str) -> str:
    """Return the digits of a thumbprint, as tools show it; empty if the text is something else."""
    digits = "".join(each for each in text if each not in _SEPARATORS and not each.isspace())
    return digits.upper() if re.fullmatch(_DIGITS, digits) else ""


def windows_path(text: str) -> ConfigurationError:
    """Return the error for a path without a scheme."""
    shown = _shown(text)
    return ConfigurationError(
        f"Expected a key's URI, got a path: {shown}.", hint=_for_path(shown.replace(chr(92), "/"))
    )


def several_uris(text: str) -> ConfigurationError | None:
    """Return the error for the URIs of several keys in one text; None for anything else."""
    uris = re.split(r"[\s,]+", text.strip())
    if len(uris) == 1 or not all(_REFERENCED_KEY.fullmatch(each) for each in uris):
        return None
    return ConfigurationError(
        f"Expected the URI of one key, got {len(uris)}.", hint="Use a profile for several keys: keys = [...]."
    )


def missing_scheme(text: str) -> ConfigurationError:
    """Return the error for a text without a scheme."""
    identity, shown = text.partition("?")[0], _shown(text)
    name = identity.partition("=")[0] if "=" in identity else ""
    scheme = next((scheme for scheme, names in _FIRST_ATTRIBUTES.items() if name in names), "")
    if text != text.strip():
        hint = "Remove the spaces around the URI."
    elif identity.startswith(("'", '"')):
        hint = "Remove the quotes around the URI. cmd.exe supports only double quotes."
    elif scheme:
        hint = f"Write '{scheme}:{shown}'."
    elif identity.startswith(("/", ".", "~")) or identity.lower().endswith(sum(_SUFFIXES.values(), ())):
        hint = _for_path(shown)
    elif re.fullmatch(r"\w+", text) and text in os.environ:
        hint = _for_reference(f"env:{text}")
    elif re.fullmatch(r"[A-Z]+(_[A-Z0-9]+)+", text):
        hint = f"Set the variable {text}. {_for_reference(f'env:{text}')}"
    else:
        hint = "A URI begins with a store's scheme and a colon; `keyvouch stores` lists the schemes."
    return ConfigurationError(f"Invalid URI {shown!r}: the scheme is missing.", hint=hint)


def unknown_scheme(text: str) -> ConfigurationError | None:
    """Return the error for a scheme that no store has, if the URI that was meant is known."""
    scheme, _, rest = text.partition(":")
    scheme = scheme.lower()
    if scheme == "file":
        hint = _for_file(rest)
    elif scheme in KEY_REFERENCE_KINDS:
        hint = _for_reference(_shown(text))
    elif scheme == "cert":
        hint = "For a file, write pfx:PATH or pem:PATH; for the Windows certificate store, windows:thumbprint=..."
    elif scheme in _ALIASES:
        hint = _for_alias(_ALIASES[scheme], rest)
    elif scheme in ("http", "https"):
        hint = _for_address(rest)
    else:
        return None
    return ConfigurationError(f"Unknown scheme {scheme}: in {_shown(text)!r}.", hint=hint)


def unknown_store(scheme: str) -> ConfigurationError | None:
    """Return the error for a scheme of another program, given without a URI, if the store that was meant is known."""
    stores = ("pfx", "pem") if scheme == "file" else ("windows",) if scheme == "cert" else (_ALIASES.get(scheme, ""),)
    if not any(stores):
        return None
    lines = " or ".join(f"keyvouch stores {each}" for each in stores)
    return ConfigurationError(f"Unknown scheme: {scheme}.", hint=f"Write: {lines}")


def _for_reference(reference: str) -> str:
    return f"Write pem:{reference} (or pfx:{reference})."


def _for_file(url: str) -> str:
    path = re.sub(r"^//(?:localhost)?(?=/)", "", url)
    path = re.sub(r"^/(?=[A-Za-z]:[\\/])", "", path)
    return _for_path(_shown(path))


def _for_path(shown: str) -> str:
    """Return a hint with the URIs of a file; a `~` is expanded, as a shell would have done without the scheme."""
    if shown.startswith(("~/", "~\\")):
        shown = os.path.expanduser("~") + shown[1:]  # noqa: PTH111 - `Path.home` raises for an account without one
    name = shown.partition("?")[0].lower()
    schemes = [scheme for scheme, suffixes in _SUFFIXES.items() if name.endswith(suffixes)] or ["pfx", "pem"]
    uris = (f"'pkcs11:?module-path={shown}'" if each == "pkcs11" else f"'{each}:{shown}'" for each in schemes)
    return f"Write {' or '.join(uris)}."


def _for_alias(scheme: str, rest: str) -> str:
    """Return a hint with what follows the scheme, unless the store needs attributes and there are none."""
    if scheme in ("pfx", "pem") or "=" in rest.partition("?")[0]:
        return f"Write '{scheme}:{_shown(rest)}'."
    return attributes_of(scheme)


def attributes_of(scheme: str) -> str:
    """Return the hint for a URI without attributes."""
    return f"Write {scheme}:NAME=VALUE...; `keyvouch stores {scheme}` lists the attributes."


def _for_address(rest: str) -> str:
    if found := re.fullmatch(_VAULT_OBJECT, rest):
        return f"Write '{_vault_uri(found)}'."
    host, _, path = _shown(rest.partition("?")[0]).removeprefix("//").partition("/")
    found = re.fullmatch(_TRANSIT_KEY, path)
    key = f"mount={found[1]};key={found[2]}" if found else "key=NAME"
    return f"For a key in Vault or OpenBao, write 'vault:address=https://{host};{key}?auth=...'."


def _vault_uri(found: re.Match[str]) -> str:
    kind = "key" if found[2] == "keys" else "certificate"  # the secret of a certificate has its name
    version = f";version={found[4]}" if found[4] else ""
    return f"azure-keyvault:vault=https://{found[1]};{kind}={found[3]}{version}"


def _shown(text: str) -> str:
    """Return what may be shown, without the part after `?`: text that cannot be parsed may contain a secret."""
    identity, query, _ = text.partition("?")
    return redact(identity) + ("?..." if query else "")


def require_no_reference(name: str, data: bytes) -> None:
    """Raise `ConfigurationError` for a reference to a secret as the value of an attribute that is not a secret."""
    kind, colon, _ = data.partition(b":")
    if colon and kind.decode(errors="replace") in REFERENCE_KINDS and not name.startswith("x-"):
        raise ConfigurationError(
            f'The attribute "{name}" cannot be a reference ({kind.decode()}:...): its value is not a secret.',
            hint=f"Write the value itself: {name}=VALUE.",
        )
