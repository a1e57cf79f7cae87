"""What people type instead of a key's URI; each gets the line to type."""

from __future__ import annotations

import os

import pytest

from keyvouch._core.opening import open_signer, parse
from keyvouch.errors import ConfigurationError

THUMBPRINT = "CA20A903F6693D54E8087A25FC2EAB1779E7D69B"
SHA256 = THUMBPRINT + "00112233445566778899AABB"


def hint(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    assert "hunter2" not in str(caught.value)
    return caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        THUMBPRINT,
        THUMBPRINT.lower(),
        ":".join(THUMBPRINT[index : index + 2] for index in range(0, 40, 2)),
        ":".join(THUMBPRINT.lower()[index : index + 2] for index in range(0, 40, 2)),
        "\u200e" + " ".join(THUMBPRINT.lower()[index : index + 2] for index in range(0, 40, 2)),
    ],
)
def test_bare_thumbprint(text: str) -> None:
    """A thumbprint, as any tool shows it, belongs into a URI of the Windows store."""
    assert hint(text) == f"Write windows:thumbprint={THUMBPRINT}."
    assert hint(SHA256) == f"Write windows:thumbprint={SHA256}."


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        (rf"cert:\LocalMachine\My\{THUMBPRINT}", f"windows:thumbprint={THUMBPRINT};location=LocalMachine"),
        (rf"Cert:\CurrentUser\My\{THUMBPRINT.lower()}", f"windows:thumbprint={THUMBPRINT};location=CurrentUser"),
        (rf"CERT:\localmachine\my\{THUMBPRINT}", f"windows:thumbprint={THUMBPRINT};location=LocalMachine"),
        (f"cert:/LocalMachine/My/{THUMBPRINT}", f"windows:thumbprint={THUMBPRINT};location=LocalMachine"),
        (
            rf"Cert:\LocalMachine\WebHosting\{THUMBPRINT}",
            f"windows:thumbprint={THUMBPRINT};location=LocalMachine;store=WebHosting",
        ),
        (
            rf"Microsoft.PowerShell.Security\Certificate::LocalMachine\My\{THUMBPRINT}",
            f"windows:thumbprint={THUMBPRINT};location=LocalMachine",
        ),
        (r"cert:\LocalMachine\My", "windows:location=LocalMachine"),
    ],
)
def test_path_of_the_certificate_drive(text: str, uri: str) -> None:
    """A path of PowerShell's certificate drive becomes a URI of the Windows store."""
    assert hint(text) == f"Write '{uri}'."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("p12:/etc/app.p12?password=env:X", "Write pfx:/etc/app.p12?..."),
        ("pkcs12:app.p12", "Write pfx:app.p12"),
        ("key:/etc/app.key", "Write pem:/etc/app.key"),
        ("file:/etc/app.pfx", "Write pfx:/etc/app.pfx"),
        ("file:///etc/app.P12", "Write pfx:/etc/app.P12"),
        ("file://localhost/etc/app.pem", "Write pem:/etc/app.pem"),
        ("p12:/etc/app.p12?password=hunter2", "Write pfx:/etc/app.p12?..."),
        ("https://contoso.vault.azure.net/keys/app", "Write 'azure-keyvault:https://contoso.vault.azure.net/keys/app?"),
        ("https://vault.contoso.com:8200", "vault:address=https://vault.contoso.com:8200;key=NAME?auth=..."),
        ("akv:contoso", "see `keyvouch stores azure-keyvault`"),
        ("openbao:key=app", "see `keyvouch stores vault`"),
        ("tpm:0x81000001", "see `keyvouch stores pkcs11`"),
    ],
)
def test_scheme_of_another_tool(text: str, expected: str) -> None:
    """What a store is called elsewhere leads to its scheme."""
    assert expected in hint(text)


def test_unknown_scheme_keeps_its_hint() -> None:
    """A scheme that nobody uses gets the general hint."""
    assert "keyvouch stores" in hint("moon:base=1")


def test_bytes_that_could_not_be_decoded() -> None:
    """Without UTF-8, a path that is not ASCII is shown percent-encoded, which works everywhere."""
    text = os.fsencode("pfx:/etc/schlüssel.pfx?password=env:X").decode("ascii", "surrogateescape")
    assert hint(text) == ("Set PYTHONUTF8=1, or write the bytes percent-encoded: 'pfx:/etc/schl%C3%BCssel.pfx?...'.")


def test_reference_in_an_attribute_that_is_not_secret() -> None:
    """A value that looks like a reference, but would be used literally, is refused."""
    with pytest.raises(ConfigurationError, match='"role-id" cannot be a reference') as caught:
        parse("vault:address=https://v;key=app?auth=approle&role-id=env:X&secret-id=env:Y")
    assert caught.value.hint == "Write the value itself: role-id=VALUE."
    assert hint("pem:/a?certificate-file=file:/b") == "Write the value itself: certificate-file=VALUE."


def test_missing_attribute_is_described() -> None:
    """The hint says where a missing attribute is written, and which values it has."""
    with pytest.raises(ConfigurationError, match="is incomplete: missing auth") as caught:
        open_signer("azure-keyvault:vault=https://contoso.vault.azure.net;certificate=app")
    assert "Add auth=... after the `?`" in caught.value.hint
    assert "managed-identity" in caught.value.hint
