"""Mistakes in how a command is typed; each gets the line to type."""

from __future__ import annotations

import shlex
import sys
import types
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyvouch import open_signer
from keyvouch.errors import AccessDenied, KeyUnusable
from signing_in import make_key, run


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
