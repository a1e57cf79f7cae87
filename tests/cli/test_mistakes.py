"""Mistakes in how a command is typed; each gets the line to type."""

from __future__ import annotations

import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyvouch import certificate, open_signer
from keyvouch.errors import AccessDenied, KeyUnusable
from signing_in import make_key, run
from stores.key_material import new_key, pem_of


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("token", "--config", "a b.toml", "--profile", "n"), "keyvouch --config 'a b.toml' token --profile n"),
        (("profile", "list", "--config=x"), "keyvouch --config=x profile list"),
        (("token", "--debug"), "keyvouch --debug token"),
    ],
)
def test_option_of_the_group_after_the_command(arguments: tuple[str, ...], line: str) -> None:
    """`--config` and `--debug` come before the command: the hint is the command in the right order."""
    done = run(*arguments)
    assert done.status == 2
    assert f"comes before the command: {line}\n" in done.errors


def test_configuration_in_hints(tmp_path: Path) -> None:
    """The commands in a hint have the `--config` that was typed."""
    path = tmp_path / "a b.toml"
    path.write_text("")
    for option in (("--config", str(path)), (f"--config={path}",)):
        refused = run(*option, "sign", "--key", f"pem:{tmp_path / 'none.pem'}", stdin=b"x")
        assert "`keyvouch " in refused.errors
        line = refused.errors.partition("`keyvouch ")[2].partition("`")[0]
        assert shlex.split(line) == [*option, "new"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--profile", "a b", "token"), "--profile comes after the command: keyvouch token --profile 'a b'"),
        (("--output=json", "keys"), "--output comes after the command: keyvouch keys --output=json"),
        (("keys", "pem:app.pem"), "A key's URI is an option: keyvouch keys --key pem:app.pem"),
        (("sign", "pem:a;b", "text"), "A key's URI is an option: keyvouch sign text --key 'pem:a;b'"),
        (("stores", "file"), "Write: keyvouch stores pfx or keyvouch stores pem"),
        (("stores", "bao:"), "Write: keyvouch stores vault"),
    ],
)
def test_what_belongs_elsewhere(arguments: tuple[str, ...], line: str) -> None:
    """An option before the command, a URI without `--key` or another program's scheme gets the line to type."""
    done = run(*arguments)
    assert done.status == 2
    assert done.errors.endswith(f"{line}\n")


def test_case_of_a_scheme() -> None:
    """As in a URI, it does not matter."""
    assert run("stores", "PEM").status == 0


@pytest.mark.parametrize(
    ("key", "cut"),
    [
        ("pkcs11:token=prod", True),
        ("vault:address=https://127.0.0.1:1", True),
        ("pkcs11:token=prod;object=app", False),
        ("pfx:/nonexistent.pfx", False),
        ("pfx:path=/nonexistent.pfx", True),
    ],
)
def test_unquoted_semicolon(key: str, cut: bool) -> None:
    """If the URI ends where a shell would have cut it, the error mentions quotes."""
    for arguments in (("--key", key), (f"--key={key}",)):
        assert ("single quotes" in run("sign", *arguments, stdin=b"x").errors) is cut


def test_certificate_given_as_a_key(tmp_path: Path) -> None:
    """A certificate, which everyone may read, is not made private: the error says that it is no key."""
    key = make_key(tmp_path)
    for name, encoding in (("app.crt", Encoding.PEM), ("app.cer", Encoding.DER)):
        path = tmp_path / name
        path.write_bytes(key.certificate.public_bytes(encoding))
        path.chmod(0o644)
        for scheme in ("pem", "pfx"):
            with pytest.raises(KeyUnusable, match="only a certificate") as caught:
                open_signer(f"{scheme}:{path}")
            assert f"certificate-file={path}" in caught.value.hint


@pytest.mark.parametrize("what", ["public key", "certificate request", "SSH public key"])
def test_public_file_given_as_a_key(tmp_path: Path, what: str) -> None:
    """What everyone may read is not made private: the error says that it is no key."""
    key, path = new_key(), tmp_path / "app.pem"
    path.write_bytes(
        {
            "public key": key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "certificate request": certificate.request(key, "CN=app").public_bytes(Encoding.PEM),
            "SSH public key": key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        }[what]
    )
    path.chmod(0o644)
    with pytest.raises(KeyUnusable, match=f"No private key found in {path}") as caught:
        open_signer(f"pem:{path}")
    assert "the private key" in caught.value.hint


@pytest.mark.parametrize("kind", ["PEM", "JWK"])
def test_public_key_given_as_a_key(tmp_path: Path, kind: str) -> None:
    """A public key, which everyone may read, is not made private either."""
    key = make_key(tmp_path, "app.pem")
    path = tmp_path / "public"
    if kind == "JWK":
        path.write_text(run("export", "--jwk", "--key", key.uri).output)
    else:
        public = key.certificate.public_key()
        path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    path.chmod(0o644)
    for scheme in ("pem", "pfx"):
        with pytest.raises(KeyUnusable, match="it contains a public key"):
            open_signer(f"{scheme}:{path}")


@pytest.mark.parametrize("command", ["export --jwks", "token", "sign", "keys", "new", "delete", "grant LocalService"])
def test_repeated_key(command: str) -> None:
    """A command for one key refuses two, instead of ignoring one of them."""
    done = run(*command.split(), "--key", "pem:/a.pem", "--key", "pem:/b.pem")
    assert done.status == 2
    assert "error[usage]: --key was given more than once. Use a profile for several keys." in done.errors


def test_key_ring_of_a_machine_without_a_desktop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If there is no key ring at all, the hint names references that work without one."""
    key = make_key(tmp_path)

    class NoKeyringError(RuntimeError):
        pass

    def get_password(service: str, user: str) -> str:
        raise NoKeyringError

    module = types.ModuleType("keyring")
    module.get_password = get_password  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keyring", module)
    with pytest.raises(AccessDenied, match="this account has no key ring") as caught:
        open_signer(key.uri.replace("env:APP_PASSWORD", "keyring:service/user"))
    assert "write file:/path" in caught.value.hint


def test_non_ascii_path_without_utf_8(tmp_path: Path) -> None:
    """In a C locale without UTF-8 mode, the line in the hint opens the key."""
    make_key(tmp_path, "schlüssel.pfx")
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    uri = f"pfx:{tmp_path}/schlüssel.pfx?password=env:APP_PASSWORD"
    refused = run("sign", "--key", uri, stdin=b"x", environment=environment)
    encoded = f"pfx:{tmp_path}/schl%C3%BCssel.pfx"
    assert encoded in refused.errors
    assert run("sign", "--key", f"{encoded}?password=env:APP_PASSWORD", stdin=b"x", environment=environment).status == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not delete the working directory of a process")
@pytest.mark.parametrize("arguments", [("keys", "--key", "pem:app.pem"), ("token", "--ca-file", "ca.pem")])
def test_working_directory_that_no_longer_exists(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A relative path in a deleted folder is reported as that, not as a defect."""
    line = f'mkdir gone && cd gone && rmdir ../gone && exec "{sys.executable}" -P -m keyvouch "$@"'
    done = subprocess.run(["sh", "-c", line, "sh", *arguments], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"The working directory no longer exists." in done.stderr


@pytest.mark.parametrize("kind", ["key", "public key", "request"])
def test_something_else_given_as_a_certificate(tmp_path: Path, kind: str) -> None:
    """The error says what the file is, and does not suggest to use it as a key."""
    key, path = make_key(tmp_path), tmp_path / "app.crt"
    other = new_key()
    path.write_bytes(
        {
            "key": pem_of(other),
            "public key": other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "request": certificate.request(other, "CN=app").public_bytes(Encoding.PEM),
        }[kind]
    )
    for arguments in (
        ("install", "--key", key.uri, str(path)),
        ("keys", "--key", f"{key.uri}&certificate-file={path}"),
    ):
        done = run(*arguments)
        assert "No valid certificate found" in done.errors
        assert "Specify the" in done.errors
        assert "Write pem:" not in done.errors
        assert "file with the private key" not in done.errors


def test_configuration_in_quotes(tmp_path: Path) -> None:
    """Quotes that a program keeps in KEYVOUCH_CONFIG are reported; a line end after it is ignored."""
    config = tmp_path / "config.toml"
    config.write_text("[profiles.nightly]\n")
    quoted = run("profile", "list", environment={"KEYVOUCH_CONFIG": f'"{config}"'})
    assert "KEYVOUCH_CONFIG is in quotes" in quoted.errors
    assert run("profile", "list", environment={"KEYVOUCH_CONFIG": f"{config}\r"}).output == "nightly\n"
