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
import io
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

from keyvouch._core import lockout
from keyvouch._core.redaction import REFERENCE_KINDS
from keyvouch._system import files, text
from keyvouch._system.forks import IMPORTS
from keyvouch.errors import AccessDenied, ConfigurationError, SecretRequired, hidden_frames, without_frames
from keyvouch.proxies import CONTROLS
from keyvouch.uri import KeyUri

if TYPE_CHECKING:
    import subprocess

COMMAND_TIMEOUT = 30.0
"""Seconds that a `command:` may run."""
_LONGEST = 1024 * 1024
"""Maximum number of bytes that it may print."""


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
        return isinstance(other, Secret) and hmac.compare_digest(_octets(self), _octets(other))

    __hash__ = None  # type: ignore[assignment]  # a dictionary would keep it

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be copied or serialized")

    def __getstate__(self) -> NoReturn:  # `object` has one that returns the slots
        raise TypeError("a secret cannot be copied or serialized")


def _octets(secret: Secret) -> bytes:
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
                f"The {name} is needed.", hint=f"Add {name}=env:NAME or {name}=file:/path after the `?`.", uri=uri
            )
        return self.resolve(str(uri.get(name)), name)

    @hidden_frames()  # the caller may by mistake pass the secret itself
    def resolve(self, reference: str, name: str = "secret") -> Secret:
        """Resolve one reference; `name` describes its purpose in errors and prompts. Raises like `get`."""
        kind, _, rest = reference.partition(":")
        if kind not in REFERENCE_KINDS:
            raise ConfigurationError(
                f"The {name} is not given as a reference.",
                hint=f"Write one of {', '.join(known + ':' for known in REFERENCE_KINDS)} and where it is.",
            )
        if kind == "prompt":
            return self._ask(name)
        value = re.sub(r"\r?\n\Z", "", getattr(self, f"_from_{kind}")(rest, name))
        if not value:
            raise SecretRequired(f"The {name} in {reference} is empty.", hint="Put the secret there.")
        return Secret(value)

    @hidden_frames()
    def proxy_credentials(self, reference: str | None) -> Secret | None:
        """Return `user:password` for a proxy, from the value of `proxy-credentials`; None if there is none.

        Raises like `get`, and `ConfigurationError` if it has another form (RFC 7617, section 2).
        """
        if reference is None:
            return None
        secret = self.resolve(reference, "proxy-credentials")
        if ":" not in secret.reveal() or CONTROLS.search(secret.reveal()):
            raise ConfigurationError(
                f"The proxy credentials in {reference} are not user:password on one line.",
                hint="Write the user, a colon and the password there, without percent-encoding.",
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
            raise ConfigurationError("Here is nothing that signs in.", hint="Open the key with keyvouch.open_signer.")
        return self._sign_in(profile, scope, timeout, cae=cae, claims=claims, renew=renew)

    @contextlib.contextmanager
    def attempt(
        self,
        uri: KeyUri,
        name: str,
        *,
        target: str,
        timeout: float = lockout.WAIT,
        shows_failure: Callable[[], bool] | None = None,
    ) -> Iterator[Secret]:
        """Yield a secret that locks the store if it is wrong, and hold off every other try on `target` in the meantime.

        `target` identifies the token permanently (its serial number). `timeout`: seconds to wait for other tries.
        `shows_failure` returns whether the token itself shows a failed try since the last successful log-in; without
        it, a value whose try was interrupted (the process was killed) is tried once more, and then counts as refused.

        Raises `SecretIncorrect` if the target refused this value before. A `SecretIncorrect` that leaves the block is
        recorded as a refusal. Raise another `KeyvouchError` in the block only if the token has not judged the value.
        """
        try:
            secret = self.get(uri, name)
            with lockout.single_try(target, secret.reveal, timeout=timeout, shows_failure=shows_failure):
                yield secret
        except BaseException as error:
            without_frames(error)
            raise

    @hidden_frames()
    def read_private(self, path: Path) -> bytes:
        """Read a file that holds a key, like `files.read_private`, under the profile's rule."""
        return self.read_private_with_status(path)[0]

    @hidden_frames()
    def read_private_with_status(self, path: Path) -> tuple[bytes, os.stat_result]:
        """Read a file like `read_private`; also return the status of the file that was read."""
        return files.read_private_with_status(path, any_reader=self._any_reader)

    def _from_env(self, variable: str, name: str) -> str:
        if not re.fullmatch(r"[\w.-]+", variable):  # not shown, since it may contain more than a name
            raise ConfigurationError(
                f"The {name} is in env: and no variable's name.",
                hint="Write env:NAME; an & parts it from what follows.",
            )
        value = os.environ.get(variable)
        if value is None:
            raise SecretRequired(
                f"The {name} is not there: the environment variable {variable} is not set.", hint=f"Set {variable}."
            )
        return _text(os.fsencode(value), name)

    def _from_file(self, place: str, name: str) -> str:
        path = Path(place)
        if not path.is_absolute() or "\0" in place:
            raise ConfigurationError(f"The {name} is in file:{place}.", hint="Write the absolute path.")
        try:
            octets = self.read_private(path)
            return _text(octets.removeprefix(codecs.BOM_UTF8), name, text.advice(octets, path))
        except FileNotFoundError:
            raise SecretRequired(f"The {name} is not there: {path} does not exist.", hint="Make that file.") from None
        except OSError as error:
            raise AccessDenied(
                f"The {name} cannot be read: {path}: {error.strerror}.", hint=files.let_read(path, error)
            ) from error

    def _from_credential(self, credential: str, name: str) -> str:
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise SecretRequired(
                f"The {name} is not there: this process was given no credentials.",
                hint=f"Add LoadCredential={credential}:/path to the systemd unit.",
            )
        if not credential or "/" in credential:
            raise ConfigurationError(f"The {name} is in credential:{credential}.", hint="Write the credential's name.")
        return self._from_file(str(Path(folder, credential)), name)

    def _from_keyring(self, place: str, name: str) -> str:
        service, _, user = place.rpartition("/")
        if not service or not user:
            raise ConfigurationError(f"The {name} is in keyring:{place}.", hint="Write keyring:service/user.")
        try:
            with IMPORTS:
                import keyring
        except ImportError:
            raise ConfigurationError(
                f"The {name} is in a key ring, which needs a package.", hint="Run: pip install 'keyvouch[keyring]'"
            ) from None
        try:
            value = keyring.get_password(service, user)
        except Exception as error:  # backends raise exceptions of any type
            raise AccessDenied(
                f"The key ring did not give the {name}: {type(error).__name__}.", hint="Unlock it: `keyring diagnose`."
            ) from error
        if value is None:
            raise SecretRequired(f"The key ring has no {name} for {place}.", hint=f"Run: keyring set {service} {user}")
        return value

    def _from_command(self, line: str, name: str) -> str:
        import subprocess

        if not self._commands:
            raise ConfigurationError(f"The {name} is in command:.", hint="Commands are taken from a profile only.")
        try:
            arguments = _split(line)
        except ValueError:
            raise ConfigurationError(f"The {name} is in command:.", hint="Close the quotation in it.") from None
        if "\0" in line or not arguments or not Path(arguments[0]).is_absolute():
            raise ConfigurationError(f"The {name} is in command:.", hint="Begin with the program's absolute path.")
        program = Path(arguments[0])
        try:
            files.check_trusted(program)
            status, printed = _output_of(arguments)
        except OSError as error:
            raise ConfigurationError(f"{program} cannot be run: {error.strerror}.", hint="Correct the path.") from None
        except subprocess.TimeoutExpired:
            raise SecretRequired(
                f"{program} gave no {name} within {COMMAND_TIMEOUT:.0f} seconds.", hint="Run it by hand."
            ) from None
        if status:
            raise SecretRequired(f"{program} ended with the status {status}.", hint="Run it by hand.")
        return _text(printed.removeprefix(codecs.BOM_UTF8), name)

    def _ask(self, name: str) -> Secret:
        if name not in self._answers:
            if not self._interactive or os.getpid() != self._process:
                raise SecretRequired(
                    f"The {name} is asked for on a terminal, and here is none.",
                    hint="Write file: or credential: and where it is, in place of prompt:.",
                )
            answer = _typed(name)
            if self._confirm and _typed(f"{name}, once more") != answer:
                raise SecretRequired(f"The {name} was not typed the same twice.", hint="Try again.")
            self._answers[name] = answer
        return self._answers[name]


def _split(line: str) -> list[str]:
    """Split a line as a shell does; on Windows a backslash separates folders. Raises ValueError."""
    import shlex

    parts = shlex.shlex(line, posix=True)
    parts.whitespace_split, parts.commenters = True, ""
    if sys.platform == "win32":
        parts.escape = ""
    return list(parts)


def _output_of(arguments: list[str]) -> tuple[int, bytes]:
    """Run a program; return its status and its output up to a limit. Raises OSError, `TimeoutExpired`."""
    with IMPORTS:
        import subprocess

    end = time.monotonic() + COMMAND_TIMEOUT
    printed: list[bytes] = []
    # Its standard error may contain anything, so it is not shown. In a session of its own, it can be killed together
    # with everything it started.
    with subprocess.Popen(  # noqa: S603 - the program is named by the profile, no shell
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=None if sys.platform == "win32" else "/",  # `python -m` and others load modules from the working directory
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # keeps a job without a console from opening one
    ) as process:
        out = process.stdout or io.BytesIO()
        reader = threading.Thread(target=lambda: printed.append(out.read(_LONGEST)), daemon=True)
        reader.start()
        try:
            reader.join(COMMAND_TIMEOUT)
            if not printed:  # it, or a process that it started, still holds its output open
                raise subprocess.TimeoutExpired(arguments[0], COMMAND_TIMEOUT)  # noqa: TRY301 - ended below like all
            # A program that prints endlessly is not waited for.
            endless = len(printed[0]) == _LONGEST
            status = process.wait(0 if endless else max(0.0, end - time.monotonic()))
        except BaseException:
            _end(process)  # this also ends the reader
            raise
    return status, printed[0]


def _end(process: subprocess.Popen[bytes]) -> None:
    if sys.platform == "win32":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _typed(name: str) -> Secret:
    """Ask a person for a secret. Raises `SecretRequired` if nothing is typed, `ConfigurationError` if not UTF-8."""
    import getpass

    try:
        answer = _text(os.fsencode(getpass.getpass(f"{name}: ")), name)
    except EOFError:
        answer = ""
    except UnicodeError:
        raise ConfigurationError(f"The {name} is not UTF-8 text.", hint="Type it anew.") from None
    if not answer:
        raise SecretRequired(f"No {name} was given.", hint="Type it, or refer to a place that holds it.")
    return Secret(answer)


def _text(octets: bytes, name: str, advice: str = "Write it as text, in UTF-8.") -> str:
    try:
        decoded = octets.decode()
    except UnicodeDecodeError:
        decoded = "\0"
    if "\0" in decoded:  # as in UTF-16: no library accepts it in a password
        raise ConfigurationError(f"The {name} is not UTF-8 text.", hint=advice) from None
    return decoded
