"""`keyvouch import`, `install`, `delete` and `grant`, with files and with a scripted store."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import Encoding

import keyvouch
from keyvouch.certificate import self_signed
from keyvouch.cli import group
from keyvouch.errors import NotSupported
from scripted_store import Script
from signing_in import Key, make_key, run


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return make_key(tmp_path)


def only_key(uri: str) -> str:
    (listed,) = json.loads(run("keys", "--key", uri, "--output", "json").output)
    return str(listed["uri"])


def test_key_is_imported_with_its_certificate(key: Key, tmp_path: Path) -> None:
    """Key and certificate are copied from one file format to another; the first file stays."""
    target = f"pem:{tmp_path}/taken.pem?password=env:APP_PASSWORD"
    done = run("import", "--from", key.uri, "--key", target)

    assert done.status == 0, done.errors
    assert "Next: keyvouch sign --key" in done.errors
    with keyvouch.open_signer(target) as taken, keyvouch.open_signer(key.uri) as given:
        assert taken.public_key == given.public_key
        assert taken.chain == (key.certificate,)


def test_import_never_overwrites(key: Key, tmp_path: Path) -> None:
    """An existing key is not overwritten."""
    other = make_key(tmp_path, "other.pem")
    before = (tmp_path / "other.pem").read_bytes()

    assert run("import", "--from", key.uri, "--key", other.uri).status == 3
    assert (tmp_path / "other.pem").read_bytes() == before


def test_certificate_is_installed(key: Key, tmp_path: Path) -> None:
    """A renewed certificate replaces the previous one; one for another key is refused."""
    with keyvouch.open_signer(key.uri) as signer:
        renewed = self_signed(signer.private_key(), "CN=renewed", 30)
    (tmp_path / "renewed.pem").write_bytes(renewed.public_bytes(Encoding.PEM))
    done = run("install", str(tmp_path / "renewed.pem"), "--key", key.uri)
    assert done.status == 0, done.errors
    with keyvouch.open_signer(key.uri) as signer:
        assert signer.chain == (renewed,)

    other = make_key(tmp_path, "other.pem")
    (tmp_path / "other.cer").write_bytes(other.certificate.public_bytes(Encoding.DER))
    assert run("install", str(tmp_path / "other.cer"), "--key", key.uri).status == 6
    assert run("install", "/nonexistent", "--key", key.uri).status == 2
    with keyvouch.open_signer(key.uri) as signer:
        assert signer.chain == (renewed,)


@pytest.mark.skipif(sys.platform == "win32", reason="a killed process leaves nothing open there")
def test_leftover_of_a_killed_command(key: Key, tmp_path: Path) -> None:
    """A command removes a killed command's leftover, which may be a complete key, and says so."""
    left = tmp_path / ".app.pfx.keyvouch-0123456789abcdef"
    left.write_bytes((tmp_path / "app.pfx").read_bytes())
    left.chmod(0o600)
    with keyvouch.open_signer(key.uri) as signer:
        renewed = self_signed(signer.private_key(), "CN=renewed", 30)
    (tmp_path / "renewed.pem").write_bytes(renewed.public_bytes(Encoding.PEM))
    done = run("install", str(tmp_path / "renewed.pem"), "--key", key.uri)
    assert done.status == 0, done.errors
    assert f"Removed {left}, left by an interrupted write." in done.errors
    assert not left.exists()


def test_delete_requires_a_pinned_uri(key: Key, tmp_path: Path) -> None:
    """Deleting requires a URI that identifies the key exactly, and a confirmation."""
    assert run("delete", "--yes", "--key", key.uri).status == 2
    pinned = only_key(key.uri)
    unasked = run("delete", "--key", pinned)
    assert unasked.status == 2
    assert "--yes" in unasked.errors
    assert (tmp_path / "app.pfx").exists()

    assert run("delete", "--yes", "--key", pinned).status == 0
    assert not (tmp_path / "app.pfx").exists()
    assert run("delete", "--yes", "--key", pinned).status == 3


@pytest.mark.parametrize(("answer", "status", "deleted"), [("y\n", 0, 1), ("n\n", 2, 0)])
def test_delete_prompts_for_confirmation(
    monkeypatch: pytest.MonkeyPatch, answer: str, status: int, deleted: int
) -> None:
    """On a terminal the user is asked to confirm."""
    monkeypatch.setattr("keyvouch.cli.delete.is_interactive", lambda: True)
    with Script() as script:
        done = CliRunner().invoke(group, ["delete", "--key", f"{script.able_uri};version=1"], input=answer)
        assert done.exit_code == status
        assert script.count("delete") == deleted


def test_access_is_granted_and_revoked() -> None:
    """The output lists who could sign before and who can afterwards; other permissions are not changed."""
    with Script() as script:
        script.accounts = ["operator"]

        def grant(*arguments: str) -> tuple[str, str]:
            done = CliRunner().invoke(group, ["grant", "--key", script.able_uri, *arguments])
            assert done.exit_code == 0, done.output
            return done.stdout, done.stderr.strip()

        assert grant("--list") == ("  operator\n", "")
        shown, following = grant("nightly")
        assert shown == "  operator\n+ nightly\n"
        assert following == "Next: start the task or program that runs as nightly."
        assert grant("nightly") == ("  operator\n  nightly\n", "Nothing to change.")
        assert grant("--revoke", "nightly") == (
            "  operator\n- nightly\n",
            "Revoked the permission of nightly.",
        )
        assert json.loads(grant("nightly", "--output", "json")[0]) == {
            "before": ["operator"],
            "after": ["operator", "nightly"],
            "keys": [{"uri": script.able_uri, "before": ["operator"], "after": ["operator", "nightly"]}],
        }


@pytest.mark.parametrize("arguments", [("",), (), ("a", "--list"), ("--list", "--revoke")])
def test_grant_with_wrong_options(key: Key, arguments: tuple[str, ...]) -> None:
    """`grant` requires either an account or `--list`."""
    done = run("grant", "--key", key.uri, *arguments)
    assert (done.status, " or --list" in done.errors) == (2, True)


def test_unsupported_operation_lists_stores_that_support_it(key: Key) -> None:
    """An unsupported operation is reported with the stores that support it."""
    done = run("grant", "--key", key.uri, "nightly")
    assert done.status == 2
    assert "cannot" in done.errors
    with Script() as script:
        for command in (
            ["import", "--from", script.uri, "--key", script.able_uri],
            ["import", "--from", key.uri, "--key", script.uri],
            ["delete", "--yes", "--key", f"{script.uri};version=1"],
            ["keys", "--key", script.uri],
            ["new", "--key", script.uri],
        ):
            error = CliRunner().invoke(group, command).exception
            assert isinstance(error, NotSupported)
            assert "scripted-able" in error.hint
