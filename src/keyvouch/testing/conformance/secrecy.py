"""Rules of secrets: asked for sparingly, shown nowhere; and of what a store leaves behind."""

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
from keyvouch.testing.conformance.declarations import TIMEOUT, Declarations, broken, needs, refused
from keyvouch.uri import KeyUri

_SIGNATURES = 200
_SETTLING = 3.0
"""Seconds after which what is left counts as left behind."""
_MESSAGE = b"a message that is nobody else's affair"


class Watching(SecretResolver):
    """Counts what is asked for, and remembers what was given."""

    def __init__(self) -> None:
        super().__init__(commands=True)
        self.asked: list[str] = []
        self.given: list[str] = []

    def resolve(self, reference: str, name: str = "secret") -> Secret:
        """As the real one; `get` and `attempt` come here too."""
        self.asked.append(name)
        secret = super().resolve(reference, name)
        self.given.append(secret.reveal())
        return secret


class Secrecy(Declarations):
    """See `keyvouch.secrets` and the contract's beginning: a store never logs, prints or asks."""

    @needs("secret")
    def test_wrong_secret_is_tried_once(self) -> None:
        """A wrong secret is SecretIncorrect with a hint, and the store tries it once (`connect`, `open`)."""
        secrets, wrong = Watching(), self.parsed(str(self.wrong_secret_uri))
        refused(lambda: self._connect_and_open(wrong, secrets), SecretIncorrect)
        if len(secrets.asked) > 1:
            broken(
                seen=f"{len(secrets.asked)} times asked for in one try",
                wanted="once",
                change="Never retry: a token counts wrong PINs, and locks itself.",
            )

    @needs("secret", "refusals")
    def test_server_sees_a_wrong_secret_once(self) -> None:
        """A wrong secret reaches the server once, however often it was asked for (the contract: never retry)."""
        before = self.count_refusals()
        self._refused(self.parsed(str(self.wrong_secret_uri)), self.secrets())
        seen = self.count_refusals() - before
        if seen > 1:  # none, where the core has kept that this value was refused before
            broken(
                seen=f"{seen} wrong secrets counted by the server, in one try",
                wanted="one at most",
                change="Turn off the retries of the library, and do not repeat a log-in.",
            )

    @needs("secret")
    def test_secret_is_read_anew(self) -> None:
        """After `connect` comes again a secret is asked for again: it may have been replaced (`KeyStore.connect`)."""
        secrets, uri = Watching(), self.parsed(self.uri)
        made = self.the_class()(uri, secrets)
        try:
            counts = []
            for _ in range(2):
                made.connect(timeout=TIMEOUT)
                made.open(uri, timeout=TIMEOUT).close()
                counts.append(len(secrets.asked))
            if counts[0] and counts[1] == counts[0]:
                broken(seen="a secret that was kept", wanted="`self._secrets.get(...)` at each log-in")
        finally:
            made.close()

    @needs("secret")
    def test_wrong_secret_opens_nothing(self) -> None:
        """A URI with a wrong secret does not open by another's log-in (`Attribute.connection`).

        Where the store tells by the reference alone that there is another log-in, that is a ConfigurationError.
        """
        wrong = str(self.wrong_secret_uri)
        if not self.shares_connection(wrong):
            return
        with self.opened(self.uri) as (made, _):
            refused(
                lambda: made.open(self.parsed(wrong), timeout=TIMEOUT),
                SecretIncorrect,
                ConfigurationError,
                change="Declare the secret that logs in with `connection=True`, as part of what makes a connection.",
            )

    @needs("secret")
    def test_wrong_secret_is_shown_nowhere(self, caplog: pytest.LogCaptureFixture) -> None:
        """A secret is in no message of the error or of what caused it, and in no log (`secrets`)."""
        secrets, wrong = Watching(), self.parsed(str(self.wrong_secret_uri))
        with caplog.at_level(logging.NOTSET):
            error = self._refused(wrong, secrets)
        chain: list[BaseException] = []
        while error is not None and error not in chain:
            chain.append(error)
            error = error.__cause__ or error.__context__
        said = "\n".join([*map(repr, chain), *map(str, chain), *_messages(caplog)])
        for value in secrets.given:
            if value in said:
                broken(seen="the secret, in an error or a log", wanted="nothing of it")

    @needs()
    def test_secrets_are_in_no_repr(self) -> None:
        """A store and its keys do not show the secrets that they were opened with (`secrets`)."""
        secrets, uri = Watching(), self.parsed(self.uri)
        made = self.the_class()(uri, secrets)
        made.connect(timeout=TIMEOUT)
        key = made.open(uri, timeout=TIMEOUT)
        try:
            shown = repr([made, vars(made), key, vars(key) if hasattr(key, "__dict__") else ""])
            for value in secrets.given:
                if value in shown:
                    broken(seen="a secret in a repr", wanted="***", change="Keep the `Secret`, and not its text.")
        finally:
            key.close()
            made.close()

    @needs()
    def test_secrets_are_in_no_arguments(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No program is given a secret in its arguments, or anew in its environment: others read those (`secrets`)."""
        started: list[str] = []
        start = subprocess.Popen.__init__

        def noted(process: Any, args: Any, *more: Any, **options: Any) -> None:
            added = {name: value for name, value in (options.get("env") or {}).items() if os.environ.get(name) != value}
            started.append(repr([args, added]))
            start(process, args, *more, **options)

        monkeypatch.setattr(subprocess.Popen, "__init__", noted)
        secrets = Watching()
        self._connect_and_open(self.parsed(self.uri), secrets)
        for value in secrets.given:
            if any(value in each for each in started):
                broken(
                    seen="a secret in a program's arguments or environment",
                    wanted="nothing of it",
                    change="Hand it over by a pipe: `subprocess.run(..., input=...)`, or `pass_fds=`.",
                )

    @needs()
    def test_it_prints_and_logs_nothing(
        self, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        """A store prints nothing and logs no message that it signs: the core logs, alike for all (the contract)."""
        with caplog.at_level(logging.NOTSET):
            self._use()
        printed = "".join(capfd.readouterr())
        if printed:
            broken(seen=f"printed: {printed[:200]}", wanted="nothing", change="Raise, or say nothing.")
        forms = (_MESSAGE.decode(), _MESSAGE.hex(), base64.b64encode(_MESSAGE).decode().rstrip("="))
        if any(form in each for each in _messages(caplog) for form in forms):
            broken(seen="the message, in a log", wanted="nothing of it")

    @needs()
    def test_it_leaves_nothing_behind(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Descriptors, threads and temporary files end with the store (`KeyStore.close`, `StoredKey.close`)."""
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        self._use()  # what is made once for all uses is made now
        before = _descriptors(), threading.active_count(), set(tmp_path.iterdir())
        for _ in range(3):
            self._use()
        end = time.monotonic() + _SETTLING
        while True:
            gc.collect()
            after = _descriptors(), threading.active_count(), set(tmp_path.iterdir())
            if (after[0] <= before[0] and after[1] <= before[1]) or time.monotonic() > end:
                break
            time.sleep(0.05)  # the server's side may be in this process, and end a little later
        if after[0] > before[0]:
            broken(seen=f"{after[0] - before[0]} descriptors more", wanted="none", change="Close what was opened.")
        if after[1] > before[1]:
            broken(seen=f"{after[1] - before[1]} threads more", wanted="none: there are no background threads")
        if after[2] - before[2]:
            broken(seen=f"left: {', '.join(each.name for each in after[2] - before[2])}", wanted="no temporary file")

    # What the tests above have in common.

    def _use(self) -> None:
        with self.opened(self.uri) as (_, key):
            algorithm = self.algorithm_of(key)
            for _ in range(_SIGNATURES):
                key.sign(_MESSAGE, algorithm, timeout=TIMEOUT)

    def _connect_and_open(self, uri: KeyUri, secrets: SecretResolver) -> None:
        made = self.the_class()(uri, secrets)
        try:
            made.connect(timeout=TIMEOUT)
            key = made.open(uri, timeout=TIMEOUT)
            self.require_signature(key)
            key.close()
        finally:
            made.close()

    def _refused(self, uri: KeyUri, secrets: SecretResolver) -> BaseException | None:
        """Return what connecting and opening raise."""
        try:
            self._connect_and_open(uri, secrets)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test tells
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
