"""A simulated Windows in this process: crypt32, ncrypt and advapi32 as documented, for the plugin's own bindings.

    scripted = installed(monkeypatch)
    scripted.add(make_key("RSA-2048"), Container(SOFTWARE, "name"))
    scripted.fail("NCryptSignHash", NTE_SILENT_CONTEXT)

Stores, certificates and keys are `scripted.stores`, `scripted.cng` and `scripted.csp`; calls are in `scripted.calls`;
`assert_nothing_held` asserts that every handle was released exactly once.
"""
# ruff: noqa: N802 - functions have their names in Windows

from __future__ import annotations

import ctypes
import datetime as dt
from collections import deque
from dataclasses import dataclass, field

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, pkcs12

from keyvouch.certificate import thumbprint
from keyvouch_windows.crypt32 import CERT_CONTEXT, CRYPT_DATA_BLOB, CRYPT_KEY_PROV_INFO, Container
from keyvouch_windows.error_codes import CODES
from scripted_calls import FailsError, MisuseError, answer_octets, put_handle, put_number
from scripted_keys import (
    CSPS,
    MORE_DATA,
    OLD_CSP,
    SOFTWARE,
    AnyKey,
    Kept,
    Key,
    Keys,
    require,
    wide,
)
from scripted_keys import Container as OpenContainer

CURRENT_USER, LOCAL_MACHINE = 0x10000, 0x20000
READONLY, OPEN_EXISTING = 0x8000, 0x4000
ACQUIRE_SILENT, PREFER_CNG = 0x40, 0x20000
EXPORTABLE, USER_KEYSET, MACHINE_KEYSET, PREFER_CNG_KSP = 0x1, 0x1000, 0x20, 0x100
CNG_SPEC = 0xFFFFFFFF
INVALID_PASSWORD, ACCESS_DENIED = 86, 0x80070005


@dataclass
class Held:
    """A certificate in a store."""

    der: bytes
    place: Container | None = None
    friendly_name: bytes | None = None
    lends: bool = False
    """Whether Windows keeps the key open with the certificate and only lends its handle."""


@dataclass
class Store:
    """An open store."""

    certificates: list[Held]
    readonly: bool = False


@dataclass
class Certificate:
    """A certificate context; its handle points to `memory`."""

    held: Held
    store: Store
    memory: CERT_CONTEXT
    octets: ctypes.Array[ctypes.c_char]
    holders: int = 1
    lent: int = 0
    """The handle of its key if that is lent, otherwise 0."""
    place_in_store: int = field(default=0)


class ScriptedWindows(Keys):
    """A simulated Windows; see the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.stores: dict[tuple[int, str], list[Held]] = {
            (location, name): [] for location in (CURRENT_USER, LOCAL_MACHINE) for name in ("my", "ca", "root")
        }
        self.legacy_keys_by_cng = False
        """Whether CNG opens keys of legacy providers, as the software provider does on real Windows."""
        self.refuses_cng_for_pfx: int | None = None
        """The error code for PFX imports into CNG, or None; Wine's is 0, without a reason."""
        self.only_reads: set[int] = set()
        """Locations that this account may only read."""
        self._quarantine: deque[Certificate] = deque(maxlen=5000)
        """Released certificates, kept so that their addresses are not reused soon."""

    # Setup.

    def add(
        self,
        key: AnyKey,
        place: Container,
        *,
        subject: str = "CN=app",
        exportable: bool = False,
        friendly_name: str | None = None,
    ) -> x509.Certificate:
        """Add a key in this container, and its certificate to the store My of the same location."""
        kept = Kept(key, exportable=exportable)
        if place.type:
            self.csp.setdefault((place.name, place.machine), {})[place.spec] = kept
        else:
            self.cng[place.provider, place.name, place.machine] = kept
        certificate = certified(key, subject)
        name = None if friendly_name is None else (friendly_name + "\0").encode("utf-16-le")
        self.my(machine=place.machine).append(Held(certificate.public_bytes(Encoding.DER), place, name))
        return certificate

    def my(self, *, machine: bool) -> list[Held]:
        """Return the certificates of the store My."""
        return self.stores[LOCAL_MACHINE if machine else CURRENT_USER, "my"]

    # crypt32.dll

    def CertOpenStore(self, provider: int, encoding: int, unused: int | None, flags: int, name: str) -> int:
        require(flags, CURRENT_USER | LOCAL_MACHINE | READONLY | OPEN_EXISTING)
        if provider not in (10, 13):  # the logical store, or the physical one in the registry: the same here
            raise MisuseError(f"provider {provider}")
        at = flags & 0xFF0000, name.lower()
        if at[0] in self.only_reads and not flags & READONLY:
            raise FailsError(CODES["ERROR_ACCESS_DENIED"])
        if at not in self.stores:
            if flags & OPEN_EXISTING:
                raise FailsError(CODES["ERROR_FILE_NOT_FOUND"])
            self.stores[at] = []
        return self.hand_out(Store(self.stores[at], readonly=bool(flags & READONLY)))

    def CertCloseStore(self, store: int, flags: int) -> None:
        require(flags, 0)
        self.at(store, Store)

    def CertEnumCertificatesInStore(self, store: int, before: int | None) -> int:
        return self._next(store, before, subject=None)

    def CertFindCertificateInStore(
        self, store: int, encoding: int, flags: int, kind: int, what: int, before: int | None
    ) -> int:
        if (encoding, flags, kind) != (1, 0, 0x20007):
            raise MisuseError(f"looked for by {kind:#x}")
        blob = CRYPT_DATA_BLOB.from_address(what)
        return self._next(store, before, subject=ctypes.string_at(blob.pbData, blob.cbData))

    def _next(self, handle: int, before: int | None, *, subject: bytes | None) -> int:
        store = self.at(handle, Store)
        begin = self.at(before, Certificate).place_in_store + 1 if before else 0
        for number, held in enumerate(store.certificates[begin:], begin):
            if subject in (None, x509.load_der_x509_certificate(held.der).subject.public_bytes()):
                return self._hold(held, store, number)
        raise FailsError(CODES["CRYPT_E_NOT_FOUND"])

    def _hold(self, held: Held, store: Store, number: int) -> int:
        octets = ctypes.create_string_buffer(held.der, len(held.der))
        memory = CERT_CONTEXT(1, ctypes.addressof(octets), len(octets), None, None)
        made = Certificate(held, store, memory, octets, place_in_store=number)
        return self.hand_out(made, ctypes.addressof(memory))

    def CertDuplicateCertificateContext(self, context: int) -> int:
        self.at(context, Certificate).holders += 1
        self.given["Certificate"] += 1
        return context

    def CertFreeCertificateContext(self, context: int) -> None:
        self.at(context, Certificate)

    def give_back(self, handle: int) -> None:
        """Keep a certificate, and the key that it lends, until its last holder releases it."""
        thing = self.at(handle, object)
        if isinstance(thing, Certificate):
            thing.holders -= 1
            if thing.holders:
                self.returned["Certificate"] += 1
                return
            if thing.lent:
                self.take_back(thing.lent)
            thing.memory.pbCertEncoded = None
            self._quarantine.append(thing)
        self.take_back(handle)

    def CertGetCertificateContextProperty(self, context: int, number: int, buffer: int | None, size: int) -> None:
        held = self.at(context, Certificate).held
        room = ctypes.c_uint32.from_address(size).value
        if number == 11 and held.friendly_name is not None:
            answer_octets(held.friendly_name, buffer, room, size, MORE_DATA)
        elif number == 2 and held.place is not None:
            self._answer_place(held.place, buffer, room, size)
        else:
            raise FailsError(CODES["CRYPT_E_NOT_FOUND"])

    def _answer_place(self, place: Container, buffer: int | None, room: int, size: int) -> None:
        """Write a structure, followed by the texts it points to."""
        name, provider = wide(place.name), wide(place.provider)
        head = ctypes.sizeof(CRYPT_KEY_PROV_INFO)
        answer_octets(bytes(head) + name + provider, buffer, room, size, MORE_DATA)
        if buffer is not None:
            told = CRYPT_KEY_PROV_INFO.from_address(buffer)
            told.dwProvType, told.dwKeySpec = place.type, place.spec
            told.dwFlags = MACHINE_KEYSET if place.machine else 0
            put_handle(buffer + CRYPT_KEY_PROV_INFO.pwszContainerName.offset, buffer + head)
            put_handle(buffer + CRYPT_KEY_PROV_INFO.pwszProvName.offset, buffer + head + len(name))

    def CertSetCertificateContextProperty(self, context: int, number: int, flags: int, value: int) -> None:
        certificate = self.at(context, Certificate)
        if certificate.store.readonly:
            raise FailsError(ACCESS_DENIED)
        if number == 2:
            told = CRYPT_KEY_PROV_INFO.from_address(value)
            machine = bool(told.dwFlags & MACHINE_KEYSET)
            certificate.held.place = Container(
                told.pwszProvName, told.pwszContainerName, told.dwProvType, machine, told.dwKeySpec
            )
        elif number == 11 and not value:
            certificate.held.friendly_name = None
        elif number == 11:
            blob = CRYPT_DATA_BLOB.from_address(value)
            certificate.held.friendly_name = ctypes.string_at(blob.pbData, blob.cbData)
        else:
            raise MisuseError(f"property {number}")

    def CertAddEncodedCertificateToStore(
        self, store: int, encoding: int, octets: int, length: int, disposition: int, out: int
    ) -> None:
        opened, der = self.at(store, Store), ctypes.string_at(octets, length)
        if opened.readonly:
            raise FailsError(ACCESS_DENIED)
        there = [each.der for each in opened.certificates]
        if der in there and disposition == 1:
            raise FailsError(CODES["CRYPT_E_EXISTS"])
        if der not in there:
            opened.certificates.append(Held(der))
            there.append(der)
        number = there.index(der)
        put_handle(out, self._hold(opened.certificates[number], opened, number))

    def CertDeleteCertificateFromStore(self, context: int) -> None:
        certificate = self.at(context, Certificate)
        if certificate.store.readonly:
            raise FailsError(ACCESS_DENIED)
        certificate.store.certificates.remove(certificate.held)

    def CryptAcquireCertificatePrivateKey(
        self, context: int, flags: int, parameters: int | None, handle: int, spec: int, owned: int
    ) -> None:
        require(flags, ACQUIRE_SILENT | PREFER_CNG)
        certificate = self.at(context, Certificate)
        place = certificate.held.place
        if place is None:
            raise FailsError(CODES["CRYPT_E_NO_KEY_PROPERTY"])
        if place.type and not self.legacy_keys_by_cng:
            self._require_container(place)
            put_handle(handle, self.hand_out(OpenContainer(place.provider, (place.name, place.machine))))
            put_number(spec, place.spec)
            put_number(owned, 1)
            return
        lends = certificate.held.lends
        if not lends or not certificate.lent:
            opened = self.hand_out(Key((place.provider, place.name, place.machine), self._kept_at(place), lent=lends))
            certificate.lent = opened if lends else 0
        put_handle(handle, certificate.lent or opened)
        put_number(spec, CNG_SPEC)
        put_number(owned, 0 if lends else 1)

    def _kept_at(self, place: Container) -> Kept:
        if place.type:
            self._require_container(place)
            return self.csp[place.name, place.machine][place.spec]
        return self.kept((place.provider, place.name, place.machine))

    def _require_container(self, place: Container) -> None:
        if (place.name, place.machine) not in self.csp:
            raise FailsError(CODES["NTE_BAD_KEYSET"])

    def PFXImportCertStore(self, blob: int, password: str, flags: int) -> int:
        require(flags, EXPORTABLE | USER_KEYSET | MACHINE_KEYSET | PREFER_CNG_KSP)
        given = CRYPT_DATA_BLOB.from_address(blob)
        if flags & PREFER_CNG_KSP and self.refuses_cng_for_pfx is not None:
            raise FailsError(self.refuses_cng_for_pfx)
        try:
            key, leaf, others = pkcs12.load_key_and_certificates(
                ctypes.string_at(given.pbData, given.cbData), password.encode()
            )
        except ValueError:
            raise FailsError(INVALID_PASSWORD) from None
        assert leaf
        machine, exportable = bool(flags & MACHINE_KEYSET), bool(flags & EXPORTABLE)
        name = f"{{{len(self.cng) + len(self.csp)}}}"
        kept = Kept(key, exportable=exportable)  # type: ignore[arg-type]  # RSA or EC
        if flags & PREFER_CNG_KSP:
            place = Container(SOFTWARE, name, machine=machine)
            self.cng[SOFTWARE, name, machine] = kept
        else:
            if not isinstance(key, RSAPrivateKey):
                raise FailsError(CODES["NTE_BAD_ALGID"])
            place = Container(OLD_CSP, name, CSPS[OLD_CSP], machine, 1)
            self.csp[name, machine] = {1: kept}
        certificates = [Held(leaf.public_bytes(Encoding.DER), place)]
        certificates += [Held(each.public_bytes(Encoding.DER)) for each in others]
        return self.hand_out(Store(certificates))


def installed(monkeypatch: pytest.MonkeyPatch) -> ScriptedWindows:
    """Return a new simulated Windows, installed behind the plugin's bindings until the test ends."""
    double = ScriptedWindows()
    double.install(monkeypatch)
    return double


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> ScriptedWindows:
    """Return a new simulated Windows for the test."""
    return installed(monkeypatch)


def uri_of(certificate: x509.Certificate) -> str:
    """Return the URI of a certificate, without its location."""
    return f"windows:thumbprint={thumbprint(certificate, 'sha1')}"


def pinned(certificate: x509.Certificate, location: str = "CurrentUser") -> str:
    """Return the pinned URI of a certificate in a location."""
    return f"{uri_of(certificate)};store=My;location={location}"


def certified(key: AnyKey, subject: str = "CN=app") -> x509.Certificate:
    """Return a self-signed certificate that is currently valid."""
    name, now = x509.Name.from_rfc4514_string(subject), dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=30))
    return builder.sign(key, SHA256())
