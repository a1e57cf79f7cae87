"""References to secrets, the secrets themselves, and limits on trying them.

    env:NAME                an environment variable
    file:/path              a file that not everyone can read
    credential:name         systemd's LoadCredential= ($CREDENTIALS_DIRECTORY)
    keyring:service/user    the desktop's key ring (extra `keyring`)
    command:/path/to/program argument ...   a program's output; only from a profile, no shell, 30 seconds
    prompt:                 asked on the terminal, once per connection

A secret is UTF-8 text; one newline at its end is removed.
"""

from __future__ import annotations

import codecs
import contextlib
import hmac
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, Protocol

from keyvouch._secrets import pin_attempts
from keyvouch._secrets.key_bytes import read_standard_input, recall_key
from keyvouch._secrets.redaction import REFERENCE_KINDS
from keyvouch._system import files, programs, text
from keyvouch._system.forks import IMPORTS
from keyvouch.errors import AccessDenied, ConfigurationError, SecretRequired, hidden_frames, without_frames
from keyvouch.proxies import CONTROL_CHARACTERS
from keyvouch.uri import KeyUri

COMMAND_TIMEOUT = 30.0
"""Seconds that a `command:` may run."""
_NOT_TEXT = "Save it as UTF-8 text."
_HAS_SYSTEMD = sys.platform != "win32"
_STORED = "file: or credential:" if _HAS_SYSTEMD else "file:"
_IN_A_UNIT = "; in a systemd unit, credential:NAME" if _HAS_SYSTEMD else ""


class Secret:
    """A secret value that does not print itself: only `reveal()` shows it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value, for the library that needs it; never keep or log it."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(_encode(self), _encode(other))

    __hash__ = None  # type: ignore[assignment]  # a dictionary would keep it

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be copied or serialized")

    def __getstate__(self) -> NoReturn:  # `object` has one that returns the slots
        raise TypeError("a secret cannot be copied or serialized")


def _encode(secret: Secret) -> bytes:
    return secret.reveal().encode(errors="surrogatepass")  # an error would quote the value


class AccessToken(Secret):
    """An access token, with its times in seconds since 1970."""

    __slots__ = ("ends", "renew_at")

    def __init__(self, value: str, ends: int, renew_at: int | None = None) -> None:
        super().__init__(value)
        self.ends = ends
        """When it expires."""
        self.renew_at = renew_at
        """When to request a new token, while this one is still valid; None if the authority names no time."""


class SignIn(Protocol):
    """Signs in with a profile within `timeout` seconds; see `SecretResolver.access_token` for the other parameters."""

    def __call__(
        self, profile: str, scope: str, timeout: float, *, cae: bool, claims: str | None, renew: bool
    ) -> AccessToken: ...


class SecretResolver:
    """Gives a store the secrets that its URIs refer to, under the rules of the profile they came from.

    Every `get` reads the secret again, so that a replaced secret is found at the next connection; an answer to
    `prompt:` is kept for the life of the resolver, which is that of the connection.
    """

    def __init__(
        self,
        *,
        interactive: bool = False,
        any_reader: bool = False,
        commands: bool = False,
        confirm: bool = False,
        sign_in: SignIn | None = None,
    ) -> None:
        """Set whether a person can be asked, files may be readable by everyone, and programs may be run.

        `confirm`: ask a person twice, for a secret that will protect something new. `sign_in`: the function that signs
        in with a profile, passed in because this layer knows nothing about profiles.
        """
        self._rules = (interactive, any_reader, commands, confirm)
        self._interactive, self._any_reader, self._commands, self._confirm = self._rules
        self._sign_in = sign_in
        self._answers: dict[str, Secret] = {}
        self._process = os.getpid()

    @property
    def rules(self) -> tuple[bool, ...]:
        """The rules that distinguish resolvers: connections are shared only between equal rules."""
        return self._rules

    @property
    def interactive(self) -> bool:
        """True if a person can be asked, for a store with its own dialogs."""
        return self._interactive

    @hidden_frames()
    def get(self, uri: KeyUri, name: str) -> Secret:
        """Return the secret that the URI's attribute `name` refers to.

        Raises `SecretRequired` if there is none, `AccessDenied` if it may not be read or everyone could read it,
        `ConfigurationError` for a reference that cannot be resolved.
        """
        if name not in uri:
            raise SecretRequired(
                f"Missing {name}.", hint=f"Add {name}=env:NAME or {name}=file:/path after the `?`.", uri=uri
            )
        return self.resolve(str(uri.get(name)), name)

    @hidden_frames()  # the caller may by mistake pass the secret itself
    def resolve(self, reference: str, name: str = "secret") -> Secret:
        """Resolve one reference; `name` describes its purpose in errors and prompts. Raises like `get`."""
        kind, _, rest = reference.partition(":")
        if kind not in REFERENCE_KINDS:
            raise ConfigurationError(
                f"The {name} is not a reference to a secret.",
                hint=f"Write a reference that starts with {', '.join(known + ':' for known in REFERENCE_KINDS)}.",
            )
        if kind == "prompt":
            return self._prompt(name)
        data = getattr(self, f"_from_{kind}")(rest, name)
        hint = text.advice(data, rest) if kind in ("file", "credential") else _NOT_TEXT
        value = re.sub(r"\r?\n\Z", "", _decode(data.removeprefix(codecs.BOM_UTF8), name, hint))
        if not value:
            raise SecretRequired(f"The {name} in {reference} is empty.", hint="Store the secret there.")
        return Secret(value)

    @hidden_frames()
    def read_key(self, reference: str) -> bytes:
        """Return the bytes of a key that is given by reference: not only text, and not from a file or a prompt.

        `reference` has one of `KEY_REFERENCE_KINDS`. Raises like `get`.
        """
        kind, _, rest = reference.partition(":")
        if kind == "stdin":
            return read_standard_input()
        if kind == "memory":
            return recall_key(rest).data
        data: bytes = getattr(self, f"_from_{kind}")(rest, "key")
        if not data.strip():
            raise SecretRequired(f"The key in {reference} is empty.", hint="Store the key there.")
        return data

    @hidden_frames()
    def proxy_credentials(self, reference: str | None) -> Secret | None:
        """Return `user:password` for a proxy, from the value of `proxy-credentials`; None if there is none.

        Raises like `get`, and `ConfigurationError` if it has another form (RFC 7617, section 2).
        """
        if reference is None:
            return None
        secret = self.resolve(reference, "proxy-credentials")
        if ":" not in secret.reveal() or CONTROL_CHARACTERS.search(secret.reveal()):
            raise ConfigurationError(
                f"Invalid proxy credentials in {reference}: expected user:password on one line.",
                hint="Store the user name, a colon and the password there, without percent-encoding.",
            )
        return secret

    @hidden_frames()
    def access_token(
        self,
        profile: str,
        scope: str,
        *,
        timeout: float,
        cae: bool = False,
        claims: str | None = None,
        renew: bool = False,
    ) -> AccessToken:
        """Return another profile's access token within `timeout` seconds, for a store that authenticates with it.

        The token is for the tenant that the profile names, and comes from the profile's cache while it is valid, so
        that the store need not keep it. `cae`: the store can answer a claims challenge, whose claims it passes as
        `claims`, JSON. `renew`: the last token was refused, and a new one is requested.

        Raises `SecretRequired` if the authority refuses, `StoreUnavailable` if it does not respond,
        `ConfigurationError` if that profile's own key needs such a token from itself, and what its key's store raises.
        """
        if self._sign_in is None:
            raise ConfigurationError(
                "Cannot sign in with a profile here.", hint="Open the key with keyvouch.open_signer."
            )
        return self._sign_in(profile, scope, timeout, cae=cae, claims=claims, renew=renew)

    @contextlib.contextmanager
    def attempt(
        self,
        uri: KeyUri,
        name: str,
        *,
        target: str,
        timeout: float = pin_attempts.OTHER_TRY_TIMEOUT,
        shows_failure: Callable[[], bool] | None = None,
    ) -> Iterator[Secret]:
        """Yield a secret that locks the store if it is wrong, and hold off every other try on `target` in the meantime.

        `target` identifies the token permanently (its serial number). `timeout`: seconds to wait for other tries.
        `shows_failure` returns whether the token itself shows a failed try since the last successful login; without
        it, a value whose try was interrupted (the process was killed) is tried once more, and then counts as refused.

        Raises `SecretIncorrect` if the target refused this value before. A `SecretIncorrect` that leaves the block is
        recorded as a refusal. Raise another `KeyvouchError` in the block only if the token has not judged the value.
        """
        try:
            secret = self.get(uri, name)
            with pin_attempts.single_try(target, secret.reveal, timeout=timeout, shows_failure=shows_failure):
                yield secret
        except BaseException as error:
            without_frames(error)
            raise

    @hidden_frames()
    def read_private(self, path: Path) -> bytes:
        """Read a file that contains a key, under the profile's rule. Raises `AccessDenied` if everyone can read it."""
        return self.read_private_with_status(path)[0]

    @hidden_frames()
    def read_private_with_status(self, path: Path) -> tuple[bytes, os.stat_result]:
        """Read a file like `read_private`; also return the status of the file that was read."""
        return files.read_private_with_status(path, any_reader=self._any_reader)

    def _from_env(self, variable: str, name: str) -> bytes:
        if not re.fullmatch(r"[\w.-]+", variable):  # not shown, since it may contain more than a name
            raise ConfigurationError(
                f"Invalid reference for the {name}: expected env:NAME.",
                hint="Write the variable's name without $, { and }."
                if variable.startswith("$")
                else "Write env:NAME, and separate other attributes from it with &.",
            )
        value = os.environ.get(variable)
        if value is None:
            raise SecretRequired(
                f"The {name} was not found: the environment variable {variable} is not set.",
                hint=f"Set {variable}. cron and systemd do not pass a shell's variables to a job: use file:/path there"
                ", or credential:NAME in a systemd unit."
                if _HAS_SYSTEMD
                else f"Set {variable}. A scheduled task does not have a console's variables: use file:C:/path there.",
            )
        return os.fsencode(value)

    def _from_file(self, location: str, name: str, *, if_missing: str = "Create that file.") -> bytes:
        path = Path(location)
        if not path.is_absolute() or "\0" in location:
            raise ConfigurationError(
                f"Invalid reference for the {name}: file:{location}.", hint="Use an absolute path."
            )
        try:
            return self.read_private(path)
        except FileNotFoundError:
            raise SecretRequired(f"The {name} was not found: {path} does not exist.", hint=if_missing) from None
        except OSError as error:
            raise AccessDenied(
                f"The {name} cannot be read from {path}: {error.strerror}.", hint=files.read_hint(path, error)
            ) from error

    def _from_credential(self, credential: str, name: str) -> bytes:
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        remedy = f"Add LoadCredential={credential}:/path to the systemd unit."
        if not folder:
            raise SecretRequired(f"The {name} was not found: no credentials were passed to this process.", hint=remedy)
        if not credential or "/" in credential:
            raise ConfigurationError(
                f"Invalid reference for the {name}: credential:{credential}.", hint="Use the name of a credential."
            )
        return self._from_file(str(Path(folder, credential)), name, if_missing=remedy)

    def _from_keyring(self, location: str, name: str) -> bytes:
        service, _, user = location.rpartition("/")
        if not service or not user:
            raise ConfigurationError(
                f"Invalid reference for the {name}: keyring:{location}.", hint="Write keyring:service/user."
            )
        try:
            with IMPORTS:
                import keyring
        except ImportError:
            raise ConfigurationError(
                f"Reading the {name} from a key ring requires the package keyring.",
                hint="Run: pip install keyring",
            ) from None
        try:
            value = keyring.get_password(service, user)
        except Exception as error:  # backends raise exceptions of any type
            if type(error).__name__ == "NoKeyringError":
                raise AccessDenied(
                    f"Failed to read the {name}: this account has no key ring, as on a machine without a desktop.",
                    hint=f"Store it in a file instead, and write file:/path{_IN_A_UNIT}.",
                ) from error
            raise AccessDenied(
                f"Failed to read the {name} from the key ring: {type(error).__name__}.",
                hint="Unlock the key ring; `keyring diagnose` shows which one is used.",
            ) from error
        if value is None:
            raise SecretRequired(
                f"The {name} was not found: the key ring has no entry {location}.",
                hint=f"Run: keyring set {text.shell_quoted(service)} {text.shell_quoted(user)}",
            )
        return value.encode(errors="surrogatepass")

    def _from_command(self, line: str, name: str) -> bytes:
        import subprocess

        if not self._commands:
            raise ConfigurationError(
                f"command: is not allowed for the {name} outside a profile.",
                hint="Put the URI in a profile, or use a reference such as file: instead.",
            )
        try:
            arguments = programs.split_command(line)
        except ValueError:
            raise ConfigurationError(f"Invalid command for the {name}.", hint="Close the quotation marks.") from None
        if "\0" in line or not arguments or not Path(arguments[0]).is_absolute():
            raise ConfigurationError(
                f"Invalid command for the {name}.", hint="Start with the absolute path of the program."
            )
        program = Path(arguments[0])
        try:
            files.check_trusted(program)
            status, output = programs.run_program(arguments, COMMAND_TIMEOUT)
        except OSError as error:
            raise ConfigurationError(f"Failed to run {program}: {error.strerror}.", hint="Correct the path.") from None
        except subprocess.TimeoutExpired:
            raise SecretRequired(
                f"Timed out after {COMMAND_TIMEOUT:.0f} seconds waiting for {program} to print the {name}.",
                hint="Run it manually to see why.",
            ) from None
        if status:
            raise SecretRequired(f"{program} failed with exit status {status}.", hint="Run it manually to see why.")
        return output

    def _prompt(self, name: str) -> Secret:
        if name not in self._answers:
            if not self._interactive or os.getpid() != self._process:
                raise SecretRequired(
                    f"Cannot prompt for the {name}: no terminal is attached.",
                    hint=f"Use a reference such as {_STORED} instead of prompt:.",
                )
            answer = _read_from_terminal(name)
            if self._confirm and _read_from_terminal(f"repeated {name}") != answer:
                raise SecretRequired(f"The two {name} entries do not match.", hint="Try again.")
            self._answers[name] = answer
        return self._answers[name]


def _read_from_terminal(name: str) -> Secret:
    """Ask a person for a secret. Raises `SecretRequired` if nothing is typed, `ConfigurationError` if not UTF-8."""
    import getpass

    try:
        answer = _decode(os.fsencode(getpass.getpass(f"{name}: ")), name)
    except EOFError:
        answer = ""
    except UnicodeError:
        raise ConfigurationError(f"The {name} is not UTF-8 text.", hint="Enter it again.") from None
    if not answer:
        raise SecretRequired(f"No {name} was entered.", hint="Enter it, or use a reference to a stored secret.")
    return Secret(answer)


def _decode(data: bytes, name: str, hint: str = _NOT_TEXT) -> str:
    try:
        decoded = data.decode()
    except UnicodeDecodeError:
        decoded = "\0"
    if "\0" in decoded:  # as in UTF-16: no library accepts it in a password
        raise ConfigurationError(f"The {name} is not UTF-8 text.", hint=hint) from None
    return decoded
