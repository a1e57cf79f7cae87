"""Which profile and key a command uses, from `--profile`, `--key` and the configuration."""

from __future__ import annotations

import contextlib
import os
import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct, structs

from keyvouch import config
from keyvouch._core import environment
from keyvouch._system import files
from keyvouch._system.text import printable
from keyvouch.cli import logs
from keyvouch.cli.inputs import is_interactive
from keyvouch.config import Configuration, Profile
from keyvouch.errors import KeyvouchError

if TYPE_CHECKING:
    from keyvouch._core.key_management import Store
    from keyvouch._core.signer import Signer
    from keyvouch.secrets import SecretResolver

# `opening` is imported inside the functions, since it takes longer than printing a cached token, which needs no key.


class Selection(Struct, frozen=True, dict=True):
    """The result of combining `--profile` and `--key`."""

    name: str
    """The profile's name; `environment.NAME` for settings in variables; empty if only `--key` was given."""
    profile: Profile
    """The profile's settings, or the defaults; `keys` are the ones to use."""
    own_key: bool
    """False if `--key` or a variable names the key: only references from a profile may run programs."""
    confirm: bool = False
    """Prompt twice for a secret, since it will protect something new."""

    @cached_property
    def secrets(self) -> SecretResolver:
        """The resolver for the key's secrets."""
        return self._resolver(confirm=self.confirm)

    @cached_property
    def new_secrets(self) -> SecretResolver:
        """A resolver under the same rules that prompts twice, for the password of something new."""
        return self._resolver(confirm=True)

    def _resolver(self, *, confirm: bool) -> SecretResolver:
        from keyvouch._core import opening

        return opening.resolver_for(self.profile, interactive=is_interactive(), confirm=confirm, commands=self.own_key)

    def with_key(self, key: str) -> Selection:
        """Return the same selection with only this one of its keys."""
        return structs.replace(self, profile=structs.replace(self.profile, keys=(key,)))

    def open(self) -> Signer:
        """Return a signer for the first key that can be opened."""
        from keyvouch._core import opening

        if self.name == environment.NAME and not self.profile.keys:
            raise environment.missing("keys")
        keys = opening.parse_keys(self.profile, self.name) if self.name else self.profile.keys
        return opening.open_first(keys, self.secrets)

    def open_store(self) -> Store:
        """Open the store of the first key."""
        from keyvouch._core import key_management, opening

        if not self.profile.keys:
            if self.name == environment.NAME:
                raise environment.missing("keys")
            raise click.UsageError(f"The profile {self.name!r} has no keys. Use --key URI.")
        return key_management.Store(opening.parse(self.profile.keys[0]), self.secrets)


def select(
    profile: str | None, key: str | None, *, may_be_missing: bool = False, confirm: bool = False, **overrides: Any
) -> Selection:
    """Combine the options: a profile, a profile with another key, or a key with the default settings.

    `overrides` replace the profile's fields unless they are None. Audit records go to the profile's destination.
    `may_be_missing` allows a missing configuration file that is about to be written; `confirm` prompts twice for the
    password of something new.
    """
    if key is not None and key.lower().startswith("profile:"):
        profile, key = key.partition(":")[2], None
    configuration = config.load(may_be_missing=may_be_missing)
    key_only = key is not None and profile is None
    name = "" if key_only else configuration.pick(profile)
    found = _default_profile(configuration) if key_only else configuration.profile(name)
    _require_printable(overrides.values())
    if key is not None and name:
        _require_valid(key)
    if key is not None:
        # An explicitly given key must be used: a token acquired with another key would not test it.
        overrides |= {"keys": (key,), "token_cache": "memory"}
    found = config.replace(found, {field: value for field, value in overrides.items() if value is not None})
    logs.silence_libraries()
    if found.audit:
        logs.write_audit(found.audit, required=found.audit_required)
    # As for --key, references of a key that a variable names may not run programs.
    return Selection(name, found, own_key=key is None and name != environment.NAME, confirm=confirm)


def warn_of_hidden_profile(name: str) -> None:
    """Warn root if its own configuration has a profile that is also in the machine's, which other accounts read."""
    if sys.platform == "win32" or os.geteuid() or environment.value_of("KEYVOUCH_CONFIG"):
        return
    machine = files.configuration_files()[-1]
    with contextlib.suppress(KeyvouchError):
        own = config.load()
        if own.path not in (None, machine) and name in own.profiles and name in config.load(machine).profiles:
            text = f"The profile {name!r} is from {own.path}, not from {machine}, which other accounts use."
            click.echo(text, err=True)


def _require_valid(key: str) -> None:
    """Raise the error for an invalid `--key`: later it would seem to be in the profile."""
    from keyvouch._core import opening

    try:
        opening.parse(key)
    except KeyvouchError as error:
        error.message = f"--key: {error.message}"
        raise


def _default_profile(configuration: Configuration) -> Profile:
    return configuration.environment_profile() if environment.in_use() else configuration.default_profile()


def _require_printable(values: Any) -> None:
    for value in values:
        if isinstance(value, str) and not value.isprintable():  # includes bytes that are not valid UTF-8
            raise click.UsageError(f"Invalid characters in {printable(value)!r}.")
