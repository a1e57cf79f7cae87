"""What is often written instead of a key's URI, and the URI to write."""

from __future__ import annotations

import re

from keyvouch._secrets.redaction import redact
from keyvouch.errors import ConfigurationError

_PFX, _PEM = (".pfx", ".p12"), (".pem", ".key", ".crt", ".cer")
_ALIASES = {
    **dict.fromkeys(("p12", "pkcs12", "pkcs-12"), "pfx"),
    **dict.fromkeys(("crt", "cer", "key", "pkcs8"), "pem"),
    **dict.fromkeys(("p11", "pkcs-11", "hsm", "softhsm", "tpm"), "pkcs11"),
    **dict.fromkeys(("certstore", "cert-store", "wincert", "capi", "cng"), "windows"),
    **dict.fromkeys(("akv", "keyvault", "key-vault", "azurekeyvault"), "azure-keyvault"),
    **dict.fromkeys(("bao", "openbao", "hashicorp", "hashicorp-vault"), "vault"),
}
"""Names that users give to the schemes of this project."""
_FIRST_ATTRIBUTES = {
    "windows": ("thumbprint", "subject", "issuer", "store", "location", "container"),
    "pkcs11": ("token", "object", "slot-id", "serial", "module-path"),
    "azure-keyvault": ("vault", "certificate"),
    "pfx": ("path",),
}
_DIGITS = r"[0-9A-Fa-f]{40}|[0-9A-Fa-f]{64}"
_SEPARATORS = re.compile("[:\\s\u200e\u200f-]")
_PROVIDER_PATH = re.compile(
    r"(?:[\w.\\/]*certificate::|cert:)?[\\/]*(LocalMachine|CurrentUser)[\\/]+(\w+)(?:[\\/]+(.*))?", re.IGNORECASE
)
"""A path in PowerShell's drive `Cert:`; without the drive, as curl and stunnel write it."""
_VAULT_OBJECT = re.compile(r"//([\w.-]+\.vault\.[\w.]+)(?::443)?/(keys|certificates|secrets)/([\w-]+)(?:/(\w+))?/?")


def certificate_in_windows(text: str) -> ConfigurationError | None:
    """Return the error for a thumbprint, or a path in the Windows certificate store; None if the text is neither."""
    if digits := _thumbprint(text):
        return ConfigurationError(
            "Expected a key's URI, got a thumbprint.",
            hint=f"For a key in the Windows certificate store, write windows:thumbprint={digits}; for one in a file,"
            " pfx:PATH or pem:PATH.",
        )
    found = _PROVIDER_PATH.fullmatch(text)
    if found is None:
        return None
    location = "LocalMachine" if found[1].lower() == "localmachine" else "CurrentUser"
    where = f"store={'My' if found[2].lower() == 'my' else found[2]};location={location}"
    digits = _thumbprint(found[3] or "")
    hint = (
        f"Write 'windows:thumbprint={digits};{where}'."
        if digits
        else f"List the keys: keyvouch keys --key 'windows:{where}'"
    )
    return ConfigurationError("Expected a key's URI, got a path in the Windows certificate store.", hint=hint)


def _thumbprint(text: str) -> str:
    """Return the digits of a thumbprint, as tools show it; empty if the text is something else."""
    digits = _SEPARATORS.sub("", text)
    return digits.upper() if re.fullmatch(_DIGITS, digits) else ""


def windows_path(text: str) -> ConfigurationError:
    """Return the error for a path without a scheme."""
    shown = _shown(text)
    return ConfigurationError(
        f"Expected a key's URI, got a path: {shown}.", hint=f"Write pfx:{shown.replace(chr(92), '/')} (or pem:...)."
    )


def missing_scheme(text: str) -> ConfigurationError:
    """Return the error for a text without a scheme."""
    identity, shown = text.partition("?")[0], _shown(text)
    name = identity.partition("=")[0] if "=" in identity else ""
    scheme = next((scheme for scheme, names in _FIRST_ATTRIBUTES.items() if name in names), "")
    if identity.startswith(("'", '"')):
        hint = "Remove the quotes around the URI. cmd.exe supports only double quotes."
    elif scheme:
        hint = f"Write '{scheme}:{shown}'."
    elif identity.startswith(("/", ".", "~")) or identity.endswith((".pfx", ".p12", ".pem", ".key")):
        hint = f"Write pfx:{shown} or pem:{shown}."
    else:
        hint = "A URI begins with a store's scheme and a colon; `keyvouch stores` lists the schemes."
    return ConfigurationError(f"Invalid URI {shown!r}: the scheme is missing.", hint=hint)


def unknown_scheme(text: str) -> ConfigurationError | None:
    """Return the error for a scheme that no store has, if the URI that was meant is known."""
    scheme, _, rest = text.partition(":")
    scheme = scheme.lower()
    if scheme == "file":
        hint = _for_file(rest)
    elif scheme == "cert":
        hint = "For a file, write pfx:PATH or pem:PATH; for the Windows certificate store, windows:thumbprint=..."
    elif scheme in _ALIASES:
        hint = f"Write '{_ALIASES[scheme]}:{_shown(rest)}'."
    elif scheme == "https" and (found := _VAULT_OBJECT.fullmatch(rest)):
        hint = f"Write '{_vault_uri(found)}'."
    else:
        return None
    return ConfigurationError(f"Unknown scheme {scheme}: in {_shown(text)!r}.", hint=hint)


def _for_file(url: str) -> str:
    path = re.sub(r"^//(?:localhost)?(?=/)", "", url)
    path = re.sub(r"^/(?=[A-Za-z]:[\\/])", "", path)
    identity, shown = path.partition("?")[0].lower(), _shown(path)
    schemes = [each for each, ends in (("pfx", _PFX), ("pem", _PEM)) if identity.endswith(ends)] or ["pfx", "pem"]
    uris = (f"'{each}:{shown}'" for each in schemes)
    return f"Write {' or '.join(uris)}."


def _vault_uri(found: re.Match[str]) -> str:
    kind = "key" if found[2] == "keys" else "certificate"  # the secret of a certificate has its name
    version = f";version={found[4]}" if found[4] else ""
    return f"azure-keyvault:vault=https://{found[1]};{kind}={found[3]}{version}"


def _shown(text: str) -> str:
    """Return what may be shown, without the part after `?`: text that cannot be parsed may contain a secret."""
    identity, query, _ = text.partition("?")
    return redact(identity) + ("?..." if query else "")
