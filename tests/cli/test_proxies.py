"""A proxy's password is used, and never shown."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import keyvouch
from keyvouch import config
from keyvouch.errors import ConfigurationError, KeyvouchError
from signing_in import run
from traces import traces

SECRET = "s-cret"


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[bytes]]]:
    """Host and port of a proxy that refuses, and the request heads that it received."""
    for name in ("NO_PROXY", "no_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    heads: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    heads.append(connection.recv(4096))
                    connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}", heads
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


URIS = (
    "vault:address=https://vault.test:8200;key=app?auth=token&token=env:TOKEN",
    "azure-keyvault:vault=https://contoso.vault.azure.net;certificate=app?auth=environment",
)


@pytest.mark.parametrize("form", ["&proxy=http://me:s-cret@{}", "&proxy=http://{}&proxy-credentials=env:PROXY", ""])
def test_password_of_a_proxy_is_in_no_error(
    proxy: tuple[str, list[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    form: str,
) -> None:
    """Errors with their URIs and frames, audit records and JSON do not contain the password; the proxy gets it."""
    host, heads = proxy
    monkeypatch.setenv("TOKEN", "token")
    monkeypatch.setenv("PROXY", "me:s-cret")
    if not form:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:s-cret@{host}")
    caplog.set_level(logging.DEBUG)
    whole = URIS[0] + form.format(host)
    with keyvouch.open_store(whole) as store, pytest.raises(KeyvouchError) as caught:
        store.generate(keyvouch.KeySpec("P-256", "CN=app", 30))
    assert b"Basic bWU6cy1jcmV0" in heads[0]
    assert all(SECRET not in shown for shown in traces(caught.value))
    assert caught.value.uri
    for output in ("json", "text"):
        done = run("keys", "--key", whole, "--output", output)
        assert done.status
        assert SECRET not in done.output + done.errors
    audited = [record.getMessage() for record in caplog.records if record.name == "keyvouch.audit"]
    assert audited
    assert SECRET not in caplog.text


@pytest.mark.parametrize("form", ["&proxy=http://me:s-cret@{}", "&proxy=http://{}&proxy-credentials=env:PROXY"])
def test_key_vault_gives_a_proxy_its_password(
    proxy: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """The proxy gets it even for the login, and the SDK's errors do not contain it."""
    host, heads = proxy
    monkeypatch.setenv("PROXY", "me:s-cret")
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"):
        monkeypatch.setenv(name, "8d2f7c1e-3f0a-4f4e-9d6e-6f0c6c1f4b7a")
    with pytest.raises(KeyvouchError) as caught:
        keyvouch.open_signer(URIS[1] + form.format(host), timeout=2)
    assert b"Basic bWU6cy1jcmV0" in heads[0]
    assert all(SECRET not in shown for shown in traces(caught.value))


@pytest.mark.parametrize("uri", URIS)
@pytest.mark.parametrize("value", ["nocolon", "me:a\nb", "me:a\rb", "me:\x00"])
def test_credentials_must_fit_a_header(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uri: str, value: str) -> None:
    """Anything but user:password on one line is refused before anything is sent, and not shown."""
    monkeypatch.setenv("TOKEN", "token")
    file = tmp_path / "proxy"
    file.write_text(value)
    file.chmod(0o600)
    with pytest.raises(ConfigurationError) as caught:
        keyvouch.open_signer(f"{uri}&proxy=http://127.0.0.1:1&proxy-credentials=file:{file}")
    assert value not in f"{caught.value} {caught.value.uri}"


def test_profile_is_shown_without_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`profile add` keeps the password, `profile show` and `repr` leave it out."""
    file = tmp_path / "config.toml"
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(file))
    key = f"{URIS[0]}&proxy=http://me:{SECRET}@proxy.test:3128"
    options = ["--tenant", "contoso.onmicrosoft.com", "--client-id", "8d2f7c1e-3f0a-4f4e-9d6e-6f0c6c1f4b7a"]
    proxies = ["--proxy", f"http://me:{SECRET}@proxy.test", "--proxy-credentials", "env:PROXY"]
    assert run("profile", "add", "nightly", "--key", key, *options, *proxies).status == 0
    assert config.load().profile("nightly").keys == (key,)
    assert config.load().profile("nightly").proxy_credentials == "env:PROXY"
    for output in ("json", "text"):
        done = run("profile", "show", "nightly", "--output", output)
        assert done.output.count("http://***@proxy.test") == 2
        assert "env:PROXY" in done.output
        assert SECRET not in done.output
    assert SECRET not in repr(config.load()) + repr(config.load().profile("nightly"))
    shown = json.loads(run("profile", "show", "nightly", "--output", "json").output)["keys"][0]
    again = run("profile", "add", "again", "--key", shown, *options)
    assert again.status == 2
    assert "redacted" in again.errors


@pytest.mark.parametrize(
    "line",
    [
        f'proxy = "me:{SECRET}@host"',
        f'proxy = "http://me:{SECRET}@[host"',
        f'proxy = "http://me:{SECRET}/x@host"',
        'proxy = "http://***@host"',
        f'proxy-credentials = "me:{SECRET}"',
        f'proxy-credentials = "env:me:{SECRET}"',
        'proxy-credentials = ""',
    ],
)
def test_wrong_proxy_in_a_profile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """An invalid proxy is refused when the profile is read, without showing its value."""
    file = tmp_path / "config.toml"
    file.write_text(f"[profiles.nightly]\n{line}\n")
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(file))
    with pytest.raises(ConfigurationError, match="profile 'nightly': .*proxy") as caught:
        config.load().profile("nightly")
    assert caught.value.hint
    assert SECRET not in str(caught.value)


def test_profiles_proxy_gets_the_credentials(
    proxy: tuple[str, list[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Signing in with a profile sends the credentials to the proxy, and nothing shows them."""
    host, heads = proxy
    key = tmp_path / "app.pem"
    assert run("new", "--key", f"pem:{key}").status == 0
    file = tmp_path / "config.toml"
    file.write_text(
        f"""[profiles.nightly]
tenant = "contoso.onmicrosoft.com"
client-id = "8d2f7c1e-3f0a-4f4e-9d6e-6f0c6c1f4b7a"
scopes = ["https://graph.microsoft.com/.default"]
keys = ["pem:{key}"]
proxy = "http://{host}"
proxy-credentials = "env:PROXY"
"""
    )
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(file))
    monkeypatch.setenv("PROXY", "me:s-cret")
    caplog.set_level(logging.DEBUG)
    with pytest.raises(KeyvouchError) as caught:
        keyvouch.connect("nightly")
    assert b"Basic bWU6cy1jcmV0" in heads[0]
    assert SECRET not in f"{caught.value!s} {caplog.text}"
    assert os.environ["PROXY"]
