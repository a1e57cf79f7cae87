"""Keys by reference: in variables, credentials, on standard input, from programs, and as bytes in Python."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import keyvouch
from keyvouch._secrets import key_bytes
from keyvouch.errors import (
    AmbiguousKey,
    ConfigurationError,
    KeyNotFound,
    KeyUnusable,
    NotSupported,
    SecretIncorrect,
    SecretRequired,
)
from keyvouch.secrets import Secret, SecretResolver
from signing_in import run
from stores.key_material import PASSWORD, certify, new_key, open_key, openssl_pfx, pem_of, store, uri, write

KEY = new_key("RSA-2048")
PEM = pem_of(KEY, certify(KEY))


def once(data: bytes) -> str:
    return base64.b64encode(data).decode()


def pfx_bytes(folder: Path) -> bytes:
    return openssl_pfx(folder / "app.pfx", key=KEY).read_bytes()


def verify_signature(signer: keyvouch.Signer) -> None:
    """Sign, and let `cryptography` verify it."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    signature = signer.sign(b"message", "RS256")
    KEY.public_key().verify(signature, b"message", padding.PKCS1v15(), hashes.SHA256())


ENCODINGS: dict[str, Callable[[bytes], str]] = {
    "as it is": bytes.decode,
    "base64": once,
    "base64 in lines": lambda data: base64.encodebytes(data).decode(),
    "base64url": lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    "base64 twice": lambda data: once(once(data).encode()),
    "base64 in quotes": lambda data: f'"{once(data)}"',
    "backslash n": lambda data: data.decode().replace("\n", "\\n"),
    "backslash r n": lambda data: data.decode().replace("\n", "\\r\\n"),
    "spaces": lambda data: data.decode().replace("\n", " "),
    "one line in quotes": lambda data: f"'{data.decode()}'".replace("\n", "\\n"),
    "CRLF": lambda data: data.decode().replace("\n", "\r\n"),
}


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
def test_pem_in_a_variable(encode: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A PEM file in a variable opens, encoded or with lost line breaks; its pinned URI opens the same key again."""
    monkeypatch.setenv("APP_KEY", encode(PEM))

    with keyvouch.open_signer("pem:env:APP_KEY") as signer:
        verify_signature(signer)
        assert signer.chain == (certify(KEY),)
        assert "APP_KEY" in signer.uri
        with keyvouch.open_signer(signer.uri) as again:
            assert again.uri == signer.uri


@pytest.mark.parametrize("options", [[], ["-traditional"]], ids=["PKCS#8", "old format"])
def test_encrypted_pem_in_one_line(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    r"""An encrypted PEM with a literal \n opens too: the headers of the old format keep their lines."""
    command = ["openssl", "pkey", *options, "-aes256", "-passout", f"pass:{PASSWORD}"]
    encrypted = subprocess.run(command, input=PEM, capture_output=True, check=True).stdout
    monkeypatch.setenv("APP_KEY", encrypted.decode().replace("\n", "\\n"))

    with keyvouch.open_signer("pem:env:APP_KEY?password=env:PASSWORD") as signer:
        verify_signature(signer)


@pytest.mark.parametrize("layers", [1, 2])
def test_pfx_in_a_variable(folder: Path, layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PFX in a variable is base64, once or twice, with its password in another variable."""
    data = pfx_bytes(folder)
    for _ in range(layers):
        data = base64.b64encode(data)
    monkeypatch.setenv("APP_PFX", data.decode())

    with keyvouch.open_signer("pfx:env:APP_PFX?password=env:PASSWORD") as signer:
        verify_signature(signer)
        with keyvouch.open_signer(signer.uri) as again:
            assert again.uri == signer.uri


def test_pfx_in_a_credential(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential of systemd may be binary."""
    write(folder / "app-pfx", pfx_bytes(folder))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))

    with keyvouch.open_signer("pfx:credential:app-pfx?password=env:PASSWORD") as signer:
        verify_signature(signer)
        assert "path=credential:app-pfx;" in signer.uri


def test_one_of_several_keys_in_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """With several keys, the error lists a URI for each, and each opens."""
    monkeypatch.setenv("APP_KEYS", pem_of(KEY, new_key("P-256")).decode())

    with pytest.raises(AmbiguousKey) as caught:
        open_key("pem:env:APP_KEYS")
    opened = [open_key(each).public_key for each in caught.value.candidates]
    assert opened == [KEY.public_key(), new_key("P-256").public_key()]


def test_replaced_variable_and_credential_are_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key counts as changed once its variable or credential has another value."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    write(folder / "app", PEM)
    monkeypatch.setenv("APP_KEY", PEM.decode())
    opened = [open_key("pem:env:APP_KEY"), open_key("pem:credential:app")]
    assert not any(key.changed() for key in opened)

    monkeypatch.setenv("APP_KEY", pem_of(new_key("P-256")).decode())
    write(folder / "new", pem_of(new_key("P-256"))).rename(folder / "app")
    assert all(key.changed() for key in opened)


def test_pinned_key_in_a_variable_is_not_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pinned URI opens the same key or fails."""
    monkeypatch.setenv("APP_KEY", PEM.decode())
    pinned = str(open_key("pem:env:APP_KEY").uri)

    monkeypatch.setenv("APP_KEY", pem_of(new_key("P-256")).decode())
    with pytest.raises(keyvouch.KeyvouchError) as caught:
        open_key(pinned)
    assert caught.value.code == "key-changed"


STDIN = """
import keyvouch
with keyvouch.open_signer({uri!r}) as signer, keyvouch.open_signer(signer.uri) as again:
    print(signer.uri == again.uri, len(signer.chain))
"""

FORK = """
import os, sys, keyvouch
signer = {open}
child = os.fork()
if not child:
    os._exit(0 if len(signer.sign(b"message", "PS256")) == 256 else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("location", ["stdin:", "-"])
@pytest.mark.parametrize("scheme", ["pem", "pfx"])
def test_standard_input(folder: Path, scheme: str, location: str) -> None:
    """Standard input is read once, and its key can be opened again; a PFX need not be base64."""
    data = PEM if scheme == "pem" else pfx_bytes(folder)
    program = STDIN.format(uri=f"{scheme}:{location}?password=env:PASSWORD")
    done = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True, check=False)
    assert done.stdout.split() == [b"True", b"1"], done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.parametrize("how", ["keyvouch.open_signer('pem:-')", "keyvouch.load_signer(sys.stdin.buffer.read())"])
def test_forked_child_signs(how: str) -> None:
    """A child has what its parent read or was given, although it opens the key again."""
    program = [sys.executable, "-c", FORK.format(open=how)]
    done = subprocess.run(program, input=PEM, capture_output=True, check=False, timeout=60)
    assert done.stdout.strip() == b"0", done.stderr


def test_message_and_key_are_not_both_on_standard_input(folder: Path) -> None:
    """`keyvouch sign` reads its message from standard input unless it gets a file; the error says so."""
    done = run("sign", "--key", "pem:-", stdin=PEM)
    assert done.status != 0
    assert "pass a file" in done.errors
    assert run("sign", "--key", "pem:-", str(write(folder / "message", b"x")), stdin=PEM).status == 0


def test_nothing_on_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without input, or at a terminal, the error says to pipe the key, and nothing waits."""
    with Path(os.devnull).open(encoding="utf-8") as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        key_bytes.read_standard_input.cache_clear()
        with pytest.raises(SecretRequired, match="empty") as caught:
            open_key("pem:stdin:")
        assert "Pipe the key" in caught.value.hint


def test_output_of_a_program_only_from_a_profile(folder: Path) -> None:
    """`command:` runs a program for a profile's key, and for no other URI."""
    program = write(folder / "print-key", b"#!/bin/sh\ncat <<'END'\n" + PEM + b"END\n")
    program.chmod(0o700)
    text = f"pem:command:{program}"

    profile = store(text, SecretResolver(commands=True))
    opened = profile.open(uri(text), timeout=1)
    assert opened.chain == (certify(KEY),)
    assert profile.open(uri(str(opened.uri)), timeout=1).uri == opened.uri
    with pytest.raises(ConfigurationError, match="not allowed"):
        open_key(text)


@pytest.mark.parametrize(
    ("data", "password"),
    [
        (lambda _: PEM, None),
        (lambda _: base64.b64encode(PEM), None),
        (pfx_bytes, PASSWORD),
        (lambda folder: base64.b64encode(pfx_bytes(folder)), Secret(PASSWORD)),
    ],
    ids=["PEM", "base64 of PEM", "PFX", "base64 of PFX"],
)
def test_bytes(folder: Path, data: Callable[[Path], bytes], password: str | Secret | None) -> None:
    """The bytes of a key open with `load_signer`; while the signer exists, its URI opens the key again."""
    signer = keyvouch.load_signer(data(folder), password=password)
    verify_signature(signer)
    pinned = signer.uri
    with keyvouch.open_signer(pinned) as again:
        assert again.chain == signer.chain == (certify(KEY),)

    signer.close()
    del signer
    with pytest.raises(KeyNotFound, match="not in this process"):
        keyvouch.open_signer(pinned)


@pytest.mark.parametrize(("password", "kind"), [(None, SecretRequired), ("wrong", SecretIncorrect)])
def test_bytes_without_their_password(folder: Path, password: str | None, kind: type[keyvouch.KeyvouchError]) -> None:
    """A missing or wrong password is reported, the key is forgotten, and no error contains either."""
    with pytest.raises(kind) as caught:
        keyvouch.load_signer(pfx_bytes(folder), password=password)
    assert "wrong" not in repr(caught.value)
    assert "env:NAME" not in caught.value.hint
    assert not key_bytes._keys


@pytest.mark.parametrize("operation", ["new", "import", "install", "delete"])
def test_a_reference_is_not_written(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are created, replaced and deleted only in files."""
    monkeypatch.setenv("APP_KEY", PEM.decode())
    pinned = str(open_key("pem:env:APP_KEY").uri)
    target = store(pinned)
    calls: dict[str, Callable[[], object]] = {
        "new": lambda: target.generate(uri("pem:env:APP_KEY"), keyvouch.KeySpec()),
        "import": lambda: target.import_key(uri("pem:env:APP_KEY"), KEY, [certify(KEY)]),
        "install": lambda: target.install_certificate(uri(pinned), [certify(KEY)]),
        "delete": lambda: target.delete(uri(pinned)),
    }

    with pytest.raises(NotSupported, match="only files") as caught:
        calls[operation]()
    assert caught.value.hint
    assert os.environ["APP_KEY"] == PEM.decode()


def test_certificate_beside_a_reference(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key may be in a variable, and its certificate in a file that is also renewed."""
    monkeypatch.setenv("APP_KEY", pem_of(KEY).decode())
    file = write(folder / "app.crt", pem_of(certify(KEY)))
    text = f"pem:env:APP_KEY?certificate-file={file}"

    with keyvouch.open_signer(text) as signer:
        assert signer.chain == (certify(KEY),)
    store(text).install_certificate(uri(text), [certify(KEY, "renewed")])
    assert file.read_bytes() == pem_of(certify(KEY, "renewed"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pem:env:", "expected env:NAME"),
        ("pem:env:A B", "expected env:NAME"),
        ("pem:stdin:x", "expected env:NAME"),
        ("pem:credential:", "expected env:NAME"),
        ("pem:file:/a", "without file: /a"),
        ("pem:prompt:", "stdin:"),
    ],
)
def test_malformed_reference(text: str, said: str) -> None:
    """The error for a malformed reference says what to write."""
    with pytest.raises(ConfigurationError) as caught:
        uri(text)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("pem:env:UNSET", SecretRequired, "UNSET is not set"),
        ("pem:env:EMPTY", SecretRequired, "empty"),
        ("pem:memory:999", KeyNotFound, "load_signer"),
        ("pem:env:APP_PFX", KeyUnusable, "pfx:env:APP_PFX"),
        ("pfx:env:APP_PEM", KeyUnusable, "pem:env:APP_PEM"),
    ],
)
def test_what_a_reference_lacks(
    folder: Path, text: str, kind: type[keyvouch.KeyvouchError], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the variable, and the hint the right scheme."""
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("APP_PFX", once(pfx_bytes(folder)))
    monkeypatch.setenv("APP_PEM", PEM.decode())
    with pytest.raises(kind) as caught:
        open_key(text)
    assert said in f"{caught.value.message} {caught.value.hint}"


def test_hint_does_not_pass_a_reference_to_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command in a hint takes a file, since no other program knows references."""
    monkeypatch.setenv("APP_KEY", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n")
    with pytest.raises(KeyUnusable) as caught:
        open_key("pem:env:APP_KEY")
    assert "env:APP_KEY" not in caught.value.hint


LEAKS = {
    "PEM": PEM.decode(),
    "PEM in one line": PEM.decode().replace("\n", "\\n"),
    "base64 of PEM": once(PEM),
    "base64 of PKCS#8": "".join(pem_of(KEY).decode().splitlines()[1:-1]),
    "JWK": '{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qY"}',
}


@pytest.mark.parametrize("prefix", ["", "pem:", "pem:env:", "pem:path=", "profile:", "pfx:/a?password="])
@pytest.mark.parametrize("key", LEAKS.values(), ids=LEAKS)
def test_key_in_place_of_its_reference_is_not_repeated(prefix: str, key: str) -> None:
    """A key that is passed instead of a URI is refused, and no part of it is shown."""
    with pytest.raises(keyvouch.KeyvouchError) as caught:
        keyvouch.open_signer(prefix + key)
    shown = f"{caught.value!r} {caught.value} {caught.value.hint} {caught.value.uri}"
    assert key[-40:-10] not in shown
    assert key[30:60] not in shown


@pytest.mark.parametrize("line", ["-----BEGIN PRIVATE KEY-----\n", "-----BEGIN PRIVATE KEY-----"])
def test_many_blocks_without_an_end(line: str) -> None:
    """A megabyte of blocks that begin and do not end is searched once, not once for each of them."""
    with pytest.raises(KeyUnusable, match="no line -----END"):
        keyvouch.load_signer(line.encode() * 40_000)
