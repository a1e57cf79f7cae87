"""The main flows, successful and failing, at level DEBUG: no secret appears anywhere that anybody looks.

All logs are searched, and the errors with the locals of every frame, the reprs of all returned objects, pickles,
the command's outputs, the arguments of its processes, and the audit file.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import keyvouch
from keyvouch.entra.assertion import EntraAssertion
from keyvouch.errors import KeyvouchError
from keyvouch.secrets import Secret, SecretResolver
from keyvouch.testing.authority import App, Authority
from scripted_store import until
from signing_in import PASSWORD, Key, make_key, run, write_profile


class Witness(logging.Handler):
    """Records all output, and every secret used."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.said: list[str] = []
        self.secrets: dict[str, str] = {"password": PASSWORD}

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(f"{record.getMessage()} {record.args!r} {record.exc_text}")

    def hears(self, *things: object) -> None:
        """Record how objects print."""
        for thing in things:
            self.said += [repr(thing), str(thing), format(thing)]
            with contextlib.suppress(Exception):  # most cannot be pickled
                self.said.append(repr(pickle.dumps(thing)))

    def hears_error(self, error: BaseException) -> None:
        """Record an error with the locals of all its frames, as some error reporters do."""
        self.hears(error)
        self.said += traceback.TracebackException.from_exception(error, capture_locals=True).format()

    def knows_key(self, pem: bytes) -> None:
        """Treat each line of a private key's body as a secret."""
        for number, line in enumerate(pem.splitlines()[2:-2]):
            self.secrets[f"line {number} of the key"] = line.decode()

    def check(self) -> None:
        """Assert that no secret was recorded as output."""
        everything = "\n".join(self.said)
        assert len(everything) > 1000, "the witness was not there"
        for name, secret in self.secrets.items():
            assert secret not in everything, f"{name} was said"
            assert base64.b64encode(secret.encode()).decode() not in everything, f"{name} was said in base64"


@pytest.fixture
def witness() -> Iterator[Witness]:
    witness = Witness()
    root = logging.getLogger()
    level = root.level
    root.addHandler(witness)
    root.setLevel(logging.DEBUG)
    yield witness
    root.removeHandler(witness)
    root.setLevel(level)


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return make_key(tmp_path)


@pytest.fixture
def app(authority: Authority, key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    app = authority.register(certificates=[key.certificate])
    path = write_profile(tmp_path, authority, app, [key.uri], audit=f"file:{tmp_path / 'audit.jsonl'}")
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(path))
    return app


def fail(witness: Witness, action: Callable[[], object]) -> None:
    """Run what must fail, and record its error."""
    with pytest.raises((KeyvouchError, ValueError)) as caught:
        action()
    witness.hears_error(caught.value)


def test_signing_in_leaks_nothing(
    witness: Witness, app: App, authority: Authority, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signing in, accepted or refused, shows no password, assertion or token."""
    sent: list[str] = []
    make = EntraAssertion._make

    def remember(*arguments: object) -> str:
        sent.append(make(*arguments))  # type: ignore[arg-type]
        return sent[-1]

    monkeypatch.setattr(EntraAssertion, "_make", remember)
    client = keyvouch.connect("nightly")
    witness.secrets["token"] = client.access_token()
    used = client._keys.in_order()[0]
    assert used._assertion
    witness.hears(client, used, used._assertion, used._assertion.signer, client.acquire_token_for_client)
    app.remove_certificate(key.certificate)
    fail(witness, lambda: client.access_token(["api://other/.default"]))
    for status, body in ((500, b""), (200, b"<html>"), (403, b""), (429, b"")):
        authority.answer_next(status, body)
        fail(witness, lambda: client.access_token([f"api://{status}/.default"]))  # noqa: B023 - called at once
    authority.close()
    fail(witness, lambda: client.access_token(["api://closed/.default"]))

    assert len(sent) > 5
    # The signature is the secret part: the header, for example, only names the certificate.
    witness.secrets |= {f"assertion {number}": assertion.split(".")[2] for number, assertion in enumerate(sent)}
    witness.check()


@pytest.mark.parametrize("scheme", ["pfx", "pem"])
def test_opening_leaks_nothing(witness: Witness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """Opening keys, with right and wrong passwords, from valid and damaged files, shows no password and no key."""
    made = make_key(tmp_path, f"app.{scheme}")
    with keyvouch.open_signer(made.uri) as signer:
        witness.hears(signer, signer._current.opened.stored, signer.private_key(), signer._current.connection)
        witness.hears(vars(signer._current.opened.stored).keys(), signer._current.connection.store)
        local = signer._current.opened.stored._key  # type: ignore[attr-defined]
        witness.knows_key(local.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        fail(witness, lambda: signer.sign(b"", "ES256"))
    path = tmp_path / f"app.{scheme}"
    whole = path.read_bytes()
    for content in (whole[:-200], whole[100:], whole.replace(b"M", b"N"), b""):
        path.write_bytes(content)
        with contextlib.suppress(AssertionError, pytest.fail.Exception):
            fail(witness, lambda: keyvouch.open_signer(made.uri))
    path.write_bytes(whole)
    monkeypatch.setenv("APP_PASSWORD", "another password")
    witness.secrets["wrong password"] = "another password"
    fail(witness, lambda: keyvouch.open_signer(made.uri))
    witness.check()


def test_unencrypted_key_is_not_leaked(witness: Witness, tmp_path: Path) -> None:
    """An unencrypted key is not shown, even if its file is damaged after it or must not be overwritten."""
    uri = f"pem:{tmp_path / 'plain.pem'}"
    with keyvouch.open_store(uri) as store:
        store.generate(keyvouch.KeySpec())
        path = tmp_path / "plain.pem"
        witness.knows_key(path.read_bytes().partition(b"-----BEGIN CERT")[0])
        fail(witness, lambda: store.generate(keyvouch.KeySpec()))
        with keyvouch.open_signer(uri) as signer:
            fail(witness, lambda: store.install_certificate([]))
            chain = signer.chain
        with path.open("ab") as file:
            file.write(b"-----BEGIN CERTIFICATE-----\n")
        fail(witness, lambda: keyvouch.open_signer(uri))
        fail(witness, lambda: store.install_certificate(chain))
        fail(witness, store.keys)
    witness.check()


def test_secrets_and_references_leak_nothing(witness: Witness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret, its resolver, and a reference that contains a value by mistake do not show it."""
    monkeypatch.setenv("APP_PASSWORD", PASSWORD)
    resolver = SecretResolver()
    witness.hears(Secret(PASSWORD), resolver, resolver.resolve("env:APP_PASSWORD"), {"key": Secret(PASSWORD)})
    with pytest.raises(TypeError):
        pickle.dumps(Secret(PASSWORD))
    fail(witness, lambda: resolver.resolve(PASSWORD))
    fail(witness, lambda: keyvouch.open_signer(f"pfx:/x.pfx?password={PASSWORD}"))
    fail(witness, lambda: keyvouch.open_signer(f"pfx:/x.pfx?my-pazzword={PASSWORD}"))
    fail(witness, lambda: keyvouch.open_signer(f"pfx:path=/x.pfx;password={PASSWORD}"))
    witness.said += ["-"] * 1000  # short errors are fine here
    witness.check()


@pytest.mark.usefixtures("app")
def test_command_leaks_nothing(witness: Witness, key: Key, tmp_path: Path) -> None:
    """The command's outputs, log and audit show no password, and only `token` shows a token."""
    token = run("token").output.strip()
    witness.secrets["token"] = token
    for arguments in (
        ("--debug", "token", "--scope", "api://other/.default", "--output", "json"),
        ("--debug", "sign", "--key", key.uri, "--output", "json"),
        ("--debug", "keys", "--key", key.uri, "--output", "json"),
        ("--debug", "profile", "show", "--output", "json"),
        ("--debug", "new", "--key", key.uri),
        ("--debug", "new", "--key", f"pfx:{tmp_path}/other.pfx?password=env:APP_PASSWORD", "--output", "json"),
        ("--debug", "token", "--tenant", "nowhere.example", "--output", "json"),
        ("--debug", "sign", "--key", f"pfx:{tmp_path}/app.pfx?password={PASSWORD}"),
    ):
        done = run(*arguments)
        witness.said += [done.errors]
        if "token" not in arguments:
            witness.said += [done.output]
    audit = (tmp_path / "audit.jsonl").read_text()
    witness.said += [audit]

    assert all(json.loads(line)["event"] for line in audit.splitlines())
    witness.check()


def test_processes_leak_nothing(witness: Witness, key: Key) -> None:
    """No process has a secret in its arguments."""
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "keyvouch", "sign", "--key", key.uri],
        stdin=subprocess.PIPE,  # it waits for its message
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        until(Path(f"/proc/{process.pid}/cmdline").read_bytes)  # empty during exec
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # a process that has just ended
                witness.said.append(place.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        process.communicate("message")

    assert any("keyvouch sign" in line for line in witness.said)
    witness.check()
