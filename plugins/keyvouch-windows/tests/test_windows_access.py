"""Who may use a key: the calls of Windows' DLLs, against a double of them; Wine keeps no access rules.

The rules before and after are judged by octets that advapi32's ConvertStringSecurityDescriptorToSecurityDescriptorW
made of the text beside them.
"""

from __future__ import annotations

import ctypes
import datetime as dt
import json
import struct
from dataclasses import dataclass, field
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from keyvouch.cli import group
from keyvouch.errors import AccessDenied, ConfigurationError, KeyvouchError, NotSupported, StoreUnavailable
from keyvouch.opening import Store, open_store
from keyvouch.security_descriptor import SecurityDescriptor, sid_octets
from keyvouch_windows import advapi32, crypt32, native, ncrypt
from keyvouch_windows.codes import CODES

# D:PAI(A;;0xd01f01ff;;;SY)(A;;0xd01f01ff;;;BA), as Windows gives it to a new key of the machine's
FRESH = bytes.fromhex(
    "0100049400000000000000000000000014000000020034000200000000001400ff011fd001010000000000051200000000001800ff011f"
    "d001020000000000052000000020020000"
)
# ... and (A;;0x80120089;;;NS)
WITH_NETWORK_SERVICE = bytes.fromhex(
    "0100049400000000000000000000000014000000020048000300000000001400ff011fd001010000000000051200000000001800ff011f"
    "d0010200000000000520000000200200000000140089001280010100000000000514000000"
)
# D:(D;;GA;;;S-1-5-21-1-2-3-1104)(A;;FA;;;SY)(A;ID;FR;;;S-1-5-32-545)
DENIED_AND_INHERITED = bytes.fromhex(
    "01000480000000000000000000000000140000000200580003000000010024000000001001050000000000051500000001000000020000"
    "00030000005004000000001400ff011f00010100000000000512000000001018008900120001020000000000052000000021020000"
)
NO_LIST = bytes.fromhex("0100048000000000000000000000000000000000")
SOFTWARE, LEGACY = "Microsoft Software Key Storage Provider", "Microsoft Enhanced Cryptographic Provider v1.0"
CARD = "Microsoft Smart Card Key Storage Provider"
SERVICE, GMSA, POOL = "S-1-5-21-1-2-3-1104", "S-1-5-21-1-2-3-1105", "S-1-5-82-1-2-3-4-5"
# Of a German Windows; each with its kind (SID_NAME_USE)
ACCOUNTS = {
    r"CONTOSO\somebody": ("S-1-5-21-1-2-3-1009", 1),
    r"CONTOSO\svc": (SERVICE, 1),
    r"CONTOSO\nightly$": (GMSA, 1),
    r"IIS APPPOOL\reports": (POOL, 5),
    r"NT-AUTORITÄT\SYSTEM": ("S-1-5-18", 5),
    r"NT-AUTORITÄT\Netzwerkdienst": ("S-1-5-20", 5),
    r"VORDEFINIERT\Administratoren": ("S-1-5-32-544", 4),
    r"VORDEFINIERT\Benutzer": ("S-1-5-32-545", 4),
    "Jeder": ("S-1-1-0", 5),
    "SERVER1": ("S-1-5-21-1-2-3", 3),
}
USUAL = [r"NT-AUTORITÄT\SYSTEM", r"VORDEFINIERT\Administratoren"]


@dataclass
class KeyOf:
    """A certificate's private key in the double."""

    name: str
    provider: str = SOFTWARE
    machine: bool = True
    rules: bytes = FRESH
    answers: dict[str, int] = field(default_factory=dict)
    """What a function fails with."""
    kept: bool = True
    """Whether its provider keeps new rules."""

    @property
    def legacy(self) -> bool:
        return self.provider == LEGACY


class Double:
    """Windows' functions that are called for access rules, over the keys of both locations."""

    def __init__(self) -> None:
        self.keys: list[KeyOf] = []
        self.given: list[tuple[str, int]] = []
        """Handles that are not given back."""
        self.changes = 0
        self.domain_answers = 0
        self.error = 0
        self._memory: list[Any] = []
        self._places: dict[int, KeyOf] = {}
        private_key = rsa.generate_private_key(65537, 2048)
        self.thumbprints: dict[str, str] = {}
        self._private_key = private_key

    def add_alone(self, name: str, **how: Any) -> KeyOf:
        """Add a key without a certificate."""
        self.keys.append(KeyOf(name, **how))
        return self.keys[-1]

    def add(self, name: str, **how: Any) -> KeyOf:
        key = self.add_alone(name, **how)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = dt.datetime(2026, 1, 31, 2, tzinfo=dt.UTC)
        certificate = (
            x509.CertificateBuilder(subject, subject, self._private_key.public_key(), x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + dt.timedelta(days=3650))
            .sign(self._private_key, hashes.SHA256())
        )
        der = ctypes.create_string_buffer(certificate.public_bytes(Encoding.DER))
        context = crypt32.CERT_CONTEXT(1, ctypes.addressof(der), len(der) - 1, None, None)
        self._memory += [der, context]
        self._places[ctypes.addressof(context)] = key
        self.thumbprints[name] = certificate.fingerprint(hashes.SHA1()).hex().upper()  # noqa: S303
        return key

    def fail(self, code: int) -> int:
        self.error = code
        return 0

    def open(self, kind: str, key: object) -> int:
        handle = 1000 + len(self._memory)
        self._memory.append(key)
        self.given.append((kind, handle))
        return handle

    def give_back(self, kind: str, handle: Any) -> int:
        self.given.remove((kind, handle))
        return 0

    def at(self, handle: int) -> Any:
        return self._memory[handle - 1000]

    # crypt32

    def CertOpenStore(self, _provider: int, _encoding: int, _none: None, flags: int, name: str) -> int:  # noqa: N802
        return self.open("store", flags & 0x20000) if name == "My" else self.fail(2)

    def CertCloseStore(self, store: int, _flags: int) -> int:  # noqa: N802
        return self.give_back("store", store)

    def CertEnumCertificatesInStore(self, store: int, former: int | None) -> int | None:  # noqa: N802
        there = [at for at, key in self._places.items() if key.machine == bool(self.at(store))]
        following = there[there.index(former) + 1 :] if former else there
        self.error = CODES["CRYPT_E_NOT_FOUND"]
        return next(iter(following), None)

    def CertFreeCertificateContext(self, _context: int) -> int:  # noqa: N802
        return 1

    def CertFindCertificateInStore(self, *_: object) -> None:  # noqa: N802
        return None

    def CertGetCertificateContextProperty(self, context: int, number: int, buffer: Any, size: Any) -> int:  # noqa: N802
        if number != crypt32.CERT_KEY_PROV_INFO_PROP_ID:
            return self.fail(CODES["CRYPT_E_NOT_FOUND"])
        key = self._places[context]
        info = crypt32.CRYPT_KEY_PROV_INFO(
            key.name, key.provider, int(key.legacy), 0x20 if key.machine else 0, 0, None, int(key.legacy)
        )
        self._memory.append(info)
        return self._written(bytes(info), buffer, size)

    # ncrypt

    def NCryptOpenStorageProvider(self, handle: Any, name: str, _flags: int) -> int:  # noqa: N802
        handle._obj.value = self.open("cng", name)
        return 0

    def NCryptOpenKey(self, provider: int, handle: Any, name: str, _spec: int, flags: int) -> int:  # noqa: N802
        wanted = (name, self.at(provider), bool(flags & 0x20))
        key = next((each for each in self.keys if (each.name, each.provider, each.machine) == wanted), None)
        if key is None:
            return CODES["NTE_BAD_KEYSET"]
        if code := key.answers.get("NCryptOpenKey"):
            return code
        handle._obj.value = self.open("cng", key)
        return 0

    def NCryptFreeObject(self, handle: int) -> int:  # noqa: N802
        return self.give_back("cng", handle)

    def NCryptGetProperty(self, handle: int, name: str, buffer: Any, _room: int, size: Any, flags: int) -> int:  # noqa: N802
        key = self.at(handle)
        if name == "Export Policy":
            buffer._obj.value, size._obj.value = 0, 4
            return 0
        assert (name, flags) == ("Security Descr", 4)
        if code := key.answers.get("NCryptGetProperty"):
            return int(code)
        self._written(key.rules, buffer, size)
        return 0

    def NCryptSetProperty(self, handle: int, name: str, octets: bytes, length: int, flags: int) -> int:  # noqa: N802
        assert (name, flags, length) == ("Security Descr", 4 | 0x80000000, len(octets))
        return self._changed(self.at(handle), "NCryptSetProperty", octets)

    def NCryptExportKey(self, _key: int, _with: None, kind: str, _list: None, buffer: Any, *rest: Any) -> int:  # noqa: N802
        numbers = self._private_key.public_key().public_numbers()
        assert kind == "RSAPUBLICBLOB"
        blob = struct.pack("<6I", 0x31415352, 2048, 3, 256, 0, 0) + numbers.e.to_bytes(3) + numbers.n.to_bytes(256)
        self._written(blob, buffer, rest[1])
        return 0

    # advapi32

    def CryptEnumProvidersW(self, *_: object) -> int:  # noqa: N802
        return self.fail(259)

    def CryptAcquireContextW(self, handle: Any, name: str, provider: str, kind: int, flags: int) -> int:  # noqa: N802
        assert (provider, kind) == ("Microsoft Enhanced RSA and AES Cryptographic Provider", 24)
        key = next(each for each in self.keys if (each.name, each.machine) == (name, bool(flags & 0x20)))
        handle._obj.value = self.open("csp", key)
        return 1

    def CryptReleaseContext(self, handle: int, _flags: int) -> int:  # noqa: N802
        return self.give_back("csp", handle)

    def CryptGetUserKey(self, *_: object) -> int:  # noqa: N802
        return self.fail(CODES["NTE_NO_KEY"])

    def CryptGetProvParam(self, handle: int, what: int, buffer: Any, size: Any, flags: int) -> int:  # noqa: N802
        assert (what, flags) == (8, 4)
        return self._written(self.at(handle).rules, buffer, size)

    def CryptSetProvParam(self, handle: int, what: int, octets: bytes, flags: int) -> int:  # noqa: N802
        assert (what, flags) == (8, 4)
        code = self._changed(self.at(handle), "CryptSetProvParam", octets)
        return self.fail(code) if code else 1

    def LookupAccountNameW(  # noqa: N802
        self, _system: None, name: str, sid: Any, size: Any, domain: Any, domain_size: Any, kind: Any
    ) -> int:
        if self.domain_answers:
            return self.fail(self.domain_answers)
        found = next((told for known, told in ACCOUNTS.items() if known.lower() == name.lower()), None)
        if found is None:
            return self.fail(1332)
        kind._obj.value = found[1]
        self._written(sid_octets(found[0]), sid, size)
        return 1 if self._text("", domain, domain_size) else self.fail(122)

    def LookupAccountSidW(  # noqa: N802
        self, _system: None, sid: bytes, name: Any, size: Any, domain: Any, domain_size: Any, kind: Any
    ) -> int:
        if self.domain_answers:
            return self.fail(self.domain_answers)
        found = next((known for known, told in ACCOUNTS.items() if sid_octets(told[0]) == sid), None)
        if found is None:
            return self.fail(1332)
        kind._obj.value = ACCOUNTS[found][1]
        before, _, after = found.rpartition("\\")
        written = [self._text(after, name, size), self._text(before, domain, domain_size)]
        return 1 if all(written) else self.fail(122)

    def GetTokenInformation(self, _token: int, _what: int, buffer: Any, *_: object) -> int:  # noqa: N802
        told = struct.pack("<QQ", ctypes.addressof(buffer) + 16, 0) + sid_octets(ACCOUNTS[r"CONTOSO\somebody"][0])
        ctypes.memmove(buffer, told, len(told))
        return 1

    def _changed(self, key: KeyOf, function: str, octets: bytes) -> int:
        if code := key.answers.get(function):
            return code
        self.changes += 1
        if key.kept:
            key.rules = octets
        return 0

    @staticmethod
    def _written(octets: bytes, buffer: Any, size: Any) -> int:
        size._obj.value = len(octets)
        if buffer is not None:
            ctypes.memmove(buffer, octets, len(octets))
        return 1

    @staticmethod
    def _text(text: str, buffer: Any, size: Any) -> bool:
        size._obj.value = len(text) + (buffer is None)
        if buffer is not None:
            buffer.value = text
        return buffer is not None


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Windows' DLLs, as far as they are called here; in the end every handle is given back."""
    made = Double()
    for library in (crypt32, ncrypt, advapi32):
        calls = {name: getattr(made, name) for name in library._dll.signatures if hasattr(made, name)}
        monkeypatch.setattr(library._dll, "functions", calls)
    monkeypatch.setattr(native, "_last_error_of_ctypes", lambda: made.error)
    yield made
    assert made.given == []


def opened(double: Double, key: KeyOf) -> Store:
    location = "LocalMachine" if key.machine else "CurrentUser"
    return open_store(f"windows:thumbprint={double.thumbprints[key.name]};location={location}")


def refused(store: Store, account: str, *, revoke: bool = False) -> KeyvouchError:
    with pytest.raises(KeyvouchError) as caught:
        (store.revoke if revoke else store.grant)(account)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("provider", [SOFTWARE, LEGACY])
def test_granted_as_microsofts_own_samples_are(double: Double, provider: str) -> None:
    """NETWORK SERVICE gets the mask that Microsoft's documentation gives it, and the list is as Windows writes it."""
    key = double.add("key", provider=provider)
    with opened(double, key) as store:
        assert store.readers() == USUAL
        for _ in range(2):
            store.grant("NETWORK SERVICE")

        assert (key.rules, double.changes) == (WITH_NETWORK_SERVICE, 1)
        assert store.readers() == [*USUAL, r"NT-AUTORITÄT\Netzwerkdienst"]

        for _ in range(2):
            store.revoke(r"NT AUTHORITY\Network Service")
        assert (key.rules, double.changes) == (FRESH, 2)


@pytest.mark.parametrize(
    ("written", "named"),
    [
        (r"CONTOSO\svc", r"CONTOSO\svc"),
        (r"contoso\Nightly$", r"CONTOSO\nightly$"),
        (r"IIS AppPool\reports", r"IIS APPPOOL\reports"),
        (r"BUILTIN\Users", r"VORDEFINIERT\Benutzer"),
        ("users", r"VORDEFINIERT\Benutzer"),
        (r"VORDEFINIERT\Benutzer", r"VORDEFINIERT\Benutzer"),
        ("S-1-5-32-545", r"VORDEFINIERT\Benutzer"),
        ("s-1-5-21-9-9-9-500", "S-1-5-21-9-9-9-500"),
    ],
)
def test_account_has_several_spellings(double: Double, written: str, named: str) -> None:
    """An account is known by its SID: in English on any Windows, and in its own language; a stranger by the SID."""
    key = double.add("key")
    with opened(double, key) as store:
        store.grant(written)
        assert store.readers() == [*USUAL, named]
        store.revoke(written)
        assert key.rules == FRESH


@pytest.mark.parametrize(
    ("account", "remedy"),
    [
        (r"CONTOSO\nightly", r"CONTOSO\nightly$"),
        (r"CONTOSO\nobody", r"DOMAIN\name$"),
        (r"NT SERVICE\job", "sc.exe query job"),
        (r"IIS AppPool\other", "Start the application pool once"),
        ("SERVER1", r"DOMAIN\name"),
        ("S-1-5-x", "whoami /user"),
    ],
)
def test_unknown_account_is_told(double: Double, account: str, remedy: str) -> None:
    """Who mistypes an account reads how it is written; a computer's own name is no account."""
    with opened(double, double.add("key")) as store:
        error = refused(store, account)
    assert isinstance(error, ConfigurationError)
    assert account in error.message
    assert remedy in str(error.hint)
    assert double.changes == 0


def test_domain_that_does_not_answer_is_told(double: Double) -> None:
    """Without the domain's controller a name cannot be looked up; SIDs serve, and are shown."""
    double.domain_answers = 1722
    with opened(double, double.add("key")) as store:
        assert isinstance(refused(store, r"CONTOSO\svc"), StoreUnavailable)
        store.grant(SERVICE)
        assert store.readers() == ["S-1-5-18", "S-1-5-32-544", SERVICE]


def test_denied_account_is_told(double: Double) -> None:
    """A denial goes before any permission: granting would not help, and changes nothing."""
    with opened(double, double.add("key", rules=DENIED_AND_INHERITED)) as store:
        assert store.readers() == [r"NT-AUTORITÄT\SYSTEM", r"VORDEFINIERT\Benutzer"]
        error = refused(store, r"CONTOSO\svc")
    assert isinstance(error, AccessDenied)
    assert "denies" in str(error)
    assert double.changes == 0


def test_inherited_permission_is_told(double: Double) -> None:
    """What is inherited cannot be taken away at the key, and need not be granted."""
    with opened(double, double.add("key", rules=DENIED_AND_INHERITED)) as store:
        store.grant("Users")
        error = refused(store, "Users", revoke=True)
    assert isinstance(error, NotSupported)
    assert "folder" in str(error)
    assert double.changes == 0


def test_nobody_elses_rule_is_touched(double: Double) -> None:
    """Denials stay first, what is inherited last; the rules of others are the same afterwards."""
    key = double.add("key", rules=DENIED_AND_INHERITED)
    before = SecurityDescriptor.from_bytes(key.rules).dacl or ()
    with opened(double, key) as store:
        store.grant(r"CONTOSO\nightly$")
        granted = SecurityDescriptor.from_bytes(key.rules).dacl or ()
        store.revoke(r"CONTOSO\nightly$")

    assert [*granted[:2], granted[3]] == [*before]
    assert granted[2].sid == GMSA
    assert SecurityDescriptor.from_bytes(key.rules).dacl == before


def test_key_without_rules_is_everyones(double: Double) -> None:
    """Without a list everyone may sign: there is nothing to grant, and nothing to revoke from."""
    with opened(double, double.add("key", rules=NO_LIST)) as store:
        assert store.readers() == ["Jeder"]
        store.grant(r"CONTOSO\svc")
        assert "everyone may use it" in str(refused(store, r"CONTOSO\svc", revoke=True))
    assert double.changes == 0


def test_key_of_the_user_is_not_granted(double: Double) -> None:
    """Other accounts cannot see CurrentUser; who may use the key is told, and can be taken away."""
    with opened(double, double.add("key", machine=False)) as store:
        assert store.readers() == USUAL
        error = refused(store, r"CONTOSO\svc")
        assert isinstance(error, NotSupported)
        assert "location=LocalMachine" in str(error.hint)
        store.revoke("Administrators")
        assert store.readers() == [r"NT-AUTORITÄT\SYSTEM"]


def test_key_without_certificate_is_granted(double: Double) -> None:
    """A key that is known by its container alone is granted as well, wherever it is found."""
    key = double.add_alone("key")
    with open_store(f"windows:provider={SOFTWARE};container=key") as store:
        store.grant("NETWORK SERVICE")
    assert key.rules == WITH_NETWORK_SERVICE


def test_card_has_no_rules(double: Double) -> None:
    """Of a smart card's key nothing can be granted: who has the PIN may sign."""
    answers = {"NCryptGetProperty": CODES["NTE_NOT_SUPPORTED"]}
    with opened(double, double.add("key", provider=CARD, answers=answers)) as store:
        for error in (refused(store, r"CONTOSO\svc"), refused(store, r"CONTOSO\svc", revoke=True)):
            assert isinstance(error, NotSupported)
            assert "PIN" in str(error.hint)


@pytest.mark.parametrize(
    ("function", "provider", "code"),
    [
        ("NCryptOpenKey", SOFTWARE, "NTE_BAD_KEYSET"),
        ("NCryptSetProperty", SOFTWARE, "NTE_PERM"),
        ("CryptSetProvParam", LEGACY, "ERROR_ACCESS_DENIED"),
    ],
)
def test_administrator_is_needed(double: Double, function: str, provider: str, code: str) -> None:
    """Who may not change the rules reads that an administrator may."""
    key = double.add("key", provider=provider, answers={function: CODES[code]})
    with opened(double, key) as store:
        error = refused(store, r"CONTOSO\svc")
    assert isinstance(error, AccessDenied)
    assert r"CONTOSO\somebody" in str(error)
    assert "administrator" in str(error.hint)


def test_provider_that_does_not_keep_them_is_told(double: Double) -> None:
    """Success is not believed: the rules are read again."""
    with opened(double, double.add("key", kept=False)) as store:
        assert "did not keep" in str(refused(store, r"CONTOSO\svc"))


def test_listing_tells_provider_and_readers(double: Double) -> None:
    """Each key is listed with its provider and who may sign; one that cannot be opened too."""
    double.add("ours")
    double.add("legacy", provider=LEGACY, rules=WITH_NETWORK_SERVICE)
    double.add("foreign", answers={"NCryptOpenKey": CODES["NTE_BAD_KEYSET"]})
    with open_store("windows:location=LocalMachine") as store:
        found = store.keys()
    listed = {str(info.subject): (info.provider, info.exportable, info.readers) for info in found}

    assert listed == {
        "CN=ours": (SOFTWARE, False, tuple(USUAL)),
        "CN=legacy": (LEGACY, None, (*USUAL, r"NT-AUTORITÄT\Netzwerkdienst")),
        "CN=foreign": (SOFTWARE, None, None),
    }


def test_command_shows_before_and_after(double: Double) -> None:
    """A person reads what changed and what to do next; a script gets both lists."""
    key = double.add("nightly")
    uri = f"windows:thumbprint={double.thumbprints[key.name]};location=LocalMachine"

    def keyvouch(*arguments: str) -> Result:
        done = CliRunner().invoke(group, [*arguments])
        assert done.exit_code == 0, done.output
        return done

    told = json.loads(keyvouch("grant", r"CONTOSO\nightly$", "--key", uri, "--output", "json").output)
    assert told == {"before": USUAL, "after": [*USUAL, r"CONTOSO\nightly$"]}
    shown = keyvouch("grant", "--revoke", r"CONTOSO\nightly$", "--key", uri).stdout
    assert shown.splitlines() == [rf"  {USUAL[0]}", rf"  {USUAL[1]}", r"- CONTOSO\nightly$"]
    listed = keyvouch("keys", "--key", "windows:location=LocalMachine").stdout
    assert f"{SOFTWARE}; may sign: {', '.join(USUAL)}" in listed
