"""Rules about secrets, which are read sparingly and never shown, and about leftovers."""

from __future__ import annotations

import base64
import contextlib
import gc
import io
import logging
import os
import subprocess
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyvouch.errors import ConfigurationError, SecretIncorrect
from keyvouch.secrets import Secret, SecretResolver
from keyvouch.testing.conformance.declarations import TIMEOUT, Declarations, fail, needs, require_error
from keyvouch.uri import KeyUri

_SIGNATURES = 200
_SETTLING = 3.0
"""Seconds to wait for descriptors and threads to be released."""
_MESSAGE = b"a confidential message"


class RecordingResolver(SecretResolver):
    """Records the requested names and the returned secrets."""

    def __init__(self) -> None:
        super().__init__(commands=True)
        self.requested: list[str] = []
        self.returned: list[str] = []

    def resolve(self, reference: str, name: str = "secret") -> Secret:
        """Resolve like the base class; `get` and `attempt` also call this."""
        self.requested.append(name)
        secret = super().resolve(reference, name)
        self.returned.append(secret.reveal())
        return secret


class Secrecy(Declarations):
    """See `keyvouch.secrets` and the start of the contract: a store never logs, prints or prompts."""

    @needs("secret")
    def test_wrong_secret_is_tried_once(self) -> None:
        """A wrong secret raises SecretIncorrect with a hint, and the store tries it once (`connect`, `open`)."""
        secrets, wrong = RecordingResolver(), self.parsed(str(self.wrong_secret_uri))
        require_error(lambda: self._connect_and_open(wrong, secrets), SecretIncorrect)
        if len(secrets.requested) > 1:
            fail(
                got=f"{len(secrets.requested)} requests for the secret in one try",
                expected="one",
                fix="Never retry: a token counts wrong PINs and locks itself.",
            )

    @needs("secret", "refusals")
    def test_server_receives_a_wrong_secret_once(self) -> None:
        """A wrong secret is sent to the server once (the contract: never retry)."""
        before = self.count_refusals()
        self._error_of_opening(self.parsed(str(self.wrong_secret_uri)), self.secrets())
        seen = self.count_refusals() - before
        if seen > 1:  # zero, if keyvouch has recorded that this value was refused before
            fail(
                got=f"{seen} wrong secrets received by the server in one try",
                expected="at most one",
                fix="Turn off the library's retries, and do not repeat a login.",
            )

    @needs("secret")
    def test_secret_is_read_again(self) -> None:
        """Each `connect` reads the secret again, since it may have been replaced (`KeyStore.connect`)."""
        secrets, uri = RecordingResolver(), self.parsed(self.uri)
        store = self.the_class()(uri, secrets)
        try:
            counts = []
            for _ in range(2):
                store.connect(timeout=TIMEOUT)
                store.open(uri, timeout=TIMEOUT).close()
                counts.append(len(secrets.requested))
            if counts[0] and counts[1] == counts[0]:
                fail(got="a secret cached from the last login", expected="`self._secrets.get(...)` at each login")
        finally:
            store.close()

    @needs("secret")
    def test_wrong_secret_opens_nothing(self) -> None:
        """A URI with a wrong secret does not open with another URI's login (`Attribute.connection`).

        If the store can detect this from the reference, it raises ConfigurationError.
        """
        wrong = str(self.wrong_secret_uri)
        if not self.shares_connection(wrong):
            return
        with self.opened(self.uri) as (store, _):
            require_error(
                lambda: store.open(self.parsed(wrong), timeout=TIMEOUT),
                SecretIncorrect,
                ConfigurationError,
                fix="Declare the secret that logs in with `connection=True`, since it is part of the connection.",
            )

    @needs("secret")
    def test_wrong_secret_is_never_shown(self, caplog: pytest.LogCaptureFixture) -> None:
        """No error message, cause or log record contains the secret (`secrets`)."""
        secrets, wrong = RecordingResolver(), self.parsed(str(self.wrong_secret_uri))
        with caplog.at_level(logging.NOTSET):
            error = self._error_of_opening(wrong, secrets)
        chain: list[BaseException] = []
        while error is not None and error not in chain:
            chain.append(error)
            error = error.__cause__ or error.__context__
        shown = "\n".join([*map(repr, chain), *map(str, chain), *_messages(caplog)])
        for value in secrets.returned:
            if value in shown:
                fail(got="the secret in an error or a log", expected="no secret")

    @needs()
    def test_repr_shows_no_secrets(self) -> None:
        """The repr of a store and of its keys contains no secret (`secrets`)."""
        secrets, uri = RecordingResolver(), self.parsed(self.uri)
        store = self.the_class()(uri, secrets)
        store.connect(timeout=TIMEOUT)
        key = store.open(uri, timeout=TIMEOUT)
        try:
            shown = repr([store, vars(store), key, vars(key) if hasattr(key, "__dict__") else ""])
            for value in secrets.returned:
                if value in shown:
                    fail(got="a secret in a repr", expected="***", fix="Keep the `Secret` instead of its text.")
        finally:
            key.close()
            store.close()

    @needs()
    def test_programs_get_no_secrets_in_arguments(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No program gets a secret in its arguments or environment, which others can read (`secrets`)."""
        started: list[str] = []
        original = subprocess.Popen.__init__

        def record(process: Any, args: Any, *more: Any, **options: Any) -> None:
            added = {name: value for name, value in (options.get("env") or {}).items() if os.environ.get(name) != value}
            started.append(repr([args, added]))
            original(process, args, *more, **options)

        monkeypatch.setattr(subprocess.Popen, "__init__", record)
        secrets = RecordingResolver()
        self._connect_and_open(self.parsed(self.uri), secrets)
        for value in secrets.returned:
            if any(value in each for each in started):
                fail(
                    got="a secret in a program's arguments or environment",
                    expected="no secret",
                    fix="Pass it through a pipe: `subprocess.run(..., input=...)`, or `pass_fds=`.",
                )

    @needs()
    def test_nothing_is_printed_or_logged(
        self, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        """A store prints nothing, and logs no message that it signs; the core logs for all stores (the contract)."""
        with caplog.at_level(logging.NOTSET):
            self._use()
        printed = "".join(capfd.readouterr())
        if printed:
            fail(got=f"printed: {printed[:200]}", expected="no output", fix="Raise an error instead.")
        forms = (_MESSAGE.decode(), _MESSAGE.hex(), base64.b64encode(_MESSAGE).decode().rstrip("="))
        if any(form in each for each in _messages(caplog) for form in forms):
            fail(got="the message in a log", expected="no message")

    @needs()
    def test_nothing_is_left_behind(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Closing releases descriptors, threads and temporary files (`KeyStore.close`, `StoredKey.close`)."""
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        self._use()  # creates what is shared by all uses
        before = _descriptors(), threading.active_count(), set(tmp_path.iterdir())
        for _ in range(3):
            self._use()
        end = time.monotonic() + _SETTLING
        while True:
            gc.collect()
            after = _descriptors(), threading.active_count(), set(tmp_path.iterdir())
            if (after[0] <= before[0] and after[1] <= before[1]) or time.monotonic() > end:
                break
            time.sleep(0.05)  # the server may be in this process, and close its side a little later
        if after[0] > before[0]:
            fail(
                got=f"{after[0] - before[0]} more descriptors", expected="none", fix="Close everything that was opened."
            )
        if after[1] > before[1]:
            fail(got=f"{after[1] - before[1]} more threads", expected="none: stores have no background threads")
        if after[2] - before[2]:
            fail(got=f"temporary files: {', '.join(each.name for each in after[2] - before[2])}", expected="none")

    # Helpers.

    def _use(self) -> None:
        with self.opened(self.uri) as (_, key):
            algorithm = self.algorithm_of(key)
            for _ in range(_SIGNATURES):
                key.sign(_MESSAGE, algorithm, timeout=TIMEOUT)

    def _connect_and_open(self, uri: KeyUri, secrets: SecretResolver) -> None:
        store = self.the_class()(uri, secrets)
        try:
            store.connect(timeout=TIMEOUT)
            key = store.open(uri, timeout=TIMEOUT)
            self.require_signature(key)
            key.close()
        finally:
            store.close()

    def _error_of_opening(self, uri: KeyUri, secrets: SecretResolver) -> BaseException | None:
        """Return the error that connecting or opening raises, or None."""
        try:
            self._connect_and_open(uri, secrets)
        except Exception as error:  # noqa: BLE001 - reported by the test
            return error
        return None


def _messages(caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    for record in caplog.records:
        yield record.getMessage()
        if record.exc_info:
            out = io.StringIO()
            traceback.print_exception(*record.exc_info, file=out)
            yield out.getvalue()


def _descriptors() -> int:
    with contextlib.suppress(OSError):
        return len(list(Path("/proc/self/fd").iterdir()))
    return 0
