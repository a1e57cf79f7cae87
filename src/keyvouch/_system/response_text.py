"""What a response says, on one line for an error message: for responses that are not in the server's documented format.

They come from gateways, proxies, other servers at a wrong address, and emulators: a page, plain text, or other JSON.
"""

from __future__ import annotations

import html
import json
import re
from http.client import responses

_MAX_LENGTH = 300
"""Maximum length of the text quoted from a body, in characters."""
_MAX_BYTES = 65_536
"""Maximum number of bytes of a body that are searched for its text."""
_MAX_TEXT_FIELDS = 3
_TEXT_FIELDS = ("error", "code", "title", "error_description", "message", "detail", "errors", "Message")
"""The fields of a JSON object that say what failed, in the order in which they are quoted."""
_HIDDEN_ELEMENTS = ("script", "style", "svg", "title")
_COMMENT = "!--"
_TAG_NAME = re.compile(r"!--|/?[a-zA-Z0-9]+")
_OPAQUE = re.compile(r"[\w+=.~-]{60,}")
"""Tokens, assertions and signatures, which a page may repeat from the request."""


def describe_response(status: int, reason: str, body: bytes) -> str:
    """Return the status, with its reason, and the text of the body: `HTTP status 404 Not Found: no such route`.

    The text is printable, on one line, truncated, and without tokens. It has no full stop at its end.
    """
    name = _printable(reason)[:_MAX_LENGTH] or responses.get(status, "")
    text = body_text(body)
    shown = f"HTTP status {status} {name}".rstrip()
    return f"{shown}: {text}" if text and text != name else shown


def body_text(body: bytes) -> str:
    """Return the text of a body, as `describe_response` quotes it; empty if it has none."""
    text = body[:_MAX_BYTES].decode("utf-8-sig", errors="replace")
    if "\x00" in text:
        return ""
    try:
        text = _json_text(json.loads(body))
    except (ValueError, RecursionError):
        text = _without_markup(text)
    text = _printable(_OPAQUE.sub("...", text))
    if len(text) > _MAX_LENGTH:
        text = f"{text[:_MAX_LENGTH].rstrip()} ..."
    return text.rstrip(".") if not text.endswith("...") else text


def _without_markup(text: str) -> str:
    if not text.lstrip().startswith("<"):
        return text
    visible, title, hidden = [], "", ""
    for piece in text.split("<")[1:]:  # in linear time, whatever a server sends
        tag, _, content = piece.partition(">")
        name = _TAG_NAME.match(tag)
        hidden = _hidden_element(hidden, name[0].lower() if name else "", piece)
        if hidden == "title":
            title = content
        elif not hidden:
            visible.append(piece.rpartition("-->")[2] if "-->" in piece else content)
    return html.unescape(" ".join(visible).strip() or title)


def _hidden_element(hidden: str, tag: str, piece: str) -> str:
    """Return which element hides the text after a tag, such as `script`; an empty string if none does."""
    if hidden:
        ends = "-->" in piece if hidden == _COMMENT else tag == f"/{hidden}"
        return "" if ends else hidden
    if tag == _COMMENT:
        return "" if "-->" in piece else tag
    return tag if tag in _HIDDEN_ELEMENTS else ""


def _json_text(value: object) -> str:
    """Return the texts in a JSON value that say what failed; an empty string if none do."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "; ".join(filter(None, map(_json_text, value[:_MAX_TEXT_FIELDS])))
    if not isinstance(value, dict):
        return ""
    texts = [_json_text(value[name]) for name in _TEXT_FIELDS if name in value]
    return ": ".join(list(dict.fromkeys(filter(None, texts)))[:_MAX_TEXT_FIELDS])


def _printable(text: str) -> str:
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())
