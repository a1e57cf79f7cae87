"""The URI of a key: `scheme:name=value;name=value?name=value&name=value`.

Attributes before `?` identify the key: other values select another key. Attributes after `?` say how to reach it. A
store declares its attributes, and one that is declared positional also accepts the path form,
`pfx:/etc/app.pfx?password=env:X`. Values are bytes, percent-encoded (RFC 3986, section 2.1); each attribute occurs at
most once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from keyvouch._core import uri_mistakes
from keyvouch._core.uri_attributes import (
    CORE_ATTRIBUTES,
    Attribute,
    parse_certificate_source,
    parse_choice,
    parse_flag,
    parse_path,
)
from keyvouch._core.uri_errors import (
    misplaced_attribute,
    nearest_name,
    require_no_identity,
    secret_attribute,
    unknown_attribute,
)
from keyvouch._core.uri_text import (
    QUOTES,
    UriSyntax,
    encode_all,
    encode_except,
    encode_readable,
    is_certificate_reference,
    percent,
)
from keyvouch._secrets.redaction import (
    is_reference,
    is_secret_name,
    redact,
    redact_userinfo,
    require_no_key,
    require_original,
)
from keyvouch._system import files
from keyvouch.errors import ConfigurationError

__all__ = [
    "CORE_ATTRIBUTES",
    "Attribute",
    "KeyUri",
    "is_reference",
    "parse_choice",
    "parse_flag",
    "parse_path",
    "parse_uri",
    "quoted",
    "scheme_of",
]

_GENERAL_SYNTAX = UriSyntax()


class KeyUri:
    """A parsed URI. Immutable; equal to another with the same scheme and values."""

    __slots__ = ("_declared", "_syntax", "_values", "scheme", "store_class")

    def __init__(
        self,
        scheme: str,
        values: Mapping[str, bytes],
        declared: Mapping[str, Attribute],
        store_class: type[Any] | None = None,
    ) -> None:
        """Take values as bytes, by name; get a URI from `parse_uri` or `replace` instead."""
        self.scheme = scheme
        self.store_class: Any = store_class
        """The `KeyStore` class of the scheme; None if the URI was parsed without one."""
        self._syntax: UriSyntax = getattr(store_class, "uri_syntax", _GENERAL_SYNTAX)
        self._declared = declared
        self._values = {name: values[name] for name in declared if name in values}

    def get(self, name: str) -> Any:
        """Return the parsed value, or the declared default. Raises KeyError for an undeclared name."""
        attribute = self._declared[name]
        return attribute.parse(self._values[name]) if name in self._values else attribute.default

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def raw_values(self, names: Iterable[str]) -> tuple[bytes | None, ...]:
        """Return the unparsed values, for comparing some attributes of two URIs."""
        return tuple(self._values.get(name) for name in names)

    @property
    def declared(self) -> Collection[str]:
        """Names of the attributes that the store and the core declare."""
        return self._declared.keys()

    @property
    def undeclared(self) -> list[str]:
        """Names before the `?` that the store accepts only because it declares the attribute `*`."""
        names = (name for name in self._values if not self._declared[name].query)
        return [name for name in names if _is_undeclared(self._declared[name], self._declared)]

    def identity(self) -> tuple[str, tuple[bytes | None, ...]]:
        """Return what identifies the key: the scheme, and the values before `?`."""
        return self.scheme, self.raw_values(name for name, each in self._declared.items() if not each.query)

    @property
    def selects_no_key(self) -> bool:
        """True if the URI gives only a location and selects no key."""
        return all(self._declared[name].place or self._declared[name].query for name in self._values)

    def replace(self, changes: Mapping[str, str | bytes | None]) -> KeyUri:
        """Return this URI with other values; None removes an attribute. Raises KeyError for an undeclared name."""
        values = dict(self._values)
        for name, value in changes.items():
            if name not in self._declared:
                raise KeyError(name)
            if value is None:
                values.pop(name, None)
            else:
                values[name] = value.encode() if isinstance(value, str) else value
        return KeyUri(self.scheme, values, self._declared, self.store_class)

    def with_absolute_files(self) -> KeyUri:
        """Return this URI with the paths in attributes such as `ca-file`, and those of secrets, made absolute."""
        given = {name: self.get(name) for name in self._values if name.endswith("-file")}
        paths = {
            name: str(files.absolute(Path(path)))
            for name, path in given.items()
            if not (Path(path).is_absolute() or is_certificate_reference(path))
        }
        for name in self._values:
            if self._declared[name].secret and (absolute := absolute_reference(self.get(name))) != self.get(name):
                paths[name] = absolute
        return self.replace(paths)

    def missing_for(self, purpose: str) -> list[str]:
        """Return the names of missing attributes that this purpose ("open", "generate") requires."""
        return [
            attribute.name
            for attribute in self._declared.values()
            if purpose in attribute.required_for and attribute.name not in self
        ]

    def hint_for_missing(self, names: Iterable[str]) -> str:
        """Return a hint that says where each of these missing attributes is written, and what it means."""
        sides = {True: "after the `?`", False: "before the `?`"}
        missing = [self._declared[name] for name in names]
        return " ".join(f"Add {each.name}=... {sides[each.query]}: {each.help}." for each in missing)

    def __str__(self) -> str:
        """Return the text as it may be shown: the user and password of an address are `***`."""
        return self._text(redact_userinfo)

    def reveal(self) -> str:
        """Return the text including the credentials in its addresses; never show or log it."""
        return self._text(str)

    def _text(self, shown: Callable[[str], str]) -> str:
        identity = [name for name in self._values if not self._is_printed_after_query(name)]
        query = [name for name in self._values if self._is_printed_after_query(name)]
        text = f"{self.scheme}:{self._format_identity(identity, shown)}"
        if query:
            text += "?" + "&".join(f"{name}={self._encoded(name, shown)}" for name in query)
        return text

    def _is_printed_after_query(self, name: str) -> bool:
        return self._declared[name].query or name in self._syntax.after_query

    def _format_identity(self, names: list[str], shown: Callable[[str], str]) -> str:
        if len(names) == 1 and self._declared[names[0]].positional:
            data = self._values[names[0]]
            path = data.decode(errors="surrogateescape")
            if _is_windows_path(path):
                if path.isprintable() and not {*path} & {*QUOTES, "?", ";", "*"}:
                    return path
            elif not _begins_with_name(path, self._declared):
                return shown(encode_readable(data, keep="&="))
        return ";".join(f"{name}={self._encoded(name, shown)}" for name in names)

    def _encoded(self, name: str, shown: Callable[[str], str]) -> str:
        attribute, data, syntax = self._declared[name], self._values[name], self._syntax
        text = encode_readable(data)
        if shown(text) != text:
            return shown(text)
        characters = syntax.query_characters if attribute.query else syntax.path_characters
        if attribute.binary:
            return encode_all(data)
        if characters is not None:
            return encode_except(data, characters)
        if attribute.parse is not bytes:
            return text
        # Raw bytes, such as an identifier: if some of them look like letters, that is a coincidence.
        return "".join(character if character.isascii() else percent(character) for character in text)

    @property
    def quoted(self) -> str:
        """The text, quoted for a POSIX shell and for PowerShell."""
        return quoted(str(self))

    def __repr__(self) -> str:
        return f"<KeyUri {self if hasattr(self, '_values') else '?'}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyUri) and (self.scheme, self._values) == (other.scheme, other._values)

    def __hash__(self) -> int:
        return hash((self.scheme, frozenset(self._values.items())))


def quoted(text: str) -> str:
    """Return the text of a URI, quoted for a shell. If `KeyUri` printed it, it contains no quote."""
    return text if re.fullmatch(r"[A-Za-z0-9:/._=-]+", text) else f"'{text}'"


_DIRECTION_MARKS = "\u200e\u200f"
"""Direction marks: Windows's dialog copies them along with a thumbprint, unseen. A printed URI contains none."""


def scheme_of(text: str) -> str:
    """Return the scheme of a URI, in lower case. Raises `ConfigurationError` if the text is not a key's URI."""
    require_no_key(text)
    if mistake := uri_mistakes.undecoded(text):
        raise mistake
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*(?=:)", text)
    for position, character in enumerate(text):
        if not character.isprintable() and character not in _DIRECTION_MARKS:
            raise ConfigurationError(
                f"Invalid URI{f' {scheme[0]}:...' if scheme else ''}: control character at position {position + 1}.",
                hint="In TOML, put the URI in single quotes: in double quotes, a backslash begins an escape sequence.",
            )
    if mistake := uri_mistakes.certificate_in_windows(text):
        raise mistake
    if _is_windows_path(text):
        raise uri_mistakes.windows_path(text)
    if not scheme:
        raise uri_mistakes.missing_scheme(text)
    return scheme[0].lower()


def parse_uri(
    text: str, attributes: Iterable[Attribute], *, scheme: str | None = None, store_class: type[Any] | None = None
) -> KeyUri:
    """Parse and complete a URI of a store that declares these attributes, besides the core's own.

    `scheme` is the result of `scheme_of`, if the caller has it; the URI keeps `store_class` for opening the store.
    Raises `ConfigurationError`, which never contains the text of a secret.
    """
    scheme = scheme or scheme_of(text)
    syntax: UriSyntax = getattr(store_class, "uri_syntax", _GENERAL_SYNTAX)
    declared = {attribute.name: attribute for attribute in (*attributes, *CORE_ATTRIBUTES)}
    known = list(declared)
    identity, _, query = text[len(scheme) + 1 :].partition("?")
    if identity == "\\\\" and query.startswith("\\"):
        raise ConfigurationError(
            rf"Invalid URI {scheme}:\\?\...: the ? ends the path.",
            hint=r"Omit \\?\, or write path=\\%3F\ instead.",
        )
    shown = f"{scheme}:***"  # what cannot be parsed may be a secret, whatever precedes it
    try:
        require_original(text)
        values = _parse_identity(identity, declared, syntax)
        shown = f"{scheme}:{redact(identity)}?***"
        _parse_attributes(values, (part for part in query.split("&") if part), declared, syntax, query=True)
        for attribute in declared.values():
            if attribute.name not in values:
                _apply_environment(values, attribute)
    except ConfigurationError as error:
        error.uri = shown
        raise
    ordered = (*known, *sorted(declared.keys() - known))  # equal URIs are printed alike
    return KeyUri(scheme, values, {name: declared[name] for name in ordered}, store_class)


def _parse_identity(text: str, declared: dict[str, Attribute], syntax: UriSyntax) -> dict[str, bytes]:
    positional = next((attribute.name for attribute in declared.values() if attribute.positional), None)
    if positional and text and not _begins_with_name(text, declared):
        for part in re.split("[;&]", text)[1:]:
            name = part.partition("=")[0].lower()
            if name in declared and declared[name].secret:  # otherwise it would be shown, as part of a path
                raise misplaced_attribute(name, query=declared[name].query)
        data = text.encode() if _is_windows_path(text) else _decode(text, positional)
        return {positional: _validated(declared[positional], data)}
    values: dict[str, bytes] = {}
    _parse_attributes(values, (part for part in text.split(";") if part), declared, syntax, query=False)
    return values


def _parse_attributes(
    values: dict[str, bytes], parts: Iterable[str], declared: dict[str, Attribute], syntax: UriSyntax, *, query: bool
) -> None:
    for part in parts:
        name, equals, value = part.partition("=")
        attribute = declared.get(name) or (_open_ended(name, declared, query=query) if equals else None)
        if attribute is None or "*" in name:
            known = {each: declared[each].query for each in _known_names(declared)}
            raise unknown_attribute(name if equals else "", known, query=query)
        if attribute.query != query and name not in syntax.after_query:
            raise misplaced_attribute(name, query=attribute.query)
        if name in values:
            if query and _is_undeclared(attribute, declared):
                continue
            raise ConfigurationError(f'Duplicate attribute "{name}".', hint="Remove one of them.")
        if not equals or not (value or attribute.empty):
            raise ConfigurationError(f'The attribute "{name}" has no value.', hint=f"Write {name}=VALUE.")
        if query and ";" in value:
            require_no_identity(value, [each.name for each in declared.values() if not each.query])
        if not query and syntax.path_characters is None:
            uri_mistakes.require_no_ampersand(value, declared)
        # Checked at once: what comes next may be the rest of a secret, and must not be in any error.
        values[name] = _validated(attribute, _decode(value, name))


def _open_ended(name: str, declared: dict[str, Attribute], *, query: bool) -> Attribute | None:
    """Declare a name that matches an attribute ending in `*`."""
    prefixes = (each for each in declared if each.endswith("*"))
    found = next((declared[each] for each in prefixes if name.startswith(each[:-1])), None)
    if found is None or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        return None
    if found.name == "*":
        if not name.startswith("x-") and nearest_name(name.lower(), _known_names(declared), cutoff=0.8):
            return None  # misspelled
        found = replace(found, query=query)
    if is_secret_name(name):  # its value would be shown
        raise secret_attribute(name, next((each.name for each in declared.values() if each.secret), None))
    declared[name] = replace(found, name=name)
    return declared[name]


def _is_undeclared(attribute: Attribute, declared: Mapping[str, Attribute]) -> bool:
    """Return True if the attribute is accepted only because of the attribute `*`."""
    return "*" in declared and attribute.name != "*" and attribute.help == declared["*"].help


def _known_names(declared: Mapping[str, Attribute]) -> list[str]:
    return [name for name, each in declared.items() if not _is_undeclared(each, declared)]


def _apply_environment(values: dict[str, bytes], attribute: Attribute) -> None:
    for variable in attribute.environment:
        if data := os.fsencode(os.environ.get(variable, "").strip()):
            values[attribute.name] = _validated(attribute, data, f" (from {variable})")
            return


def _validated(attribute: Attribute, data: bytes, origin: str = "") -> bytes:
    """Return the bytes; raise `ConfigurationError` if they are not valid for the attribute. `origin` is for errors."""
    name = attribute.name
    try:
        value = attribute.parse(data)
    except ValueError as error:
        reason = "not valid UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise ConfigurationError(
            f"Invalid value of {name}{origin}: {reason}.", hint=f"Correct {name}: {attribute.help}."
        ) from None
    if attribute.query and not attribute.secret and attribute.parse is not parse_certificate_source:
        uri_mistakes.require_no_reference(name, data)
    if attribute.secret and not is_reference(value):
        raise ConfigurationError(
            f"The value of {name}{origin} must be a reference to a secret.",
            hint=f"Store the secret elsewhere, and write {name}=env:NAME or {name}=file:/path.",
        )
    return data


def absolute_reference(reference: str) -> str:
    """Return a reference to a secret; with an absolute path, if it is in a file."""
    kind, _, path = reference.partition(":")
    is_relative = kind == "file" and path and not Path(path).is_absolute()
    return f"file:{files.absolute(Path(path))}" if is_relative else reference


def _is_windows_path(text: str) -> bool:
    return bool(re.match(r"[A-Za-z]:[\\/]", text)) or text.startswith("\\\\")


def _begins_with_name(text: str, declared: Mapping[str, Attribute]) -> bool:
    name, equals, _ = text.partition("=")
    return bool(equals) and name in declared


def _decode(text: str, name: str) -> bytes:
    bad = re.search(r"%(?![0-9A-Fa-f]{2})", text)
    if bad:
        raise ConfigurationError(
            f"Invalid value of {name}: % must be followed by two hexadecimal digits.",
            hint="Write %25 for a literal %.",
        )
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes.fromhex(match[1].decode()), text.encode())
