"""Profiles: sign-in settings of programs, in a TOML file that is trusted like code.

The file is the first of `KEYVOUCH_CONFIG`, the user's and the machine's. Files are not merged, and the working
directory is never searched. An unknown field is an error that names the file and the profile.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from keyvouch._core import environment, field_hints
from keyvouch._secrets.redaction import is_reference, redact
from keyvouch._system import files, text
from keyvouch._system.forks import IMPORTS
from keyvouch.errors import AccessDenied, ConfigurationError

_LOCK_TIMEOUT = 10.0
"""Seconds to wait while another process adds a profile."""
_NAME = r"[A-Za-z0-9_-]+"
_OPTIONS = "Invalid option"
"""The source of a profile's field in errors, if an option of a command set it."""
_TOML_HINT = (
    'Correct that line. Write a field as name = "text", in straight quotes; a path with backslashes in single quotes.'
)

CLOUDS = {
    "public": "https://login.microsoftonline.com",
    "usgov": "https://login.microsoftonline.us",
    "china": "https://login.partner.microsoftonline.cn",
}
"""The sign-in address of each Microsoft cloud."""


class AssertionOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Options for assertions, with the names of `ClientAssertion`'s options."""

    algorithm: str | None = None
    x5t: Literal["auto", "sha256", "sha1", "none"] = "auto"
    kid: str | dict[str, str] | None = None
    send_x5c: bool = False
    lifetime: Annotated[int, msgspec.Meta(gt=0)] = 600
    audience: str | None = None
    reuse: Annotated[int, msgspec.Meta(ge=0)] = 0


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """One profile, with the defaults applied."""

    tenant: str | None = None
    """Tenant ID or domain name; without one, `authority` is an OpenID Connect issuer."""
    client_id: str | None = None
    """Client ID of the app registration."""
    scopes: tuple[str, ...] = ()
    """Requested if a call specifies none."""
    keys: tuple[str, ...] = ()
    """Key URIs, the preferred one first."""
    cloud: Literal["public", "usgov", "china"] = "public"
    authority: str | None = None
    """Address of any other authority, instead of `cloud`."""
    ca_file: str | None = None
    """PEM certificates trusted for TLS, instead of those that `requests` provides."""
    proxy: str | None = None
    """Address of an HTTP proxy, instead of the one from the environment."""
    proxy_credentials: str | None = None
    """A reference to `user:password` for the proxy."""
    token_cache: Literal["user", "memory"] = "user"  # noqa: S105 - a location
    audit: str | None = None
    """`file:/path` or `syslog`: where the command writes audit records."""
    audit_required: bool = False
    """If true, the command fails if it cannot write an audit record; otherwise it prints a warning."""
    assertion: AssertionOptions = AssertionOptions()
    permissions: Literal["strict", "any"] = "strict"
    """With "any", files with secrets may be readable by everyone."""

    def __repr__(self) -> str:
        given = {name: value for name, value in msgspec.structs.asdict(self).items() if value}
        return f"<Profile {', '.join(f'{name}={_redact_field(value)!r}' for name, value in given.items())}>"


def _redact_field(value: object) -> object:
    """Return a field's value without the user and password that an address may contain."""
    if isinstance(value, tuple):
        return tuple(map(_redact_field, value))
    return redact(value) if isinstance(value, str) else value


class Configuration(msgspec.Struct, frozen=True):
    """Contents of a configuration file; if there is no file, `path` is None and `tried` lists the possible paths."""

    path: Path | None
    tried: tuple[Path, ...]
    defaults: Mapping[str, Any]
    profiles: Mapping[str, Mapping[str, Any]]
    closed: Mapping[Path, PermissionError] = {}
    """Those of the possible paths that lie in a folder that this account may not enter."""

    def __repr__(self) -> str:
        return f"Configuration(path={self.path!r}, tried={self.tried!r})"

    def profile(self, name: str) -> Profile:
        """Return the profile of this name. Raises `ConfigurationError`, with the paths tried and the known names."""
        if name == environment.NAME:
            return self.environment_profile()
        self.require_reachable()
        if name not in self.profiles:
            shown = f": {name!r}" if re.fullmatch(_NAME, name) else ""  # it may be a URI with a secret in it
            origin = f" (from {environment.PROFILE})" if name == environment.profile_name() else ""
            raise ConfigurationError(f"Profile not found{shown}{origin}.", hint=self._known_profiles())
        self.default_profile()  # so that a mistake in the defaults is not attributed to the profile
        own = self.profiles[name]
        return _convert({**self._inherited_by(own), **own}, f"{self.path}: profile {name!r}")

    def environment_profile(self) -> Profile:
        """Return the settings in environment variables as a profile, with `[defaults]` for the others.

        Its tokens are not cached on disk, unless the defaults say so. Raises `ConfigurationError`.
        """
        self.default_profile()
        own = environment.settings()
        host = str(own.get("authority")).rstrip("/")
        if cloud := next((name for name, address in CLOUDS.items() if address == host), None):
            own["cloud"] = cloud
            del own["authority"]
        inherited = {"token-cache": "memory", **self._inherited_by(own)}
        own["assertion"] = {**inherited.get("assertion", {}), **own.get("assertion", {})}
        return _convert({**inherited, **own}, environment.NAME)

    def _inherited_by(self, own: Mapping[str, Any]) -> dict[str, Any]:
        overridden = {"cloud", "authority"} if "cloud" in own or "authority" in own else set()
        return {field: value for field, value in self.defaults.items() if field not in overridden}

    def default_profile(self) -> Profile:
        """Return `[defaults]` as a profile. Raises `ConfigurationError` if they are invalid."""
        return _convert(self.defaults, f"{self.path}: [defaults]")

    def pick(self, name: str | None = None) -> str:
        """Return the name given, else `environment.NAME` if variables have the settings, else `KEYVOUCH_PROFILE`'s.

        Without any of these, return the only profile. Raises `ConfigurationError`.
        """
        if not name and environment.in_use():
            environment.require_no_profile()
            return environment.NAME
        name = name or environment.profile_name()
        if name:
            return name
        if len(self.profiles) == 1:
            return next(iter(self.profiles))
        self.require_reachable()
        advice = "Use --profile NAME." if self.profiles else f"Add a profile, or set {environment.REQUIRED}."
        hint = f"{advice} {self._known_profiles()}{environment.hint_for_misspelled()}"
        raise ConfigurationError("No profile was specified.", hint=hint)

    def require_free(self, name: str) -> None:
        """Raise `ConfigurationError` if there is already a profile of this name, or the name is invalid."""
        if not re.fullmatch(_NAME, name):
            raise ConfigurationError(f"Invalid profile name: {name!r}.", hint="Use letters, digits, - and _.")
        if name in self.profiles:
            raise ConfigurationError(
                f"The profile {name!r} already exists in {self.path}.",
                hint=f"Choose another name, or edit {self.path}.",
            )

    def require_reachable(self) -> None:
        """Raise `AccessDenied` if no configuration was found, and there may be one that this account cannot reach."""
        if self.path is not None or not self.closed:
            return
        path = list(self.closed)[-1]  # rather the machine's: a job's HOME is often that of another account
        error = _cannot_read(path, self.closed[path])
        if path != self.tried[-1]:
            error.hint = f"Set HOME to this account's home directory, or use {self.tried[-1]}."
        raise error

    def _known_profiles(self) -> str:
        if self.path is None and any(map(is_null_device, self.tried)):
            return f"{self.tried[0]} means no configuration: unset KEYVOUCH_CONFIG, or name a file."
        if self.path is None:
            paths = ", ".join(map(str, self.tried))
            tried = f"No configuration file was found; tried: {paths}. `keyvouch profile add` creates one."
            return " ".join(filter(None, (environment.hint_without_configuration(), tried, files.foreign_home())))
        return f"{self.path} contains: {', '.join(self.profiles) or 'no profiles'}."


def load(path: str | os.PathLike[str] | None = None, *, may_be_missing: bool = False) -> Configuration:
    """Read the configuration: this file, or the one that `KEYVOUCH_CONFIG` names, else the first that exists.

    Raises `ConfigurationError` if the file named there is missing (unless it `may_be_missing`, since it is about to be
    written), invalid (with the line) or not trusted, and `AccessDenied` if it cannot be read.
    """
    named = path or environment.value_of("KEYVOUCH_CONFIG")
    candidates = (Path(named),) if named else tuple(files.configuration_files())
    closed: dict[Path, PermissionError] = {}
    for candidate in candidates:
        if is_null_device(candidate):
            break
        if (named and not may_be_missing) or _exists(candidate, closed):
            return _read(files.absolute(candidate), candidates)
    return Configuration(None, candidates, {}, {}, closed)


def is_null_device(path: Path) -> bool:
    """Return True for the null device, or a link to it: as a configuration, it means that there is none."""
    if sys.platform == "win32":
        return path.name.upper() == "NUL"
    try:
        return path.samefile(os.devnull)
    except (OSError, ValueError):
        return False


def _exists(path: Path, closed: dict[Path, PermissionError]) -> bool:
    """Return True if the file exists; record it as closed if this account may not find out."""
    try:
        path.stat()
    except PermissionError as error:
        closed[path] = error
    except (OSError, ValueError):
        return False
    return path not in closed


def add_profile(path: Path, name: str, fields: Mapping[str, object]) -> None:
    """Append a profile to the file, which is created if missing; its existing contents are kept.

    Raises `ConfigurationError` if the name is taken or `load` would not accept the result.
    """
    if is_null_device(path):
        raise ConfigurationError(
            f"Cannot add a profile to {path}, which means no configuration.",
            hint="Unset KEYVOUCH_CONFIG, or name a file: keyvouch --config FILE ...",
        )
    files.make_folder(path.parent)
    # A separate lock file: any account that can read the folder or the configuration could hold a lock on those.
    with files.locked(path.with_name(f".{path.name}.lock"), timeout=_LOCK_TIMEOUT):
        _append(path, name, fields)


def _append(path: Path, name: str, fields: Mapping[str, object]) -> None:
    exists = os.path.exists(path)  # noqa: PTH110 - `Path.exists` raises PermissionError
    existing = _read(path, (path,)) if exists else Configuration(None, (path,), {}, {})
    existing.require_free(name)
    content, replaces = "", None
    if existing.path:  # bytes, so that line endings are kept
        data, status = files.read_with_status(path)
        content, replaces = text.decode(data).rstrip("\n") + "\n\n", files.stamp(status)
    # A JSON string or list of strings is also valid TOML, except for DEL and escapes of non-ASCII characters.
    lines = [
        f"{field} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", r"\u007f")
        for field, value in fields.items()
        if value
    ]
    content += "\n".join([f"[profiles.{name}]", *lines]) + "\n"
    _convert(dict(fields), f"profile {name!r}")
    _parse(content, path, (path,)).profile(name)
    try:
        files.rewrite(path, content.encode(), replaces=replaces)
    except OSError as error:
        raise files.cannot_write(path, error) from error


def _read(path: Path, tried: tuple[Path, ...]) -> Configuration:
    try:
        files.check_trusted(path)
        data = files.read(path)
        return _parse(text.decode(data), path, tried)
    except FileNotFoundError:
        raise ConfigurationError(f"The configuration {path} does not exist.", hint="Correct its path.") from None
    except PermissionError as error:
        raise _cannot_read(path, error) from error
    except OSError as error:
        raise ConfigurationError(
            f"The configuration {path} cannot be read: {error.strerror}.", hint="Specify a file."
        ) from error
    except UnicodeDecodeError:
        raise ConfigurationError(f"The configuration {path} is not UTF-8.", hint=text.advice(data, path)) from None


def _cannot_read(path: Path, error: PermissionError) -> AccessDenied:
    return AccessDenied(
        f"The configuration {path} cannot be read: {error.strerror}.", hint=files.read_hint(path, error)
    )


def _parse(content: str, path: Path, tried: tuple[Path, ...]) -> Configuration:
    try:
        document = tomllib.loads(content)
    except (ValueError, RecursionError) as error:  # a number with too many digits, or tables nested too deeply
        raise ConfigurationError(
            f"The configuration {path} is not valid TOML: {error}.",
            hint=_TOML_HINT,
        ) from None
    return Configuration(path, tried, *_split_tables(document, path))


def _split_tables(document: dict[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    defaults, profiles = document.pop("defaults", {}), document.pop("profiles", {})
    if document:
        raise ConfigurationError(
            f"{path}: unknown table or field {next(iter(document))!r} at the top level.",
            hint="Use [defaults] and [profiles.NAME].",
        )
    if not isinstance(defaults, dict):
        raise ConfigurationError(f"{path}: defaults is not a table.", hint="Write [defaults].")
    if not isinstance(profiles, dict) or not all(isinstance(each, dict) for each in profiles.values()):
        raise ConfigurationError(f"{path}: profiles must contain only tables.", hint="Write [profiles.NAME].")
    return defaults, profiles


def _require_printable(fields: Mapping[str, Any], source: str) -> None:
    """Refuse a control character in a path: the result of a backslash in double quotes."""
    for name in ("ca-file", "audit"):
        if any(character < " " for character in fields.get(name) or ""):
            raise ConfigurationError(
                f"{source}: {name} contains a control character.",
                hint="Write it in single quotes: in double quotes a backslash begins an escape.",
            )


def _require_proxy(profile: Profile, source: str) -> None:
    """Refuse an invalid proxy address, and credentials that are not a reference; neither is repeated in the error."""
    if profile.proxy:
        with IMPORTS:
            from keyvouch.proxies import parse_proxy
        try:
            parse_proxy(profile.proxy.encode())
        except ValueError as error:
            raise ConfigurationError(f"{source}: invalid proxy URL.", hint=f"{error}".capitalize() + ".") from None
    if profile.proxy_credentials is not None and not is_reference(profile.proxy_credentials):
        raise ConfigurationError(
            f"{source}: proxy-credentials is not a reference to a secret.",
            hint='Put user:password elsewhere and write proxy-credentials = "env:NAME" or "file:/path".',
        )


def _convert(fields: Mapping[str, Any], source: str) -> Profile:
    # Convert each profile separately, or the error would not name it (msgspec says `$.profiles[...]`).
    try:
        profile = msgspec.convert(dict(fields), Profile)
    except msgspec.ValidationError as error:
        message = str(error).replace("Object contains unknown field", "unknown field").replace("`", "'")
        message = message.replace("Expected 'str | null'", "expected text").replace("Expected ", "expected ")
        message = re.sub(r" - at '\$\.?(.*?)'$", lambda at: f" (in {at[1]})" if at[1] else "", message)
        hint = field_hints.hint_for(str(error), fields, Profile)
        if source == environment.NAME:
            message, hint = environment.in_variables(message), environment.in_variables(hint)
        raise ConfigurationError(f"{source}: {message}.", hint=hint) from None
    _require_printable(fields, source)
    _require_one_server(fields, source)
    _require_valid(profile, source)
    return profile


def replace(profile: Profile, fields: Mapping[str, Any]) -> Profile:
    """Return the profile with other fields, from the options of a command. Raises `ConfigurationError`."""
    changed = msgspec.structs.replace(profile, **fields)
    _require_valid(changed, _OPTIONS)
    return changed


def _require_valid(profile: Profile, source: str) -> None:
    _require_proxy(profile, source)
    if profile.authority and not profile.authority.startswith("https://"):
        host = re.sub(r"^(\w+:(?!\d))?/*", "", redact(profile.authority))  # not a host in front of a port
        raise ConfigurationError(
            f"{source}: authority is not an https URL.",
            hint=f"Write {_assignment(source, 'authority', f'https://{host}')}",
        )
    if profile.authority and "@" in profile.authority:
        raise ConfigurationError(f"{source}: authority contains a user name.", hint="Remove it.")
    if profile.authority and "/.well-known/" in profile.authority:
        raise ConfigurationError(
            f"{source}: authority is the URL of a discovery document, not of the issuer.",
            hint=f"Write {profile.authority.partition('/.well-known/')[0]}",
        )
    _require_no_tenant_in_authority(profile, source)
    _require_plain(profile, source)


def _assignment(source: str, field: str, value: str) -> str:
    """Return how a field is set where the profile comes from: in a file, a variable or an option."""
    if source == environment.NAME:
        return f"{environment.VARIABLES[field]}={value}" if field in environment.VARIABLES else f'{field} = "{value}"'
    return f"--{field} {value}" if source == _OPTIONS else f'{field} = "{value}"'


def _require_plain(profile: Profile, source: str) -> None:
    """Refuse a tenant or client ID that would be sent, or become part of an address, as it was pasted."""
    for name, value, plain in (
        ("tenant", profile.tenant, _plain_tenant(profile.tenant or "")),
        ("client-id", profile.client_id, (profile.client_id or "").strip()),
    ):
        if value and value != plain:
            what = "is an address" if "://" in value else "has spaces or slashes around it"
            hint = f"Write {_assignment(source, name, redact(plain) or 'NAME')}"
            raise ConfigurationError(f"{source}: {name} {what}.", hint=hint)


def _plain_tenant(text: str) -> str:
    """Return the tenant's ID or domain name from its address, or from text with spaces and slashes around it."""
    _, sign, rest = text.partition("://")
    return (rest.partition("/")[2].partition("/")[0] if sign else text).strip(" /\t\r\n")


def _require_one_server(fields: Mapping[str, Any], source: str) -> None:
    if fields.get("cloud") and fields.get("authority"):
        raise ConfigurationError(
            f"{source}: cloud and authority are both set.",
            hint="Remove authority for a cloud of Microsoft's, or cloud for another server.",
        )


def _require_no_tenant_in_authority(profile: Profile, source: str) -> None:
    """Refuse an authority that ends with the tenant, which is appended to it, or that is a Microsoft cloud's."""
    address = (profile.authority or "").rstrip("/")
    host, _, path = address.removeprefix("https://").partition("/")
    cloud = next((name for name, url in CLOUDS.items() if url == f"https://{host}".lower()), None)
    tenant = path.partition("/")[0]
    if cloud and tenant and (profile.tenant or not path.endswith("/v2.0")):  # the latter is Entra ID's own issuer
        line = f"Write {_assignment(source, 'tenant', profile.tenant or tenant)}"
        if source in (_OPTIONS, environment.NAME):
            rest = f" and {_assignment(source, 'authority', f'https://{host}')}."
        else:
            rest = (f' and cloud = "{cloud}"' if cloud != "public" else "") + ", without authority."
        raise ConfigurationError(f"{source}: authority contains the tenant.", hint=line + rest)
    if profile.tenant and f"/{path}".lower().endswith(f"/{profile.tenant}".lower()):
        shorter = address[: -len(profile.tenant)].rstrip("/")
        raise ConfigurationError(
            f"{source}: authority contains the tenant.",
            hint=f"Write {_assignment(source, 'authority', shorter)}: tenant is appended to it."
            " For an OpenID Connect issuer, leave out the tenant instead.",
        )
