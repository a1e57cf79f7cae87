"""Advice for Entra ID errors, and whether trying another key could help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keyvouch.certificate import thumbprint
from keyvouch.entra.client_key import UsedKey
from keyvouch.errors import AuthorityRefused
from keyvouch.uri import quoted

_REGISTER = (
    "Register the certificate on the app registration (Certificates & secrets): write it to a file with"
    " `keyvouch export --certificate app.cer`, and upload that file."
)
_RENEW = "The certificate is revoked, expired or not yet valid: create a new one with `keyvouch new`, and register it."
_CLOCK = "Correct this machine's clock: an assertion is valid for only a few minutes."
_ONE_RESOURCE = "Request one resource, such as https://graph.microsoft.com/.default."

ADVICE = {
    700027: _REGISTER,
    700024: _CLOCK,
    700023: "Check tenant, cloud and authority: the assertion was made for another token endpoint.",
    700030: "Authorize the certificate's subject name on the app registration, or upload the certificate itself.",
    7000213: "Send the whole chain, leaf first (send-x5c); it must be issued by an authority that the tenant trusts.",
    7000214: _RENEW,
    7000274: _RENEW,
    7000277: _RENEW,
    1000502: _RENEW,
    50012: _REGISTER,
    700016: "Check client-id and tenant: the tenant has no such application.",
    90002: "Check tenant and cloud: the tenant does not exist.",
    900023: "Check tenant: it is neither an ID nor a domain name.",
    50027: "Check the assertion's options: the authority could not read it.",
    700025: "The app registration is a public client: turn off 'Allow public client flows'.",
    50048: "Check client-id: the assertion was made for another client.",
    5002738: "Entra ID supports neither ES256 nor EdDSA: create an RSA key (`keyvouch new`), and register it.",
    7000215: "An invalid client secret was sent: give MSAL a certificate instead.",
    7000222: "An expired client secret was sent: give MSAL a certificate instead.",
    70011: _ONE_RESOURCE,
    1002012: _ONE_RESOURCE,
    500011: "Check the scope: the tenant has no such resource.",
}
"""What the user can do, by AADSTS code."""

KEY_REFUSED = frozenset({700027, 700024, 700030, 7000213, 7000214, 7000274, 7000277, 1000502, 50012, 5002738})
"""Error codes after which another key, or the same key reloaded, may be accepted."""


_MAX_DESCRIPTION = 1000
"""Maximum number of characters shown of an authority's error description."""


def refuses_key(result: Mapping[str, Any]) -> bool:
    """Return True if MSAL's result says that the authority refused this key rather than the request.

    Servers other than Entra ID have no AADSTS codes; they use `invalid_client` (RFC 6749, section 5.2).
    """
    if codes := _codes(result):
        return not KEY_REFUSED.isdisjoint(codes)
    return result.get("error") == "invalid_client"


def authority_refused(result: Mapping[str, Any], used_key: UsedKey | None) -> AuthorityRefused:
    """Build the error for a refusal that MSAL returned; `used_key` signed the refused assertion."""
    codes = _codes(result)
    known = [code for code in codes if code in ADVICE]
    hint = ADVICE[known[0]] if known else "Look up the code at https://login.microsoftonline.com/error."
    if not codes:
        hint = "Check that this client, its key and the scope are registered at the authority."
    sha256 = None
    if used_key and used_key.certificate:
        sha256, sha1 = thumbprint(used_key.certificate), thumbprint(used_key.certificate, "sha1")
        if refuses_key(result):
            hint = hint.replace("--certificate app.cer", f"--certificate app.cer --key {quoted(used_key.uri)}")
            hint += f"\nThumbprint sent: {sha256} (SHA-256), which the portal lists as {sha1} (SHA-1)."
    correlation_id = result.get("correlation_id")
    return AuthorityRefused(
        f"The authority refused the request: {error_description(result)}",
        hint=hint,
        uri=used_key.uri if used_key else None,
        error=str(result.get("error") or ""),
        error_codes=codes,
        thumbprint=sha256,
        correlation_id=str(correlation_id) if correlation_id else None,
        try_next_key=refuses_key(result),
    )


def error_description(result: Mapping[str, Any]) -> str:
    """Return the authority's error description without trace id, correlation id and time, which are kept elsewhere."""
    text = str(result.get("error_description") or result.get("error") or "").strip()
    line = text.splitlines()[0].split(" Trace ID:")[0] if text else "no reason given"
    return "".join(each for each in line[:_MAX_DESCRIPTION] if each.isprintable())


def _codes(result: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the AADSTS codes; ignore codes that do not have Entra ID's format."""
    codes = result.get("error_codes")
    return tuple(code for code in codes if type(code) is int) if isinstance(codes, list) else ()
