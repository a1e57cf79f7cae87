"""Advice for Entra ID errors, and whether trying another key could help."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keyvouch._core import environment
from keyvouch.certificate import thumbprint
from keyvouch.entra.client_key import UsedKey
from keyvouch.errors import AuthorityRefused
from keyvouch.uri import quoted

if TYPE_CHECKING:
    from cryptography.x509 import Name

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
    7000213: "The chain must be complete, and issued by an authority that the tenant trusts (send-x5c sends it).",
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

_BY_ISSUER = frozenset({700027, 700030, 7000213})
"""Error codes that Entra ID may send if it trusts a certificate by subject name and issuer."""

_SEND_CHAIN = (
    "If the app trusts the certificate by subject name and issuer, send the chain: write"
    " assertion = { send-x5c = true } in the profile."
)
_MISSING_ISSUER = (
    "The chain that was sent ends with {!r}: if the tenant does not know its issuer {!r}, add the issuer's certificate"
    " to certificate-file."
)

_OTHER_SERVER = "Check that this client, its key and the scope are registered at the authority."
_OTHER_ADVICE = {
    "invalid_client": "Check client-id, and register the key: print its public key with `keyvouch export --jwk`.",
    "invalid_scope": "Correct the scopes, or leave them out if the authority has defaults.",
    "unauthorized_client": "Allow the grant type client_credentials for this client at the authority.",
    "unsupported_grant_type": "Allow the grant type client_credentials at the authority.",
}
"""What the user can do about a refusal of a server without AADSTS codes, by its error (RFC 6749, section 5.2)."""

_NO_DPOP = "Turn off DPoP (proof of possession) for this client at the authority: keyvouch sends no DPoP header."

_OPTIONS = "{kid} (none if it is registered without one), {algorithm} or {audience}"
"""The options for assertions that such a server may require, for `environment.options_to_set`."""

_TOKEN = re.compile(r"\beyJ[\w-]+\.[\w.-]+")
"""A token or an assertion, which a server may repeat from the request (RFC 7519, section 3)."""

_MAX_DESCRIPTION = 1000
"""Maximum number of characters shown of an authority's error description."""


def refuses_key(result: Mapping[str, Any], used_key: UsedKey | None) -> bool:
    """Return True if MSAL's result says that the authority refused this key rather than the request.

    Servers other than Entra ID have no AADSTS codes; they use `invalid_client` (RFC 6749, section 5.2). Those built on
    fosite, such as Ory Hydra, use `invalid_request` for an unknown `kid`, and quote it.
    """
    if codes := _codes(result):
        return not KEY_REFUSED.isdisjoint(codes)
    error = result.get("error")
    return error == "invalid_client" or (error == "invalid_request" and _quotes_kid(result, used_key))


def _quotes_kid(result: Mapping[str, Any], used_key: UsedKey | None) -> bool:
    """Return True if the description contains, in quotation marks, the `kid` of the refused assertion."""
    if used_key is None or "kid" not in used_key.header:
        return False
    description = str(result.get("error_description"))
    return any(f"{mark}{used_key.header['kid']}{mark}" in description for mark in "'\"`")


def authority_refused(result: Mapping[str, Any], used_key: UsedKey | None) -> AuthorityRefused:
    """Build the error for a refusal that MSAL returned; `used_key` signed the refused assertion."""
    codes = _codes(result)
    key_refused = refuses_key(result, used_key)
    hint = _hint(result, codes, key_refused=key_refused)
    if used_key and key_refused:
        advice = _advice_on_chain(codes, used_key) if codes else [_advice_on_options(used_key)]
        hint = "\n".join([_for_key(hint, used_key), *advice, sent(used_key, codes)])
    correlation_id = result.get("correlation_id")
    return AuthorityRefused(
        f"The authority refused the request: {error_description(result)}",
        hint=hint,
        uri=used_key.uri if used_key else None,
        error=_TOKEN.sub("...", str(result.get("error") or "")),
        error_codes=codes,
        thumbprint=thumbprint(used_key.certificate) if used_key and used_key.certificate else None,
        correlation_id=str(correlation_id) if correlation_id else None,
        try_next_key=key_refused,
    )


def _hint(result: Mapping[str, Any], codes: tuple[int, ...], *, key_refused: bool) -> str:
    if known := [code for code in codes if code in ADVICE]:
        return ADVICE[known[0]]
    if codes:
        return "Look up the code at https://login.microsoftonline.com/error."
    if "dpop" in f"{result.get('error')} {result.get('error_description')}".lower():  # RFC 9449
        return _NO_DPOP
    return _OTHER_ADVICE.get("invalid_client" if key_refused else str(result.get("error")), _OTHER_SERVER)


def _for_key(hint: str, used_key: UsedKey) -> str:
    """Complete the commands in a hint with the key's URI, or its profile."""
    profile, key = used_key.profile, quoted(used_key.uri)
    hint = hint.replace("--certificate app.cer", f"--certificate app.cer --key {key}")
    jwks = "export --jwks`" if profile == environment.NAME else f"export --profile {shlex.quote(profile)} --jwks`"
    return hint.replace("export --jwk`", jwks if profile else f"export --jwk --key {key}`")


def _advice_on_options(used_key: UsedKey) -> str:
    options = environment.options_to_set(_OPTIONS, used_key.profile)
    return f"If the authority expects another kid, algorithm or audience, set {options}."


def sent(used_key: UsedKey, codes: tuple[int, ...] = ()) -> str:
    """Say what the refused assertion contained: the algorithm, the `kid`, the thumbprint and the audience."""
    header = used_key.header
    facts = [f"algorithm {header['alg']}"] if "alg" in header else []
    facts += [f"kid {header['kid']}"] if "kid" in header else []
    if used_key.certificate and ("x5t" in header or "x5t#S256" in header or "x5c" in header or codes):
        facts.append(f"thumbprint {thumbprint(used_key.certificate)} (SHA-256)")
    if not ({"kid", "x5t", "x5t#S256", "x5c"} & header.keys()):
        facts.append("neither kid nor thumbprint")
    if used_key.audience and not codes:
        facts.append(f"audience {used_key.audience}")
    text = f"Sent: {', '.join(facts)}."
    if codes and used_key.certificate:
        text += f"\nThe portal lists the certificate as {thumbprint(used_key.certificate, 'sha1')} (SHA-1)."
    return text


def _advice_on_chain(codes: tuple[int, ...], used_key: UsedKey) -> list[str]:
    """Return what to do about the chain if the app may trust it by subject name and issuer."""
    if not used_key.chain or _BY_ISSUER.isdisjoint(codes):
        return []
    leaf, last = used_key.chain[0], used_key.chain[-1]
    if "x5c" in used_key.header:
        return (
            [] if last.issuer == last.subject else [_MISSING_ISSUER.format(_shown(last.subject), _shown(last.issuer))]
        )
    # A self-signed certificate can only be registered itself.
    return [] if leaf.issuer == leaf.subject else [_SEND_CHAIN]


def _shown(name: Name) -> str:
    return "".join(each for each in name.rfc4514_string()[:_MAX_DESCRIPTION] if each.isprintable())


def error_description(result: Mapping[str, Any]) -> str:
    """Return the authority's error description without trace id, correlation id and time, which are kept elsewhere."""
    text = str(result.get("error_description") or result.get("error") or "").strip()
    line = text.splitlines()[0].split(" Trace ID:")[0] if text else "no reason given"
    return "".join(each for each in _TOKEN.sub("...", line)[:_MAX_DESCRIPTION] if each.isprintable())


def _codes(result: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the AADSTS codes; ignore codes that do not have Entra ID's format."""
    codes = result.get("error_codes")
    return tuple(code for code in codes if type(code) is int) if isinstance(codes, list) else ()
