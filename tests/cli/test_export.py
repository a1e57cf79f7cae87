"""Public keys as JWKs, checked with joserfc, and what is said about registering them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization.pkcs12 import load_key_and_certificates
from cryptography.x509 import load_pem_x509_certificate
from joserfc.jwk import KeySet

from keyvouch.algorithms import KEY_TYPES
from keyvouch.assertion import jwk_thumbprint
from scripted_store import certify, new_key
from signing_in import PASSWORD, Key, make_key, run
from stores.key_material import pem_of, write


@pytest.fixture
def keys(tmp_path: Path) -> list[Key]:
    return [make_key(tmp_path, "first.pem", "P-256"), make_key(tmp_path, "second.pem", "Ed25519")]


def configure(folder: Path, keys: list[str], *lines: str) -> dict[str, str]:
    text = [
        "[profiles.partner]",
        'authority = "https://idp.example"',
        'client-id = "app"',
        f"keys = {json.dumps(keys)}",
    ]
    (folder / "config.toml").write_text("\n".join([*text, *lines]) + "\n")
    return {"KEYVOUCH_CONFIG": str(folder / "config.toml")}


@pytest.mark.parametrize("key_type", [each for each in KEY_TYPES if each not in ("RSA-3072", "RSA-4096")])
def test_jwk(tmp_path: Path, key_type: str) -> None:
    """`--jwk` prints the public key, with its thumbprint as `kid`, and nothing private."""
    key = make_key(tmp_path, "app.pem", key_type)
    done = run("export", "--jwk", "--key", key.uri)

    jwk = json.loads(done.output)
    [theirs] = KeySet.import_key_set({"keys": [jwk]}).keys
    assert not theirs.is_private
    assert theirs.raw_value == key.certificate.public_key()
    assert (jwk["kid"], jwk["use"]) == (theirs.thumbprint(), "sig")
    assert not jwk.keys() & {"d", "p", "q", "dp", "dq", "qi"}


def test_jwk_without_certificate(tmp_path: Path, keys: list[Key]) -> None:
    """A key needs no certificate to be registered as a JWK."""
    path = tmp_path / "first.pem"
    path.write_bytes(path.read_bytes().partition(b"-----BEGIN CERTIFICATE")[0])

    assert json.loads(run("export", "--jwk", "--key", keys[0].uri).output)["kty"] == "EC"


def test_jwks_of_a_profile(tmp_path: Path, keys: list[Key]) -> None:
    """`--jwks` prints all keys of the profile in its order, each once."""
    environment = configure(tmp_path, [keys[0].uri, keys[1].uri, keys[0].uri])

    jwks = json.loads(run("export", "--jwks", environment=environment).output)

    assert [each.raw_value for each in KeySet.import_key_set(jwks).keys] == [
        key.certificate.public_key() for key in keys
    ]


@pytest.mark.parametrize("ages", [(2000, 100, 10), (100, 10), (2000, 1000)])
def test_jwks_of_a_family(tmp_path: Path, ages: tuple[int, ...]) -> None:
    """Members that have not settled are in the set too, after the one that signs; those that it replaced are not."""
    now, members = time.time(), []
    for number, age in enumerate(ages):
        members.append(make_key(tmp_path, f"app-{number}.pem", "P-256"))
        os.utime(tmp_path / f"app-{number}.pem", (now - age, now - age))
    family = f"pem:{tmp_path}/app-*.pem?password=env:APP_PASSWORD&select=newest"
    environment = configure(tmp_path, [family])

    jwks = KeySet.import_key_set(json.loads(run("export", "--jwks", environment=environment).output))
    expected = members[-1:] if ages[-1] > 900 else members
    assert [each.raw_value for each in jwks.keys] == [each.certificate.public_key() for each in expected]
    assert [each.kid for each in jwks.keys] == [each.thumbprint() for each in jwks.keys]
    jwk = json.loads(run("export", "--jwk", environment=environment).output)
    assert jwk["kid"] == jwks.keys[0].kid


def test_jwks_of_a_family_with_other_certificates(tmp_path: Path) -> None:
    """The kid of each member is that of its assertions, and a member whose certificate has expired never signs."""
    now = time.time()
    for number, days in enumerate([(-9, 9), (-9, -1), (5, 9)]):
        key = new_key("P-256", number)
        write(tmp_path / f"app-{number}.pem", pem_of(key, certify(key, days=days)))
        os.utime(tmp_path / f"app-{number}.pem", (now - 9999 + number, now - 9999 + number))
    kids = [jwk_thumbprint(new_key("P-256", number).public_key()) for number in (0, 2)]
    lines = f'assertion = {{ kid = {{ "{kids[1]}" = "later" }} }}'
    environment = configure(tmp_path, [f"pem:{tmp_path}/app-*.pem?select=newest"], lines)

    exported = json.loads(run("export", "--jwks", environment=environment).output)["keys"]
    assert [each["kid"] for each in exported] == [kids[0], "later"]


def test_to_a_file(tmp_path: Path, keys: list[Key]) -> None:
    """With a file, it is written there, and never replaced."""
    path = tmp_path / "jwks.json"
    arguments = ("export", "--jwks", str(path), "--key", keys[0].uri, "--output", "json")

    assert json.loads(run(*arguments).output) == {"file": str(path)}
    assert len(json.loads(path.read_text())["keys"]) == 1
    assert run(*arguments).status != 0


def test_configured_kid(tmp_path: Path, keys: list[Key]) -> None:
    """The exported `kid` is the one that assertions will have."""
    first, second = (jwk_thumbprint(key.certificate.public_key()) for key in keys)  # type: ignore[arg-type]
    uris = [key.uri for key in keys]
    for option, expected in (
        (f'kid = {{ "{first}" = "mine" }}', ["mine", second]),
        ('kid = "thumbprint"', [first, second]),
        ('kid = "none"', [None, None]),
    ):
        environment = configure(tmp_path, uris, f"assertion = {{ {option} }}")
        exported = json.loads(run("export", "--jwks", environment=environment).output)["keys"]
        assert [each.get("kid") for each in exported] == expected


def test_one_kid_for_two_keys(tmp_path: Path, keys: list[Key]) -> None:
    """The same `kid` for two keys is an error, and the hint says how to give each its own."""
    environment = configure(tmp_path, [key.uri for key in keys], 'assertion = { kid = "mine" }')

    done = run("export", "--jwks", environment=environment)

    assert (done.status, done.output) == (2, "")
    assert "same kid: mine" in done.errors
    assert "kid = {" in done.errors


def test_certificate_for_another_authority(tmp_path: Path, keys: list[Key]) -> None:
    """What is said about the certificate mentions the app registration only if the authority may be Entra ID."""
    environment = configure(tmp_path, [keys[0].uri])
    done = run("export", "--certificate", str(tmp_path / "a.cer"), environment=environment)
    assert "https://idp.example" in done.errors
    assert "app registration" not in done.errors

    done = run("export", "--certificate", str(tmp_path / "b.cer"), "--key", keys[0].uri)
    assert "app registration" in done.errors


@pytest.mark.parametrize("arguments", [(), ("--jwk", "--jwks"), ("--jwk", "--certificate", "a.cer")])
def test_one_format(tmp_path: Path, keys: list[Key], arguments: tuple[str, ...]) -> None:
    """Exactly one format is written."""
    done = run("export", *arguments, "--key", keys[0].uri, folder=tmp_path)
    assert done.status == 2
    assert "--certificate, --pfx, --jwk and --jwks" in done.errors


def test_thumbprint_of_no_key(tmp_path: Path, keys: list[Key]) -> None:
    """A thumbprint in the table `kid` that is no key's may be misspelled: a warning names it."""
    thumbprint = jwk_thumbprint(keys[0].certificate.public_key())  # type: ignore[arg-type]
    lines = ["[profiles.partner.assertion.kid]", f'"{thumbprint}" = "a"', f'"{"x" * 43}" = "b"']
    environment = configure(tmp_path, [keys[0].uri], *lines)
    done = run("export", "--jwks", environment=environment)

    assert (done.status, json.loads(done.output)["keys"][0]["kid"]) == (0, "a")
    assert done.errors == f"No key of the profile has the thumbprint {'x' * 43} in the table kid.\n"

    shown = run("profile", "show", environment=environment).output
    written = next(line for line in shown.splitlines() if line.startswith("assertion.kid"))
    assert tomllib.loads(f"kid = {written.partition(' ')[2]}")["kid"] == {thumbprint: "a", "x" * 43: "b"}


def test_certificate_of_a_key_without_one(tmp_path: Path, keys: list[Key]) -> None:
    """For a key without a certificate, the hint has the other way to register it."""
    path = tmp_path / "first.pem"
    path.write_bytes(path.read_bytes().partition(b"-----BEGIN CERTIFICATE")[0])
    assert "use --jwk" in run("export", "--certificate", str(tmp_path / "a.cer"), "--key", keys[0].uri).errors


def test_export_to_standard_output(tmp_path: Path, keys: list[Key]) -> None:
    """`-` is standard output: a certificate is written there as PEM, a PFX as it is, and no file is created."""
    done = run("export", "--certificate", "-", "--key", keys[0].uri, folder=tmp_path)
    assert load_pem_x509_certificate(done.output.encode()) == keys[0].certificate
    assert done.errors == ""
    pfx = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "keyvouch", "export"),
            *("--pfx", "-", "--key", keys[0].uri, "--password", "env:APP_PASSWORD"),
        ],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    found, certificate, _ = load_key_and_certificates(pfx.stdout, PASSWORD.encode())
    assert certificate == keys[0].certificate
    assert found is not None
    assert not (tmp_path / "-").exists()


def test_new_certificate_is_not_printed(tmp_path: Path) -> None:
    """`new` prints the facts about the key, so that its certificate needs a file; the key is not created."""
    done = run("new", "--key", f"pem:{tmp_path}/new.pem", "--certificate-out", "-", folder=tmp_path)
    assert done.status == 2
    assert "keyvouch export --certificate -" in done.errors
    assert not (tmp_path / "new.pem").exists()


def test_certificate_on_standard_input(keys: list[Key]) -> None:
    """`-` as a file to read is standard input, which only one of them can be."""
    certificate = run("export", "--certificate", "-", "--key", keys[0].uri).output.encode()
    assert run("install", "-", "--key", keys[0].uri, stdin=certificate).status == 0
    done = run("verify", "--certificate", "-", stdin=certificate)
    assert "standard input" in done.errors
    assert done.status == 2


def test_next_steps_of_a_key(tmp_path: Path) -> None:
    """After a key was created, there is a line for Entra ID and one for a server that knows public keys."""
    done = run("new", "--key", f"pem:{tmp_path / 'new.pem'}")
    assert "\nNext: keyvouch export --certificate app.cer --key 'pem:" in done.errors
    line = next(each for each in done.errors.splitlines() if "JWKS" in each).partition("keyvouch ")[2]
    assert json.loads(run(*shlex.split(line)).output)["kty"] == "RSA"


def test_next_steps_of_a_profile(tmp_path: Path, keys: list[Key]) -> None:
    """After adding a profile of an issuer, the next step is to register the keys; the line works when typed."""
    options = ["--client-id", "app", "--key", keys[0].uri]
    environment = {"KEYVOUCH_CONFIG": str(tmp_path / "c.toml")}
    done = run("profile", "add", "partner", "--authority", "https://idp.example", *options, environment=environment)
    first, later = done.errors.partition("Next: ")[2].splitlines()
    assert run(*first.split()[1:], environment=environment).output.startswith('{\n  "keys"')
    assert later == "Register these public keys at the authority, then: keyvouch token --profile partner"
    done = run("profile", "add", "entra", "--tenant", "contoso.com", *options, environment=environment)
    assert "Next: keyvouch token --profile entra" in done.errors
    assert "jwks" not in done.errors
