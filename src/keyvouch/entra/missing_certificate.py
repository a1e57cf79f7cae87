"""The error for a key without a certificate, which Entra ID would not find."""

from __future__ import annotations

import shlex

from keyvouch._core import opening
from keyvouch.errors import CertificateMissing, KeyvouchError
from keyvouch.uri import quoted

_FILES = ("pem", "pfx")


def certificate_missing(uri: str) -> CertificateMissing:
    """Build the error for the key with this URI; its hint has the commands that create a certificate and add it."""
    return CertificateMissing(
        "The key has no certificate, and Entra ID finds keys only by their certificate.",
        hint=f"{_create(uri)}\nThen register app.cer on the app registration (Certificates & secrets).",
        uri=uri,
    )


def _create(uri: str) -> str:
    install = f"keyvouch install app.cer --key {quoted(uri)}"
    scheme = uri.partition(":")[0]
    if path := _path(uri) if scheme in _FILES else None:
        return (
            f"Create one: openssl req -x509 -new -key {shlex.quote(path)} -subj /CN=app -days 365 -out app.cer"
            f"\nAdd it to the key: {install}"
        )
    return (
        f"If it has a certificate elsewhere, add it: {install}"
        f"\nOtherwise create a new key with one: keyvouch new --certificate-out app.cer --key '{scheme}:...'"
    )


def _path(uri: str) -> str | None:
    try:
        path = opening.parse(uri).get("path")
    except KeyvouchError:
        return None
    return None if path is None else str(path)
