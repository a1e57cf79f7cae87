"""No public call leaves a secret in the frames of any exception that it raises.

Error reporters send the local variables of every frame, and of every chained exception. Each public call is made to
fail with an error from keyvouch, with a defect of a store or library, and with Ctrl-C; then everything reachable
from the frames is searched for the secrets passed to the call.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import operator
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.kdf import pbkdf2

import keyvouch
from keyvouch._core.key_management import Store
from keyvouch._core.opening import parse
from keyvouch.entra import azure
from keyvouch.entra.azure import aio
from keyvouch.entra.msal import ConfidentialClient, client_credential
from keyvouch.errors import AccessDenied, frame_lines, without_frames
from keyvouch.secrets import Secret, SecretResolver
from keyvouch.testing.authority import Authority
from scripted_store import Script, new_key
from signing_in import make_key

MARKER = "hunter2-marker"
"""Part of every secret in these tests: passwords, PINs, tokens, messages, claims, and the secret in a URI."""
MESSAGE = f"message {MARKER}".encode()
CONTEXT = {"client_id": "app", "token_endpoint": f"https://login.example/{MARKER}"}
ERRORS = [
    AccessDenied("no"),
    ZeroDivisionError("a defect"),
    KeyboardInterrupt(),
    ExceptionGroup("two", [KeyError("x")]),
]

Act = Callable[["World"], object]


def secrets_in(error: BaseException) -> list[str]:
    """Return where a marker is reachable from the frames of the error or of a chained exception."""
    return [
        f"{type(each).__name__}: {frame.f_code.co_filename}:{frame.f_code.co_name}: {name}"
        for each in _chain(error)
        for frame in _frames(each)
        for name, value in frame.f_locals.items()
        if _holds(value, 5, set())
    ]


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and each not in found:
            found.append(each)
            waiting += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]
    return found


def _frames(error: BaseException) -> Iterator[types.FrameType]:
    """Return the frames of keyvouch, stores and libraries; those of this file and its callers belong to the caller."""
    step = error.__traceback__
    while step is not None:
        name = step.tb_frame.f_code.co_filename
        if name != __file__ and not name.endswith(
            ("asyncio/runners.py", "asyncio/base_events.py", "asyncio/events.py")
        ):
            yield step.tb_frame
        step = step.tb_next


def _holds(value: object, depth: int, seen: set[int]) -> bool:
    if isinstance(value, str):
        return MARKER in value
    if isinstance(value, bytes | bytearray):
        return MARKER.encode() in value
    if depth == 0 or id(value) in seen or isinstance(value, type | types.ModuleType | types.FrameType | World):
        return False
    seen.add(id(value))
    return any(_holds(each, depth - 1, seen) for each in _parts(value))


def _parts(value: object) -> list[object]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    if isinstance(value, types.FunctionType):
        return [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
    if isinstance(value, functools.partial):
        return [*value.args, *value.keywords.values()]
    if isinstance(value, types.MethodType):
        return [value.__self__]
    slots = [getattr(value, name, None) for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    return [*getattr(value, "__dict__", {}).values(), *slots]


def _is_filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


class World:
    """A scripted store with a key, opened in every way, and an error that everything below a call raises."""

    def __init__(self, script: Script, authority: Authority, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.script = script
        self.patch = patch
        self.folder = folder
        patch.setenv("APP_PIN", f"pin {MARKER}")
        self.uri = f"{script.able_uri}?pin=env:APP_PIN&account={MARKER}"
        self.pinned = f"{script.able_uri};version=1?pin=env:APP_PIN"
        self.error: BaseException = AssertionError()
        app = authority.register(certificates=script.newest.chain)
        self.profile = folder / "config.toml"
        fields = {
            "authority": authority.url,
            "tenant": app.tenant,
            "client-id": app.client_id,
            "scopes": [f"api://{MARKER}/.default"],
            "keys": [self.uri],
            "ca-file": authority.ca_file,
        }
        lines = [f"{name} = {json.dumps(value)}" for name, value in fields.items()]
        self.profile.write_text("\n".join(["[profiles.nightly]", *lines]) + "\n", encoding="utf-8")
        patch.setenv("KEYVOUCH_CONFIG", str(self.profile))

    @functools.cached_property
    def signer(self) -> keyvouch.Signer:
        signer = keyvouch.open_signer(self.uri)
        signer.sign(b"first", "ES256" if "EC" in type(signer.public_key).__name__ else "PS256")
        return signer

    @functools.cached_property
    def store(self) -> Store:
        return keyvouch.open_store(self.pinned)

    @functools.cached_property
    def client(self) -> ConfidentialClient:
        from keyvouch.entra.profile import client_of

        return client_of("nightly")

    def arm(self, error: BaseException) -> None:
        """Make every step of the store, and what the calls of a client and a resolver rely on, raise this error."""
        self.error = error
        for step in ("init", "connect", "open", "sign", "keys", "generate", "import_key", "install_certificate"):
            self.script.always[step] = error
        for step in ("delete", "export_pfx", "readers", "grant", "revoke"):
            self.script.always[step] = error

    def fail(self, *_: object, **__: object) -> Any:
        secret = MESSAGE  # noqa: F841 - as a library has it in its frames
        raise self.error

    def close(self) -> None:
        self.script.always.clear()
        self.patch.undo()
        for name in ("client", "signer", "store"):
            if name in self.__dict__:
                getattr(self, name).close()


def broken(name: str, act: Act) -> Act:
    """Return the act, run while the attribute `name` of the world's client fails."""

    def run(world: World) -> object:
        owner, _, attribute = f"client.{name}".rpartition(".")
        world.patch.setattr(operator.attrgetter(owner)(world), attribute, world.fail)
        return act(world)

    return run


def with_secrets(act: Callable[[SecretResolver, Any], object]) -> Act:
    """Return the act with a resolver, run while reading any file fails."""

    def run(world: World) -> object:
        world.patch.setattr("keyvouch.secrets.files.read_private_with_status", world.fail)
        resolver = SecretResolver(sign_in=world.fail)
        return act(resolver, parse(f"{world.script.uri}?pin=file:/secrets/{MARKER}"))

    return run


def _load_signer(world: World) -> object:
    world.patch.setattr("keyvouch.stores.file.jwk.is_jwk", world.fail)
    return keyvouch.load_signer(MARKER.encode(), password=MARKER)


def _read_key(world: World) -> object:
    world.patch.setenv("CREDENTIALS_DIRECTORY", f"/secrets/{MARKER}")
    return with_secrets(lambda resolver, _: resolver.read_key("credential:app"))(world)


def _attempt(resolver: SecretResolver, uri: Any) -> None:
    with resolver.attempt(uri, "pin", target="token"):
        pass


def _new_client(world: World) -> object:
    class Http:
        password = MARKER
        get = post = staticmethod(world.fail)

    options: dict[str, Any] = {"authority": f"https://login.example/{MARKER}", "http_client": Http()}
    return ConfidentialClient(MARKER, [world.script.uri], **options)


def _token(call: str) -> Act:
    return broken("_failover.try_keys", lambda world: getattr(world.client, call)([f"api://{MARKER}/x"]))


def _msal(call: str, *arguments: Any) -> Act:
    return broken("_failover.try_keys", lambda world: getattr(world.client, call)(*arguments))


def _credential(kind: Any, call: str) -> Act:
    def run(world: World) -> object:
        world.patch.setattr(world.client._failover, "try_keys", world.fail)
        found = getattr(kind(world.client), call)(
            f"api://{MARKER}/x", **({"claims": MARKER} if "info" not in call else {})
        )
        return asyncio.run(found) if inspect.iscoroutine(found) else found

    return run


def _sign_with(world: World, key: Any) -> object:
    return key.sign(MESSAGE, ec.ECDSA(hashes.SHA256()))


CASES: dict[str, Act] = {
    "open_signer": lambda world: keyvouch.open_signer(world.uri),
    "load_signer": _load_signer,
    "open_store": lambda world: keyvouch.open_store(f"{world.uri}&speed={MARKER}"),
    "connect": lambda world: keyvouch.connect("nightly"),
    "ClientAssertion.__call__": lambda world: keyvouch.ClientAssertion(world.signer, audience=MARKER)(CONTEXT),
    "client_credential": lambda world: client_credential(world.uri, kid=MARKER),
    "Signer.sign": lambda world: world.signer.sign(MESSAGE, "ES256"),
    "Signer.sign_negotiated": lambda world: world.signer.sign_negotiated(lambda *_: MESSAGE, audit={"jti": MARKER}),
    "Signer.sign_async": lambda world: asyncio.run(world.signer.sign_async(MESSAGE, "ES256")),
    "Signer.reload": lambda world: world.signer.reload(),
    "Signer.private_key": lambda world: _sign_with(world, world.signer.private_key()),
    "Signer.close": lambda world: _closed_by_interrupt(world, world.signer),
    "Store.keys": lambda world: world.store.keys(),
    "Store.generate": lambda world: world.store.generate(keyvouch.KeySpec(subject=f"CN={MARKER}")),
    "Store.import_key": lambda world: world.store.import_key(new_key(), []),
    "Store.install_certificate": lambda world: world.store.install_certificate(world.script.newest.chain),
    "Store.export_pfx": lambda world: world.store.export_pfx(Secret(MARKER)),
    "Store.delete": lambda world: world.store.delete(),
    "Store.require_pinned": lambda world: world.store.require_pinned(),
    "Store.readers": lambda world: world.store.readers(),
    "Store.grant": lambda world: world.store.grant(MARKER),
    "Store.revoke": lambda world: world.store.revoke(MARKER),
    "Store.close": lambda world: _closed_by_interrupt(world, world.store),
    "ConfidentialClient.__init__": _new_client,
    "ConfidentialClient.access_token": _token("access_token"),
    "ConfidentialClient.token_result": _token("token_result"),
    "ConfidentialClient.access_token_async": broken(
        "_failover.try_keys", lambda world: asyncio.run(world.client.access_token_async([f"api://{MARKER}/x"]))
    ),
    "ConfidentialClient.acquire_token_for_client": _token("acquire_token_for_client"),
    "ConfidentialClient.acquire_token_silent": _msal("acquire_token_silent", [MARKER], None),
    "ConfidentialClient.acquire_token_silent_with_error": _msal("acquire_token_silent_with_error", [MARKER], None),
    "ConfidentialClient.acquire_token_by_auth_code_flow": _msal(
        "acquire_token_by_auth_code_flow", {}, {"code": MARKER}
    ),
    "ConfidentialClient.acquire_token_by_authorization_code": _msal(
        "acquire_token_by_authorization_code", MARKER, ["x"]
    ),
    "ConfidentialClient.acquire_token_by_refresh_token": _msal("acquire_token_by_refresh_token", MARKER, ["x"]),
    "ConfidentialClient.acquire_token_by_username_password": _msal(
        "acquire_token_by_username_password", "user", MARKER, ["x"]
    ),
    "ConfidentialClient.acquire_token_by_user_federated_identity_credential": _msal(
        "acquire_token_by_user_federated_identity_credential", MARKER
    ),
    "ConfidentialClient.acquire_token_on_behalf_of": _msal("acquire_token_on_behalf_of", MARKER, ["x"]),
    "ConfidentialClient.variant": broken("_create_variant", lambda world: world.client.variant(MARKER)),
    "ConfidentialClient.close": broken("_variants", lambda world: _closed_by_interrupt(world, world.client)),
    "KeyvouchCredential.get_token": _credential(azure.KeyvouchCredential, "get_token"),
    "KeyvouchCredential.get_token_info": _credential(azure.KeyvouchCredential, "get_token_info"),
    "aio.KeyvouchCredential.get_token": _credential(aio.KeyvouchCredential, "get_token"),
    "aio.KeyvouchCredential.get_token_info": _credential(aio.KeyvouchCredential, "get_token_info"),
    "SecretResolver.get": with_secrets(lambda resolver, uri: resolver.get(uri, "pin")),
    "SecretResolver.resolve": with_secrets(lambda resolver, _: resolver.resolve(f"file:/secrets/{MARKER}")),
    "SecretResolver.attempt": with_secrets(_attempt),
    "SecretResolver.read_private": with_secrets(lambda resolver, _: resolver.read_private(Path(MARKER))),
    "SecretResolver.read_private_with_status": with_secrets(
        lambda resolver, _: resolver.read_private_with_status(Path(MARKER))
    ),
    "SecretResolver.read_key": _read_key,
    "SecretResolver.proxy_credentials": with_secrets(
        lambda resolver, _: resolver.proxy_credentials(f"file:/secrets/{MARKER}")
    ),
    "SecretResolver.access_token": with_secrets(
        lambda resolver, _: resolver.access_token("nightly", MARKER, timeout=1, claims=MARKER)
    ),
}
WITHOUT_SECRETS = {
    "KeySpec": "holds values",
    "KeyvouchError": "is an error",
    "Signer.certificate_status": "looks at the certificate",
    "Signer.thumbprint": "looks at the certificate",
    "Signer.after_fork": "makes locks",
    "Store.after_fork": "makes locks",
    "Store.tokens": "returns nothing for a store without tokens",
    "Store.family": "calls only `keys`",
    "Store.schedule": "returns an empty schedule if the key cannot be opened",
    "Store.unusable_keys": "returns nothing for a store that does not report them",
    "ConfidentialClient.after_fork": "makes locks",
    "ConfidentialClient.is_of_tenant": "compares names",
    "ClientAssertion.audience_of": "is overridden, and called by the assertion",
    "ClientAssertion.algorithm_for": "is overridden, and called by the assertion",
    "ClientAssertion.preferred_algorithm": "is overridden, and called by the assertion",
    "ClientAssertion.server_kind": "is overridden, and called by the assertion",
    "KeyvouchCredential.close": "does nothing",
    "aio.KeyvouchCredential.close": "does nothing",
}


def _closed_by_interrupt(world: World, thing: Any) -> object:
    """Close an object whose closing is interrupted by the error."""
    world.patch.setattr("keyvouch._core.signer.release", world.fail)
    world.patch.setattr("keyvouch._core.key_management.release", world.fail)
    if isinstance(thing, ConfidentialClient):
        world.patch.setattr(thing, "_variants", types.SimpleNamespace(close=world.fail))
    try:
        return thing.close()
    finally:
        thing.__dict__["close"] = lambda: None  # nothing is left to close


def public_calls() -> set[str]:
    """Return what a user may call: the names in `keyvouch`, and the methods of what these return."""
    calls = {name for name in keyvouch.__all__ if name.islower() and callable(getattr(keyvouch, name))}
    calls |= {"KeySpec", "KeyvouchError", "client_credential", "ConfidentialClient.__init__"}
    kinds = {
        "Signer": keyvouch.Signer,
        "Store": Store,
        "ClientAssertion": keyvouch.ClientAssertion,
        "ConfidentialClient": ConfidentialClient,
        "KeyvouchCredential": azure.KeyvouchCredential,
        "aio.KeyvouchCredential": aio.KeyvouchCredential,
        "SecretResolver": SecretResolver,
    }
    for prefix, kind in kinds.items():
        names = (name for name, value in vars(kind).items() if callable(value))
        calls |= {f"{prefix}.{name}" for name in names if name == "__call__" or not name.startswith("_")}
    return calls


def test_every_public_call_is_covered() -> None:
    """Every new public call or method must be tried here as well."""
    optional = {"ConfidentialClient.acquire_token_by_user_federated_identity_credential"}  # since MSAL 1.38
    assert public_calls() | optional == CASES.keys() | WITHOUT_SECRETS.keys() | optional


@pytest.fixture
def world(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with Script() as script:
        script.violations.clear()
        world = World(script, authority, tmp_path, monkeypatch)
        yield world
        world.close()
        script.violations.clear()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("call", CASES)
def test_frames_contain_no_secret(world: World, call: str, error: BaseException) -> None:
    """Whatever a public call raises, its frames and those of its causes contain no secret."""
    if "Signer" in call or "Assertion" in call:
        _ = world.signer
    if "Store." in call:
        _ = world.store
    if call.startswith(
        ("ConfidentialClient.a", "ConfidentialClient.t", "ConfidentialClient.v", "ConfidentialClient.c")
    ):
        _ = world.client
    if "KeyvouchCredential" in call:
        _ = world.client
    error.__traceback__ = error.__cause__ = error.__context__ = None
    world.arm(error)
    with pytest.raises(BaseException) as caught:
        CASES[call](world)
    assert secrets_in(caught.value) == []
    assert error in _chain(caught.value)


@pytest.mark.parametrize("kind", ["P-256", "RSA-2048", "Ed25519"])
def test_private_key_hides_its_frames(kind: str) -> None:
    """An object that signs like a `cryptography` private key does not leave the message in frames either."""
    arguments: dict[str, tuple[Any, ...]] = {
        "P-256": (ec.ECDSA(hashes.SHA256()),),
        "RSA-2048": (padding.PKCS1v15(), hashes.SHA256()),
        "Ed25519": (),
    }
    with Script(kind) as script, keyvouch.open_signer(script.uri) as signer:
        key: Any = signer.private_key()
        script.always["sign"] = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt) as caught:
            key.sign(MESSAGE, *arguments[kind])
    assert secrets_in(caught.value) == []


def test_interrupted_pfx_hides_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a PFX is being decrypted reveals neither its password nor its content."""
    made = make_key(tmp_path)
    with keyvouch.open_store(made.uri.replace("app.pfx", "other.pfx").replace("APP_PASSWORD", "OTHER")) as store:
        monkeypatch.setenv("OTHER", f"password {MARKER}")
        store.generate(keyvouch.KeySpec())

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(pbkdf2, "PBKDF2HMAC", interrupt)
        for call in (store.keys, lambda: keyvouch.open_signer(str(store.uri))):
            with pytest.raises(KeyboardInterrupt) as caught:
                call()
            assert secrets_in(caught.value) == []


def test_note_lists_the_frames(world: World) -> None:
    """Instead of its frames a library's error has a note with file, line and function of each, to find a defect."""
    signer = world.signer
    world.arm(ZeroDivisionError())
    with pytest.raises(keyvouch.KeyvouchError) as caught:
        signer.sign(MESSAGE, "ES256")
    [note] = caught.value.__cause__.__notes__  # type: ignore[union-attr]
    assert note.startswith("Traceback without local variables")
    assert "scripted_store.py" in note.splitlines()[-1]
    assert MARKER not in note


def test_traceback_ends_with_the_hint(tmp_path: Path) -> None:
    """The last line that a user sees of an uncaught error says what to do; the frames are there for `--debug`."""
    with pytest.raises(keyvouch.KeyvouchError) as caught:
        keyvouch.open_signer(f"pem:{tmp_path}/none.pem")
    error = caught.value
    assert error.hint
    assert "".join(traceback.format_exception(error)).endswith(f"{error.message}\n{error.hint}\n")
    assert "in read_key_file" in frame_lines(error)[-1]


def test_callers_own_exception_keeps_its_frames(world: World) -> None:
    """An exception that the caller was handling during the call is the caller's, and stays unchanged."""
    signer = world.signer
    world.arm(AccessDenied("no"))
    errors: list[BaseException] = []

    def handle() -> None:
        try:
            raise KeyError("mine")  # noqa: TRY301
        except KeyError:
            with pytest.raises(AccessDenied) as behind:
                signer.sign(MESSAGE, "ES256")
            errors.append(behind.value)
            raise

    with pytest.raises(KeyError) as caught:
        handle()
    assert errors[0].__context__ is caught.value
    assert [entry.name for entry in caught.traceback] == ["test_callers_own_exception_keeps_its_frames", "handle"]


def test_exception_group_hides_its_frames() -> None:
    """The exceptions in a group lose their frames as well."""

    def fail(password: str) -> None:
        raise ValueError(len(password))

    def group(password: str) -> None:
        errors = []
        for _ in range(2):
            try:
                fail(password)
            except ValueError as error:
                errors.append(error)
        raise ExceptionGroup("both", errors)

    with pytest.raises(ExceptionGroup) as caught:
        group(MARKER)
    without_frames(caught.value)
    assert [each.__traceback__ for each in caught.value.exceptions] == [None, None]
