"""`keyvouch new --save-profile` for OAuth servers other than Entra ID, and what it says about registering the key."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from signing_in import run

ISSUER = ("--client-id", "nightly", "--authority", "https://idp.example")
ENTRA = ("--client-id", "7", "--tenant", "contoso.onmicrosoft.com")


def new(folder: Path, *options: str) -> tuple[int, str]:
    done = run("new", "--key", f"pem:{folder}/app.pem", "--key-type", "P-256", *options)
    return done.status, done.errors


def test_profile_with_an_authority(tmp_path: Path) -> None:
    """The profile has what `keyvouch profile add` would have written."""
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(b"")
    assert new(tmp_path, "--save-profile", "one", *ISSUER, "--ca-file", str(ca_file))[0] == 0
    key = f"pem:{tmp_path}/app.pem"
    assert run("profile", "add", "two", "--key", key, *ISSUER, "--ca-file", str(ca_file)).status == 0
    one, two = (json.loads(run("profile", "show", name, "--output", "json").output) for name in ("one", "two"))
    assert one == two
    assert one["ca-file"] == str(ca_file)


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("certificate", [True, False])
def test_what_another_server_needs(tmp_path: Path, saved: bool, certificate: bool) -> None:
    """The command that is suggested prints the JWK of the new key, and nothing mentions Entra ID's portal."""
    options = ["--save-profile", "partner"] * saved
    options += ["--certificate-out", str(tmp_path / "app.cer")] * certificate
    status, errors = new(tmp_path, *options, *ISSUER)
    assert status == 0, errors
    assert "https://idp.example" in errors
    assert not [each for each in ("app registration", "Entra ID", "--certificate app.cer") if each in errors]
    first, *later = errors.partition("Next: ")[2].splitlines()
    jwks = json.loads(run(*shlex.split(first)[1:]).output)
    assert (jwks["keys"][0] if saved else jwks)["crv"] == "P-256"
    assert later == ["Register these public keys at the authority, then: keyvouch token --profile partner"] * saved


@pytest.mark.parametrize("options", [(), ENTRA, (*ENTRA, "--authority", "https://adfs.contoso.example/adfs")])
def test_what_entra_id_needs(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Without an authority, or with a tenant, the certificate is registered."""
    save = ("--save-profile", "nightly") if options else ()
    _, errors = new(tmp_path, "--certificate-out", str(tmp_path / "app.cer"), *save, *options)
    assert "app registration" in errors
    assert "--jwk" not in errors


@pytest.mark.parametrize(
    "options",
    [
        ("--client-id", "nightly"),
        ("--authority", "https://idp.example"),
        ("--client-id", "nightly", "--authority", "http://idp.example"),
        (*ISSUER, "--ca-file", "/nowhere/ca.pem"),
    ],
    ids=["no server", "no client", "not https", "no such file"],
)
def test_refused_before_the_key_is_created(tmp_path: Path, options: tuple[str, ...]) -> None:
    """What `keyvouch profile add` would refuse is refused before a key is created."""
    assert new(tmp_path, "--save-profile", "partner", *options)[0] == 2
    assert not (tmp_path / "app.pem").exists()


def test_incomplete_uri_is_not_added_to_a_profile(tmp_path: Path) -> None:
    """A key that could never be opened is refused with what is missing, also if it is a standby key."""
    configuration = tmp_path / "config.toml"
    options = ("--tenant", "t", "--client-id", "c", "--key", f"pem:{tmp_path}/app.pem")
    for key, missing in (
        ("vault:address=https://vault:8200;key=orders?auth=approle", "role-id"),
        ("vault:address=https://vault:8200?auth=none", "key"),
        ("azure-keyvault:vault=https://contoso.vault.azure.net;certificate=app", "auth"),
    ):
        done = run("--config", str(configuration), "profile", "add", "n", *options, "--key", key)
        assert done.status == 2
        assert missing in done.errors
    assert not configuration.exists()
