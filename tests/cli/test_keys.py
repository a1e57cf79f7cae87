"""`keyvouch new`, `keys`, `export`, `stores`, `profile`."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import shlex
import stat
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, pkcs12

from accounts import SERVICE, only_root
from keyvouch._core import registry
from keyvouch._system import files
from keyvouch.algorithms import KEY_TYPES, key_type
from keyvouch.cli import COMMANDS, group, keys
from keyvouch.cli.profile import warn_of_own_configuration
from keyvouch.cli.selection import warn_of_hidden_profile
from keyvouch.store import Attribute, KeyInfo, Schedule
from keyvouch.uri import parse_uri
from scripted_store import certify, new_key
from signing_in import PASSWORD, Key, make_key, run
from stores.key_material import pem_of, write


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return make_key(tmp_path)


@pytest.fixture
def new_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A URI without a key yet."""
    monkeypatch.setenv("APP_PASSWORD", PASSWORD)
    return f"pfx:{tmp_path / 'new.pfx'}?password=env:APP_PASSWORD"


@pytest.mark.parametrize("kind", [kind for kind in KEY_TYPES if kind not in ("RSA-3072", "RSA-4096")])
def test_new_key(new_uri: str, tmp_path: Path, kind: str) -> None:
    """Key and certificate are created, and the file is accessible only to its owner."""
    done = run("new", "--key", new_uri, "--key-type", kind, "--subject", "CN=app,O=Contoso", "--days", "30")
    path = tmp_path / "new.pfx"
    private_key, certificate, _ = pkcs12.load_key_and_certificates(path.read_bytes(), PASSWORD.encode())

    assert done.status == 0, done.errors
    assert certificate is not None
    assert key_type(private_key) == kind
    assert certificate.subject.rfc4514_string() == "CN=app,O=Contoso"
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == 30
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_new_key_is_printed_ready_to_paste(new_uri: str) -> None:
    """The pinned URI comes first, quoted for a shell, and can be used to sign."""
    done = run("new", "--key", new_uri)
    (uri,) = shlex.split(done.output.splitlines()[0])

    assert "Next: keyvouch export --certificate app.cer" in done.errors
    assert run("sign", "--key", uri, stdin=b"x").status == 0


def test_thumbprints_are_those_of_the_certificate(new_uri: str, tmp_path: Path) -> None:
    """The thumbprints are those of the certificate written."""
    facts = json.loads(
        run("new", "--key", new_uri, "--certificate-out", str(tmp_path / "c.cer"), "--output", "json").output
    )
    certificate = x509.load_der_x509_certificate((tmp_path / "c.cer").read_bytes())

    assert facts["thumbprint_sha256"] == certificate.fingerprint(hashes.SHA256()).hex().upper()
    assert facts["thumbprint_sha1"] == certificate.fingerprint(hashes.SHA1()).hex().upper()  # noqa: S303


def test_new_key_never_overwrites(key: Key, tmp_path: Path) -> None:
    """An existing file is not overwritten: exit status 3."""
    before = (tmp_path / "app.pfx").read_bytes()

    assert run("new", "--key", key.uri).status == 3
    assert (tmp_path / "app.pfx").read_bytes() == before


def test_new_key_with_profile(new_uri: str) -> None:
    """A profile is added for the key, and shown."""
    done = run(
        "new", "--key", new_uri, "--save-profile", "nightly", "--tenant", "contoso.onmicrosoft.com", "--client-id", "7"
    )
    shown = json.loads(run("profile", "show", "nightly", "--output", "json").output)

    assert done.status == 0, done.errors
    assert (shown["tenant"], shown["client-id"]) == ("contoso.onmicrosoft.com", "7")
    assert "keyvouch export --certificate app.cer" in done.errors


def test_profile_of_a_family_uses_its_newest_member(tmp_path: Path) -> None:
    """A profile for a family takes the newest, so the next renewal is used; the suggested command opens one key."""
    family, out = f"pem:{tmp_path}/app-*.pem", str(tmp_path / "app.cer")
    profile = ("--save-profile", "nightly", "--tenant", "t", "--client-id", "7")
    first = run("new", "--key", family, "--certificate-out", out, *profile)
    assert first.status == 0, first.errors
    assert "Next: keyvouch token --profile nightly" in first.errors
    shown = json.loads(run("profile", "show", "nightly", "--output", "json").output)
    assert shown["keys"] == [f"{family}?select=newest"]

    further = run("new", "--key", family, "--further")
    assert further.status == 0, further.errors
    command = further.errors.partition("Next: keyvouch ")[2].strip()
    assert run(*shlex.split(command.replace("app.cer", str(tmp_path / "b.cer")))).status == 0
    assert run("sign", "--profile", "nightly", stdin=b"x").status == 0


def test_relative_path_in_a_profile_is_made_absolute(tmp_path: Path) -> None:
    """Relative paths are made absolute, since a profile is used from any working directory."""
    made = make_key(tmp_path, "app.pem")
    write(tmp_path / "app.crt", made.certificate.public_bytes(Encoding.PEM))
    done = run(
        *("profile", "add", "n", "--key", "pem:app.pem?password=env:APP_PASSWORD&certificate-file=app.crt"),
        *("--tenant", "t", "--client-id", "7"),
        folder=tmp_path,
    )
    assert done.status == 0, done.errors
    assert run("sign", "--profile", "n", stdin=b"x").status == 0


@pytest.mark.parametrize(
    "options",
    [
        ("--client-id", "7"),
        ("--tenant", "t", "--client-id", ""),
        ("--tenant", "t", "--client-id", "7", "--ca-file", "/nonexistent"),
    ],
)
def test_incomplete_profile_is_not_added(key: Key, options: tuple[str, ...]) -> None:
    """An incomplete profile, which would fail at first use, is refused at once."""
    assert run("profile", "add", "n", "--key", key.uri, *options).status == 2
    assert json.loads(run("profile", "list", "--output", "json").output)["profiles"] == []


def test_key_is_not_created_if_its_certificate_cannot_be_written(new_uri: str, tmp_path: Path) -> None:
    """If the certificate could not be written, the command fails before it creates a key."""
    done = run("new", "--key", new_uri, "--certificate-out", str(tmp_path / "nothing" / "app.cer"))
    assert done.status == 2
    assert "Create the folder" in done.errors
    assert not (tmp_path / "new.pfx").exists()


def test_next_command_keeps_the_configuration(key: Key, tmp_path: Path) -> None:
    """The suggested next command works as printed."""
    configuration = tmp_path / "a b.toml"
    configuration.touch()
    done = run(
        *("--config", str(configuration), "profile", "add", "n", "--key", key.uri, "--tenant", "t", "--client-id", "7")
    )
    assert f"Next: keyvouch --config '{configuration}' token --profile n" in done.errors


def test_expired_certificate_is_marked(tmp_path: Path) -> None:
    """The list of keys marks an expired certificate."""
    key, other = new_key("P-256"), new_key("P-256", 1)
    for name, each, days in (("old", key, (-9, -1)), ("good", other, (-1, 9))):
        write(tmp_path / f"{name}.pem", pem_of(each, certify(each, days=days)))
    listed = run("keys", "--key", f"pem:{tmp_path}")
    assert listed.output.count("(expired)") == 1


def test_profile_requires_tenant_and_client_id(new_uri: str, tmp_path: Path) -> None:
    """An incomplete profile is refused before a key is created."""
    assert run("new", "--key", new_uri, "--save-profile", "nightly").status == 2
    assert not (tmp_path / "new.pfx").exists()


def test_keys_are_listed_with_their_uris(key: Key, tmp_path: Path) -> None:
    """Each key is listed with a URI that opens it."""
    (listed,) = json.loads(run("keys", "--key", f"pfx:{tmp_path}?password=env:APP_PASSWORD", "--output", "json").output)

    assert listed["subject"] == "CN=app.pfx"
    assert run("sign", "--key", listed["uri"], stdin=b"x").status == 0


def test_export_certificate(key: Key, tmp_path: Path) -> None:
    """The certificate is written in DER, and never over a file."""
    target = str(tmp_path / "app.cer")

    assert run("export", "--key", key.uri, "--certificate", target).status == 0
    assert x509.load_der_x509_certificate(Path(target).read_bytes()) == key.certificate
    assert run("export", "--key", key.uri, "--certificate", target).status == 3


def test_export_pfx(key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key and certificate are written under their own password, readable by OpenSSL."""
    monkeypatch.setenv("OTHER", "another")
    target = tmp_path / "copy.pfx"
    done = run("export", "--key", key.uri, "--pfx", str(target), "--password", "env:OTHER")

    assert done.status == 0, done.errors
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    subprocess.run(
        ["openssl", "pkcs12", "-in", target, "-passin", "env:OTHER", "-noout"], check=True, capture_output=True
    )


@pytest.mark.parametrize(
    "options", [[], ["--certificate", "a", "--pfx", "b"], ["--pfx", "b"], ["--pfx", "b", "--password", "hunter2"]]
)
def test_export_with_wrong_options(key: Key, tmp_path: Path, options: list[str]) -> None:
    """Exactly one form is required, and a PFX needs a password reference; a literal password is not echoed."""
    done = run("export", "--key", key.uri, *options, folder=tmp_path)

    assert done.status == 2
    assert "hunter2" not in done.errors


@pytest.mark.parametrize("permissions", ["strict", "any"])
@pytest.mark.parametrize("options", [("--profile", "n"), ("--profile", "n", "--key", "{key}"), ("--key", "{key}")])
def test_export_password_follows_the_profile(
    key: Key, tmp_path: Path, options: tuple[str, ...], permissions: str
) -> None:
    """`permissions = "any"`, in the profile or in the defaults, also applies to the file with the new password."""
    (tmp_path / "config.toml").write_text(
        f"[defaults]\npermissions = '{permissions}'\n[profiles.n]\nkeys = ['{key.uri}']\n"
    )
    password = tmp_path / "password"
    password.write_text("another")
    password.chmod(0o644)
    done = run(
        *("--config", str(tmp_path / "config.toml"), "export", "--pfx", str(tmp_path / "copy.pfx")),
        *("--password", f"file:{password}", *(option.format(key=key.uri) for option in options)),
    )
    assert done.status == {"strict": 4, "any": 0}[permissions], done.errors
    assert (tmp_path / "copy.pfx").exists() == (permissions == "any")


@pytest.mark.parametrize("options", [("--key", "{key}"), ("--profile", "n", "--key", "{key}")])
def test_export_password_runs_no_command(key: Key, tmp_path: Path, options: tuple[str, ...]) -> None:
    """With --key, the references are not a profile's, and no program is run."""
    (tmp_path / "config.toml").write_text(f"[profiles.n]\nkeys = ['{key.uri}']\n")
    ran = tmp_path / "ran"
    done = run(
        *("--config", str(tmp_path / "config.toml"), "export", "--pfx", str(tmp_path / "copy.pfx")),
        *("--password", f"command:/usr/bin/touch {ran}", *(option.format(key=key.uri) for option in options)),
    )
    assert done.status == 2
    assert "command:" in done.errors
    assert not ran.exists()
    assert not (tmp_path / "copy.pfx").exists()


def test_stores_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list has the installed stores, and those that could be installed."""
    monkeypatch.setitem(registry.KNOWN, "moon", "keyvouch-moon")
    done = CliRunner().invoke(group, ["stores"])

    assert {"pfx", "pem"} <= {line.split()[0] for line in done.output.splitlines() if line}
    assert "Not installed: moon (keyvouch-moon)" in done.output
    assert "pip install . ./plugins/NAME" in done.output


def test_store_of_another_platform_is_described() -> None:
    """A store that cannot be used on this machine is still shown, with its requirements."""
    done = run("stores", "windows")

    assert (done.status, "thumbprint" in done.output, "works only on Windows" in done.output) == (0, True, True)


def test_store_is_described() -> None:
    """A store's attributes and capabilities are shown from its declaration."""
    shown = json.loads(run("stores", "pfx:", "--output", "json").output)

    assert {"path", "password", "friendly-name", "certificate-file"} <= {each["name"] for each in shown["attributes"]}
    assert "generates keys" in shown["capabilities"]


def test_added_profile_is_listed(key: Key) -> None:
    """An added profile is listed, and the file is named."""
    added = run("profile", "add", "nightly", "--key", key.uri, "--tenant", "t", "--client-id", "c")
    again = run("profile", "add", "nightly", "--key", key.uri, "--tenant", "t", "--client-id", "c")

    assert (added.status, again.status) == (0, 2)
    assert run("profile", "list").output == "nightly\n"
    assert Path(run("profile", "path").output.strip()).exists()


def test_profile_with_invalid_key_is_refused() -> None:
    """A URI that could never open is not saved."""
    assert (
        run("profile", "add", "nightly", "--key", "pfx:/x?passwort=env:X", "--tenant", "t", "--client-id", "c").status
        == 2
    )
    assert run("profile", "list").output == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    """The group's list and the command's own help agree."""
    done = run(name, "--help")

    assert done.status == 0
    assert COMMANDS[name].split()[0] in done.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_is_supported(shell: str) -> None:
    """The shells that click supports are supported."""
    done = run(environment={"_KEYVOUCH_COMPLETE": f"{shell}_source"})

    assert "_KEYVOUCH_COMPLETE" in done.output


def test_commands_are_completed() -> None:
    """A partial command name is completed."""
    done = run(environment={"_KEYVOUCH_COMPLETE": "bash_complete", "COMP_WORDS": "keyvouch tok", "COMP_CWORD": "1"})

    assert "token" in done.output


def test_existing_names_are_refused_before_the_key_is_created(new_uri: str, tmp_path: Path) -> None:
    """An existing certificate file or profile stops `new` before it creates a key."""
    (tmp_path / "taken.cer").write_bytes(b"")
    run("profile", "add", "taken", "--key", new_uri, "--tenant", "t", "--client-id", "c")
    names = ["--save-profile", "taken", "--tenant", "t", "--client-id", "c"]

    assert run("new", "--key", new_uri, "--certificate-out", str(tmp_path / "taken.cer")).status == 3
    assert run("new", "--key", new_uri, *names).status == 2
    assert not (tmp_path / "new.pfx").exists()


def test_saved_profile_follows_family(tmp_path: Path) -> None:
    """The profile of a family names the family, not the new member."""
    family = f"pem:{tmp_path}/app-*.pem?select=newest&settle=0"
    names = ["--save-profile", "n", "--tenant", "t", "--client-id", "c"]
    facts = json.loads(run("new", "--key", family, *names, "--output", "json").output)
    run("new", "--key", family, "--further")

    assert json.loads(run("profile", "show", "--output", "json").output)["keys"] == [family]
    assert facts["profile"] == "n"
    assert len(list(tmp_path.glob("app-*.pem"))) == 2


# Listing


@pytest.fixture
def family(tmp_path: Path) -> str:
    """A family with a member that signs, one that is still settling, and a damaged file."""
    uri = f"pem:{tmp_path}/app-*.pem"
    assert run("new", "--key", uri, "--key-type", "P-256").status == 0
    assert run("new", "--key", uri, "--key-type", "P-256", "--further").status == 0
    write(tmp_path / "app-damaged.pem", b"-----BEGIN PRIVATE KEY-----\nx\n")
    return f"{uri}?select=newest"


def test_member_that_signs_now_and_the_next_one_are_marked(family: str) -> None:
    """The list says which member of a family signs, and from when the next one does."""
    now, following = json.loads(run("keys", "--key", family, "--output", "json").output)
    assert (now["signs_now"], now["signs_from"]) == (True, None)
    assert not following["signs_now"]
    created = dt.datetime.fromisoformat(following["created"])
    assert dt.datetime.fromisoformat(following["signs_from"]) - created == dt.timedelta(seconds=900)
    text = run("keys", "--key", family).output
    assert f"{now['uri']}'\n  signs now\n" in text
    assert f"{following['uri']}'\n  signs from 20" in text


def test_keys_of_a_folder_are_not_marked(family: str, tmp_path: Path) -> None:
    """A folder selects no key, so none is marked."""
    listed = json.loads(run("keys", "--key", f"pem:{tmp_path}", "--output", "json").output)
    assert [(each["signs_now"], each["signs_from"]) for each in listed] == [(False, None)] * 2


@pytest.mark.parametrize("output", ["text", "json"])
def test_skipped_files_are_reported(family: str, tmp_path: Path, output: str) -> None:
    """A file that cannot be used is reported with the reason, on standard error."""
    write(tmp_path / "other.pem", b"")
    for key in (family, f"pem:{tmp_path}"):
        done = run("keys", "--key", key, "--output", output)
        assert done.status == 0
        assert f"Skipped: {tmp_path}/app-damaged.pem" in done.errors or "Skipped " in done.errors
        assert (f"{tmp_path}/other.pem is empty" in done.errors) == ("*" not in key)


def test_certificate_file_is_honored(tmp_path: Path) -> None:
    """A certificate beside the key is part of the list, as it is when the key is opened."""
    key = new_key("P-256")
    write(tmp_path / "app.key", pem_of(key))
    write(tmp_path / "app.crt", pem_of(certify(key, days=(-1, 9))))
    uri = f"pem:{tmp_path}/app.key?certificate-file={tmp_path}/app.crt"
    (listed,) = json.loads(run("keys", "--key", uri, "--output", "json").output)
    assert listed["has_certificate"]
    assert listed["subject"] is not None
    assert listed["not_after"] is not None
    assert listed["uri"].endswith("app.crt")


def test_keys_of_a_profile_are_those_of_its_first_store(tmp_path: Path) -> None:
    """With a profile of several keys, the listing says how to list the others."""
    first, second = make_key(tmp_path, "a.pfx"), make_key(tmp_path, "b.pfx")
    (tmp_path / "config.toml").write_text(f"[profiles.n]\nkeys = ['{first.uri}', '{second.uri}']\n")
    done = run("--config", str(tmp_path / "config.toml"), "keys", "--profile", "n")
    assert f"Key 2 of the profile is not listed. To list it: keyvouch keys --key '{second.uri}'" in done.errors


def test_names_are_listed_if_they_differ(capsys: pytest.CaptureFixture[str]) -> None:
    """Keys of several names have a column with them; the versions of one key have none."""
    declared = (Attribute("key", "name"), Attribute("object", "label", parse=bytes))
    first, second, third = (
        KeyInfo(parse_uri(text, declared), "P-256") for text in ("x:key=orders", "x:key=bills", "x:object=bills")
    )
    keys._print_text([first, second], Schedule())
    assert re.search(r"key +type.*\norders +P-256.*\nbills +P-256", capsys.readouterr().out)
    keys._print_text([first, third], Schedule())
    assert re.search(r"key +object +type.*\norders +P-256.*\n +bills +P-256", capsys.readouterr().out)
    keys._print_text([first, first], Schedule())
    assert not re.search("^key", capsys.readouterr().out, re.MULTILINE)


def test_versions_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """The versions of a store that has them are a column, and one line explains a version without a certificate."""
    declared = (Attribute("key", "name"), Attribute("version", "number", parse=int))
    infos = [
        KeyInfo(parse_uri(f"x:key=app;version={number}", declared), "P-256", has_certificate=number == 1)
        for number in (1, 2)
    ]
    keys._print_text(infos, Schedule())
    printed = capsys.readouterr()
    header = printed.out.splitlines()[3]
    assert header.split() == ["version", "type", "subject", "valid", "from", "expires", "exportable"]
    assert [line.split()[0] for line in printed.out.splitlines()[4:]] == ["1", "2"]
    assert "no certificate" in printed.err


def test_profile_shows_each_key_on_a_line(tmp_path: Path) -> None:
    """Each key of a profile is printed on a line of its own, quoted so that it can be pasted."""
    (tmp_path / "config.toml").write_text("[profiles.n]\nkeys = ['pfx:/a.pfx?password=env:A&settle=1', 'pem:/b']\n")
    shown = run("--config", str(tmp_path / "config.toml"), "profile", "show", "n").output.splitlines()
    position = next(number for number, line in enumerate(shown) if line.startswith("keys"))
    assert shown[position].split() == ["keys", "'pfx:/a.pfx?password=env:A&settle=1'"]
    assert shown[position + 1].strip() == "pem:/b"


def test_key_that_is_opened_with_its_own_profile_is_refused(tmp_path: Path) -> None:
    """A profile whose key's store is opened with the profile itself is refused before anything is opened."""
    uri = "vault:address=https://vault;key=app?auth=jwt&profile=n&scope=s"
    (tmp_path / "config.toml").write_text(f"[profiles.n]\nkeys = ['{uri}']\n")
    done = run("--config", str(tmp_path / "config.toml"), "sign", "--profile", "n", stdin=b"x")
    assert done.status == 2
    assert "opened with the profile itself" in done.errors


def test_missing_first_key_of_a_profile_is_skipped(tmp_path: Path) -> None:
    """If the first key of a profile is missing, the next one is listed, and the first reported."""
    key = make_key(tmp_path)
    (tmp_path / "config.toml").write_text(f"[profiles.n]\nkeys = ['pfx:{tmp_path}/gone.pfx', '{key.uri}']\n")
    done = run("--config", str(tmp_path / "config.toml"), "keys", "--profile", "n", "--output", "json")
    assert done.status == 0, done.errors
    assert [each["subject"] for each in json.loads(done.output)] == ["CN=app.pfx"]
    assert f"Skipped key 1 of the profile: {tmp_path}/gone.pfx does not exist" in done.errors


def test_last_key_of_a_profile_is_an_error(tmp_path: Path) -> None:
    """If no key of a profile can be listed, the command fails."""
    (tmp_path / "config.toml").write_text(f"[profiles.n]\nkeys = ['pfx:{tmp_path}/a.pfx', 'pfx:{tmp_path}/b.pfx']\n")
    done = run("--config", str(tmp_path / "config.toml"), "keys", "--profile", "n")
    assert done.status == 3
    assert "b.pfx does not exist" in done.errors


def test_further_key_says_when_it_signs(tmp_path: Path) -> None:
    """`new --further` says when the new key signs, what is to be registered by then, and which URI stays valid."""
    uri = f"pem:{tmp_path}/app-*.pem"
    run("new", "--key", uri, "--key-type", "P-256")
    done = run("new", "--key", uri, "--key-type", "P-256", "--further")
    assert "The new key signs from 20" in done.errors
    assert "Register its certificate by then" in done.errors
    line = f'keys = ["{uri}?select=newest"]'
    assert f"With this line, a profile always uses the key that is to sign:\n  {line}" in done.errors


def test_further_key_needs_no_further_profile(tmp_path: Path) -> None:
    """If the certificate is written too, the next step is not another profile, but a line in the existing one."""
    uri = f"pem:{tmp_path}/app-*.pem"
    run("new", "--key", uri, "--key-type", "P-256")
    out = ("--certificate-out", str(tmp_path / "b.cer"))
    done = run("new", "--key", uri, "--key-type", "P-256", "--further", *out)
    assert "profile add" not in done.errors
    assert f'keys = ["{uri}?select=newest"]' in done.errors


def test_further_key_of_a_relative_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line for the profile has an absolute path, and is not pinned to the new member."""
    monkeypatch.chdir(tmp_path)
    run("new", "--key", "pem:app-*.pem", "--key-type", "P-256")
    done = run("new", "--key", "pem:app-*.pem", "--key-type", "P-256", "--further")
    assert f'keys = ["pem:{tmp_path}/app-*.pem?select=newest"]' in done.errors


def test_further_key_without_settling_signs_at_once(tmp_path: Path) -> None:
    """With `settle=0` there is no time to register the certificate."""
    uri = f"pem:{tmp_path}/app-*.pem?select=newest&settle=0"
    run("new", "--key", uri, "--key-type", "P-256")
    done = run("new", "--key", uri, "--key-type", "P-256", "--further", "--output", "json")
    assert json.loads(done.output)["signs_from"] is None
    assert "signs from now on" in run("new", "--key", uri, "--key-type", "P-256", "--further").errors


def test_start_of_a_key_without_certificate(tmp_path: Path) -> None:
    """A key without a certificate is not "valid from" a date: it was created then."""
    key = make_key(tmp_path, "app.pem")
    assert "created" not in run("keys", "--key", key.uri).output
    path = tmp_path / "app.pem"
    path.write_bytes(path.read_bytes().partition(b"-----BEGIN CERTIFICATE")[0])
    assert re.search(r" created \d{4}-\d\d-\d\d", run("keys", "--key", key.uri).output)


def test_relative_references_in_a_profile_are_made_absolute(tmp_path: Path) -> None:
    """Files with secrets are found from any working directory too."""
    for name in ("secret", "proxy"):
        write(tmp_path / name, b"correct horse").chmod(0o600)
    key = f"pem:{tmp_path}/app.pem?password=file:"
    assert run("new", "--key", f"{key}{tmp_path}/secret").status == 0
    options = ("--tenant", "t", "--client-id", "7", "--proxy-credentials", "file:proxy")
    assert run("profile", "add", "n", "--key", f"{key}secret", *options, folder=tmp_path).status == 0
    assert run("sign", "--profile", "n", stdin=b"x").status == 0
    shown = json.loads(run("profile", "show", "n", "--output", "json").output)
    assert shown["proxy-credentials"] == f"file:{tmp_path}/proxy"


@only_root
def test_next_command_of_root(tmp_path: Path) -> None:
    """For a key that another account can read, root adds the profile to the machine's configuration."""
    machine = files.configuration_files()[-1]
    (tmp_path / "etc").mkdir()
    os.chown(tmp_path / "etc", 0, SERVICE)
    (tmp_path / "etc").chmod(0o750)
    out = ("--certificate-out", str(tmp_path / "a.cer"))
    own = run("new", "--key", f"pem:{tmp_path}/app.pem", *out)
    assert "Next: keyvouch profile add NAME" in own.errors
    (tmp_path / "a.cer").unlink()
    shared = run("new", "--key", f"pem:{tmp_path}/etc/app.pem", *out)
    assert f"Next: keyvouch --config {machine} profile add NAME" in shared.errors


@only_root
def test_profile_that_hides_that_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If root's own configuration hides a profile of the machine's, a line names both files."""
    user, machine = tmp_path / "user.toml", tmp_path / "machine.toml"
    user.write_text("[profiles.n]\n[profiles.own]\n")
    machine.write_text("[profiles.n]\n")
    monkeypatch.delenv("KEYVOUCH_CONFIG", raising=False)
    monkeypatch.setattr(files, "configuration_files", lambda: [user, machine])
    for name in ("n", "own"):
        warn_of_hidden_profile(name)
    (line,) = capsys.readouterr().err.splitlines()
    assert str(user) in line
    assert str(machine) in line
    user.unlink()
    warn_of_hidden_profile("n")
    assert capsys.readouterr().err == ""


def test_configuration_of_root(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """If root has added a profile to its own configuration, the text has the option for the machine's."""
    user, *_, machine = files.configuration_files()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    warn_of_own_configuration(user)
    said = capsys.readouterr().err
    assert f"with --config {machine} before `profile`" in said
    assert "..." not in said
