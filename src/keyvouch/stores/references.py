"""Keys that are not in a file of their own: in a variable, a credential, the key ring, or on standard input.

    pem:env:APP_KEY   pfx:credential:app-pfx   pem:keyring:service/user   pem:command:/path/program   pem:stdin:

Only bytes need no encoding. Elsewhere a PFX is base64, and a PEM file may be; a PEM file in a variable may have lost
its line breaks.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import msgspec

from keyvouch._formats.text_encodings import decode
from keyvouch._secrets.key_bytes import recall_key
from keyvouch._secrets.redaction import KEY_REFERENCE_KINDS, contains_key
from keyvouch._system import files
from keyvouch._system.text import shell_quoted
from keyvouch.errors import KeyvouchError, NotSupported
from keyvouch.secrets import Secret, SecretResolver
from keyvouch.store import KeyUri
from keyvouch.stores import key_files
from keyvouch.stores.key_entries import PASSWORD_REQUIRED

_UNKNOWN: files.Stamp = (0, 0, 0, 0)
"""The stamp if finding out whether the key was replaced takes more than a moment."""
_OF_SYSTEMD = "" if sys.platform == "win32" else "credential:name, "


class KeyReference(msgspec.Struct, frozen=True):
    """Where a key is, if it is not in a file of its own."""

    kind: str
    """One of `KEY_REFERENCE_KINDS`."""
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"

    @property
    def label(self) -> Path:
        """What errors show, in place of a file's path; of a program, not its arguments."""
        return Path(f"{self.kind}:{self.name.partition(' ')[0]}")

    def read(self, secrets: SecretResolver) -> key_files.KeyFile:
        """Return the key's bytes, decoded. Raises what `SecretResolver.read_key` raises."""
        stamp = _UNKNOWN
        with contextlib.suppress(OSError):  # reading it reports the actual error
            stamp = self.stamp()  # before reading, so that a key replaced in the meantime counts as changed
        return key_files.KeyFile(self.label, decode(secrets.read_key(str(self))), stamp, None, str(self))

    def stamp(self) -> files.Stamp:
        """Return what distinguishes the key from one that replaced it. Raises OSError."""
        if self.kind == "env":
            return hash(os.environ.get(self.name)), 0, 0, 0
        if self.kind == "credential":
            return files.stamp(Path(os.environ.get("CREDENTIALS_DIRECTORY", ""), self.name).stat())
        return _UNKNOWN

    def password(self) -> Secret | None:
        """Return the password that was passed in together with the key."""
        return cast("Secret | None", recall_key(self.name).password) if self.kind == "memory" else None

    def is_read_only(self, uri: KeyUri) -> NotSupported:
        """Return the error for an attempt to write to the reference."""
        return NotSupported(
            f"Cannot write to {self.label}: only files can be created and changed.",
            hint=f"Use the path of a file: {uri.scheme}:/path/to/file.",
            uri=uri,
        )


def require_file(file: key_files.KeyFile, uri: KeyUri) -> None:
    """Raise `NotSupported` if the key was read from a reference: there is nothing to change or delete."""
    if file.reference is not None:
        raise NotSupported(
            f"Cannot change {file.path}: only files can be changed.",
            hint="Replace the key where it is stored. To add only a certificate, use certificate-file=.",
            uri=uri,
        )


def fit_hints(errors: Iterable[KeyvouchError], reference: KeyReference) -> None:
    """Change the hints of errors about the contents of a file to ones for this reference."""
    label = re.escape(shell_quoted(reference.label))
    for error in errors:
        if reference.kind == "memory":
            error.hint = error.hint.replace(PASSWORD_REQUIRED, "Pass password= to keyvouch.load_signer.")
        hint = re.sub(rf"(?<= ){label}(?= |$)", "FILE", error.hint)  # as an argument of a program
        error.hint = f"Write the key to a file first. {hint}" if hint != error.hint else hint


def parse_location(data: bytes) -> Path | KeyReference:
    """Return the file or the reference in a URI's path. Raises ValueError, which does not repeat a secret."""
    text = os.fsdecode(data)
    if contains_key(text):
        raise ValueError("expected a path or a reference, got the key itself")
    kind, colon, name = ("stdin", ":", "") if text == "-" else text.partition(":")
    if not colon or kind not in (*KEY_REFERENCE_KINDS, "file", "prompt"):
        return key_files.parse_path(data)
    if kind == "file":
        raise ValueError(f"write the path without file: {name}")
    if kind == "prompt":
        raise ValueError("a key cannot be entered on the terminal; pipe it to the command, and write stdin:")
    if "\0" in text or bool(name) == (kind == "stdin") or (kind == "env" and not re.fullmatch(r"[\w.-]+", name)):
        raise ValueError(f"expected env:NAME, {_OF_SYSTEMD}keyring:service/user, command:/path/program or stdin:")
    return KeyReference(kind, name)
