"""References to secrets, and a value that does not print itself."""

import copy
import dataclasses
import getpass
import json
import logging
import os
import pickle
import pprint
import sys
import traceback
from pathlib import Path
from typing import Any

import keyring
import keyring.errors
import msgspec
import pytest

from keyvouch import secrets
from keyvouch.errors import AccessDenied, ConfigurationError, KeyvouchError, SecretIncorrect, SecretRequired
from keyvouch.secrets import AccessToken, Secret, SecretResolver
from keyvouch.uri import Attribute, KeyUri, parse_uri
from scripted_store import until

VALUE = "hunter2"
ATTRIBUTES = (Attribute("object", "the key"), Attribute("pin-source", "the PIN", query=True, secret=True))
posix = pytest.mark.skipif(sys.platform == "win32", reason="programs and modes are POSIX's")


def resolve(reference: str, **rules: Any) -> str:
    return SecretResolver(**rules).resolve(reference, "password").reveal()


def refusal(kind: type[KeyvouchError], reference: str, **rules: bool) -> KeyvouchError:
    with pytest.raises(kind) as caught:
        resolve(reference, **rules)
    assert type(caught.value) is kind
    assert caught.value.hint
    assert VALUE not in str(caught.value)
    return caught.value


def secret_file(path: Path, data: bytes, mode: int = 0o600) -> str:
    path.write_bytes(data)
    path.chmod(mode)
    return f"file:{path}"


def uri(text: str) -> KeyUri:
    return parse_uri(text, ATTRIBUTES)


# The value


@dataclasses.dataclass
class Holder:
    password: Secret


@pytest.mark.parametrize(
    "text",
    [
        repr(Secret(VALUE)),
        str(Secret(VALUE)),
        f"{Secret(VALUE)}",
        f"{Secret(VALUE)!r:>20}",
        "%s" % Secret(VALUE),  # noqa: UP031
        "{0}".format(Secret(VALUE)),  # noqa: UP030, UP032
        repr(Holder(Secret(VALUE))),
        repr([Secret(VALUE)]),
    ],
)
def test_secret_does_not_print_itself(text: str) -> None:
    """However a secret is converted to text, the result is three asterisks."""
    assert VALUE not in text
    assert "***" in text


def test_secret_does_not_log_itself(caplog: pytest.LogCaptureFixture) -> None:
    """A log line with a secret shows asterisks."""
    logging.getLogger("test").error("with %s and %r", Secret(VALUE), Secret(VALUE))
    assert caplog.messages == ["with *** and ***"]


@pytest.mark.parametrize(
    "operation",
    [pickle.dumps, copy.copy, copy.deepcopy, json.dumps, hash, lambda secret: dataclasses.asdict(Holder(secret))],
)
def test_secret_cannot_be_serialized_or_copied(operation: Any) -> None:
    """Operations that would store a secret elsewhere are refused."""
    with pytest.raises(TypeError) as caught:
        operation(Secret(VALUE))
    assert VALUE not in str(caught.value)


def test_secret_has_no_fields() -> None:
    """A secret has no fields that a debugger or a serializer would list."""
    assert not hasattr(Secret(VALUE), "__dict__")


@pytest.mark.parametrize("made", [Secret(VALUE), AccessToken(VALUE, 2**31, 5)])
def test_secret_is_not_in_its_state(made: Secret) -> None:
    """Nothing that serializers and debuggers ask for contains the secret."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError):
            pickle.dumps(made, protocol)
        with pytest.raises(TypeError):
            made.__reduce_ex__(protocol)
    with pytest.raises(TypeError) as caught:
        made.__getstate__()
    with pytest.raises(TypeError):
        vars(made)
    with pytest.raises(TypeError) as formatted:
        f"{made:>20}"
    assert VALUE not in f"{caught.value} {formatted.value} {made!r} {made} {made!a} {made:}"
    assert pprint.pformat({"token": made, "all": [made]}) == "{'all': [***], 'token': ***}"
    with pytest.raises(TypeError):
        json.dumps({"token": made})
    with pytest.raises(TypeError):
        msgspec.json.encode(made)


def test_comparison_does_not_show_the_value() -> None:
    """A comparison does not show the value, even if it is not text, which an error would quote."""
    assert Secret("\udc80" + VALUE) == Secret("\udc80" + VALUE)
    assert Secret("\udc80" + VALUE) != Secret(VALUE)
    with pytest.raises(TypeError) as caught:
        assert Secret(VALUE) < Secret(VALUE)  # type: ignore[operator]
    assert VALUE not in str(caught.value)


def test_secrets_are_compared_by_value() -> None:
    """Equal values make equal secrets; a secret is not a string."""
    assert Secret(VALUE) == Secret(VALUE)
    assert Secret(VALUE) != Secret("other")
    assert Secret("ä") == Secret("ä")
    assert Secret(VALUE) != VALUE


# env:


def test_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """`env:` is an environment variable, read each time."""
    resolver = SecretResolver()
    for value in ("one", "two"):
        monkeypatch.setenv("APP_PASSWORD", value)
        assert resolver.resolve("env:APP_PASSWORD").reveal() == value


def test_unset_variable_is_named() -> None:
    """An unset variable is named, with what a job of cron or systemd uses instead."""
    error = refusal(SecretRequired, "env:APP_PASSWORD")
    assert "APP_PASSWORD is not set" in error.message
    assert "file:/path" in error.hint
    assert "credential:NAME" in error.hint


def test_unset_variable_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows the hint is about scheduled tasks, not about cron and systemd."""
    monkeypatch.setattr(secrets, "_HAS_SYSTEMD", False)
    error = refusal(SecretRequired, "env:APP_PASSWORD")
    assert error.hint == (
        "Set APP_PASSWORD. A scheduled task does not have a console's variables: use file:C:/path there."
    )


@pytest.mark.parametrize("reference", ["env:$hunter2", "env:${hunter2}"])
def test_shell_notation_of_a_variable(reference: str) -> None:
    """`$` is the shell's notation; the name is not shown, since a password may begin with `$` too."""
    error = refusal(ConfigurationError, reference)
    assert error.hint == "Write the variable's name without $, { and }."
    assert "hun" not in str(error)


@pytest.mark.parametrize("reference", ["env:", "env:APP;password=hunter2", "env:hun ter2"])
def test_invalid_variable_name_is_not_shown(reference: str) -> None:
    """An invalid variable name may be a secret put there by mistake, so it is not shown."""
    assert "hun" not in str(refusal(ConfigurationError, reference))


@pytest.mark.parametrize("data", [b"pw\0", "geheim".encode("utf-16"), "geheim".encode("utf-16-le")])
def test_utf_16_is_rejected(tmp_path: Path, data: bytes) -> None:
    """Text with NULs would crash libraries, and appear in their output."""
    path = tmp_path / "secret"
    path.write_bytes(data)
    path.chmod(0o600)
    assert "UTF-8" in refusal(ConfigurationError, f"file:{path}").message


def test_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    """A UTF-8 byte order mark from a Windows editor is skipped; for PowerShell's UTF-16 the hint converts it."""
    path = tmp_path / "secret"
    path.write_bytes(b"\xef\xbb\xbfgeheim\r\n")
    path.chmod(0o600)
    assert SecretResolver().resolve(f"file:{path}").reveal() == "geheim"
    path.write_bytes("geheim".encode("utf-16"))
    assert "Set-Content -Encoding utf8" in refusal(ConfigurationError, f"file:{path}").hint


def test_fifo_is_rejected(tmp_path: Path) -> None:
    """A path that is not a regular file does not block."""
    os.mkfifo(tmp_path / "secret", 0o600)
    assert "Not a regular file" in refusal(AccessDenied, f"file:{tmp_path}/secret").message


def test_huge_file_is_rejected(tmp_path: Path) -> None:
    """A file that is far too large is not read into memory."""
    path = tmp_path / "secret"
    with path.open("wb") as file:
        file.truncate(1 << 36)
    path.chmod(0o600)
    assert "Too large" in refusal(AccessDenied, f"file:{path}").message


def test_program_with_endless_output_is_killed(tmp_path: Path) -> None:
    """A program with endless output does not fill memory."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nyes hunter2\n")
    program.chmod(0o700)
    with pytest.raises(SecretRequired):
        SecretResolver(commands=True).resolve(f"command:{program}")


def test_program_with_a_lingering_child_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Output is not used while a child of the program may still write, and the child is not waited for."""
    monkeypatch.setattr(secrets, "COMMAND_TIMEOUT", 0.5)
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho hunter2\nsleep 600 &\n")
    program.chmod(0o700)
    with pytest.raises(SecretRequired, match="Timed out"):
        SecretResolver(commands=True).resolve(f"command:{program}")


def test_slow_program_is_killed_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that takes too long is killed, including its children."""
    monkeypatch.setattr(secrets, "COMMAND_TIMEOUT", 0.5)
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {tmp_path}/child\nwait\n")
    program.chmod(0o700)
    with pytest.raises(SecretRequired, match="Timed out"):
        SecretResolver(commands=True).resolve(f"command:{program}")
    child = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    until(lambda: not child.exists() or ") Z" in child.read_text())


@pytest.mark.parametrize("empty", ["", "\n", "\r\n"])
def test_empty_secret_is_an_error(monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    """An empty value is a configuration mistake, never a password."""
    monkeypatch.setenv("APP_PASSWORD", empty)
    assert "is empty" in refusal(SecretRequired, "env:APP_PASSWORD").message


@pytest.mark.parametrize(
    ("value", "secret"),
    [
        ("a\n", "a"),
        ("a\r\n", "a"),
        ("a\n\n", "a\n"),
        ("a\r\n\r\n", "a\r\n"),
        ("a\r", "a\r"),
        (" a ", " a "),
        ("\na", "\na"),
        ("ä\u2019\U0001f511", "ä\u2019\U0001f511"),
    ],
)
def test_one_newline_is_removed(tmp_path: Path, value: str, secret: str) -> None:
    """One newline, as `echo` and editors add it, is removed; everything else is part of the secret."""
    assert resolve(secret_file(tmp_path / "secret", value.encode())) == secret


@posix
def test_variable_is_not_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that is not UTF-8 is refused, since its bytes are ambiguous."""
    monkeypatch.setenv("APP_PASSWORD", "a\udcff")
    assert "not UTF-8" in refusal(ConfigurationError, "env:APP_PASSWORD").message


# file:


def test_file_is_not_utf_8(tmp_path: Path) -> None:
    """A file that is not UTF-8 is refused, too: some editors write UTF-16."""
    reference = secret_file(tmp_path / "secret", VALUE.encode("utf-16"))
    assert "not UTF-8" in refusal(ConfigurationError, reference).message


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A missing file raises SecretRequired."""
    assert str(tmp_path / "secret") in refusal(SecretRequired, f"file:{tmp_path}/secret").message


@pytest.mark.parametrize("reference", ["file:secret", "file:./secret", "file:", "file:~/secret", "file:/a\0b"])
def test_path_must_be_absolute(reference: str) -> None:
    """A path that depends on the working directory is refused."""
    assert "absolute path" in refusal(ConfigurationError, reference).hint


def test_folder_is_rejected(tmp_path: Path) -> None:
    """The error says why the file cannot be read."""
    assert "cannot be read" in refusal(AccessDenied, f"file:{tmp_path}").message


@posix
def test_world_readable_file_is_rejected(tmp_path: Path) -> None:
    """A world-readable secret file is refused, unless the profile allows it."""
    reference = secret_file(tmp_path / "secret", VALUE.encode(), 0o644)
    assert "chmod o-rwx" in refusal(AccessDenied, reference).hint
    assert resolve(reference, any_reader=True) == VALUE


@posix
def test_world_readable_key_file_is_rejected(tmp_path: Path) -> None:
    """The same rule applies to a key file."""
    secret_file(tmp_path / "key", b"content", 0o644)
    with pytest.raises(AccessDenied):
        SecretResolver().read_private(tmp_path / "key")
    assert SecretResolver(any_reader=True).read_private(tmp_path / "key") == b"content"


# credential:


def test_credential_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`credential:` is a file in the folder that systemd created for this service."""
    secret_file(tmp_path / "pin", b"1234\n", 0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert resolve("credential:pin") == "1234"


def test_process_without_credentials() -> None:
    """Without that folder the unit lacks a line, and the hint is that line."""
    assert "LoadCredential=pin:" in refusal(SecretRequired, "credential:pin").hint


def test_credential_that_was_not_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the unit passes other credentials, the line to add is the same: nobody creates a file in that folder."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    hint = refusal(SecretRequired, "credential:pin").hint
    assert hint == "Add LoadCredential=pin:/path to the systemd unit."


@pytest.mark.parametrize("name", ["", "../pin", "/etc/passwd"])
def test_credential_is_a_name_not_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A credential's name cannot leave its folder."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    refusal(ConfigurationError, f"credential:{name}")


# keyring:


def test_key_ring_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """`keyring:` names a service and a user; the service may contain slashes."""
    monkeypatch.setattr(keyring, "get_password", lambda service, user: f"{service} {user}")
    assert resolve("keyring:my/service/me") == "my/service me"


def test_key_ring_without_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the key ring lacks the secret, the error has the command that adds it."""
    monkeypatch.setattr(keyring, "get_password", lambda service, user: None)
    assert refusal(SecretRequired, "keyring:service/me").hint == "Run: keyring set service me"


def test_locked_key_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key ring that refuses is reported by the error's class; its text may contain anything."""

    def refuse(service: str, user: str) -> str:
        raise keyring.errors.KeyringLocked(VALUE)

    monkeypatch.setattr(keyring, "get_password", refuse)
    assert "KeyringLocked" in refusal(AccessDenied, "keyring:service/me").message


@pytest.mark.parametrize("path", ["", "service", "/me", "service/"])
def test_key_ring_needs_service_and_user(path: str) -> None:
    """A reference without both service and user is refused."""
    assert "keyring:service/user" in refusal(ConfigurationError, f"keyring:{path}").hint


def test_key_ring_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the package is not installed, the hint installs it."""
    monkeypatch.setitem(sys.modules, "keyring", None)
    assert refusal(ConfigurationError, "keyring:service/me").hint == "Run: pip install keyring"


# command:


def program(folder: Path, body: str) -> Path:
    """Create a program owned by this user."""
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o700)
    return path


@posix
def test_program_prints_the_secret(tmp_path: Path) -> None:
    """The program's standard output is the secret; its standard error is not shown."""
    path = program(tmp_path, f"echo aside >&2; echo {VALUE}")
    assert resolve(f"command:{path}", commands=True) == VALUE


@posix
def test_commands_are_allowed_only_in_a_profile(tmp_path: Path) -> None:
    """A URI from elsewhere runs no program, however it is written."""
    path = program(tmp_path, f"touch {tmp_path}/ran")
    for reference in (f"command:{path}", "command:'"):
        assert "outside a profile" in refusal(ConfigurationError, reference).message
    assert not (tmp_path / "ran").exists()


@posix
def test_program_gets_a_list_of_arguments(tmp_path: Path) -> None:
    """No shell is used: quotes group arguments, and `;`, `$` and `*` are literal."""
    path = program(tmp_path, 'printf "[%s]" "$@"')
    line = f"command:{path} a ; 'b c' $HOME * > {tmp_path}/out"
    assert resolve(line, commands=True) == f"[a][;][b c][$HOME][*][>][{tmp_path}/out]"
    assert not (tmp_path / "out").exists()


@posix
def test_program_has_no_input(tmp_path: Path) -> None:
    """A program that asks for input gets none, rather than waiting."""
    assert resolve(f"command:{program(tmp_path, 'cat; echo end')}", commands=True) == "end"


@posix
@pytest.mark.parametrize("line", ["", "printf x", "./program", "~/program", "/bin/echo 'x", "/bin/echo a\0b"])
def test_invalid_command_is_rejected(line: str) -> None:
    """A program needs an absolute path and a line that can be split into arguments."""
    refusal(ConfigurationError, f"command:{line}", commands=True)


@posix
@pytest.mark.parametrize("line", ["/nonexistent", "/etc", "/etc/passwd"])
def test_program_that_cannot_be_run(line: str) -> None:
    """A file that cannot be run is a configuration mistake."""
    assert "Failed to run" in refusal(ConfigurationError, f"command:{line}", commands=True).message


@posix
def test_output_of_a_failing_program_is_not_used(tmp_path: Path) -> None:
    """Output of a program that failed is not a secret, and is not shown."""
    error = refusal(SecretRequired, f"command:{program(tmp_path, f'echo {VALUE}; exit 3')}", commands=True)
    assert "status 3" in error.message


@posix
def test_command_does_not_run_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files planted in the working directory, such as a module for a Python program, are not loaded."""
    (tmp_path / "planted.py").write_text("print('planted')")
    monkeypatch.chdir(tmp_path)
    assert resolve("command:/bin/pwd", commands=True) == "/"
    refusal(SecretRequired, f"command:{sys.executable} -m planted", commands=True)


@posix
def test_slow_program_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program's time is limited, even if it has already printed something."""
    monkeypatch.setattr(secrets, "COMMAND_TIMEOUT", 0.2)
    path = program(tmp_path, f"echo {VALUE}; exec sleep 60")
    assert "after 0 seconds" in refusal(SecretRequired, f"command:{path}", commands=True).message


@posix
def test_untrusted_program_is_not_run(tmp_path: Path) -> None:
    """A program that everyone could have written is refused before it runs."""
    path = program(tmp_path, f"touch {tmp_path}/ran")
    path.chmod(0o777)
    assert "everyone can write" in refusal(ConfigurationError, f"command:{path}", commands=True).message
    assert not (tmp_path / "ran").exists()


# prompt:


def test_prompt_requires_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """If nobody can be prompted, nobody is."""
    monkeypatch.setattr(getpass, "getpass", lambda prompt: pytest.fail("was asked"))
    assert "no terminal is attached" in refusal(SecretRequired, "prompt:").message


def test_answer_to_a_prompt_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is kept for the life of the connection, separately for each secret."""
    asked: list[str] = []
    monkeypatch.setattr(getpass, "getpass", lambda prompt: asked.append(prompt) or VALUE)  # type: ignore[func-returns-value]
    resolver = SecretResolver(interactive=True)
    values = {resolver.resolve("prompt:", name).reveal() for name in ("PIN", "PIN", "password")}
    assert values == {VALUE}
    assert asked == ["PIN: ", "password: "]


def test_new_secret_is_entered_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new secret is prompted for twice, and a typo is not kept."""
    answers = iter(["first", "other", VALUE, VALUE])
    monkeypatch.setattr(getpass, "getpass", lambda prompt: next(answers))
    resolver = SecretResolver(interactive=True, confirm=True)
    with pytest.raises(SecretRequired, match="do not match"):
        resolver.resolve("prompt:", "password")
    assert resolver.resolve("prompt:", "password").reveal() == VALUE
    assert resolver.resolve("prompt:", "password").reveal() == VALUE


@pytest.mark.parametrize("answer", ["", EOFError])
def test_missing_answer_is_prompted_for_again(monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    """An empty answer, or end of input, is not a secret and is not kept."""
    answers = iter([answer, VALUE])

    def ask(prompt: str) -> object:
        if (given := next(answers)) is EOFError:
            raise EOFError
        return given

    monkeypatch.setattr(getpass, "getpass", ask)
    resolver = SecretResolver(interactive=True)
    with pytest.raises(SecretRequired, match="No PIN was entered"):
        resolver.resolve("prompt:", "PIN")
    assert resolver.resolve("prompt:", "PIN").reveal() == VALUE


def test_child_uses_the_answer_and_does_not_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forked child connects with its parent's answer, and never prompts itself."""
    monkeypatch.setattr(getpass, "getpass", lambda prompt: VALUE)
    resolver = SecretResolver(interactive=True)
    resolver.resolve("prompt:", "PIN")
    process = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: process + 1)
    assert resolver.resolve("prompt:", "PIN").reveal() == VALUE
    with pytest.raises(SecretRequired):
        resolver.resolve("prompt:", "password")


# Through a URI


def test_secret_of_a_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store asks for the secret of its attribute."""
    monkeypatch.setenv("PIN", VALUE)
    assert SecretResolver().get(uri("pkcs11:object=a?pin-source=env:PIN"), "pin-source") == Secret(VALUE)


def test_uri_without_the_attribute() -> None:
    """If the URI does not refer to a required secret, the hint shows how to write it."""
    with pytest.raises(SecretRequired, match="Missing pin-source") as caught:
        SecretResolver().get(uri("pkcs11:object=a"), "pin-source")
    assert "pin-source=env:NAME" in caught.value.hint
    assert caught.value.uri == "pkcs11:object=a"


@pytest.mark.parametrize("reference", [VALUE, f"ENV:{VALUE}", "", f"get:{VALUE}", f"reveal:{VALUE}"])
def test_value_is_not_a_reference(reference: str) -> None:
    """A value instead of a reference is refused, and not echoed."""
    assert "env:" in refusal(ConfigurationError, reference).hint


def test_access_token_comes_from_the_sign_in_function() -> None:
    """A function given to the resolver signs in, and the token is hidden; without it, the error says how to get one."""

    def sign_in(*asked: object, **demanded: object) -> AccessToken:
        return AccessToken(" ".join(map(str, (*asked, *demanded.values()))), ends=7)

    resolver = SecretResolver(sign_in=sign_in)
    token = resolver.access_token("nightly", "api://vault/.default", timeout=5.0, claims="{}")
    assert (token.reveal(), str(token)) == ("nightly api://vault/.default 5.0 False {} False", "***")
    assert (token.ends, token.renew_at) == (7, None)
    with pytest.raises(ConfigurationError, match="open_signer"):
        SecretResolver().access_token("nightly", "api://vault/.default", timeout=5.0)


def test_rules_distinguish_resolvers() -> None:
    """Connections are shared only if the same permissions apply."""
    assert SecretResolver().rules == SecretResolver().rules
    rules: list[dict[str, Any]] = [{}, {"interactive": True}, {"any_reader": True}, {"commands": True}]
    different = [SecretResolver(**rule) for rule in rules]
    assert len({resolver.rules for resolver in different}) == 4


def test_traceback_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback with the variables of every frame, as error reporters send it, does not show the PIN."""
    monkeypatch.setenv("PIN", VALUE)
    resolver, key = SecretResolver(), uri("pkcs11:object=a?pin-source=env:PIN")
    for text in ("The token refused it", "rejected earlier"):
        with (
            pytest.raises(SecretIncorrect, match=text) as caught,
            resolver.attempt(key, "pin-source", target="token") as pin,
        ):
            refuse(pin)
        shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
        assert VALUE not in shown


def refuse(pin: Secret) -> None:
    raise SecretIncorrect("The token refused it.")
