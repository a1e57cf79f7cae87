"""Keys on SoftHSM: tests beyond the conformance kit."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

import keyvouch
from keyvouch._system import forks
from keyvouch.algorithms import ALGORITHMS
from keyvouch.certificate import self_signed
from keyvouch.errors import (
    ConfigurationError,
    KeyExists,
    KeyNotFound,
    SecretIncorrect,
    SecretRequired,
    StoreUnavailable,
)
from keyvouch.local_key import make_key
from keyvouch.testing.authority import Authority
from keyvouch_pkcs11 import cryptoki as ck
from keyvouch_pkcs11 import objects, writing
from pkcs11_tokens import PIN, SOFTHSM, close_all_sessions, end_modules, loaded, log_out, make_token, softhsm  # noqa: F401 - a fixture
from scripted_store import is_signed, without_coverage
from servers.oidc import OidcProvider
from signing_in import run, sign_in

pytestmark = pytest.mark.server
ES256 = ALGORITHMS["ES256"]
At = Callable[..., str]


def make(uri: str, kind: str = "P-256", **more: Any) -> str:
    with keyvouch.open_store(uri) as store:
        return str(store.generate(keyvouch.KeySpec(kind, "CN=app", 30, **more)))


# The key.


def test_it_cannot_be_taken_out(softhsm: At) -> None:
    """The token does not reveal the private value of a key that it generated."""
    make(softhsm(), "RSA-2048")
    with keyvouch.open_signer(softhsm()) as signer:
        (token,) = loaded(SOFTHSM).tokens.values()
        with token.session(10) as session, loaded(SOFTHSM) as functions:
            (handle,) = functions.find(session, {ck.CKA_CLASS: ck.CKO_PRIVATE_KEY})
            shown = functions.read(session, handle, (ck.CKA_PRIVATE_EXPONENT, ck.CKA_PRIME_1, ck.CKA_SENSITIVE))
        assert shown == {ck.CKA_SENSITIVE: b"\1"}
        assert signer.exportable is False


def test_unmodified_msal_signs_in_with_it(softhsm: At, authority: Authority, oidc_provider: OidcProvider) -> None:
    """Both test authorities accept the sign-in."""
    make(softhsm(), "RSA-2048")
    with keyvouch.open_signer(softhsm()) as signer:
        sign_in(signer, authority, oidc_provider)


def test_octets_of_an_id(softhsm: At) -> None:
    """An id is arbitrary bytes, and selects its key without a label."""
    pinned = make(softhsm("id=%01%A2%00%DC%B5;object=app"))
    assert "id=%01%A2%00%DC%B5" in pinned  # bytes, although two of them form a UTF-8 letter
    with keyvouch.open_signer(softhsm("id=%01%A2%00%DC%B5")) as signer:
        assert str(signer.uri) == pinned


def test_nothing_is_put_beside_another(softhsm: At) -> None:
    """A label or id already in use raises KeyExists; a further member of a family needs its own id."""
    make(softhsm("object=app;id=%01"))
    for taken in ("object=app", "object=other;id=%01", "object=app;id=%02"):
        with pytest.raises(KeyExists):
            make(softhsm(taken))
    make(softhsm("object=app;id=%02"), further=True)
    with keyvouch.open_store(softhsm()) as store:
        listed = store.keys()
    assert sorted(info.uri.get("id") for info in listed) == [b"\1", b"\2"]


def test_key_with_the_same_id_keeps_what_it_has(softhsm: At) -> None:
    """Some tokens allow two keys with the same id: deleting one keeps the other's public key and certificate."""
    kept, deleted = (make(softhsm(f"object={name}"), "RSA-2048") for name in ("kept;id=%01", "deleted;id=%02"))
    with keyvouch.open_signer(kept) as signer:
        (token,) = loaded(SOFTHSM).tokens.values()
        with token.writing() as session, loaded(SOFTHSM) as functions:
            for handle in functions.find(session, {ck.CKA_ID: b"\2"}):
                value = ck._attributes({ck.CKA_ID: b"\1"})
                functions._call(
                    "SetAttributeValue", ck.CK_ULONG(session), ck.CK_ULONG(handle), value[0], ck.CK_ULONG(1)
                )
        chain = signer.chain
    with keyvouch.open_store(deleted.replace("id=%02", "id=%01")) as store:
        store.delete()
    with keyvouch.open_signer(kept) as signer:
        assert signer.chain == chain
    with keyvouch.open_store(softhsm("id=%01")) as store:
        listed = store.keys()
    assert [info.uri.get("object") for info in listed] == [b"kept"]


def test_key_that_wants_its_pin_each_time(softhsm: At, monkeypatch: pytest.MonkeyPatch) -> None:
    """With CKA_ALWAYS_AUTHENTICATE the PIN is given for each signature, and threads do not interfere."""
    make(softhsm("object=other"))
    with keyvouch.open_signer(softhsm("object=other")):
        (token,) = loaded(SOFTHSM).tokens.values()
        mechanism, public = objects.generation("P-256")
        both: dict[int, ck.Value] = {ck.CKA_TOKEN: True, ck.CKA_ID: b"\7", ck.CKA_LABEL: b"app"}
        private = both | writing.protection(exportable=False) | {ck.CKA_ALWAYS_AUTHENTICATE: True}
        with token.writing() as session, loaded(SOFTHSM) as functions:
            functions.generate(session, mechanism, both | public | {ck.CKA_PRIVATE: False}, private)
        tried = count_log_ins(monkeypatch)
        with keyvouch.open_signer(softhsm()) as signer, Load(signer, "ES256", 4, 200) as load:
            pass
    assert not load.errors
    assert tried == [PIN.encode()] * 200


def test_certificate_replaces_its_own_alone(softhsm: At) -> None:
    """Installing a certificate does not affect those of other keys."""
    first, other = make(softhsm("object=app")), make(softhsm("object=other"))
    with keyvouch.open_signer(other) as signer:
        kept = signer.chain
    with keyvouch.open_signer(first) as signer:
        new = self_signed(signer.private_key(), "CN=renewed", 30)
    with keyvouch.open_store(first) as store:
        store.install_certificate([new])
    with keyvouch.open_signer(first) as signer:
        assert signer.chain == (new,)
    with keyvouch.open_signer(other) as signer:
        assert signer.chain == kept


@pytest.mark.parametrize("kind", ["RSA-2048", "P-256", "P-384", "P-521"])
def test_imported_key_stays_in(softhsm: At, kind: str) -> None:
    """An imported key signs and cannot be exported."""
    key = make_key(kind)
    with keyvouch.open_store(softhsm()) as store:
        store.import_key(key, [self_signed(key, "CN=app", 30)])
    with keyvouch.open_signer(softhsm()) as signer:
        name = "PS256" if kind.startswith("RSA") else {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}[kind]
        assert is_signed(key.public_key(), signer.sign(b"message", name), b"message", name)
        assert signer.exportable is False


def test_demonstration_goes_on_with_a_token(softhsm: At) -> None:
    """In the demo's second part the profile signs with a key on a token, after changing one line."""
    done = run("demo")
    assert done.status == 0, done.errors
    assert '\n+ keys = ["pkcs11:token=demo' in done.output
    assert f"new --key 'pkcs11:token=demo;object=app?module-path={SOFTHSM}" in done.output


# PINs.


def count_log_ins(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list to which the PIN of each C_Login is added from now on."""
    tried: list[bytes] = []
    login = ck.Cryptoki.login

    def noted(self: ck.Cryptoki, session: int, pin: bytes, user: int = ck.CKU_USER) -> None:
        tried.append(pin)
        login(self, session, pin, user)

    monkeypatch.setattr(ck.Cryptoki, "login", noted)
    return tried


def test_one_log_in_for_all_keys(softhsm: At, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that open several keys of a token log in only once."""
    for name in "abcd":
        make(softhsm(f"object={name}"))
    tried = count_log_ins(monkeypatch)
    opened: list[keyvouch.Signer] = []
    threads = [
        threading.Thread(target=lambda name=name: opened.append(keyvouch.open_signer(softhsm(f"object={name}"))))
        for name in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for signer in opened:
        signer.close()
    assert tried == [PIN.encode()]


def test_wrong_pin_is_tried_once(softhsm: At, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused PIN is rejected without asking the token again; another PIN is tried."""
    make(softhsm())
    monkeypatch.setenv("WRONG", "wrong-horse")
    tried = count_log_ins(monkeypatch)
    for _ in range(3):
        with pytest.raises(SecretIncorrect):
            keyvouch.open_signer(softhsm(pin="WRONG"))
    assert tried == [b"wrong-horse"]
    keyvouch.open_signer(softhsm()).close()


def test_eight_processes_try_a_wrong_pin_once(softhsm: At) -> None:
    """If eight workers start at once with the same wrong PIN, only one tries it on the token."""
    make(softhsm())
    workers = [log_in(softhsm(pin="WRONG"), WRONG="wrong-horse") for _ in range(8)]
    said = [worker.communicate()[0].split() for worker in workers]
    assert sum(each.count(b"tried") for each in said) == 1
    assert [each[-1] for each in said] == [b"secret-incorrect"] * 8


LOG_IN = """
import os, sys
import keyvouch
from keyvouch_pkcs11 import cryptoki as ck
login, stop = ck.Cryptoki.login, os.environ.get("STOP")
def noted(self, session, pin, user=ck.CKU_USER):
    if stop == "before":
        os.kill(os.getpid(), 9)
    os.write(1, b"tried ")
    try:
        login(self, session, pin, user)
    finally:
        if stop == "after":
            os.kill(os.getpid(), 9)
ck.Cryptoki.login = noted
os.write(1, b"begun ")
try:
    keyvouch.open_signer(sys.argv[1]).close()
except keyvouch.KeyvouchError as error:
    print(error.code)
else:
    print("opened")
"""


def log_in(uri: str, **variables: str) -> subprocess.Popen[bytes]:
    """Start a process that opens the key and prints whether it called C_Login, and the outcome."""
    command = [sys.executable, "-c", LOG_IN, uri]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | variables)


def outcome(uri: str, **variables: str) -> bytes:
    return log_in(uri, **variables).communicate()[0].split()[-1]


@pytest.mark.parametrize("stop", ["before", "after"])
def test_right_pin_survives_kills(softhsm: At, stop: str) -> None:
    """Processes killed during the log-in do not prevent the correct PIN from being tried."""
    make(softhsm())
    outcome(softhsm(pin="WRONG"), WRONG="wrong-horse")  # shows that the token reports failed attempts
    assert outcome(softhsm()) == b"opened"
    for _ in range(4):
        assert outcome(softhsm(), STOP=stop) != b"opened"
    assert outcome(softhsm()) == b"opened"


def test_wrong_pin_is_tried_once_for_all_kills(softhsm: At) -> None:
    """A wrong PIN is tried once even if the process is killed before it has recorded the token's refusal."""
    make(softhsm())
    variables = {"WRONG": "wrong-horse", "STOP": "after"}
    said = [log_in(softhsm(pin="WRONG"), **variables).communicate()[0] for _ in range(3)]
    assert [each.count(b"tried") for each in said] == [1, 0, 0]
    assert said[-1].split()[-1] == b"secret-incorrect"
    assert outcome(softhsm()) == b"opened"


@pytest.mark.parametrize("right", [True, False])
def test_kills_at_any_moment(softhsm: At, *, right: bool, plenty: bool) -> None:
    """After kills at any moment of the log-in the correct PIN works, and a wrong one was tried only once in total."""
    make(softhsm())
    if right:  # show that the token reports failed attempts
        outcome(softhsm(pin="WRONG"), WRONG="wrong-horse")
        assert outcome(softhsm()) == b"opened"
    uri, tries, points = softhsm(pin="SOME"), 0, 40 if plenty else 12
    variables = {"SOME": PIN if right else "wrong-horse"}
    for point in range(points):
        process = log_in(uri, **variables)
        assert process.stdout
        process.stdout.read(6)  # begun
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.3 * point / points)
        process.kill()
        tries += process.communicate()[0].count(b"tried")
    last = log_in(uri, **variables).communicate()[0]
    tries += last.count(b"tried")
    assert last.split()[-1] == (b"opened" if right else b"secret-incorrect")
    assert right or tries == 1


def test_log_in_of_the_program_forgets_no_refusal(softhsm: At, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the program itself has logged in, no PIN is tried, so none counts as accepted."""
    make(softhsm())
    monkeypatch.setenv("WRONG", "wrong-horse")
    with pytest.raises(SecretIncorrect):
        keyvouch.open_signer(softhsm(pin="WRONG"))
    there = loaded(SOFTHSM)
    (slot,) = [token.slot for token in there.tokens.values()] or there.functions.slots()[:1]
    with there as functions:
        session = functions.open_session(slot)
        functions.login(session, PIN.encode())
    keyvouch.open_signer(softhsm(pin="WRONG")).close()
    with there as functions:
        functions.close_session(session)
    tried = count_log_ins(monkeypatch)
    with pytest.raises(SecretIncorrect, match="refused before"):
        keyvouch.open_signer(softhsm(pin="WRONG"))
    assert tried == []


def test_two_pins_of_one_token(softhsm: At) -> None:
    """A PIN reference other than the one used to log in is a configuration error."""
    make(softhsm())
    with keyvouch.open_signer(softhsm()), pytest.raises(ConfigurationError, match="another PIN's reference"):
        keyvouch.open_signer(softhsm(pin="OTHER_PIN"))


def test_without_a_pin(softhsm: At) -> None:
    """Opening requires a PIN; listing without one shows only the token's public objects."""
    make(softhsm())
    with pytest.raises(SecretRequired, match="without its PIN"):
        keyvouch.open_signer(softhsm(pin=""))
    with keyvouch.open_store(softhsm(pin="")) as store:
        assert store.keys() == []


@pytest.mark.parametrize("form", ["{}", "file:{}", "file://{}"])
def test_pin_in_a_file(softhsm: At, tmp_path: Path, form: str) -> None:
    """RFC 7512 specifies a file as a path or a URI; both are the same reference."""
    make(softhsm())
    file = tmp_path / "pin"
    file.write_text(f"{PIN}\n")
    file.chmod(0o600)
    with keyvouch.open_signer(softhsm(pin="") + f"&pin-source={form.format(file)}") as signer:
        assert is_signed(signer.public_key, signer.sign(b"message", "ES256"), b"message", "ES256")


def test_pin_of_a_program_is_taken_from_a_profile_alone(softhsm: At) -> None:
    """RFC 7512's | is equivalent to keyvouch's command:, with the same rules."""
    make(softhsm())
    with pytest.raises(ConfigurationError, match="command:"):
        keyvouch.open_signer(softhsm(pin="") + "&pin-source=%7C/usr/bin/pinomatic")


# Tokens and modules.


def test_tokens_are_listed(softhsm: At) -> None:
    """Each token is listed with its URI and description, and no PIN is needed."""
    make_token("test")
    with keyvouch.open_store(f"pkcs11:?module-path={SOFTHSM}") as store:
        listed = store.tokens()
    assert sorted(each.uri.get("token") for each in listed) == ["prod", "test"]
    assert {each.description for each in listed} == {"SoftHSM project, SoftHSM v2"}
    with keyvouch.open_store(str(listed[0].uri)) as store:
        assert [each.uri for each in store.tokens()] == [listed[0].uri]


def test_what_a_vendor_adds_is_kept(softhsm: At) -> None:
    """Vendor attributes are allowed only in the query, which does not select the key."""
    pinned = make(softhsm(more="&x-acme-partition=%01a"))
    assert pinned.endswith("&x-acme-partition=%01a")
    with pytest.raises(ConfigurationError, match="wrong side"):
        keyvouch.open_signer(softhsm("x-acme-partition=1"))


def test_module_is_matched(softhsm: At) -> None:
    """A URI's library attributes must match."""
    make(softhsm())
    which = (
        "library-manufacturer=SoftHSM;library-description=Implementation%20of%20PKCS11;library-version=2.6;object=app"
    )
    keyvouch.open_signer(softhsm(which)).close()
    with pytest.raises(StoreUnavailable, match="No token matches"):
        keyvouch.open_signer(softhsm("library-version=9.9;object=app"))


def test_tokens_side_by_side(softhsm: At, tmp_path: Path) -> None:
    """Deleting one token does not affect another."""
    make_token("test")
    make(softhsm())
    make(softhsm(token="test"))
    with keyvouch.open_signer(softhsm()) as kept, keyvouch.open_signer(softhsm(token="test")) as lost:
        serial = dict(part.split("=", 1) for part in lost.uri.partition("?")[0].split(";"))["serial"]
        (folder,) = [each for each in (tmp_path / "tokens").iterdir() if each.name.replace("-", "").endswith(serial)]
        shutil.rmtree(folder)
        with pytest.raises(StoreUnavailable):
            lost.sign(b"message", "ES256", timeout=1)
        assert is_signed(kept.public_key, kept.sign(b"message", "ES256"), b"message", "ES256")


def test_pin_is_tried_on_no_other_token(softhsm: At, monkeypatch: pytest.MonkeyPatch) -> None:
    """If several tokens match, a URI with a PIN must select one; without a PIN all are listed."""
    make_token("test")
    tried = count_log_ins(monkeypatch)
    for act in (keyvouch.open_signer, make):
        with pytest.raises(ConfigurationError, match="2 tokens match") as caught:
            act(f"pkcs11:object=app?module-path={SOFTHSM}&pin-source=env:HSM_PIN")
        assert "token=prod;serial=" in caught.value.hint
    assert tried == []
    with keyvouch.open_store(f"pkcs11:?module-path={SOFTHSM}") as store:
        assert store.keys() == []


def test_slot_of_a_new_token_is_passed_over(softhsm: At) -> None:
    """SoftHSM also lists a slot whose token has not been initialised."""
    pinned = make(softhsm())
    with keyvouch.open_store(f"pkcs11:?module-path={SOFTHSM}&pin-source=env:HSM_PIN") as store:
        listed = store.keys()
    assert [str(info.uri) for info in listed] == [pinned]


def test_key_and_token_that_are_not_there(softhsm: At) -> None:
    """A missing key is distinguished from a missing token; both make a client with several keys try the next one."""
    with pytest.raises(KeyNotFound, match="No key matches"):
        keyvouch.open_signer(softhsm())
    with pytest.raises(StoreUnavailable, match="No token matches"):
        keyvouch.open_signer(softhsm(token="prot"))


def test_nothing_is_left_in_openssls_queue(softhsm: At) -> None:
    """Initialising SoftHSM leaves errors in the queue, which `ssl` in the same thread would take for its own."""
    libcrypto = ctypes.CDLL(ctypes.util.find_library("crypto"))
    make(softhsm())
    end_modules()
    with keyvouch.open_signer(softhsm()) as signer:
        assert is_signed(signer.public_key, signer.sign(b"message", "ES256"), b"message", "ES256")
        assert libcrypto.ERR_peek_error() == 0


def test_what_is_no_module(tmp_path: Path) -> None:
    """A file that is missing, not a library, or not a PKCS#11 module is reported with its name.

    Nothing of it is kept, in particular no gate for fork hooks.
    """
    gates = list(forks._gates)
    text = tmp_path / "text.so"
    text.write_text("no library")
    for path, message in (
        (tmp_path / "missing.so", "There is no module at"),
        (text, "is no PKCS#11 module that can be loaded"),
        (Path(sys.modules["_ctypes"].__file__ or ""), "no C_GetFunctionList"),
        (Path("relative.so"), "is not the whole path"),
    ):
        with pytest.raises(ConfigurationError, match=message) as caught:
            keyvouch.open_signer(f"pkcs11:object=app?module-path={path}")
        assert caught.value.hint
    assert forks._gates == gates


def test_module_that_does_not_initialise(softhsm: At, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error contains the module's return value."""
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "missing.conf"))
    with pytest.raises(StoreUnavailable, match="cannot be initialised: C_Initialize"):
        keyvouch.open_signer(softhsm())


# Under load.


class Load:
    """Threads that sign and verify distinct messages until the block ends."""

    def __init__(self, signer: keyvouch.Signer, name: str, threads: int, most: int = sys.maxsize) -> None:
        self.errors: list[BaseException] = []
        self.count = 0
        self._signer, self._name, self._most = signer, name, most
        self._lock, self._done = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def _run(self) -> None:
        while not self._done.is_set():
            with self._lock:
                if self.count == self._most:
                    return
                self.count += 1
                message = b"%d" % self.count
            try:
                signature = self._signer.sign(message, self._name, timeout=15)
                assert is_signed(self._signer.public_key, signature, message, self._name)
            except BaseException as error:  # noqa: BLE001 - the test reports it
                self.errors.append(error)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._most == sys.maxsize:
            self._done.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize(("kind", "name"), [("RSA-2048", "PS256"), ("P-256", "ES256")])
def test_many_signatures(softhsm: At, kind: str, name: str, *, plenty: bool) -> None:
    """100,000 signatures by eight threads, over both algorithms, are all correct."""
    make(softhsm(), kind)
    with keyvouch.open_signer(softhsm()) as signer, Load(signer, name, 8, 50_000 if plenty else 2_000) as load:
        pass
    assert not load.errors
    assert load.count == (50_000 if plenty else 2_000)


@pytest.mark.parametrize(("kind", "name"), [("RSA-2048", "PS256"), ("P-256", "ES256")])
def test_sessions_lost_under_load(softhsm: At, kind: str, name: str, *, soak: bool) -> None:
    """If sessions are closed every 2 seconds and the process is logged out every 7, no caller gets an error."""
    make(softhsm(), kind)
    begin = time.monotonic()
    losses = outs = 0
    with keyvouch.open_signer(softhsm()) as signer, Load(signer, name, 8) as load:
        while (now := time.monotonic() - begin) < (600 if soak else 8):
            time.sleep(0.1)
            if now > 2 * (losses + 1):
                close_all_sessions(SOFTHSM)
                losses += 1
            if now > 7 * (outs + 1):
                log_out(SOFTHSM)
                outs += 1
    print(f"{load.count} signatures {name}, {losses} times all sessions closed, {outs} log-outs")
    assert not load.errors
    assert outs


_FORKING = """
import os, sys, threading
import keyvouch
from keyvouch.algorithms import ALGORITHMS
from scripted_store import is_signed
ES256 = ALGORITHMS["ES256"]

def use(signer, count):
    for number in range(count):
        message = b"%d" % number
        assert is_signed(signer.public_key, signer.sign(message, ES256, timeout=30), message, "ES256")

with keyvouch.open_signer(sys.argv[1]) as signer:
    done, errors = threading.Event(), []

    def sign():
        try:
            while not done.is_set():
                use(signer, 1)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=sign) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(int(sys.argv[2])):
        workers = []
        for _ in range(4):
            workers.append(os.fork())
            if workers[-1] == 0:
                try:
                    use(signer, 5)
                finally:
                    os._exit(0 if sys.exc_info()[0] is None else 1)
        assert [os.waitpid(worker, 0)[1] for worker in workers] == [0] * 4
    done.set()
    for thread in threads:
        thread.join()
    assert not errors, errors
"""


def test_forked_workers(softhsm: At, *, plenty: bool) -> None:
    """With four workers at a time while four threads of the parent sign, nothing hangs and all signatures are valid."""
    make(softhsm())
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _FORKING, softhsm(), "50" if plenty else "5"],
        env={**without_coverage(), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
