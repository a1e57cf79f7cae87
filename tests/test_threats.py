"""What an attacker can do, as docs/threat-model.md admits, with real accounts, a real network and real memory."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

import keyvouch
from core.test_https import serving
from keyvouch.errors import AccessDenied, KeyChanged
from keyvouch.https import Limits, Pools
from keyvouch.testing.authority import Authority
from keyvouch.testing.authority.tls import make_context
from keyvouch.testing.relay import Relay
from scripted_store import until
from signing_in import PASSWORD, SCOPE, make_key, run, write_profile
from stores.key_material import certify, new_key, pem_of

needs_root = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="only root can act for another account"
)
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")

MEMBER, STRANGER, GROUP = 60125, 60126, 60127
"""Accounts and a group that need not exist: only the numbers matter."""
MARKER = "hunter2-marker"


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every account can search, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="keyvouch-threats-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def read_as(account: int, path: Path) -> bytes | None:
    """Return what another account without groups reads from a file; None if it cannot."""
    done = subprocess.run(["cat", path], user=account, group=account, extra_groups=[], capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


def act_as(account: int, group: int, act: Callable[[], bool]) -> bool:
    """Return whether an account with only this group succeeds."""
    process = os.fork()
    if not process:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(group, group, group)
            os.setresuid(account, account, account)
            status = 0 if act() else 1
        finally:
            os._exit(status)
    return os.waitpid(process, 0)[1] == 0


@contextlib.contextmanager
def signing(uri: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `keyvouch sign` in its own process, while it waits for its message."""
    command = [sys.executable, "-P", "-m", "keyvouch", "sign", "--key", uri]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        until(lambda: b"keyvouch" in Path(f"/proc/{process.pid}/cmdline").read_bytes())
        yield process
        process.communicate(b"message")


# Accounts


@needs_root
def test_other_account_can_read_only_certificates(
    shared: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of everything that the commands write, another account can read only the certificate to be uploaded."""
    monkeypatch.setenv("HOME", str(shared / "home"))
    monkeypatch.setenv("CACHE_DIRECTORY", str(shared / "home"))
    (shared / "home").mkdir()
    key = make_key(shared)
    app = authority.register(certificates=[key.certificate])
    profile = write_profile(shared, authority, app, [key.uri], audit=f"file:{shared}/audit.jsonl")
    profile.chmod(0o600)
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(profile))
    for command in (
        ("token",),
        ("new", "--key", f"pem:{shared}/new.pem", "--certificate-out", f"{shared}/new.cer"),
        ("profile", "add", "other", "--key", key.uri, "--tenant", "contoso.onmicrosoft.com", "--client-id", "app"),
    ):
        done = run(*command)
        assert done.status == 0, done.errors
    files = [path for path in shared.rglob("*") if path.is_file()]
    for path in (shared / "home").rglob("*"):
        assert path.is_file() or path.stat().st_mode & 0o077 == 0, path

    assert {"app.pfx", "audit.jsonl", "new.pem", ".config.toml.lock"} <= {path.name for path in files}
    assert any("tokens" in str(path) for path in files)
    assert [path.name for path in files if read_as(STRANGER, path) is not None] == ["new.cer"]


@needs_root
@needs_proc
def test_other_account_sees_the_uri_but_not_the_password(tmp_path: Path) -> None:
    """Everyone can read a process's arguments, and so a key's URI; its environment is private."""
    uri = make_key(tmp_path).uri
    with signing(uri) as process:
        arguments = read_as(STRANGER, Path(f"/proc/{process.pid}/cmdline"))
        environment = Path(f"/proc/{process.pid}/environ")

        assert arguments is not None
        assert uri.encode() in arguments
        assert PASSWORD.encode() not in arguments
        assert PASSWORD.encode() in environment.read_bytes()  # root and the account itself can
        assert read_as(STRANGER, environment) is None


@needs_root
def test_group_member_can_sign_with_a_readable_key(shared: Path) -> None:
    """Members of its group can use a key file with mode 0640; an account outside the group cannot open it."""
    uri = f"pem:{shared}/app.pem"
    with keyvouch.open_store(uri) as store:
        store.generate(keyvouch.KeySpec(key_type="P-256"))
    with keyvouch.open_signer(uri) as signer:
        signer.sign(b"message", "ES256")  # imports everything, in case those accounts cannot
    os.chown(shared / "app.pem", 0, GROUP)
    (shared / "app.pem").chmod(0o640)

    def sign() -> bool:
        with keyvouch.open_signer(uri) as signer:
            return bool(signer.sign(b"message", "ES256"))

    def is_refused() -> bool:
        try:
            sign()
        except AccessDenied:
            return True
        return False

    assert act_as(MEMBER, GROUP, sign)
    assert act_as(STRANGER, STRANGER, is_refused)


@needs_root
def test_group_member_can_replace_a_writable_key(shared: Path) -> None:
    """An account that can write a key file decides which key is opened; a pinned URI refuses another key."""
    path = shared / "app.pem"
    theirs = new_key("P-256", 1)
    with keyvouch.open_store(f"pem:{path}") as store:
        store.generate(keyvouch.KeySpec(key_type="P-256"))
    with keyvouch.open_signer(f"pem:{path}") as signer:
        pinned = signer.uri
    os.chown(path, 0, GROUP)
    path.chmod(0o660)
    content = pem_of(theirs, certify(theirs))

    assert act_as(MEMBER, GROUP, lambda: path.write_bytes(content) > 0)
    with keyvouch.open_signer(f"pem:{path}") as signer:
        assert signer.public_key == theirs.public_key()
    with pytest.raises(KeyChanged):
        keyvouch.open_signer(pinned)


@needs_proc
def test_key_of_a_file_is_in_memory(tmp_path: Path) -> None:
    """An account that can read a process's memory, as a debugger does, has the key from its file."""
    path = tmp_path / "app.pem"
    with keyvouch.open_store(f"pem:{path}") as store:
        store.generate(keyvouch.KeySpec(key_type="RSA-2048"))
    key: Any = load_pem_private_key(path.read_bytes(), None)
    factor: int = key.private_numbers().p
    program = (
        "import keyvouch, sys; s = keyvouch.open_signer(sys.argv[1]); s.sign(b'x', 'PS256'); print(flush=True); input()"
    )
    command = [sys.executable, "-P", "-c", program, f"pem:{path}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        memory = b"".join(memory_of(process.pid))
        process.communicate(b"\n")
    is_there = factor.to_bytes(128, "little") in memory  # as OpenSSL stores numbers

    assert is_there


def memory_of(process: int) -> Iterator[bytes]:
    """Yield all writable memory of a process."""
    with Path(f"/proc/{process}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{process}/maps").read_text().splitlines():
            if " rw-p " in line and "[v" not in line:
                begin, _, end = line.split(" ")[0].partition("-")
                memory.seek(int(begin, 16))
                yield memory.read(int(end, 16) - int(begin, 16))


def test_python_imports_from_the_working_directory(tmp_path: Path) -> None:
    """With `-m` Python finds a package in the working directory before keyvouch, which cannot prevent this."""
    package = tmp_path / "keyvouch"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("print('planted')")
    done = subprocess.run([sys.executable, "-m", "keyvouch"], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout.strip() == b"planted"


def test_installed_package_runs_at_every_start(tmp_path: Path) -> None:
    """keyvouch cannot control what Python runs at startup, before any program."""
    venv.create(tmp_path / "venv", symlinks=sys.platform != "win32")
    folder = next((tmp_path / "venv").rglob("site-packages"))
    (folder / "acme.pth").write_text("import sys; sys.stdout.write('started')\n")
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    assert b"started" in subprocess.run([python, "-c", ""], capture_output=True, check=True).stdout


# Network and servers


class Listener(Relay):
    """A relay that records the data passing through."""

    def __init__(self, port: int) -> None:
        self.heard = b""
        super().__init__(("127.0.0.1", port))

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while octets := source.recv(65536):
                self.heard += octets
                sink.sendall(octets)
            sink.shutdown(socket.SHUT_WR)


def test_network_sees_only_the_server_name(tmp_path: Path) -> None:
    """TLS hides paths, headers and bodies from the network; the server, or a trusted gateway, reads them all."""
    context, ca_file = make_context(tmp_path)
    received: list[bytes] = []
    with serving(context) as server, Listener(server.port) as network:

        def talk(connection: socket.socket, request: bytes) -> None:
            received.append(request)
            body = MARKER.encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

        server.talk = talk
        pools = Pools(Limits(), ca_file=str(ca_file))
        address = f"https://localhost:{network.port}/{MARKER}"
        reply = pools.request("POST", address, MARKER.encode(), {"X-Token": MARKER})
        pools.close()

    assert reply.body == MARKER.encode()
    assert b"".join(received).count(MARKER.encode()) >= 2
    assert b"localhost" in network.heard
    assert MARKER.encode() not in network.heard


def test_authority_chooses_the_token(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """keyvouch does not inspect an access token: it is whatever the authority returns."""
    key = make_key(tmp_path)
    app = authority.register(certificates=[key.certificate])
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(write_profile(tmp_path, authority, app, [key.uri])))
    authority.answer_next(200, json.dumps({"access_token": "whatever", "token_type": "Bearer", "expires_in": 3600}))
    with keyvouch.connect("nightly") as client:
        assert client.access_token([SCOPE]) == "whatever"


def test_authority_gets_no_key(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signing in sends a signed assertion, and nothing of the private key or its password."""
    key = make_key(tmp_path, "app.pem")
    app = authority.register(certificates=[key.certificate])
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(write_profile(tmp_path, authority, app, [key.uri])))
    sent: list[bytes] = []
    send = ssl.SSLSocket.send

    def record(connection: ssl.SSLSocket, data: Any, flags: int = 0) -> int:
        sent.append(bytes(data))
        return send(connection, data, flags)

    monkeypatch.setattr(ssl.SSLSocket, "send", record)
    with keyvouch.connect("nightly") as client:
        assert client.access_token([SCOPE])
    private: Any = load_pem_private_key((tmp_path / "app.pem").read_bytes(), PASSWORD.encode())
    numbers = private.private_numbers()
    form = b"".join(sent).partition(b"client_assertion=")[2].partition(b"&")[0]
    parts = [base64.urlsafe_b64decode(part + b"===") for part in form.split(b" ")[0].split(b".")[:3]]
    everything = b"".join([*sent, *parts])

    assert b'"aud"' in everything
    assert PASSWORD.encode() not in everything
    for number in (numbers.p, numbers.q, numbers.d):
        assert number.to_bytes(256, "big").lstrip(b"\0") not in everything


def test_control_characters_of_a_server_are_replaced(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error quotes the authority's text without its control characters."""
    key = make_key(tmp_path)
    app = authority.register(certificates=[key.certificate])
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(write_profile(tmp_path, authority, app, [key.uri])))
    refusal = {"error": "invalid_scope", "error_description": "AADSTS70011: call \x1b]0;us\x07 now\x1b[2J"}
    authority.answer_next(400, json.dumps(refusal), {"Content-Type": "application/json"})
    errors = run("token").errors

    assert "AADSTS70011: call" in errors
    assert "\x1b" not in errors
    assert "\x07" not in errors
