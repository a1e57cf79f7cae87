"""A store that breaks the contract: what it raises or returns becomes an error after which the next key is tried."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyvouch import KeySpec, open_signer, open_store
from keyvouch._core.key_management import Store
from keyvouch._core.opening import open_first
from keyvouch.errors import (
    AccessDenied,
    AmbiguousKey,
    AuthorityUnavailable,
    InternalError,
    KeyvouchError,
    SignatureInvalid,
    StoreUnavailable,
    Throttled,
)
from keyvouch.secrets import Secret, SecretResolver
from keyvouch.store import KeyInfo
from keyvouch.uri import parse_uri
from scripted_store import (
    MESSAGE,
    FullStore,
    Script,
    ScriptedKey,
    ScriptedStore,
    certify,
    is_signed,
    new_key,
)

FAULTS: dict[str, Callable[[float], object]] = {
    "KeyError": lambda _: dict[str, int]()["hunter2"],
    "TypeError": lambda _: len(1),  # type: ignore[arg-type]
    "AttributeError": lambda _: None.hunter2,  # type: ignore[attr-defined]
    "RecursionError": lambda _: json.loads("[" * 1_000_000),
    "MemoryError": lambda _: bytearray(2**62),
    "UnicodeDecodeError": lambda _: b"hunter2\xff".decode(),
    "OSError": lambda _: open("/hunter2/missing"),  # noqa: PTH123, SIM115
    "StopIteration": lambda _: next(iter(())),
}
USES: dict[str, tuple[str, Callable[[Store], object]]] = {
    "keys": ("keys", Store.keys),
    "generate": ("generate", lambda store: store.generate(KeySpec(further=True))),
    "import_key": ("import_key", lambda store: store.import_key(new_key(), [])),
    "install_certificate": ("install_certificate", lambda store: store.install_certificate([certify(new_key())])),
    "export_pfx": ("export_pfx", lambda store: store.export_pfx(Secret("x"))),
    "delete": ("delete", Store.delete),
    "require_pinned": ("open", Store.require_pinned),
    "readers": ("readers", Store.readers),
    "grant": ("grant", lambda store: store.grant("somebody")),
    "revoke": ("revoke", lambda store: store.revoke("somebody")),
}


def require_reported(caught: pytest.ExceptionInfo[KeyvouchError], fault: str) -> None:
    """Assert that the error names the store, its distribution, what was raised and where, and quotes nothing."""
    error = caught.value
    assert type(error) is InternalError
    assert (error.code, error.exit_status, error.transient, error.try_next_key) == ("internal-error", 1, False, True)
    assert "scripted" in error.message
    assert "raised " in error.message
    assert ".py" in error.message
    assert "scripted 1.0" in error.hint
    assert "hunter2" not in str(error)
    assert error.__cause__ is not None
    assert fault in [kind.__name__ for kind in type(error.__cause__).__mro__]
    assert error.__cause__.__traceback__ is None


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("step", ["init", "connect", "open"])
def test_defect_while_opening(step: str, fault: str) -> None:
    """Any exception while a key is opened becomes an error that names the store and its authors."""
    with Script() as script:
        script.before[step] = FAULTS[fault]
        with pytest.raises(KeyvouchError) as caught:
            open_signer(script.uri)
        require_reported(caught, fault)
        del script.before[step]
        open_signer(script.uri).close()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("first", [True, False])
def test_defect_while_signing(first: bool, fault: str) -> None:
    """Any exception while signing becomes that error; the next signature may succeed."""
    with Script() as script, open_signer(script.uri) as signer:
        if not first:
            signer.sign(MESSAGE, "ES256")
        script.before["sign"] = FAULTS[fault]
        with pytest.raises(KeyvouchError) as caught:
            signer.sign(MESSAGE, "ES256")
        require_reported(caught, fault)
        assert caught.value.uri == signer.uri
        del script.before["sign"]
        assert is_signed(signer.public_key, signer.sign(MESSAGE, "ES256"), MESSAGE, "ES256")


@pytest.mark.parametrize("fault", FAULTS)
def test_defect_while_looking_for_a_change(fault: str) -> None:
    """A store that fails to report whether its key was replaced does not prevent signing."""
    with Script() as script, open_signer(script.uri) as signer:
        script.before["changed"] = FAULTS[fault]
        signer._reloader.next_check = 0
        signature = signer.sign_negotiated(lambda *_: MESSAGE)[1]
        assert is_signed(signer.public_key, signature, MESSAGE, "ES256")
        assert isinstance(signer.reload_error, InternalError)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("fault", ["KeyError", "RecursionError"])
def test_defect_of_a_capability(use: str, fault: str) -> None:
    """Any exception from another method becomes that error, too."""
    step, act = USES[use]
    with Script() as script, open_store(f"{script.able_uri};version=1") as store:
        script.before[step] = FAULTS[fault]
        with pytest.raises(KeyvouchError) as caught:
            act(store)
        require_reported(caught, fault)


# Errors that the core cannot handle safely.


class WithoutInit(StoreUnavailable):
    """Lacks what the base class sets."""

    def __init__(self) -> None:
        Exception.__init__(self, "hunter2")


class RefusesChanges(AccessDenied):
    """Its URI cannot be set."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "uri" and "uri" in self.__dict__:
            raise RuntimeError("hunter2")
        super().__setattr__(name, value)


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """Rejects even a traceback."""

    text: str = "hunter2"


class NotesFail(Exception):
    """Its notes cannot be read."""

    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        raise ValueError("hunter2")


class OddNotes(Exception):
    """Its notes are not a list of strings."""

    __notes__: Any = 5


class OddText(Exception):
    """Its text cannot be read."""

    def __str__(self) -> str:
        raise ValueError("hunter2")

    __repr__ = __str__


class ClassFails(Exception):
    """Its class cannot be read."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise ValueError("hunter2")


def changed(error: KeyvouchError, **fields: object) -> KeyvouchError:
    for name, value in fields.items():
        setattr(error, name, value)
    return error


UNUSABLE: dict[str, Callable[[], Exception]] = {
    "without fields": WithoutInit,
    "refuses changes": lambda: RefusesChanges("no"),
    "frozen": Frozen,
    "notes fail": NotesFail,
    "odd notes": OddNotes,
    "no text": OddText,
    "class fails": ClassFails,
    "group": lambda: ExceptionGroup("hunter2", [KeyError("hunter2")]),
    "base class": lambda: KeyvouchError("no"),
    "of an authority": lambda: AuthorityUnavailable("no"),
    "message": lambda: AccessDenied(None),  # type: ignore[arg-type]
    "hint": lambda: AccessDenied("no", hint=b"no"),  # type: ignore[arg-type]
    "uri": lambda: changed(AccessDenied("no"), uri=1),
    "try_next_key": lambda: changed(AccessDenied("no"), try_next_key=None),
    "candidates": lambda: AmbiguousKey("no", candidates=("scripted:", 1)),  # type: ignore[arg-type]
    "retry_after as text": lambda: Throttled("no", retry_after="5"),  # type: ignore[arg-type]
    "retry_after is no number": lambda: Throttled("no", retry_after=float("nan")),
    "retry_after is endless": lambda: Throttled("no", retry_after=float("inf")),
}


@pytest.mark.parametrize("fault", UNUSABLE)
@pytest.mark.parametrize("step", ["init", "connect", "open"])
def test_unusable_error_leads_to_the_next_key(step: str, fault: str) -> None:
    """A store's error that the core could not handle does not prevent the standby key from being opened."""
    with Script() as first, Script() as second:
        first.before[step] = lambda _: raise_it(UNUSABLE[fault]())
        with open_first([first.uri, second.uri], SecretResolver()) as signer:
            assert signer.requested_uri == second.uri


@pytest.mark.parametrize("fault", UNUSABLE)
@pytest.mark.parametrize("first", [True, False])
def test_unusable_error_while_signing(first: bool, fault: str) -> None:
    """Such an error while signing is reported as a defect, and can be printed."""
    with Script() as script, open_signer(script.uri) as signer:
        if not first:
            signer.sign(MESSAGE, "ES256")
        script.before["sign"] = lambda _: raise_it(UNUSABLE[fault]())
        with pytest.raises(InternalError) as caught:
            signer.sign(MESSAGE, "ES256")
        assert "hunter2" not in str(caught.value)
        assert caught.value.__cause__ is not None
        assert caught.value.__cause__.__traceback__ is None


@pytest.mark.parametrize("fault", UNUSABLE)
def test_unusable_error_of_a_capability(fault: str) -> None:
    """Such an error from another method is reported as a defect as well."""
    with Script() as script, open_store(script.able_uri) as store:
        script.before["keys"] = lambda _: raise_it(UNUSABLE[fault]())
        with pytest.raises(InternalError) as caught:
            store.keys()
        assert "hunter2" not in str(caught.value)


def raise_it(error: Exception) -> None:
    raise error


def test_interrupt_is_no_defect() -> None:
    """Ctrl-C in a store's code reaches the program unchanged."""
    with Script() as script, open_signer(script.uri) as signer:
        script.fail("sign", KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            signer.sign(MESSAGE, "ES256")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no such signal on Windows")
@pytest.mark.parametrize("step", ["init", "connect", "open", "sign", "changed"])
def test_exception_of_a_signal_handler_is_no_defect(step: str) -> None:
    """An exception from the program's own signal handler in a store's code reaches the program unchanged."""

    def time_out(*_: object) -> None:
        raise TimeoutError("the program's own")

    def use() -> None:
        with open_signer(script.uri) as signer:
            signer._reloader.next_check = 0
            signer.sign_negotiated(lambda *_: MESSAGE)

    former = signal.signal(signal.SIGALRM, time_out)
    try:
        with Script() as script:
            script.before[step] = lambda _: signal.raise_signal(signal.SIGALRM)
            with pytest.raises(TimeoutError, match="the program's own"):
                use()
    finally:
        signal.signal(signal.SIGALRM, former)


@pytest.mark.parametrize("message", ["text", None, 1])
def test_message_of_the_wrong_type(message: Any) -> None:
    """A message that is not bytes is the caller's mistake; the store is not blamed."""
    with Script() as script, open_signer(script.uri) as signer, pytest.raises(TypeError, match="must be bytes"):
        signer.sign(message, "ES256")


@pytest.mark.parametrize("error", [ValueError("a defect"), SignatureInvalid("wrong")])
def test_next_key_of_a_profile_opens(error: Exception, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect in the first key's store does not prevent the standby key from being opened."""
    with Script() as first, Script() as second:
        first.always["open"] = error
        path = tmp_path / "config.toml"
        path.write_text(f'[profiles.nightly]\nkeys = ["{first.uri}", "{second.uri}"]\n')
        monkeypatch.setenv("KEYVOUCH_CONFIG", str(path))
        with open_signer("profile:nightly") as signer:
            assert signer.requested_uri == second.uri


# Values of the wrong type.


@pytest.mark.parametrize("returned", [None, "text", 7, object()])
def test_open_returns_no_key(monkeypatch: pytest.MonkeyPatch, returned: object) -> None:
    """`open` must return a StoredKey."""
    with Script() as script:
        monkeypatch.setattr(ScriptedStore, "open", lambda *_, **__: returned)
        with pytest.raises(InternalError, match="from open instead of StoredKey"):
            open_signer(script.uri)
        assert script.count("close") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("uri", "scripted:"),
        ("uri", None),
        ("public_key", None),
        ("public_key", "text"),
        ("public_key", b"der"),
        ("chain", None),
        ("chain", ["certificate"]),
        ("chain", (b"der",)),
        ("exportable", "no"),
        ("settles_at", 12.5),
        ("settles_at", dt.datetime(2030, 1, 1)),  # noqa: DTZ001 - that is the fault
        ("advice", (1,)),
        ("remote", "yes"),
        ("advice", "text"),
    ],
)
def test_key_with_a_wrong_attribute(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    """Each attribute of a key must have the type that the contract specifies."""
    real = ScriptedStore.open

    def opened(*args: Any, **kwargs: Any) -> Any:
        key = real(*args, **kwargs)
        setattr(key, name, value)
        return key

    with Script() as script:
        monkeypatch.setattr(ScriptedStore, "open", opened)
        with pytest.raises(InternalError, match=name):
            open_signer(script.uri)
        assert (script.count("close key"), script.count("close")) == (1, 1)


def test_key_without_a_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that lacks an attribute is a defect as well."""
    real = ScriptedKey.__init__

    def made(self: ScriptedKey, *args: Any) -> None:
        real(self, *args)
        del self.uri

    with Script() as script:
        monkeypatch.setattr(ScriptedKey, "__init__", made)
        with pytest.raises(InternalError, match="AttributeError"):
            open_signer(script.uri)


@pytest.mark.parametrize(
    ("method", "returned"),
    [
        ("keys", None),
        ("keys", ["text"]),
        ("keys", ()),
        ("generate", None),
        ("import_key", "scripted:key=app"),
        ("install_certificate", None),
        ("export_pfx", "text"),
        ("readers", "root"),
        ("readers", [1]),
    ],
)
def test_method_returns_the_wrong_type(monkeypatch: pytest.MonkeyPatch, method: str, returned: object) -> None:
    """Each method's result must have the type that the contract specifies."""
    with Script() as script, open_store(f"{script.able_uri};version=1") as store:
        monkeypatch.setattr(FullStore, method, lambda *_, **__: returned)
        with pytest.raises(InternalError, match="scripted-able: returned"):
            USES[method][1](store)


GOOD = KeyInfo(parse_uri("scripted:key=app", ScriptedStore.attributes), "P-256")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("uri", "scripted:key=app"),
        ("key_type", None),
        ("spki_sha256", b"digest"),
        ("subject", 1),
        ("not_before", "2030-01-01"),
        ("not_after", dt.datetime(2030, 1, 1)),  # noqa: DTZ001 - that is the fault
        ("created", 12.5),
        ("exportable", "no"),
        ("has_certificate", None),
        ("advice", "text"),
        ("advice", (1,)),
        ("provider", 1),
        ("readers", "root"),
    ],
)
def test_listed_key_with_a_wrong_field(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    """Each field of a listed key must have the type that the contract specifies."""
    wrong = dataclasses.replace(GOOD, **{name: value})  # type: ignore[arg-type]
    with Script() as script, open_store(script.able_uri) as store:
        monkeypatch.setattr(FullStore, "keys", lambda *_, **__: [GOOD, wrong])
        with pytest.raises(InternalError, match=f"KeyInfo from keys whose {name} (has the wrong type|is invalid)"):
            store.keys()


def test_list_that_fails_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store's own list type that fails while it is read is a defect of the store, too."""

    class Late(list[KeyInfo]):
        def __iter__(self) -> Any:
            yield GOOD
            raise ValueError("hunter2")

    with Script() as script, open_store(script.able_uri) as store:
        monkeypatch.setattr(FullStore, "keys", lambda *_, **__: Late())
        with pytest.raises(InternalError, match="raised ValueError"):
            store.keys()


_COMMAND = """
from keyvouch.cli import main
from scripted_store import Script

with Script() as script:
    script.always["keys"] = {error}
    main(["keys", "--key", script.able_uri])
"""


def run_command(error: str) -> subprocess.CompletedProcess[str]:
    command, path = [sys.executable, "-c", _COMMAND.format(error=error)], str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_command_shows_no_traceback() -> None:
    """The command reports the defective store in two sentences, and exits with status 1."""
    done = run_command('ValueError("hunter2")')
    assert done.returncode == 1
    assert "raised ValueError" in done.stderr
    assert "Report it to the authors of scripted 1.0." in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize("error", ["SystemExit(0)", "GeneratorExit('hunter2')", "BaseException('hunter2')"])
def test_store_that_ends_the_command(error: str) -> None:
    """A store that exits, or raises something other than an `Exception`, is defective: no success, and no traceback."""
    done = run_command(error)
    assert done.returncode == 1
    assert "a defect of keyvouch or of a plugin" in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr
