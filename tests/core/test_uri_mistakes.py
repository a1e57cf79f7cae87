"""What is often written instead of a key's URI: the error has the cause, and the line to write."""

import os
import re

import pytest

from keyvouch._core.opening import open_signer, parse
from keyvouch.errors import ConfigurationError, PluginMissing
from keyvouch.uri import scheme_of

SHA1 = "CA20A903F6693D54E8087A25FC2EAB1779E7D69B"
SHA256 = "98AAAF618774B04968A1481F0AD497F71B8D170FAAA3143935C0857AF42D3C36"
SECRET = "hunter2"  # must not appear in any error


def refusal(text: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    assert SECRET not in f"{caught.value!r} {caught.value} {caught.value.uri}"
    return caught.value


@pytest.mark.parametrize(
    "text",
    [
        SHA1,
        SHA1.lower(),
        SHA256,
        ":".join(SHA1[i : i + 2] for i in range(0, 40, 2)),
        " ".join(SHA1[i : i + 2] for i in range(0, 40, 2)),
        f"\u200e{SHA1}",
    ],
)
def test_thumbprint(text: str) -> None:
    """A bare thumbprint, as any tool shows it, is recognized."""
    error = refusal(text)
    assert error.message == "Expected a key's URI, got a thumbprint."
    assert f"write windows:thumbprint={SHA256 if len(text) == 64 else SHA1};" in error.hint


@pytest.mark.parametrize("text", [SHA1[1:], f"{SHA1}0", f"{SHA1[1:]}g", "cafe:/a", "cafe"])
def test_what_is_not_a_thumbprint(text: str) -> None:
    """Only 40 or 64 hexadecimal digits are a thumbprint."""
    with pytest.raises((ConfigurationError, PluginMissing)) as caught:
        parse(text)
    assert "thumbprint" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        (rf"cert:\LocalMachine\My\{SHA1}", f"windows:thumbprint={SHA1};store=My;location=LocalMachine"),
        (rf"Cert:\CurrentUser\MY\{SHA1.lower()}", f"windows:thumbprint={SHA1};store=My;location=CurrentUser"),
        (f"cert:/localmachine/my/{SHA1}", f"windows:thumbprint={SHA1};store=My;location=LocalMachine"),
        (rf"Cert:LocalMachine\WebHosting\{SHA1}", f"windows:thumbprint={SHA1};store=WebHosting;location=LocalMachine"),
        (rf"CurrentUser\MY\{SHA1}", f"windows:thumbprint={SHA1};store=My;location=CurrentUser"),
        (
            rf"Microsoft.PowerShell.Security\Certificate::LocalMachine\My\{SHA1}",
            f"windows:thumbprint={SHA1};store=My;location=LocalMachine",
        ),
        (rf"windows:LocalMachine\My\{SHA1}", f"windows:thumbprint={SHA1};store=My;location=LocalMachine"),
        (r"cert:\LocalMachine\My", "windows:store=My;location=LocalMachine"),
        (r"cert:\LocalMachine\My\app", "windows:store=My;location=LocalMachine"),
    ],
)
def test_path_in_the_windows_certificate_store(text: str, uri: str) -> None:
    """A path of PowerShell or curl is recognized; without a thumbprint, the hint lists the keys."""
    error = refusal(text)
    assert error.message == "Expected a key's URI, got a path in the Windows certificate store."
    assert error.hint.endswith((f"Write '{uri}'.", f"keyvouch keys --key '{uri}'"))


@pytest.mark.parametrize("text", ["env:APP_KEY", "APP_KEY"])
def test_reference_without_a_scheme(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference to a key, and the name of a variable that exists, are answered with the URIs to write."""
    monkeypatch.setenv("APP_KEY", SECRET)
    assert refusal(text).hint == "Write pem:env:APP_KEY (or pfx:env:APP_KEY)."


def test_name_of_a_missing_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that can only be a variable's is recognised even if the variable is not set."""
    monkeypatch.delenv("APP_KEY", raising=False)
    assert refusal("APP_KEY").hint == "Set the variable APP_KEY. Write pem:env:APP_KEY (or pfx:env:APP_KEY)."


@pytest.mark.parametrize("text", ["pem:env:A pem:env:B", "pem:env:A,pfx:env:B", "pem:/a.pem pem:/b.pem"])
def test_several_uris(text: str) -> None:
    """Several URIs in one text are not one key's."""
    error = refusal(text)
    assert error.message == "Expected the URI of one key, got 2."
    assert "profile" in error.hint


def test_path_with_a_space() -> None:
    """A path with spaces and commas is a path."""
    assert parse("pem:/etc/my keys, pem:old/app.pem").get("path")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("p12:/etc/app.p12", "Write 'pfx:/etc/app.p12'."),
        ("PKCS12:app.pfx", "Write 'pfx:app.pfx'."),
        (f"p12:/etc/app.p12?password={SECRET}", "Write 'pfx:/etc/app.p12?...'."),
        (f"p12:/etc/app.p12;password={SECRET}", "Write 'pfx:/etc/app.p12;password=***'."),
        ("key:/etc/app.key", "Write 'pem:/etc/app.key'."),
        ("file:/etc/app.pfx", "Write 'pfx:/etc/app.pfx'."),
        ("file:///etc/App.P12", "Write 'pfx:/etc/App.P12'."),
        ("file://localhost/etc/app.pem", "Write 'pem:/etc/app.pem'."),
        (f"FILE:app.key?password={SECRET}", "Write 'pem:app.key?...'."),
        ("file:///C:/keys/app.pfx", "Write 'pfx:C:/keys/app.pfx'."),
        ("file:C:\\keys\\app.pfx", "Write 'pfx:C:\\keys\\app.pfx'."),
        ("file://server/share/app.pfx", "Write 'pfx://server/share/app.pfx'."),
        ("file:/run/secrets/app", "Write 'pfx:/run/secrets/app' or 'pem:/run/secrets/app'."),
        ("cert:/etc/app.pem", "For a file, write pfx:PATH or pem:PATH; for the Windows certificate store,"),
        ("p11:token=prod;object=app", "Write 'pkcs11:token=prod;object=app'."),
        ("keyvault:vault=https://a.vault.azure.net", "Write 'azure-keyvault:vault=https://a.vault.azure.net'."),
        ("openbao:key=app", "Write 'vault:key=app'."),
        ("akv:contoso", "Write azure-keyvault:NAME=VALUE...; `keyvouch stores azure-keyvault` lists the attributes."),
        ("tpm:0x81000001", "Write pkcs11:NAME=VALUE...; `keyvouch stores pkcs11` lists the attributes."),
        (
            f"https://vault.contoso.com:8200/v1?token={SECRET}",
            "For a key in Vault or OpenBao, write 'vault:address=https://vault.contoso.com:8200;key=NAME?auth=...'.",
        ),
        (
            "https://vault:8200/v1/team/transit/sign/app",
            "For a key in Vault or OpenBao, write 'vault:address=https://vault:8200;mount=team/transit;key=app?auth=...",
        ),
        ("jwk:app.jwk", "Write 'pem:app.jwk'."),
        (
            "https://contoso.vault.azure.net/certificates/app",
            "Write 'azure-keyvault:vault=https://contoso.vault.azure.net;certificate=app'.",
        ),
        (
            f"https://contoso.vault.azure.net:443/keys/app/{SHA1[:32]}",
            f"Write 'azure-keyvault:vault=https://contoso.vault.azure.net;key=app;version={SHA1[:32]}'.",
        ),
    ],
)
def test_scheme_of_another_program(text: str, hint: str) -> None:
    """A scheme that no store has, but whose meaning is clear, is answered with the URI to write."""
    error = refusal(text)
    assert error.message.startswith(f"Unknown scheme {text.partition(':')[0].lower()}: in ")
    assert error.hint.startswith(hint)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (f"thumbprint={SHA1}", f"Write 'windows:thumbprint={SHA1}'."),
        ("token=prod;object=app", "Write 'pkcs11:token=prod;object=app'."),
        ("path=/etc/app.pfx", "Write 'pfx:path=/etc/app.pfx'."),
        ("vault=x?auth=cli", "Write 'azure-keyvault:vault=x?...'."),
        (f"password={SECRET}", "A URI begins with"),
    ],
)
def test_attributes_without_a_scheme(text: str, hint: str) -> None:
    """If the first attribute says which store was meant, the hint has its scheme."""
    error = refusal(text)
    assert "the scheme is missing" in error.message
    assert error.hint.startswith(hint)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("./app.pem", "Write 'pem:./app.pem'."),
        ("App.PFX", "Write 'pfx:App.PFX'."),
        ("/run/secrets/app", "Write 'pfx:/run/secrets/app' or 'pem:/run/secrets/app'."),
        ("C:\\keys\\app.pem", "Write 'pem:C:/keys/app.pem'."),
        ("~/app.pem", "Write 'pem:/home/me/app.pem'."),
        ("/usr/lib/libsofthsm2.so", "Write 'pkcs11:?module-path=/usr/lib/libsofthsm2.so'."),
        (" pem:/etc/app.pem", "Remove the spaces around the URI."),
    ],
)
def test_path_without_a_scheme(text: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of the file says which store was meant, and a `~` is expanded, since a URI's is not."""
    monkeypatch.setenv("HOME", "/home/me")
    assert refusal(text).hint == hint


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("vault:address=https://v;name=app?auth=none", "Known attributes before the `?`: address, namespace, mount,"),
        ("vault:address=https://v;path=app?auth=none", "Known attributes before the `?`: address, "),
        ("pfx:path=a;passwrd=env:X", 'Did you mean "password"?'),
        ("pfx:a?pass=env:X", 'Did you mean "password"?'),
    ],
)
def test_unknown_attribute(text: str, hint: str) -> None:
    """A name on the other side of the `?` is suggested only if it is hardly different."""
    assert refusal(text).hint.startswith(hint)


def test_unknown_scheme_remains_a_missing_plugin() -> None:
    """A scheme that may belong to a plugin is reported as such."""
    with pytest.raises(PluginMissing, match="No store is installed for yubikey:"):
        parse("yubikey:slot=9c")
    assert scheme_of("p12:/a") == "p12"


def test_bytes_that_could_not_be_decoded() -> None:
    """Without UTF-8, a path that is not ASCII is shown percent-encoded, which works everywhere."""
    text = os.fsencode(f"pfx:/etc/schlüssel.pfx?password={SECRET}").decode("ascii", "surrogateescape")
    error = refusal(text)
    assert error.hint == "Set PYTHONUTF8=1, or write the bytes percent-encoded: 'pfx:/etc/schl%C3%BCssel.pfx?...'."


def test_reference_in_an_attribute_that_is_not_secret() -> None:
    """A value that looks like a reference, but would be used literally, is refused."""
    error = refusal("vault:address=https://v;key=app?auth=approle&role-id=env:X&secret-id=env:Y")
    assert '"role-id" cannot be a reference' in error.message
    assert error.hint == "Write the value itself: role-id=VALUE."
    assert "write the path without file:" in refusal("pem:/a?certificate-file=file:/b").message


def test_missing_attribute_is_described() -> None:
    """The hint says where a missing attribute is written, and which values it has."""
    with pytest.raises(ConfigurationError, match="is incomplete: missing auth") as caught:
        open_signer("azure-keyvault:vault=https://contoso.vault.azure.net;certificate=app")
    assert "Add auth=... after the `?`" in caught.value.hint
    assert "managed-identity" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        (f"windows:{SHA1}", f"windows:thumbprint={SHA1}"),
        (f"windows:{SHA1.lower()};location=LocalMachine", f"windows:thumbprint={SHA1};location=LocalMachine"),
        (f"windows:{SHA1}&location=LocalMachine", f"windows:thumbprint={SHA1};location=LocalMachine"),
        (rf"windows:My\{SHA1}", f"windows:thumbprint={SHA1};store=My"),
    ],
)
def test_thumbprint_without_its_name(text: str, uri: str) -> None:
    """A thumbprint after the scheme is recognized."""
    assert refusal(text).hint == f"Write '{uri}'."


@pytest.mark.parametrize("mark", ["?", "??", "? ", "\u00e2\u20ac\u017d"])
def test_mark_in_front_of_a_thumbprint(mark: str) -> None:
    """The dialog's invisible mark becomes other characters in a file that is not UTF-8; the digits may have spaces."""
    for digits in (SHA1, " ".join(re.findall("..", SHA1.lower()))):
        error = refusal(f"windows:location=LocalMachine;thumbprint={mark}{digits}")
        assert "in front of the" in str(error)
        assert "delete" in str(error).lower()


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (f"windows:thumbprint={SHA1}&location=LocalMachine", ";location="),
        ("windows:friendly-name=a&location=LocalMachine", ";location="),
        ("windows:friendly-name=a&select=newest", "?select="),
    ],
)
def test_ampersand_before_the_question_mark(text: str, right: str) -> None:
    """`&` separates attributes only after the `?`; before it, it would become part of the value."""
    assert refusal(text).hint == f"Write ...{right}..."


def test_spaces_are_printed_as_they_are() -> None:
    """A batch file would change `%20`; a space that nobody would see, or beside a user name, is encoded."""
    provider = "windows:provider=Microsoft Platform Crypto Provider;container=app"
    assert parse(provider).quoted == f"'{provider}'"
    assert str(parse("pfx:/etc/my app.pfx")) == "pfx:/etc/my app.pfx"
    assert str(parse("windows:friendly-name=a ")) == "windows:friendly-name=a%20"
    assert str(parse("windows:friendly-name=http://a b:c@d")) == "windows:friendly-name=http://***@d"
