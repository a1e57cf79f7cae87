"""SoftHSM tokens, and the module itself: selection by URI, and errors."""

from __future__ import annotations

import ctypes
import ctypes.util
import shutil
import sys
from pathlib import Path

import pytest

import keyvouch
from keyvouch._system import forks
from keyvouch.errors import ConfigurationError, KeyNotFound, StoreUnavailable
from keyvouch_pkcs11.cryptoki import CryptokiError
from pkcs11_modules import finalize_modules, only_token
from scripted_store import is_signed
from softhsm_keys import UriOf, generate, record_pins
from softhsm_tokens import SOFTHSM, make_token, softhsm  # noqa: F401 - a fixture

pytestmark = pytest.mark.server


def test_tokens_are_listed(softhsm: UriOf) -> None:
    """Each token is listed with its URI and description, and no PIN is needed."""
    make_token("test")
    with keyvouch.open_store(f"pkcs11:?module-path={SOFTHSM}") as store:
        listed = store.tokens()
    assert sorted(each.uri.get("token") for each in listed) == ["prod", "test"]
    assert {each.description for each in listed} == {"SoftHSM project, SoftHSM v2"}
    with keyvouch.open_store(str(listed[0].uri)) as store:
        assert [each.uri for each in store.tokens()] == [listed[0].uri]


def test_handle_of_an_ended_session_is_left_alone(softhsm: UriOf) -> None:
    """A module gives the handle of a session that it has ended to the next one, which an old key must not close."""
    with keyvouch.open_signer(generate(softhsm())) as signer:
        token = signer._current.opened.stored._token  # type: ignore[attr-defined]
        with token.session(5.0) as first:
            token.discard_session(first, CryptokiError("Sign", 0xB3))
            with token.module as functions:
                functions.is_logged_in(first)  # still open


def test_reused_handle_is_left_to_its_new_session(softhsm: UriOf) -> None:
    """A module that was initialized again counts handles from the start; an old key closes no new session."""
    with keyvouch.open_signer(generate(softhsm())) as signer:
        old = only_token(SOFTHSM)
        ended = old.acquire_session(5.0)
        finalize_modules()
        signer.sign(b"message", "ES256")  # connects again
        new = only_token(SOFTHSM)
        current = new.acquire_session(5.0)
        while current < ended:
            current = new.acquire_session(5.0)
        assert (current, new is old) == (ended, False)
        old.discard_session(ended, CryptokiError("SignInit", 0x101))  # CKR_USER_NOT_LOGGED_IN
        with new.module as functions:
            assert functions.is_logged_in(current)


def test_library_attributes_must_match(softhsm: UriOf) -> None:
    """A URI's library attributes must match."""
    generate(softhsm())
    key = "library-manufacturer=SoftHSM;library-description=Implementation%20of%20PKCS11;library-version=2.6;object=app"
    keyvouch.open_signer(softhsm(key)).close()
    with pytest.raises(StoreUnavailable, match="No token matches"):
        keyvouch.open_signer(softhsm("library-version=9.9;object=app"))


def test_deleted_token_does_not_affect_another(softhsm: UriOf, tmp_path: Path) -> None:
    """Deleting one token does not affect another."""
    make_token("test")
    generate(softhsm())
    generate(softhsm(token="test"))
    with keyvouch.open_signer(softhsm()) as kept, keyvouch.open_signer(softhsm(token="test")) as lost:
        serial = dict(part.split("=", 1) for part in lost.uri.partition("?")[0].split(";"))["serial"]
        (folder,) = [each for each in (tmp_path / "tokens").iterdir() if each.name.replace("-", "").endswith(serial)]
        shutil.rmtree(folder)
        with pytest.raises(StoreUnavailable):
            lost.sign(b"message", "ES256", timeout=1)
        assert is_signed(kept.public_key, kept.sign(b"message", "ES256"), b"message", "ES256")


def test_pin_requires_one_matching_token(softhsm: UriOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """If several tokens match, a URI with a PIN must select one; without a PIN all are listed."""
    make_token("test")
    pins = record_pins(monkeypatch)
    for use in (keyvouch.open_signer, generate):
        with pytest.raises(ConfigurationError, match="2 tokens match") as caught:
            use(f"pkcs11:object=app?module-path={SOFTHSM}&pin-source=env:HSM_PIN")
        assert "token=prod;serial=" in caught.value.hint
    assert pins == []
    with keyvouch.open_store(f"pkcs11:?module-path={SOFTHSM}") as store:
        assert store.keys() == []


def test_uninitialised_token_is_skipped(softhsm: UriOf) -> None:
    """SoftHSM also lists a slot whose token has not been initialized."""
    pinned = generate(softhsm())
    with keyvouch.open_store(f"pkcs11:?module-path={SOFTHSM}&pin-source=env:HSM_PIN") as store:
        listed = store.keys()
    assert [str(info.uri) for info in listed] == [pinned]


def test_missing_key_and_missing_token(softhsm: UriOf) -> None:
    """A missing key is distinguished from a missing token; both make a client with several keys try the next one."""
    with pytest.raises(KeyNotFound, match="No key matches"):
        keyvouch.open_signer(softhsm())
    with pytest.raises(StoreUnavailable, match="No token matches"):
        keyvouch.open_signer(softhsm(token="prot"))


def test_openssl_error_queue_is_empty(softhsm: UriOf) -> None:
    """Initializing SoftHSM leaves errors in the queue, which `ssl` in the same thread would take for its own."""
    libcrypto = ctypes.CDLL(ctypes.util.find_library("crypto"))
    generate(softhsm())
    finalize_modules()
    with keyvouch.open_signer(softhsm()) as signer:
        assert is_signed(signer.public_key, signer.sign(b"message", "ES256"), b"message", "ES256")
        assert libcrypto.ERR_peek_error() == 0


def test_invalid_module_file(tmp_path: Path) -> None:
    """A file that is missing, not a library, or not a PKCS#11 module is reported with its name.

    Nothing remains of it, in particular no gate for fork hooks.
    """
    gates = list(forks._gates)
    text = tmp_path / "text.so"
    text.write_text("not a library")
    for path, message in (
        (tmp_path / "missing.so", "PKCS#11 module not found"),
        (text, "Cannot load the PKCS#11 module"),
        (Path(sys.modules["_ctypes"].__file__ or ""), "C_GetFunctionList not found"),
        (Path("relative.so"), "requires an absolute path"),
    ):
        with pytest.raises(ConfigurationError, match=message) as caught:
            keyvouch.open_signer(f"pkcs11:object=app?module-path={path}")
        assert caught.value.hint
    assert forks._gates == gates


def test_module_that_fails_to_initialise(softhsm: UriOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error contains the module's return value."""
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "missing.conf"))
    with pytest.raises(StoreUnavailable, match="Failed to initialize .*: C_Initialize"):
        keyvouch.open_signer(softhsm())
