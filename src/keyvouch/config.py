"""Profiles: what a program needs to sign in, in a TOML file that is trusted like code.

The file is the first of `KEYVOUCH_CONFIG`, the user's and the machine's; nothing is merged, and the working directory
is never looked into. An unknown field is an error, named with its file and profile.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from keyvouch import files, text
from keyvouch.errors import AccessDenied, ConfigurationError
from keyvouch.proxies import parse_proxy
from keyvouch.uri import is_reference, redact

_LOCK_TIMEOUT = 10.0
"""Seconds to wait for another process that is just adding a profile."""
_NAME = r"[A-Za-z0-9_-]+"

CLOUDS = {
    "public": "https://login.microsoftonline.com",
    "usgov": "https://login.microsoftonline.us",
    "china": "https://login.partner.microsoftonline.cn",
}
"""Where each of Microsoft's clouds signs in."""


class AssertionOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """How assertions are to look: as the options of `ClientAssertion`."""

    algorithm: str | None = None
    x5t: Literal["auto", "sha256", "sha1"] = "auto"
    kid: str | None = None
    send_x5c: bool = False
    lifetime: Annotated[int, msgspec.Meta(gt=0)] = 600
    audience: str | None = None
    reuse: Annotated[int, msgspec.Meta(ge=0)] = 0


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """One profile, with the defaults already in it."""

    tenant: str | None = None
    """Its id or a domain name; without one, `authority` is an OpenID Connect issuer."""
    client_id: str | None = None
    """Of the app registration."""
    scopes: tuple[str, ...] = ()
    """Asked for where a call names none."""
    keys: tuple[str, ...] = ()
    """URIs, the preferred one first."""
    cloud: Literal["public", "usgov", "china"] = "public"
    authority: str | None = None
    """Any other server's address, in place of `cloud`."""
    ca_file: str | None = None
    """PEM certificates that are trusted for TLS, in place of those that `requests` brings."""
    proxy: str | None = None
    """An HTTP proxy's address, in place of the environment's."""
    proxy_credentials: str | None = None
    """A reference to `user:password` for the proxy."""
    token_cache: Literal["user", "memory"] = "user"  # noqa: S105 - a place
    audit: str | None = None
    """`file:/path` or `syslog`: where the command writes audit records."""
    audit_required: bool = False
    """Whether the command fails if it cannot write an audit record; otherwise it prints a warning."""
    assertion: AssertionOptions = AssertionOptions()
    permissions: Literal["strict", "any"] = "strict"
    """"any" accepts files with secrets that everyone can read."""

    def __repr__(self) -> str:
        given = {name: value for name, value in msgspec.structs.asdict(self).items() if value}
        return f"<Profile {', '.join(f'{name}={_shown(value)!r}' for name, value in given.items())}>"


def _shown(value: object) -> object:
    """Return a field's value without the user and password that an address may have."""
    if isinstance(value, tuple):
        return tuple(map(_shown, value))
    return redact(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Configuration:
    """What one file says; `path` is None where there is none, and then `tried` tells where it could be."""

    path: Path | None
    tried: tuple[Path, ...]
    defaults: Mapping[str, Any] = field(repr=False)
    profiles: Mapping[str, Mapping[str, Any]] = field(repr=False)

    def profile(self, name: str) -> Profile:
        """Return the profile of this name. Raises `ConfigurationError`, with the paths tried and the names known."""
        if name not in self.profiles:
            shown = repr(name) if re.fullmatch(_NAME, name) else "of that name"  # it may be a URI with a secret in it
            raise ConfigurationError(f"There is no profile {shown}.", hint=self._what_there_is())
        self.default_profile()  # so that a mistake there is not put down to the profile
        own = self.profiles[name]
        inherited = dict(self.defaults)
        if "cloud" in own or "authority" in own:  # one stands in place of the other
            inherited.pop("cloud", None)
            inherited.pop("authority", None)
        return _convert({**inherited, **own}, f"{self.path}: profile {name!r}")

    def default_profile(self) -> Profile:
        """Return what `[defaults]` say by themselves."""
        return _convert(self.defaults, f"{self.path}: [defaults]")

    def pick(self, name: str | None = None) -> str:
        """Return the name given, else `KEYVOUCH_PROFILE`, else the only one there is."""
        name = name or os.environ.get("KEYVOUCH_PROFILE")
        if name:
            return name
        if len(self.profiles) == 1:
            return next(iter(self.profiles))
        raise ConfigurationError("No profile was named.", hint=f"Use --profile NAME. {self._what_there_is()}")

    def require_free(self, name: str) -> None:
        """Raise `ConfigurationError` where there is a profile of this name, or a profile cannot have it."""
        if not re.fullmatch(_NAME, name):
            raise ConfigurationError(f"{name!r} is no name for a profile.", hint="Use letters, digits, - and _.")
        if name in self.profiles:
            raise ConfigurationError(f"{self.path} has a profile {name!r} already.", hint="Choose another name.")

    def _what_there_is(self) -> str:
        if self.path is None:
            return f"No configuration was found; tried: {', '.join(map(str, self.tried))}."
        return f"{self.path} has: {', '.join(self.profiles) or 'no profiles'}."


def load(*, may_be_missing: bool = False) -> Configuration:
    """Read the configuration: the file that `KEYVOUCH_CONFIG` names, else the first that there is.

    Raises `ConfigurationError` for one that is missing although named (unless it `may_be_missing`, since it is about to
    be written), broken (with the line), or not trusted.
    """
    named = os.environ.get("KEYVOUCH_CONFIG")
    candidates = (Path(named),) if named else tuple(files.configuration_files())
    for candidate in candidates:
        if (named and not may_be_missing) or os.path.exists(candidate):  # noqa: PTH110 - `Path.exists` raises PermissionError
            return _read(_absolute(candidate), candidates)
    return Configuration(None, candidates, {}, {})


def _absolute(path: Path) -> Path:
    try:
        return path.absolute()
    except OSError as error:
        raise ConfigurationError("The working directory is gone.", hint="Change to one that exists.") from error


def add_profile(path: Path, name: str, fields: Mapping[str, object]) -> None:
    """Append a profile to the file, which is made where it is missing; what stands in it stays as it is.

    Raises `ConfigurationError` where the name is taken or the result would not be one that `load` takes.
    """
    files.make_folder(path.parent)
    # A file of its own: any account that can read the folder, or the configuration, could hold a lock on those.
    with files.locked(path.with_name(f".{path.name}.lock"), timeout=_LOCK_TIMEOUT):
        _append(path, name, fields)


def _append(path: Path, name: str, fields: Mapping[str, object]) -> None:
    exists = os.path.exists(path)  # noqa: PTH110 - `Path.exists` raises PermissionError
    there = _read(path, (path,)) if exists else Configuration(None, (path,), {}, {})
    there.require_free(name)
    written, replaces = "", None
    if there.path:  # octets, so that the ends of its lines stay as they are
        octets, status = files.read_with_status(path)
        written, replaces = text.decode(octets).rstrip("\n") + "\n\n", files.stamp(status)
    # A JSON string or list of strings is a TOML one too, but for DEL and the escapes of what is not ASCII.
    lines = [
        f"{field} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", r"\u007f")
        for field, value in fields.items()
        if value
    ]
    written += "\n".join([f"[profiles.{name}]", *lines]) + "\n"
    _convert(dict(fields), f"profile {name!r}")
    _parse(written, path, (path,)).profile(name)
    try:
        files.rewrite(path, written.encode(), replaces=replaces)
    except OSError as error:
        raise files.cannot_write(path, error) from error


def _read(path: Path, tried: tuple[Path, ...]) -> Configuration:
    try:
        files.check_trusted(path)
        octets = files.read(path)
        return _parse(text.decode(octets), path, tried)
    except FileNotFoundError:
        raise ConfigurationError(f"The configuration {path} does not exist.", hint="Correct its path.") from None
    except PermissionError as error:
        raise AccessDenied(
            f"The configuration {path} cannot be read: {error.strerror}.", hint=files.let_read(path, error)
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"The configuration {path} cannot be read: {error.strerror}.", hint="Name a file."
        ) from error
    except UnicodeDecodeError:
        raise ConfigurationError(f"The configuration {path} is not UTF-8.", hint=text.advice(octets, path)) from None


def _parse(written: str, path: Path, tried: tuple[Path, ...]) -> Configuration:
    try:
        document = tomllib.loads(written)
    except (ValueError, RecursionError) as error:  # a number of too many digits, tables in tables in tables
        raise ConfigurationError(
            f"The configuration {path} is not TOML: {error}.",
            hint="Correct that line. Paths with backslashes stand in single quotes.",
        ) from None
    return Configuration(path, tried, *_tables(document, path))


def _tables(document: dict[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    defaults, profiles = document.pop("defaults", {}), document.pop("profiles", {})
    if document:
        raise ConfigurationError(
            f"{path}: there is no table or field {next(iter(document))!r} at the top.",
            hint="There are [defaults] and [profiles.NAME].",
        )
    if not isinstance(defaults, dict):
        raise ConfigurationError(f"{path}: defaults is no table.", hint="Write [defaults].")
    if not isinstance(profiles, dict) or not all(isinstance(each, dict) for each in profiles.values()):
        raise ConfigurationError(f"{path}: profiles are tables.", hint="Write [profiles.NAME].")
    return defaults, profiles


def _require_printable(fields: Mapping[str, Any], place: str) -> None:
    """Refuse a control character in a path: what a backslash in double quotes has become."""
    for name in ("ca-file", "audit"):
        if any(character < " " for character in fields.get(name) or ""):
            raise ConfigurationError(
                f"{place}: {name} has a control character in it.",
                hint="Write it in single quotes: in double quotes a backslash begins an escape.",
            )


def _require_proxy(profile: Profile, place: str) -> None:
    """Refuse a proxy that is no address, and credentials that are no reference; neither is repeated."""
    try:
        parse_proxy((profile.proxy or "http://none").encode())
    except ValueError as error:
        raise ConfigurationError(f"{place}: Invalid proxy address.", hint=f"{error}".capitalize() + ".") from None
    if profile.proxy_credentials is not None and not is_reference(profile.proxy_credentials):
        raise ConfigurationError(
            f"{place}: proxy-credentials is not a reference to a secret.",
            hint='Put user:password elsewhere and write proxy-credentials = "env:NAME" or "file:/path".',
        )


def _convert(fields: Mapping[str, Any], place: str) -> Profile:
    # Each by itself, or the error would not name which profile it is (msgspec says `$.profiles[...]`).
    try:
        profile = msgspec.convert(dict(fields), Profile)
    except msgspec.ValidationError as error:
        message = str(error).replace("Object contains unknown field", "there is no field").replace("`", "'")
        message = message.replace("Expected 'str | null'", "it takes text").replace("Expected ", "it takes ")
        message = re.sub(r" - at '\$\.?(.*?)'$", lambda at: f" (in {at[1]})" if at[1] else "", message)
        known = ", ".join(field.encode_name for field in msgspec.structs.fields(Profile))
        raise ConfigurationError(f"{place}: {message}.", hint=f"The fields are {known}.") from None
    _require_printable(fields, place)
    _require_proxy(profile, place)
    if profile.authority and not profile.authority.startswith("https://"):
        raise ConfigurationError(f"{place}: the authority is no https address.", hint="Write https://...")
    if profile.authority and "@" in profile.authority:
        raise ConfigurationError(f"{place}: the authority has a user's name in it.", hint="Take it out.")
    return profile
