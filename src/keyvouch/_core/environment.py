"""Settings from environment variables, for containers, CI and functions, which often have no configuration file.

`KEYVOUCH_KEY` is the URI of a key, never the key itself. On request, what is not set here comes from the variables of
azure-identity's `EnvironmentCredential`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from keyvouch._core import field_hints
from keyvouch._secrets.redaction import contains_key, redact
from keyvouch._system import files
from keyvouch.errors import ConfigurationError

NAME = "environment variables"
"""What stands for a profile's name; no profile can have it."""
PROFILE = "KEYVOUCH_PROFILE"
"""The variable that names a profile, if there are no settings in variables."""
VARIABLES = {
    "tenant": "KEYVOUCH_TENANT",
    "client-id": "KEYVOUCH_CLIENT_ID",
    "keys": "KEYVOUCH_KEY",
    "scopes": "KEYVOUCH_SCOPES",
    "authority": "KEYVOUCH_AUTHORITY",
    "ca-file": "KEYVOUCH_CA_FILE",
    "assertion.algorithm": "KEYVOUCH_ASSERTION_ALGORITHM",
    "assertion.kid": "KEYVOUCH_ASSERTION_KID",
    "assertion.audience": "KEYVOUCH_ASSERTION_AUDIENCE",
    "assertion.x5t": "KEYVOUCH_ASSERTION_X5T",
}
"""The variable for each field of a profile, and of its table `assertion`."""
REQUIRED = (
    "KEYVOUCH_CLIENT_ID, KEYVOUCH_KEY, and KEYVOUCH_TENANT with KEYVOUCH_SCOPES (for a server that is not Microsoft's,"
    " KEYVOUCH_AUTHORITY instead)"
)
"""The variables that signing in requires."""
_PREFIX = "KEYVOUCH_"
USE_AZURE = "KEYVOUCH_USE_AZURE_VARIABLES"
AZURE_VARIABLES = {
    "tenant": "AZURE_TENANT_ID",
    "client-id": "AZURE_CLIENT_ID",
    "keys": "AZURE_CLIENT_CERTIFICATE_PATH",
    "authority": "AZURE_AUTHORITY_HOST",
}
"""The variable of azure-identity for each field."""
_AZURE_PASSWORD = "AZURE_CLIENT_CERTIFICATE_PASSWORD"  # noqa: S105 - the name of a variable
_AZURE_SEND_CHAIN = "AZURE_CLIENT_SEND_CERTIFICATE_CHAIN"
_FLAGS = {"true": True, "1": True, "false": False, "0": False, "": False}


def in_use() -> bool:
    """Return True if variables have settings, or azure-identity's are to be used. Raises `ConfigurationError`."""
    return bool(settings()) or uses_azure()


def settings() -> dict[str, Any]:
    """Return the fields of a profile that variables set; empty if they set none. Raises `ConfigurationError`."""
    found: dict[str, Any] = {field: value_of(variable) for field, variable in VARIABLES.items()}
    if uses_azure():
        found |= {field: value for field, value in _azure_settings().items() if not found.get(field)}
    for field in [each for each in found if "." in each]:
        if value := found.pop(field):
            found.setdefault("assertion", {})[field.removeprefix("assertion.")] = value
    found["scopes"] = found["scopes"].split()
    found["keys"] = [found["keys"]] if found["keys"] else []
    return {field: value for field, value in found.items() if value}


def options_to_set(text: str, profile: str) -> str:
    """Complete a hint such as "{kid} or {x5t}" with the names of options for assertions, and where they are written.

    `profile` is the name of the profile that has them; for `NAME` they are variables, without a name arguments.
    """
    names = {field.partition(".")[2]: variable for field, variable in VARIABLES.items() if "." in field}
    if profile == NAME:
        return text.format(**names)
    text = text.format(**{name: name for name in names})
    if not profile:
        return f"{text} in the argument assertion={{...}} (of the command: in the table of a profile)"
    return f"{text} in the profile's table assertion"


def in_variables(text: str) -> str:
    """Return a message or hint about fields of the table `assertion` with the names of their variables."""
    for field, variable in VARIABLES.items():
        if "." in field and field in text:
            text = text.replace(f"Write {field} =", f"Set {variable} to").replace(field, variable).replace('"', "")
    return text


def variables() -> tuple[str, ...]:
    """Return the values of all variables that `settings` uses, to find out whether they have changed."""
    azure = (*AZURE_VARIABLES.values(), _AZURE_PASSWORD, _AZURE_SEND_CHAIN)
    return tuple(os.environ.get(name, "") for name in (*VARIABLES.values(), USE_AZURE, *azure))


def profile_name() -> str:
    """Return the name in `KEYVOUCH_PROFILE`, without the spaces that cmd.exe's `set` keeps; empty if it is not set."""
    return value_of(PROFILE)


def require_no_profile() -> None:
    """Raise `ConfigurationError` if `KEYVOUCH_PROFILE` names a profile as well: one of the two would be ignored."""
    if profile_name():
        field = next((field for field, name in VARIABLES.items() if os.environ.get(name)), "")
        hint = f" For the profile, write {field} into its table." if field else ""
        raise ConfigurationError(
            f"{PROFILE} and {VARIABLES.get(field, USE_AZURE)} are both set.", hint=f"Unset one of them.{hint}"
        )


def hint_without_configuration() -> str:
    """Return a hint for a profile's name if there are no profiles, but settings in variables; empty otherwise."""
    if not (found := next((name for name in VARIABLES.values() if os.environ.get(name)), USE_AZURE * uses_azure())):
        return ""
    key = value_of(VARIABLES["keys"])
    uri = redact(key) if key else "pem:env:APP_KEY"
    return f"{found} is set: to use the settings in variables, leave out the name (to open only a key, write {uri})."


def hint_for_misspelled() -> str:
    """Return a hint for variables whose names are similar to those that are not set; empty if there are none."""
    found = []
    for name in os.environ:
        if not name.startswith(_PREFIX) or name in (*VARIABLES.values(), PROFILE, USE_AZURE, "KEYVOUCH_CONFIG"):
            continue
        field = field_hints.nearest(name.removeprefix(_PREFIX), [*VARIABLES])
        if field and not os.environ.get(VARIABLES[field]):
            found.append(f" Unknown variable {name}: did you mean {VARIABLES[field]}?")
    return "".join(found)


def missing(field: str) -> ConfigurationError:
    """Return the error for a field that no variable sets."""
    variable = VARIABLES.get(field, field)
    azure = f" or {AZURE_VARIABLES[field]}" if uses_azure() and field in AZURE_VARIABLES else ""
    other_server = "; for a server that is not Microsoft's, KEYVOUCH_AUTHORITY to its issuer"
    if value_of(VARIABLES["authority"]):
        other_server = "; for an OpenID Connect issuer, unset KEYVOUCH_TENANT"
    examples = {
        "keys": "KEYVOUCH_KEY=pem:env:APP_KEY, and APP_KEY to the key",
        "scopes": f"KEYVOUCH_SCOPES=https://graph.microsoft.com/.default for Entra ID{other_server}",
        "tenant": f"KEYVOUCH_TENANT for Entra ID{other_server}",
    }
    return ConfigurationError(
        f"The environment variable {variable}{azure} is not set.",
        hint=f"Set {examples.get(field, variable)}.{hint_for_misspelled()}",
    )


def uses_azure() -> bool:
    """Return True if the variables of azure-identity are to be used. Raises `ConfigurationError` for another value."""
    return _flag(USE_AZURE)


def _flag(variable: str) -> bool:
    value = os.environ.get(variable, "").strip().lower()
    if value not in _FLAGS:
        raise ConfigurationError(f"Invalid value of {variable}.", hint=f"Set {variable}=true, or unset it.")
    return _FLAGS[value]


def value_of(variable: str) -> str:
    """Return a variable's value without spaces and line ends around it. Raises `ConfigurationError` for a mistake."""
    value = os.environ.get(variable, "").strip()
    if contains_key(value):
        raise ConfigurationError(
            f"{variable} contains the key itself.",
            hint="Put the key into another variable, such as APP_KEY, and set KEYVOUCH_KEY=pem:env:APP_KEY"
            " (for a PFX in base64, pfx:env:APP_KEY).",
        )
    if value[:1] in ("'", '"') and value[-1:] == value[:1]:
        raise ConfigurationError(
            f"The value of {variable} is in quotes.",
            hint=f"Write {variable}=... without quotes: not every program that sets variables removes them.",
        )
    return value


def _azure_settings() -> dict[str, Any]:
    found: dict[str, Any] = {field: value_of(variable) for field, variable in AZURE_VARIABLES.items()}
    if found["keys"]:
        found["keys"] = _azure_key(found["keys"])
    if found["authority"] and "://" not in found["authority"]:  # azure-identity accepts a host too
        found["authority"] = f"https://{found['authority']}"
    if _flag(_AZURE_SEND_CHAIN):
        found["assertion"] = {"send-x5c": True}
    return found


def _azure_key(path: str) -> str:
    """Return the URI of a PEM or PFX file, which azure-identity distinguishes by its content."""
    from urllib.parse import quote

    try:
        scheme = "pem" if b"-----BEGIN" in files.read(Path(path)) else "pfx"
    except OSError:  # opening the key reports the actual error
        scheme = "pem" if Path(path).suffix.lower() in (".pem", ".key") else "pfx"
    password = f"?password=env:{_AZURE_PASSWORD}" if os.environ.get(_AZURE_PASSWORD) else ""
    return f"{scheme}:path={quote(os.fsencode(path))}{password}"
