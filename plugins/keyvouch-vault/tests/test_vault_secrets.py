"""A secret that cannot be sent is refused when it is read, and no error or its cause contains the value."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyvouch.errors import ConfigurationError, KeyvouchError, SecretIncorrect
from keyvouch.secrets import SecretResolver
from keyvouch.testing.authority.tls import make_context
from keyvouch.uri import parse_uri
from keyvouch_vault import auth_methods
from keyvouch_vault.store import VaultStore
from scripted_server import ScriptedServer, scripted_server

SECRET = "hvs.CAESI-marker"
LOGINS = (
    "auth=token&token={0}",
    "auth=approle&role-id=app&secret-id={0}",
    "auth=approle&role-id=app&wrapped-secret-id={0}",
    "auth=kubernetes&role=app&jwt={0}",
    "auth=jwt&role=app&jwt={0}",
    "auth=userpass&username=app&password={0}",
    "auth=ldap&username=app&password={0}",
)
WITH_CONTROL_CHARACTERS = (f"{SECRET}\nmore", f"more\r\n{SECRET}\r\n\r\n", f"{SECRET}\x7f", f"\x01{SECRET}")


@pytest.fixture
def untouched_server(tmp_path: Path) -> Iterator[tuple[ScriptedServer, Path]]:
    """A server that must not get any request, and the certificates to trust."""
    with scripted_server(b"") as server:
        yield server, make_context(tmp_path)[1]
        assert server.requests == []


def connect(server: ScriptedServer, ca_file: Path, query: str) -> None:
    uri = parse_uri(f"vault:address={server.address};key=app?{query}&ca-file={ca_file}", VaultStore.attributes)
    VaultStore(uri, SecretResolver()).connect(timeout=10)


def assert_no_secret(error: KeyvouchError) -> None:
    """Assert that neither the error nor its causes contain the secret."""
    assert "marker" not in "".join(traceback.format_exception(error))
    assert "marker" not in repr((error.__cause__, error.__context__, error.hint))


@pytest.mark.parametrize("login", LOGINS)
@pytest.mark.parametrize("value", WITH_CONTROL_CHARACTERS)
def test_secrets_with_control_characters(
    untouched_server: tuple[ScriptedServer, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    login: str,
    value: str,
) -> None:
    """From the environment or a file, they raise `SecretIncorrect`, with the reference but not the value."""
    file = tmp_path / "secret"
    file.touch(mode=0o600)
    file.write_bytes(value.encode())
    monkeypatch.setenv("BROKEN_SECRET", value)
    for reference in ("env:BROKEN_SECRET", f"file:{file}"):
        with pytest.raises(SecretIncorrect) as caught:
            connect(*untouched_server, login.format(reference))
        assert reference in caught.value.message
        assert caught.value.hint
        assert_no_secret(caught.value)


@pytest.mark.parametrize("login", LOGINS[:5])
@pytest.mark.parametrize("value", [f"{SECRET} ", f'"{SECRET}\u201d', f"Bearer {SECRET}"])
def test_tokens_with_other_characters(
    untouched_server: tuple[ScriptedServer, Path], monkeypatch: pytest.MonkeyPatch, login: str, value: str
) -> None:
    """Tokens contain neither spaces nor non-ASCII characters."""
    monkeypatch.setenv("BROKEN_SECRET", value)
    with pytest.raises(SecretIncorrect) as caught:
        connect(*untouched_server, login.format("env:BROKEN_SECRET"))
    assert_no_secret(caught.value)


@pytest.mark.parametrize("data", [b"a b", b"\xff\xfe", b""])
def test_service_account_token(
    untouched_server: tuple[ScriptedServer, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: bytes
) -> None:
    """The token that Kubernetes mounts is checked too."""
    file = tmp_path / "token"
    file.write_bytes(data)
    monkeypatch.setattr(auth_methods, "_SERVICE_ACCOUNT_TOKEN", file)
    with pytest.raises(SecretIncorrect, match="service account"):
        connect(*untouched_server, "auth=kubernetes&role=app")


def test_password_may_have_spaces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A password is not a token: it is sent in JSON, with all its characters."""
    monkeypatch.setenv("PHRASE", "correct horse \u00fc")
    ca_file = make_context(tmp_path)[1]
    with scripted_server(b"HTTP/1.1 503 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}") as server:
        with pytest.raises(KeyvouchError):
            connect(server, ca_file, "auth=userpass&username=app&password=env:PHRASE")
        assert "correct horse" in server.requests[0]


def test_namespace_is_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    """The namespace is sent in a header."""
    with pytest.raises(ConfigurationError):
        parse_uri("vault:address=https://v;namespace=t%C3%A9am;key=app?auth=none", VaultStore.attributes)


def test_uri_decides_who_gets_a_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The author of a URI can have any variable sent to any server: a URI is trusted like code."""
    monkeypatch.setenv("SECRET_OF_ANOTHER", SECRET)
    ca_file = make_context(tmp_path)[1]
    with scripted_server(b"HTTP/1.1 503 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}") as server:
        with pytest.raises(KeyvouchError):
            connect(server, ca_file, "auth=token&token=env:SECRET_OF_ANOTHER")
        assert SECRET in server.requests[0]
