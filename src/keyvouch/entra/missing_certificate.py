"""The error for a key without a certificate, which Entra ID would not find."""

from __future__ import annotations

from keyvouch._core import opening
from keyvouch._system.text import shell_quoted
from keyvouch.errors import CertificateMissing, KeyvouchError
from keyvouch.uri import KeyUri, quoted

_FILES = ("pem", "pfx")
_PINNING = ("version", "id", "spki-sha256")
"""The attributes that identify one member of a family of keys."""

_LATER = "\nIf another key of the family has one, that key signs once it has settled: `keyvouch keys` shows when."


def certificate_missing(uri: str, requested_uri: str) -> CertificateMissing:
    """Build the error for the key with this URI, which is the current one at the requested URI.

    Its hint has the commands that create a certificate and add it.
    """
    later = "" if requested_uri == uri else _LATER
    return CertificateMissing(
        "The key has no certificate, and Entra ID finds keys only by their certificate.",
        hint=f"{_create(uri)}\nThen register app.cer on the app registration (Certificates & secrets).{later}",
        uri=uri,
    )


def _create(uri: str) -> str:
    install = f"keyvouch install app.cer --key {quoted(uri)}"
    try:
        parsed = opening.parse(uri)
    except KeyvouchError:
        return f"Add its certificate: {install}"
    if parsed.scheme in _FILES and (path := parsed.get("path")):
        return (
            f"Create one: openssl req -x509 -new -key {shell_quoted(path)} -subj /CN=app -days 365 -out app.cer"
            f"\nAdd it to the key: {install}"
        )
    if {"certificate", "key"} <= {*parsed.declared}:  # a store in which a key has a certificate, or can have none
        return (
            "If it has a certificate elsewhere, add certificate-file=FILE to the URI"
            f"\nOtherwise create a certificate with its key: {_new(parsed, certificate='NAME', key=None)}"
        )
    return (
        f"If it has a certificate elsewhere, add it: {install}"
        f"\nOtherwise create another key with one: {_new(parsed, further=True)}"
    )


def _new(uri: KeyUri, *, further: bool = False, **changes: str | None) -> str:
    """Return the command that creates a key with a certificate beside this one."""
    family = uri.replace({**{name: None for name in _PINNING if name in uri.declared}, **changes})
    return f"keyvouch new {'--further ' if further else ''}--certificate-out app.cer --key {family.quoted}"
