"""What a file is that should contain a key or certificate and does not, and the command that converts it."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

import msgspec

from keyvouch._formats import asn1
from keyvouch._formats.asn1 import Element
from keyvouch._formats.certificate_data import CERTIFICATE_LABELS, PKCS7_LABELS, SIGNED_DATA
from keyvouch._formats.pem_blocks import find_pfx, has_block, has_escaped_line_ends, iter_blocks
from keyvouch._system import text
from keyvouch._system.text import shell_quoted


class Identified(msgspec.Struct, frozen=True):
    """What a file is, with an article, and what to do."""

    what: str
    hint: str


_BASE64 = re.compile(rb"[A-Za-z0-9+/_=\s-]{16,}")
_MAGIC = (
    (
        b"\xfe\xed\xfe\xed",
        "a Java key store (JKS)",
        "keytool -importkeystore -srckeystore {file} -destkeystore NEW.pfx",
    ),
    (
        b"\xce\xce\xce\xce",
        "a Java key store (JCEKS)",
        "keytool -importkeystore -srckeystore {file} -destkeystore NEW.pfx",
    ),
    (b"PuTTY-User-Key-File-", "a PuTTY key", "puttygen {file} -O private-openssh-new -o NEW.pem"),
    (b"version https://git-lfs", "a pointer of Git LFS", "git lfs pull"),
    (b"$ANSIBLE_VAULT", "encrypted by Ansible Vault", "ansible-vault decrypt --output NEW {file}"),
    (b"age-encryption.org/", "encrypted by age", "age --decrypt --output NEW {file}"),
    (b"-----BEGIN PGP", "a PGP message or key", "gpg --output NEW --decrypt {file}"),
    (b"PK\x03\x04", "a ZIP archive", "unzip {file}"),
    (b"\x1f\x8b", "compressed with gzip", "gunzip --keep --stdout {file} > NEW"),
)
"""The beginnings of other kinds of files, and the command that extracts the key."""
_WITHOUT_BOM = {name: "-----BEGIN ".encode(name) for name in ("UTF-16LE", "UTF-16BE")}
"""The beginning of a PEM block, as it is found in UTF-16 that does not begin with a byte order mark."""
_REPLACEMENT = "\ufffd".encode()
"""What replaces bytes that are not UTF-8 when binary data are treated as text."""
_TAGS = {asn1.INTEGER: "i", asn1.SEQUENCE: "s", asn1.OCTET_STRING: "o", b"\x03": "b", b"\x06": "d", b"\xa0": "0"}
_STRUCTURES = {
    "iso": "a private key in DER",
    "io": "a private key in DER",
    "iiii": "a private key in DER",
    "is": "a PFX",
    "so": "an encrypted private key in DER",
    "ssb": "a certificate",
    "sb": "a public key",
    "d0": "a PKCS#7 with certificates",
}
"""What a SEQUENCE is, by the types of its first elements: `i` is an INTEGER, `s` a SEQUENCE, and so on."""
_TIMES = (b"\x17", b"\x18")
"""The tags of UTCTime and GeneralizedTime: in a certificate they are one level deeper than in a CRL."""
_ENCRYPTED_DER_KEY = "an encrypted private key in DER"
_DER_KEYS = ("a private key in DER", _ENCRYPTED_DER_KEY)
_CERTIFICATE_FIELDS = 6
"""The least number of fields of a TBSCertificate; a request has fewer."""


def identify(data: bytes, path: object) -> Identified | None:
    """Return what the file is, if it is something other than what was expected and can be recognized."""
    file, stripped = shell_quoted(path), data.lstrip(b"\xef\xbb\xbf \t\r\n")
    if advice := text.advice(data, path, ""):
        return Identified("UTF-16 text", advice)
    if encoding := next((name for name, begin in _WITHOUT_BOM.items() if data.find(begin) % 2 == 0), None):
        return Identified("UTF-16 text", f"Convert it: iconv -f {encoding} -t UTF-8 {file} > NEW.pem")
    for magic, what, command in _MAGIC:
        if stripped.startswith(magic):
            return Identified(what, f"Convert it: {command.format(file=file)}")
    for recognize in (_markup, _json, _kubernetes, _public_ssh, _escaped, _pem, _base64, _text_mode):
        if found := recognize(stripped, file, path):
            return found
    return _der(data, file, path)


def _markup(data: bytes, file: str, path: object) -> Identified | None:  # noqa: ARG001 - all have the same arguments
    beginning = data[:200].lower()
    if beginning.startswith((b"<!doctype html", b"<html")):
        return Identified("an HTML page", "Download it again: a sign-in or error page was saved instead of the file.")
    if beginning.startswith(b"<"):
        return Identified("XML", "Export the key as PFX or PEM.")
    return None


def _json(data: bytes, file: str, path: object) -> Identified | None:
    if not data.startswith((b"{", b"[")):
        return None
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if isinstance(content, dict):
        return _json_object(content, file, path)
    return Identified("JSON", "Specify a PFX or PEM file.")


def _json_object(content: dict[str, Any], file: str, path: object) -> Identified:
    if content.get("type") == "service_account":
        return Identified("the JSON of a service account", f"Extract its key: jq -r .private_key {file} > NEW.pem")
    if content.get("kind") == "Secret":
        return _kubernetes_secret()
    if "kty" in content or "keys" in content:
        return _jwk(content, path)
    if isinstance(value := content.get("value"), str):
        command = "> NEW.pem" if "-----BEGIN " in value else "| base64 -d > NEW.pfx"
        what = "JSON with the key as its value, as `az keyvault secret show` prints it"
        return Identified(what, f"Extract it: jq -r .value {file} {command}")
    return Identified("JSON", "Specify a PFX or PEM file.")


def _jwk(content: dict[str, Any], path: object) -> Identified:
    to_read = f"Write {_uri('pem', path)} to read it."
    if "keys" in content:
        return Identified("a set of JWKs", to_read if content["keys"] else "Specify one that contains a private key.")
    if {"d", "k"} & content.keys():
        return Identified("a JWK", to_read)
    return Identified("a public key (JWK)", "Specify the file with the private key.")


def _kubernetes(data: bytes, file: str, path: object) -> Identified | None:  # noqa: ARG001
    return _kubernetes_secret() if re.search(rb"(?m)^kind: *Secret\s*$", data[:100_000]) else None


def _kubernetes_secret() -> Identified:
    command = r"kubectl get secret NAME -o jsonpath='{.data.tls\.key}' | base64 -d > NEW.pem"
    return Identified("a Kubernetes Secret", f"Extract the key, or mount the secret: {command}")


def _public_ssh(data: bytes, file: str, path: object) -> Identified | None:  # noqa: ARG001
    if data.startswith((b"ssh-", b"ecdsa-sha2-", b"---- BEGIN SSH2 PUBLIC")):
        return Identified("an SSH public key", "Specify the private key.")
    return None


def _escaped(data: bytes, file: str, path: object) -> Identified | None:  # noqa: ARG001
    if has_escaped_line_ends(data):
        command = f"printf '%b' \"$(tr -d '\\042\\047' < {file})\" > NEW.pem"
        return Identified("PEM with the two characters \\n instead of line ends", f"Convert it: {command}")
    return None


def _pem(data: bytes, file: str, path: object) -> Identified | None:  # noqa: ARG001
    if not has_block(data):
        return None
    try:
        labels = [block.label for block in iter_blocks(data)]
    except ValueError:
        return None
    if find_pfx(data):
        return Identified("a PFX in PEM", f"Write {_uri('pfx', path)}.")
    if any(label.endswith(b"PRIVATE KEY") for label in labels):
        return Identified("PEM", f"Write {_uri('pem', path)}.")
    kinds = ", ".join(dict.fromkeys(label.decode() for label in labels))
    has_certificate = any(label in CERTIFICATE_LABELS | PKCS7_LABELS for label in labels)
    hint = certificate_hint(path) if has_certificate else "Specify the file with the private key."
    return Identified(f"PEM with {kinds}, but without a private key", hint)


def _base64(data: bytes, file: str, path: object) -> Identified | None:
    """Recognize base64, also if it was encoded twice, as by a pipeline that encodes what is encoded already."""
    command, times = f"base64 -d {file}", 0
    content = data.strip().strip(b"\"'")
    while _BASE64.fullmatch(content) and not has_block(content):
        try:
            content = base64.b64decode(b"".join(content.split()).translate(bytes.maketrans(b"-_", b"+/")) + b"==")
        except (ValueError, binascii.Error):
            return None
        times += 1
    if not times:
        return None
    command += " | base64 -d" * (times - 1)
    inner = _der(content, file, path) or _pem(content, file, path)
    if inner is None:
        return None
    again = {1: "", 2: ", encoded twice"}.get(times, f", encoded {times} times")
    if inner.what in _DER_KEYS:
        command += f" | {_key_command(inner.what)} -out NEW.pem"
    else:
        suffix = "pfx" if inner.what == "a PFX" else "pem" if has_block(content) else "der"
        command += f" > NEW.{suffix}"
    return Identified(f"the base64 of {inner.what}{again}", f"Decode it: {command}")


def _text_mode(data: bytes, file: str, path: object) -> Identified | None:  # noqa: ARG001
    if data[:1] == b"0" and data.count(_REPLACEMENT) > len(data) // 50:
        return Identified("binary data that were treated as text", "Copy the original again, in binary mode.")
    return None


def _der(data: bytes, file: str, path: object) -> Identified | None:
    try:
        tree = asn1.parse(data)
    except ValueError:
        return None
    what = _structure(tree.children) if tree.tag == asn1.SEQUENCE else None
    if what is None:
        return None
    if what in _DER_KEYS:
        return Identified(what, f"Convert it: {_key_command(what)} -in {file} -out NEW.pem")
    hints = {
        "a PFX": f"Write {_uri('pfx', path)}.",
        "a certificate": certificate_hint(path),
        "a PKCS#7 with certificates": certificate_hint(path),
    }
    return Identified(what, hints.get(what, "Specify the file with the private key."))


def _key_command(what: str) -> str:
    """Return the command that converts a key in DER; one that was encrypted stays encrypted."""
    return "openssl pkey -inform DER" + (" -aes256" if what == _ENCRYPTED_DER_KEY else "")


def certificate_hint(path: object) -> str:
    """Return the hint for a file that contains only certificates, in place of a key."""
    uri = shell_quoted(f"pem:KEY-FILE?certificate-file={_encoded(path)}")
    return f"It contains no private key: name the file of the key, and write {uri}."


def _uri(scheme: str, path: object) -> str:
    return shell_quoted(f"{scheme}:{_encoded(path)}")


def _encoded(path: object) -> str:
    return "".join(_percent(each) if each in "%?&#" or not each.isprintable() else each for each in str(path))


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogateescape"))


def _structure(fields: tuple[Element, ...]) -> str | None:
    """Return what a SEQUENCE with these fields is, by the tags of the first ones."""
    tags = "".join(_TAGS.get(field.tag, "?") for field in fields)
    what = next((what for beginning, what in _STRUCTURES.items() if tags.startswith(beginning)), None)
    if what == "a certificate" and any(field.tag in _TIMES for field in fields[0].children):
        return "a certificate revocation list"
    if what == "a certificate" and len(fields[0].children) < _CERTIFICATE_FIELDS:
        return "a certificate request"
    if what == "a PKCS#7 with certificates" and fields[0].content != SIGNED_DATA:
        return "an encrypted or signed message (CMS)"
    return what
