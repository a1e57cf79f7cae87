"""Profiles: where they are looked up, what they contain, and which mistakes are reported."""

import os
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyvouch import config
from keyvouch._core import environment
from keyvouch._system import files
from keyvouch.config import AssertionOptions, Configuration, Profile, add_profile, load
from keyvouch.errors import ConfigurationError

posix = pytest.mark.skipif(sys.platform == "win32", reason="file modes are POSIX's")
NIGHTLY = """
[profiles.nightly]
tenant = "contoso.onmicrosoft.com"
client-id = "1234"
scopes = ["https://graph.microsoft.com/.default"]
keys = ['pfx:C:\\keys\\app.pfx?password=env:X', "pem:/a"]
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a configuration that `KEYVOUCH_CONFIG` names; the file does not exist yet."""
    path = tmp_path / "keyvouch.toml"
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(path))
    return path


def write(path: Path, text: str) -> Configuration:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return load()


def refusal(path: Path, text: str, name: str = "nightly") -> ConfigurationError:
    """The error for a profile in a file with this text; it names the file and has a hint."""
    with pytest.raises(ConfigurationError) as caught:
        write(path, text).profile(name)
    assert str(path) in str(caught.value)
    assert caught.value.hint
    return caught.value


# Contents of a profile


def test_profile_has_its_fields_and_defaults(file: Path) -> None:
    """A profile consists of its fields, with defaults for those that are missing."""
    profile = write(file, NIGHTLY).profile("nightly")
    assert profile == Profile(
        tenant="contoso.onmicrosoft.com",
        client_id="1234",
        scopes=("https://graph.microsoft.com/.default",),
        keys=("pfx:C:\\keys\\app.pfx?password=env:X", "pem:/a"),
    )
    assert (profile.cloud, profile.token_cache, profile.permissions) == ("public", "user", "strict")
    assert profile.assertion == AssertionOptions(x5t="auto", lifetime=600, reuse=0, send_x5c=False)


def test_defaults_apply_to_every_profile(file: Path) -> None:
    """`[defaults]` applies unless a profile says otherwise."""
    text = '[defaults]\nca-file = "/ca"\ntenant = "t"\n[profiles.a]\ntenant = "own"\n[profiles.b]\n'
    there = write(file, text)
    assert [(there.profile(name).ca_file, there.profile(name).tenant) for name in "ab"] == [
        ("/ca", "own"),
        ("/ca", "t"),
    ]
    assert there.default_profile() == Profile(ca_file="/ca", tenant="t")


@pytest.mark.parametrize(
    ("defaults", "own", "cloud", "authority"),
    [
        ("", "", "public", None),
        ('cloud = "usgov"', "", "usgov", None),
        ('cloud = "usgov"', 'cloud = "china"', "china", None),
        ('authority = "https://a"', "", "public", "https://a"),
        ('authority = "https://a"', 'authority = "https://b"', "public", "https://b"),
        ('authority = "https://a"', 'cloud = "china"', "china", None),
        ('cloud = "usgov"', 'authority = "https://b"', "public", "https://b"),
    ],
)
def test_cloud_and_authority_override_each_other(
    file: Path, defaults: str, own: str, cloud: str, authority: str | None
) -> None:
    """A profile's own cloud replaces the default authority, and the other way round."""
    profile = write(file, f"[defaults]\n{defaults}\n[profiles.a]\n{own}\n").profile("a")
    assert (profile.cloud, profile.authority) == (cloud, authority)


def test_inline_assertion_options(file: Path) -> None:
    """Assertion options are a table in the profile."""
    text = '[profiles.a]\nassertion = {send-x5c = true, x5t = "sha1", kid = "k", lifetime = 60}\n'
    assert write(file, text).profile("a").assertion == AssertionOptions(send_x5c=True, x5t="sha1", kid="k", lifetime=60)


# Mistakes


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ('client-secret = "hunter2"', "unknown field 'client-secret'"),
        ('client_id = "x"', "unknown field 'client_id'"),
        ("tenant = 5", "got 'int' (in tenant)"),
        ("tenant = 2026-01-01", "got 'date' (in tenant)"),
        ('keys = "pem:/a"', "got 'str' (in keys)"),
        ("keys = [1]", "got 'int' (in keys[0])"),
        ('cloud = "mars"', "'mars' (in cloud)"),
        ('token-cache = "disk"', "'disk' (in token-cache)"),
        ('permissions = "some"', "'some' (in permissions)"),
        ('authority = "http://a"', "authority is not an https URL"),
        ("assertion = {x5c = true}", "unknown field 'x5c' (in assertion)"),
        ("assertion = {lifetime = 0}", "(in assertion.lifetime)"),
        ("assertion = {reuse = -1}", "(in assertion.reuse)"),
    ],
)
@pytest.mark.parametrize(
    ("table", "path"),
    [("[profiles.nightly]\n", "profile 'nightly'"), ("[profiles.nightly]\n[defaults]\n", "[defaults]")],
)
def test_invalid_field_is_named(file: Path, table: str, path: str, field: str, message: str) -> None:
    """An error names the file, profile and field, but not the value of an unknown field."""
    error = refusal(file, f"{table}{field}\n")
    assert f"{file}: {path}: " in error.message
    assert message in error.message
    assert "hunter2" not in str(error)


def test_known_fields_are_listed(file: Path) -> None:
    """The hint lists every field as it is spelled."""
    assert "tenant, client-id, scopes, keys, cloud" in refusal(file, "[profiles.nightly]\nx = 1\n").hint


def test_invalid_profile_does_not_affect_others(file: Path) -> None:
    """A mistake in one profile does not affect users of another."""
    assert write(file, "[profiles.bad]\nx = 1\n" + NIGHTLY).profile("nightly").client_id == "1234"


def test_invalid_defaults_are_named(file: Path) -> None:
    """A mistake in the defaults is reported as one in `[defaults]` if no profile is used."""
    with pytest.raises(ConfigurationError, match=r"keyvouch.toml: \[defaults\]: unknown field 'x'"):
        write(file, "[defaults]\nx = 1\n").default_profile()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[profile.a]\n", "unknown table or field 'profile' at the top level"),
        ('tenant = "t"\n', "unknown table or field 'tenant' at the top level"),
        ("defaults = 1\n", "defaults is not a table"),
        ("profiles = 1\n", "profiles must contain only tables"),
        ("[profiles]\nnightly = 1\n", "profiles must contain only tables"),
        ("[[profiles]]\n", "profiles must contain only tables"),
    ],
)
def test_unknown_table_is_named(file: Path, text: str, message: str) -> None:
    """The top level contains only `[defaults]` and `[profiles.NAME]`."""
    assert message in refusal(file, text).message


@pytest.mark.parametrize(
    ("text", "line"),
    [("[profiles.a]\ntenant = \n", 2), ('\n\n[profiles.a]\nkeys = ["pfx:C:\\keys"]\n', 4), ("[profiles.a\n", 1)],
)
def test_toml_syntax_error_names_the_line(file: Path, text: str, line: int) -> None:
    """A syntax error names file and line, and mentions backslashes."""
    error = refusal(file, text)
    assert f"line {line}" in error.message
    assert "single quotes" in error.hint


def test_configuration_is_not_utf_8(file: Path) -> None:
    """A file that is not UTF-8 is reported as such."""
    file.write_bytes("[profiles.ä]".encode("latin-1"))
    with pytest.raises(ConfigurationError, match=f"{file} is not UTF-8") as caught:
        load()
    assert f"in Windows PowerShell 5.1: (Get-Content '{file}') | Set-Content" in caught.value.hint


def test_utf_16_configuration_is_an_error(file: Path) -> None:
    """UTF-16, as PowerShell's > writes, is reported with the command that converts it to UTF-8."""
    file.write_bytes(NIGHTLY.encode("utf-16"))
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert f"(Get-Content '{file}') | Set-Content -Encoding utf8 '{file}'" in caught.value.hint


@pytest.mark.parametrize("field", ["ca-file", "audit"])
def test_backslashes_in_double_quotes(file: Path, field: str) -> None:
    """A path with backslashes in double quotes turns into control characters."""
    file.write_text(rf"profiles.a.{field} = 'file:C:\temp\new'")
    load().profile("a")
    file.write_text(rf'profiles.a.{field} = "file:C:\temp\new"')
    with pytest.raises(ConfigurationError, match=f"{field} contains a control character") as caught:
        load().profile("a")
    assert "single quotes" in caught.value.hint


def test_byte_order_mark_is_skipped(file: Path) -> None:
    """Some editors on Windows begin UTF-8 with a byte order mark, and use their own line endings."""
    file.write_bytes(b"\xef\xbb\xbf" + NIGHTLY.replace("\n", "\r\n").encode())
    assert load().profile("nightly").client_id == "1234"


@posix
@pytest.mark.parametrize("what", ["file", "folder"])
def test_untrusted_configuration_is_rejected(file: Path, what: str) -> None:
    """A configuration that everyone could have written is not read: it names modules and programs."""
    file.write_text(NIGHTLY)
    (file if what == "file" else file.parent).chmod(0o777)
    with pytest.raises(ConfigurationError, match="is not trusted: everyone can write"):
        load()


def test_folder_is_not_a_configuration(file: Path) -> None:
    """The error says why the file cannot be read."""
    file.mkdir()
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        load()


def test_fifo_is_not_a_configuration(file: Path) -> None:
    """Opening something other than a regular file does not block."""
    os.mkfifo(file)
    with pytest.raises(ConfigurationError, match="Not a regular file"):
        load()


@pytest.mark.parametrize("text", ["a = " + "[" * 9000, f"a = {'9' * 5000}", "a = " + "{b = " * 3000])
def test_text_that_exhausts_the_parser(file: Path, text: str) -> None:
    """Text that exhausts the parser is reported like any other mistake."""
    assert "is not valid TOML" in refusal(file, text).message


def test_profiles_added_concurrently_are_all_kept(file: Path) -> None:
    """Processes that add profiles at the same time do not lose each other's."""
    program = "import sys; from pathlib import Path; from keyvouch.config import add_profile\n"
    program += "add_profile(Path(sys.argv[1]), sys.argv[2], {'tenant': 't'})"
    adding = [subprocess.Popen([sys.executable, "-c", program, str(file), f"p{number}"]) for number in range(8)]
    assert [each.wait(60) for each in adding] == [0] * 8
    assert sorted(load().profiles) == [f"p{number}" for number in range(8)]


# Location


def test_environment_variable_takes_precedence(file: Path) -> None:
    """`KEYVOUCH_CONFIG` names the file; the others are not read, and nothing is merged."""
    user = files.configuration_files()[0]
    write(file, NIGHTLY)
    user.parent.mkdir(parents=True)
    user.write_text("[profiles.mine]\n")
    assert list(load().profiles) == ["nightly"]
    assert load().path == file


def test_missing_named_configuration_is_an_error(file: Path) -> None:
    """A named file that is missing is an error, unless it is about to be written."""
    with pytest.raises(ConfigurationError, match=f"{file} does not exist"):
        load()
    assert load(may_be_missing=True) == Configuration(None, (file,), {}, {})


def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The user's and the machine's configuration, both in this test's folder."""
    both = (tmp_path / "user" / "config.toml", tmp_path / "machine" / "config.toml")
    monkeypatch.setattr(files, "configuration_files", lambda: list(both))
    return both


def test_user_configuration_precedes_the_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first existing file is the only configuration."""
    user, machine = places(tmp_path, monkeypatch)
    assert write(machine, "[profiles.machine]\n").path == machine
    assert write(user, "[profiles.user]\n").path == user
    assert list(load().profiles) == ["user"]


def test_inaccessible_home_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service started with another account's HOME uses the machine's configuration."""
    user, machine = places(tmp_path, monkeypatch)
    real = os.stat

    def stat_as_a_service(path: str | Path, **options: bool) -> os.stat_result:
        if Path(path) == user:
            raise PermissionError(13, "Permission denied")
        return real(path, **options)

    write(machine, NIGHTLY)
    monkeypatch.setattr(os, "stat", stat_as_a_service)
    assert load().path == machine


def test_working_directory_is_never_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration names modules and programs, so none is read from the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "config.toml",
        "keyvouch.toml",
        ".keyvouch.toml",
        "keyvouch/config.toml",
        "~/.config/keyvouch/config.toml",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(NIGHTLY)
    assert load().profiles == {}


def test_missing_configuration_lists_the_paths(own_folders: Path) -> None:
    """If there is no configuration, the error lists where it could be."""
    with pytest.raises(ConfigurationError, match="Profile not found: 'nightly'") as caught:
        load().profile("nightly")
    assert str(files.configuration_files()[0]) in caught.value.hint
    assert "/etc/keyvouch/config.toml" in caught.value.hint


# Selection


def test_unknown_profile_lists_the_others(file: Path) -> None:
    """An unknown profile is reported with the existing ones."""
    error = refusal(file, "[profiles.a]\n[profiles.b]\n")
    assert error.message == "Profile not found: 'nightly'."
    assert error.hint == f"{file} contains: a, b."


def test_profile_name_precedence(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A given name takes precedence over `KEYVOUCH_PROFILE`, and that over the only profile."""
    there = write(file, "[profiles.a]\n")
    assert there.pick() == "a"
    monkeypatch.setenv("KEYVOUCH_PROFILE", "b")
    assert there.pick() == "b"
    assert there.pick("c") == "c"
    monkeypatch.setenv("KEYVOUCH_PROFILE", "")
    assert there.pick() == "a"


def test_profile_name_in_a_variable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """cmd.exe's `set NAME=b & ...` keeps a space; the error for an unknown name says that a variable has it."""
    there = write(file, "[profiles.a]\n")
    monkeypatch.setenv("KEYVOUCH_PROFILE", "b ")
    assert there.pick() == "b"
    with pytest.raises(ConfigurationError, match=r"Profile not found: 'b' \(from KEYVOUCH_PROFILE\)\."):
        there.profile("b")


@pytest.mark.parametrize(
    ("text", "advice", "known"),
    [
        ("", f"Add a profile, or set {environment.REQUIRED}.", "no profiles"),
        ("[profiles.a]\n[profiles.b]\n", "Use --profile NAME.", "a, b"),
    ],
)
def test_profile_is_not_guessed(file: Path, text: str, advice: str, known: str) -> None:
    """With no profile or several, none is selected by guessing."""
    with pytest.raises(ConfigurationError, match="No profile was specified") as caught:
        write(file, text).pick()
    assert caught.value.hint == f"{advice} {file} contains: {known}."


# Adding a profile

FIELDS = {
    "tenant": "t",
    "client-id": "c",
    "scopes": ["s"],
    "keys": ["pfx:C:\\a\x7f\u2019\U0001f511\"'.pfx"],
    "audit": None,
}


@posix
def test_first_profile_creates_the_file(tmp_path: Path, file: Path) -> None:
    """Missing files and folders are created, accessible only to their owner."""
    path = tmp_path / "new" / "config.toml"
    add_profile(path, "nightly", FIELDS)
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)] == [0o600, 0o700]
    assert list(tomllib.loads(path.read_text(encoding="utf-8"))["profiles"]) == ["nightly"]


@pytest.mark.parametrize("there", ["# mine\n[defaults]\ncloud = 'china'\n", "[profiles.a]   # no newline", "\n\n", ""])
def test_added_profile_keeps_existing_content(file: Path, there: str) -> None:
    """A profile is appended: comments, order and everything else stay, and it reads back as given."""
    write(file, there)
    before = load()
    add_profile(file, "nightly", FIELDS)
    assert file.read_text(encoding="utf-8").startswith(there.rstrip("\n"))
    profile = load().profile("nightly")
    assert (profile.tenant, profile.client_id, profile.audit) == ("t", "c", None)
    assert list(profile.keys) == FIELDS["keys"]
    assert {name: load().profiles[name] for name in before.profiles} == before.profiles


def test_line_endings_are_kept(file: Path) -> None:
    """A file with Windows line endings keeps them."""
    file.write_bytes(b"[defaults]\r\n# mine\r\n")
    add_profile(file, "a", {"tenant": "t"})
    assert file.read_bytes().startswith(b"[defaults]\r\n# mine\r\n")
    assert load().profile("a").tenant == "t"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(min_size=1))
def test_any_text_round_trips(tmp_path: Path, text: str) -> None:
    """Whatever characters a value has, TOML reads back the same value."""
    path = tmp_path / "any.toml"
    path.unlink(missing_ok=True)
    add_profile(path, "a", {"scopes": [text], "keys": [text]})
    assert tomllib.loads(path.read_bytes().decode())["profiles"]["a"] == {"scopes": [text], "keys": [text]}


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("nightly", {}, "profile 'nightly' already exists"),
        ("a.b", {}, "Invalid profile name"),
        ("", {}, "Invalid profile name"),
        ("a]\n[profiles.b", {}, "Invalid profile name"),
        ("ä", {}, "Invalid profile name"),
        ("a\n", {}, "Invalid profile name"),
        ("a", {"client-secret": "x"}, "unknown field 'client-secret'"),
        ("a", {"client_id": "x"}, "unknown field 'client_id'"),
        ("a", {"tenant": 5}, "(in tenant)"),
        ("a", {"authority": "http://x"}, "not an https URL"),
        ("a", {"assertion": {"send-x5c": True}}, "is not valid TOML"),
    ],
)
def test_invalid_profile_is_not_added(file: Path, name: str, fields: dict[str, object], message: str) -> None:
    """What `load` would reject is not written, and existing profiles are never replaced."""
    write(file, NIGHTLY)
    with pytest.raises(ConfigurationError) as caught:
        add_profile(file, name, fields)
    assert message in caught.value.message
    assert file.read_text() == NIGHTLY


@pytest.mark.parametrize("there", ["profiles = {}\n", "[profiles\n", "[defaults]\nx = 1\n"])
def test_invalid_file_is_not_changed(file: Path, there: str) -> None:
    """A file that could not be read with the new profile in it stays unchanged."""
    file.write_text(there)
    with pytest.raises(ConfigurationError):
        add_profile(file, "a", {"tenant": "t"})
    assert file.read_text() == there


@pytest.mark.parametrize(("number", "hint"), [(28, "disk is full"), (30, "read-only")])
def test_unwritable_file_is_a_clear_error(file: Path, monkeypatch: pytest.MonkeyPatch, number: int, hint: str) -> None:
    """A full or read-only disk is reported with its remedy, and the file stays as it was."""
    write(file, NIGHTLY)

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ConfigurationError, match=f"{file} cannot be written") as caught:
        add_profile(file, "a", {"tenant": "t"})
    assert hint in caught.value.hint
    assert file.read_text() == NIGHTLY


def test_every_cloud_has_an_authority() -> None:
    """Every cloud that a profile may name has an authority."""
    assert set(config.CLOUDS) == set(get_args(get_type_hints(Profile)["cloud"]))
    assert all(address.startswith("https://") for address in config.CLOUDS.values())


def test_added_profile_keeps_permissions(tmp_path: Path) -> None:
    """Those who could read the configuration before can read it afterwards, and a link stays a link."""
    path, link = tmp_path / "real.toml", tmp_path / "config.toml"
    path.write_text("# ours\n")
    path.chmod(0o640)
    link.symlink_to(path)
    config.add_profile(link, "nightly", {"tenant": "t"})

    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640


def test_concurrent_edit_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes that an editor saves while a profile is being added are not lost."""
    path = tmp_path / "config.toml"
    path.write_text('[profiles.a]\ntenant = "t"\n')
    real = files.rewrite

    def rewrite(*arguments: Any, **options: Any) -> None:
        path.write_text('[profiles.edited]\ntenant = "t"\n')
        real(*arguments, **options)

    monkeypatch.setattr(files, "rewrite", rewrite)
    with pytest.raises(ConfigurationError, match="changed since it was read") as caught:
        add_profile(path, "b", {"tenant": "t"})
    assert caught.value.hint == "Run the command again."
    assert "[profiles.edited]" in path.read_text()


# The null device


@pytest.fixture
def null(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KEYVOUCH_CONFIG", os.devnull)
    return Path(os.devnull)


def test_null_device_means_no_configuration(null: Path) -> None:
    """`KEYVOUCH_CONFIG=/dev/null` means that there is no configuration, also for the files searched otherwise."""
    user = files.configuration_files()[0]
    user.parent.mkdir(parents=True)
    user.write_text(NIGHTLY)
    assert load() == load(may_be_missing=True) == Configuration(None, (null,), {}, {})
    assert load().default_profile() == Profile()
    with pytest.raises(ConfigurationError) as caught:
        load().profile("nightly")
    assert f"{null} means no configuration: unset KEYVOUCH_CONFIG" in caught.value.hint


@posix
def test_link_to_the_null_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's configuration that is a link to the null device hides the machine's, as systemd masks a unit."""
    user, machine = places(tmp_path, monkeypatch)
    write(machine, NIGHTLY)
    user.parent.mkdir()
    user.symlink_to(os.devnull)
    assert load().profiles == {}


def test_profile_is_not_added_to_the_null_device(null: Path) -> None:
    """Adding a profile would replace the device itself."""
    before = null.stat().st_ino
    with pytest.raises(ConfigurationError, match="Cannot add a profile") as caught:
        add_profile(null, "a", {"tenant": "t"})
    assert "keyvouch --config FILE" in caught.value.hint
    assert null.stat().st_ino == before


@posix
def test_other_device_is_not_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other device is refused, without a command that would change it."""
    monkeypatch.setenv("KEYVOUCH_CONFIG", "/dev/zero")
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert "regular file" in caught.value.hint


# Hints


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ('client_id = "x"', 'Did you mean "client-id"?'),
        ('CLIENT_ID = "x"', 'Did you mean "client-id"?'),
        ('app-id = "x"', 'Did you mean "client-id"?'),
        ('application_id = "x"', 'Did you mean "client-id"?'),
        ('tenant_id = "x"', 'Did you mean "tenant"?'),
        ('key = "pem:/a"', 'Did you mean "keys"?'),
        ('scope = "x"', 'Did you mean "scopes"?'),
        ('certificate = "x"', 'Did you mean "keys"?'),
        ('ca_file = "x"', 'Did you mean "ca-file"?'),
        ('client_secret = "hunter2"', "keyvouch signs in with a key"),
        ("send-x5c = true", "Write assertion.send-x5c = ..."),
        ("send_x5c = true", "Write assertion.send-x5c = ..."),
        ("assertion = {send_x5c = true}", 'Did you mean "send-x5c"?'),
        ('assertion = {tenant = "x"}', 'Move it out of assertion, and write it as "tenant"'),
        ('keys = "pem:/a"', 'Write keys = ["pem:/a"].'),
        ("keys = 'pem:/a?password=hunter2'", 'Write keys = ["pem:/a?password=***"].'),
        ('scopes = "api://x/.default"', 'Write scopes = ["api://x/.default"].'),
        ("scopes = [1]", 'Write scopes = ["1"].'),
        ('keys = [["pem:/a"], "pem:/b"]', 'Write keys = ["pem:/a", "pem:/b"].'),
        ('cloud = "AzureUSGovernment"', 'Write cloud = "usgov".'),
        ('cloud = "AzureCloud"', 'Write cloud = "public".'),
        ('authority = "login.example"', 'Write authority = "https://login.example"'),
        ('authority = "localhost:8443"', 'Write authority = "https://localhost:8443"'),
        ('authority = "http://login.example/x"', 'Write authority = "https://login.example/x"'),
        ('tenant = " a.example "', 'Write tenant = "a.example"'),
        ('tenant = "https://login.microsoftonline.com/a.example/v2.0"', 'Write tenant = "a.example"'),
        ('tenant = "a.example/"', 'Write tenant = "a.example"'),
        ('client-id = "x\\n"', 'Write client-id = "x"'),
        ('cloud = "gov"', 'Write cloud = "usgov". The values are public, usgov, china.'),
        ('cloud = "mars"', 'Write cloud = "public" or "usgov" or "china".'),
        ('permissions = "none"', 'Write permissions = "strict" or "any".'),
        ('assertion = {x5t = "sha512"}', 'Write assertion.x5t = "sha'),
        ("assertion = 1", "Write assertion = {algorithm = ...}"),
        ('audit-required = "yes"', "Write audit-required = true or audit-required = false."),
        ('assertion = {lifetime = "60"}', "Write assertion.lifetime = a number."),
        ("tenant = 5", "Write tenant = a text in quotes."),
    ],
)
def test_hint_for_an_invalid_field(file: Path, field: str, hint: str) -> None:
    """The hint is the line to write instead: the nearest field, all values, the brackets of a list."""
    error = refusal(file, f"[profiles.nightly]\n{field}\n")
    assert hint in error.hint
    assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    ("fields", "message", "hint"),
    [
        ('cloud = "usgov"\nauthority = "https://a"', "cloud and authority are both set", "Remove authority"),
        (
            'authority = "https://login.microsoftonline.com/contoso.com"\ntenant = "contoso.com"',
            "authority contains the tenant",
            'Write tenant = "contoso.com", without authority.',
        ),
        (
            'authority = "https://login.microsoftonline.us/contoso.com/"',
            "authority contains the tenant",
            'Write tenant = "contoso.com" and cloud = "usgov", without authority.',
        ),
        (
            'authority = "https://login.microsoftonline.com/contoso.com/oauth2/v2.0/token"',
            "authority contains the tenant",
            'Write tenant = "contoso.com", without authority.',
        ),
        (
            'authority = "https://sts.example/Contoso.com/"\ntenant = "contoso.com"',
            "authority contains the tenant",
            "For an OpenID Connect issuer, leave out the tenant instead.",
        ),
    ],
)
def test_contradicting_fields(file: Path, fields: str, message: str, hint: str) -> None:
    """Fields that contradict or repeat each other are refused; the hint is the line to write."""
    error = refusal(file, f"[profiles.nightly]\n{fields}\n")
    assert message in error.message
    assert hint in error.hint


@pytest.mark.parametrize(
    "fields",
    [
        'authority = "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0"',
        'authority = "https://login.microsoftonline.com"\ntenant = "contoso.com"',
        'authority = "https://idp.example/realms/partner"',
        'authority = "https://sts.example/a-contoso"\ntenant = "contoso"',
    ],
)
def test_authority_without_the_tenant(file: Path, fields: str) -> None:
    """Entra ID's own issuer, and a path that merely ends like the tenant, are accepted."""
    write(file, f"[profiles.nightly]\n{fields}\n").profile("nightly")


_NOT_TOML = ("tenant = a.example", "tenant: a", "tenant = \u201ca.example\u201d", r'tenant = "\a"')


@pytest.mark.parametrize("line", _NOT_TOML)
def test_hint_for_invalid_toml(file: Path, line: str) -> None:
    """It shows what a line looks like, besides the line's number."""
    file.write_text(f"[profiles.a]\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="line 2") as caught:
        load(file)
    assert 'name = "text"' in caught.value.hint
