"""Hints for a field of a profile that is unknown or has an invalid value: the line to write instead."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, get_args, get_origin

import msgspec

from keyvouch._secrets.redaction import redact
from keyvouch._system.forks import IMPORTS

_SYNONYMS = {
    "app-id": "client-id",
    "appid": "client-id",
    "application-id": "client-id",
    "clientid": "client-id",
    "tenantid": "tenant",
    "directory-id": "tenant",
    "certificate": "keys",
    "private-key": "keys",
    "uri": "keys",
    "uris": "keys",
    "resource": "scopes",
    "resources": "scopes",
    "issuer": "authority",
    "verify": "ca-file",
    "cache": "token-cache",
}
"""Other names, as other tools have them, of fields of a profile."""
_CLOUDS = {
    **dict.fromkeys(("azurecloud", "azurepubliccloud", "azurepublic", "global", "commercial"), "public"),
    **dict.fromkeys(("azureusgovernment", "azuregovernment", "government", "usgovernment", "gcchigh"), "usgov"),
    **dict.fromkeys(("azurechinacloud", "azurechina", "21vianet"), "china"),
}
"""What the Azure CLI and its SDKs call the values of `cloud`."""
_SECRETS = ("client-secret", "secret", "password")


def hint_for(message: str, fields: Mapping[str, Any], struct: type[msgspec.Struct]) -> str:
    """Return a hint for msgspec's message about these fields of a table."""
    path = re.split(r"\.|(?=\[)", found[1]) if (found := re.search(r"`\$\.?(.*?)`$", message)) else []
    names = [each for each in path if each and not each.startswith("[")]
    if unknown := re.search(r"unknown field `(.*?)`", message):
        return _unknown_field_hint(unknown[1], names, struct)
    return _value_hint(names, fields, struct)


def _unknown_field_hint(name: str, path: list[str], struct: type[msgspec.Struct]) -> str:
    table = _type_of(path, struct)
    known = _names(table)
    if not path and name.lower().replace("_", "-") in _SECRETS:
        return 'Remove it: keyvouch signs in with a key. Write keys = ["scheme:..."].'
    if similar := nearest(name, known):
        return f'Did you mean "{similar}"?'
    if not path and (option := _option(name, struct)):
        return f"Write assertion.{option} = ..."
    if path and (similar := nearest(name, _names(struct))):
        return f'Move it out of {".".join(path)}, and write it as "{similar}".'
    return f"Use one of the fields {', '.join(known)}."


def nearest(name: str, known: list[str]) -> str | None:
    """Return the known name that this one means: the most similar one, also of other tools' names."""
    with IMPORTS:
        import difflib

    spelled = name.lower().replace("_", "-")
    spelled = _SYNONYMS.get(spelled, spelled)
    return next(iter(difflib.get_close_matches(spelled, known, n=1, cutoff=0.7)), None)


def _option(name: str, struct: type[msgspec.Struct]) -> str | None:
    """Return the option for assertions with this name, if the profile has such a table."""
    options = _names(_type_of(["assertion"], struct))
    spelled = name.lower().replace("_", "-")
    return spelled if spelled in options else None


def _value_hint(path: list[str], fields: Mapping[str, Any], struct: type[msgspec.Struct]) -> str:
    with IMPORTS:
        import difflib

    expected, name, value = _type_of(path, struct), ".".join(path), _value_at(path, fields)
    if choices := _choices(expected):
        spelled = _CLOUDS.get(str(value).lower(), str(value).lower())
        nearest = difflib.get_close_matches(spelled, choices, n=1)
        return f"Write {name} = {' or '.join(json.dumps(each) for each in nearest or choices)}." + (
            f" The values are {', '.join(choices)}." if nearest else ""
        )
    if get_origin(expected) is tuple:
        return f"Write {name} = {json.dumps(list(map(redact, _texts(value))), ensure_ascii=False)}."
    if expected is bool:
        return f"Write {name} = true or {name} = false."
    if isinstance(expected, type) and issubclass(expected, msgspec.Struct):
        return f"Write {name} = {{{_names(expected)[0]} = ...}}, with the options {', '.join(_names(expected))}."
    return f"Write {name} = {'a number' if 'int' in str(expected) else 'a text in quotes'}."


def _texts(value: Any) -> list[str]:
    """Return the value, or what is in it if it is a list, of any depth, as texts."""
    return [text for each in value for text in _texts(each)] if isinstance(value, list) else [str(value)]


def _type_of(path: list[str], struct: Any) -> Any:
    """Return the type of the field at a path of names; that of the table itself for an empty path."""
    for name in path:
        fields = {each.encode_name: each.type for each in msgspec.structs.fields(struct)}
        if name not in fields:
            return None
        struct = fields[name]
    return struct


def _value_at(path: list[str], fields: Any) -> Any:
    for name in path:
        fields = fields.get(name) if isinstance(fields, Mapping) else None
    return fields


def _choices(expected: Any) -> list[str]:
    """Return the values of a Literal, also of one that may be None or any text."""
    arguments = get_args(expected)
    texts = [each for each in arguments if isinstance(each, str)]
    return texts or [choice for each in arguments for choice in _choices(each)]


def _names(struct: Any) -> list[str]:
    if not (isinstance(struct, type) and issubclass(struct, msgspec.Struct)):
        return []
    return [each.encode_name for each in msgspec.structs.fields(struct)]
