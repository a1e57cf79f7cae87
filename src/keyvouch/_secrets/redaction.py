"""Redaction of URIs, well-formed or not: a secret that was put into one by mistake is never shown."""

from __future__ import annotations

import re

from keyvouch.errors import ConfigurationError

REFERENCE_KINDS = ("env", "file", "credential", "keyring", "command", "prompt")
"""Prefixes of references to secrets; `keyvouch.secrets` describes them."""

KEY_REFERENCE_KINDS = ("env", "credential", "keyring", "command", "stdin", "memory")
"""Prefixes of references to keys; `keyvouch.stores.references` describes them."""

REDACTED = "***"

_MEMBER = r"(?<!\w)kty\\*[\"']?\s*:"
"""The member that every JWK has; a shell may have removed its quotation marks, or another program escaped them."""
_SHORT = (
    *("LS0tLS1CRUdJTi", "b3BlbnNzaC1rZXktdj"),
    *("TFMwdExTMUNSVWRKVG", "YjNCbGJuTnphQzFyWlhrdGRq", "TUM0Q0FRQXdCUVlESzJWd0", "TUhjQ0FRRUV"),
)
"""The base64 of the beginning of PEM and of OpenSSH's format, and that of such base64 and of short keys in ASN.1."""
_SHORT_DER = r"M[A-Za-z0-9+/]{6}w(?:BQYDK2Vw|EwYHKoZIzj0CAQ)|M[A-Za-z0-9+/]{2}CAQEE"
"""The base64 of Ed25519 keys and of elliptic-curve keys, in PKCS#8 and in the older format."""
_LONG = r"MI[A-Za-z]|eyJ|ewo|TUl[A-Za-z0-9+/]|ZXlK|ZXdv"
"""The base64, once or twice, of any longer ASN.1 and of JSON: words may begin like this."""
_KEY = re.compile(
    rf"-----BEGIN [A-Z0-9 ]*PRIVATE KEY|{_MEMBER}"
    rf"|(?<![A-Za-z0-9+/_-])(?:(?:{'|'.join(_SHORT)}|{_SHORT_DER})[A-Za-z0-9+/_-]{{30}}|(?:{_LONG})[A-Za-z0-9+/_-]{{150}})"
)
"""A private key in PEM or as a JWK, or the base64 of one or of a PFX, also encoded twice."""
_KEY_IN_TEXT = rf"(?s)(?!-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.{{0,30}}\Z)(?:\{{[^{{}}]*(?={_MEMBER})|{_KEY.pattern}).*"
"""The same and all that follows; not the first line of a PEM block, without its contents, in an explanation."""

_NAMED = re.compile(r"(?<![\w-])([\w-]+)(=|%3[dD]|:)")
"""A name, and the separator before its value. It begins at the start of a word, so that a long text is scanned once."""
_SECRET_WORDS = ("pass", "secret", "pin", "token", "credential", "pwd")
"""Words in the names of attributes that may contain a secret."""
_USERINFO = re.compile(r"(?<=://)[^/?#\s]*@")
"""The user and password of an address, within a value."""
_AUTHORITY = re.compile(
    r"(?:^|:|%3[aA])(?:/|%2[fF]){2}(?!/|%2[fF])"
    r"|(?<![\w-])proxy(?:=|%3[dD])(?!\w+(?::|%3[aA])(?:/|%2[fF]){2})"  # without a scheme
)
"""What precedes the user and password in a text that may be malformed."""
_NEXT_ATTRIBUTE = re.compile(r"[;&?][\w-]+=|$")
_CUT_USERINFO = re.compile(r"(?!\[)[^/;&?]*:(?!\d*(?:[/;&?]|$))")
"""A user and password whose end was taken for the next attribute."""
_REFERENCE = re.compile(rf"env(?::|%3[aA])[\w.-]*(?=[;&?]|$)|(?:{'|'.join(REFERENCE_KINDS[1:])})(?::|%3[aA])")
"""A reference; after a variable's name there may be a secret that a wrong separator has put there."""


def is_secret_name(name: str) -> bool:
    """Return True if the value of an attribute with this name may be a secret."""
    return any(word in name.lower() for word in _SECRET_WORDS)


def is_reference(value: object) -> bool:
    """Return True if a value is a reference to a secret, like `env:NAME`."""
    if not isinstance(value, str):
        return False
    kind, colon, rest = value.partition(":")
    # After a variable's name there may be a secret that a wrong separator has put there.
    return kind in REFERENCE_KINDS and bool(colon) and (kind != "env" or re.fullmatch(r"[\w.-]*", rest) is not None)


def redact_userinfo(value: str) -> str:
    """Return an attribute's value without the user and password of the address that it may contain."""
    return _USERINFO.sub(f"{REDACTED}@", value)


def contains_key(text: str) -> bool:
    """Return True if a text contains a private key, not only a reference to one."""
    return _KEY.search(text) is not None


def without_keys(text: str) -> str:
    """Return a message without the private key that someone took for a name or an option."""
    return re.sub(_KEY_IN_TEXT, REDACTED, text)


def redact(text: str) -> str:
    """Return the text of a URI, well-formed or not, without what may be a secret that was put into it by mistake.

    Everything that follows is omitted: if a password contains `;`, `&` or `?`, its end cannot be determined.
    """
    if contains_key(text):
        return REDACTED
    text = _without_userinfo(text)
    query = text.find("?")
    for found in _NAMED.finditer(text):
        begin, sign = found.start(), found[2]
        if not is_secret_name(found[1]):
            continue
        if found[0] == "token=" and not 0 <= query < begin:  # the label of a PKCS#11 token
            continue
        if sign == ":" and text[begin - 1 : begin] not in ("?", "&", ";"):  # a scheme, or part of a path
            continue
        if sign == ":" or not _REFERENCE.match(text, found.end()):
            return f"{text[: found.end()]}***"
    return text


def _without_userinfo(text: str) -> str:
    """Redact the user and password of every address, up to the last @ before the next attribute."""
    shown, position = "", 0
    while found := _AUTHORITY.search(text, position):
        end = _NEXT_ATTRIBUTE.search(text, found.end()).start()  # type: ignore[union-attr]  # it finds the end
        shown += text[position : found.end()]
        at = max(text.rfind("@", found.end(), end), text.rfind("%40", found.end(), end))
        if at >= 0:
            shown += REDACTED + text[at:end]
        elif _CUT_USERINFO.match(text, found.end(), end):
            return shown + REDACTED
        else:
            shown += text[found.end() : end]
        position = end
    return shown + text[position:]


def require_original(text: str) -> None:
    """Raise `ConfigurationError` for a URI that was copied from redacted output."""
    if REDACTED in text:
        raise ConfigurationError(
            f"The URI is redacted: it contains {REDACTED}.",
            hint=f"Replace {REDACTED} with the original value; a proxy's user and password can be given as"
            " proxy-credentials=env:NAME. For literal asterisks, write %2A for each.",
        )


def require_no_key(text: str) -> None:
    """Raise `ConfigurationError` for a private key in place of its URI."""
    if contains_key(text):
        raise ConfigurationError(
            "Expected a key's URI, got the key itself.",
            hint="Put the key into a variable, such as APP_KEY, and write pem:env:APP_KEY (or pfx:env:APP_KEY).",
        )
