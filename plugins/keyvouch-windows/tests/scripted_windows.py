"""A simulated Windows in this process: crypt32, ncrypt and advapi32 as documented, for the plugin's own bindings.

    scripted = install_double(monkeypatch)
    scripted.add(make_key("RSA-2048"), Container(SOFTWARE, "name"))
    scripted.fail("NCryptSignHash", NTE_SILENT_CONTEXT)

Stores, certificates and keys are `scripted.stores`, `scripted.cng` and `scripted.csp`; calls are in `scripted.calls`;
`assert_all_released` asserts that every handle was released exactly once.
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
from scripted_calls import CallFailedError, MisuseError, write_dword, write_output, write_pointer
from scripted_key_formats import AnyKey
from scripted_keys import (
    CSPS,
    MORE_DATA,
    OLD_CSP,
    SOFTWARE,
    Key,
    KeyRecord,
    Keys,
    OpenContainer,
    require,
    wide,
)

CURRENT_USER, LOCAL_MACHINE = 0x10000, 0x20000
READONLY, OPEN_EXISTING = 0x8000, 0x4000
ACQUIRE_SILENT, PREFER_CNG = 0x40, 0x20000
EXPORTABLE, USER_KEYSET, MACHINE_KEYSET, PREFER_CNG_KSP = 0x1, 0x1000, 0x20, 0x100
CNG_SPEC = 0xFFFFFFFF
INVALID_PASSWORD, ACCESS_DENIED = 86, 0x80070005


@dataclass
class CertificateRecord:
    """A certificate in a store."""

    der: bytes
    container: Container | None = None
    friendly_name: bytes | None = None
    caches_handle: bool = False
    """Whether Windows keeps the key open with the certificate and only lends its handle."""


@dataclass
class Store:
    """An open store."""

    certificates: list[CertificateRecord]
    readonly: bool = False


@dataclass
class Certificate:
    """A certificate context; its handle points to `memory`."""

    record: CertificateRecord
    store: Store
    memory: CERT_CONTEXT
    data: ctypes.Array[ctypes.c_char]
    reference_count: int = 1
    cached: int = 0
    """The handle of its key if that is cached, otherwise 0."""
    index: int = field(default=0)


class ScriptedWindows(Keys):
    """A simulated Windows; see the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.stores: dict[tuple[int, str], list[CertificateRecord]] = {
            (location, name): [] for location in (CURRENT_USER, LOCAL_MACHINE) for name in ("my", "ca", "root")
        }
        self.cng_opens_legacy_keys = False
        """Whether CNG opens keys of legacy providers, as the software provider does on real Windows."""
        self.pfx_cng_error: int | None = None
        """The error code for PFX imports into CNG, or None; Wine's is 0, without a reason."""
        self.read_only_locations: set[int] = set()
        """Locations that this account may only read."""
        self._quarantine: deque[Certificate] = deque(maxlen=5000)
        """Released certificates, kept so that their addresses are not reused soon."""

    # Setup.

    def add(
        self,
        key: AnyKey,
        container: Container,
        *,
        subject: str = "CN=app",
        exportable: bool = False,
        friendly_name: str | None = None,
        days: int = 30,
    ) -> x509.Certificate:
        """Add a key in this container, and its certificate, valid for some days, to the store My of its location."""
        record = KeyRecord(key, exportable=exportable)
        if container.type:
            self.csp.setdefault((container.name, container.machine), {})[container.spec] = record
        else:
            self.cng[container.provider, container.name, container.machine] = record
        certificate = make_certificate(key, subject, days)
        name = None if friendly_name is None else (friendly_name + "\0").encode("utf-16-le")
        self.my(machine=container.machine).append(
            CertificateRecord(certificate.public_bytes(Encoding.DER), container, name)
        )
        return certificate

    def my(self, *, machine: bool) -> list[CertificateRecord]:
        """Return the certificates of the store My."""
        return self.stores[LOCAL_MACHINE if machine else CURRENT_USER, "my"]

    # crypt32.dll

    def CertOpenStore(self, provider: int, encoding: int, unused: int | None, flags: int, name: str) -> int:
        require(flags, CURRENT_USER | LOCAL_MACHINE | READONLY | OPEN_EXISTING)
        if provider not in (10, 13):  # the logical store, or the physical one in the registry: the same here
            raise MisuseError(f"provider {provider}")
        at = flags & 0xFF0000, name.lower()
        if at[0] in self.read_only_locations and not flags & READONLY:
            raise CallFailedError(CODES["ERROR_ACCESS_DENIED"])
        if at not in self.stores:
            if flags & OPEN_EXISTING:
                raise CallFailedError(CODES["ERROR_FILE_NOT_FOUND"])
            self.stores[at] = []
        return self.new_handle(Store(self.stores[at], readonly=bool(flags & READONLY)))

    def CertCloseStore(self, store: int, flags: int) -> None:
        require(flags, 0)
        self.get_object(store, Store)

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
        store = self.get_object(handle, Store)
        begin = self.get_object(before, Certificate).index + 1 if before else 0
        for number, record in enumerate(store.certificates[begin:], begin):
            if subject in (None, x509.load_der_x509_certificate(record.der).subject.public_bytes()):
                return self._hold(record, store, number)
        raise CallFailedError(CODES["CRYPT_E_NOT_FOUND"])

    def _hold(self, record: CertificateRecord, store: Store, number: int) -> int:
        data = ctypes.create_string_buffer(record.der, len(record.der))
        memory = CERT_CONTEXT(1, ctypes.addressof(data), len(data), None, None)
        made = Certificate(record, store, memory, data, index=number)
        return self.new_handle(made, ctypes.addressof(memory))

    def CertDuplicateCertificateContext(self, context: int) -> int:
        self.get_object(context, Certificate).reference_count += 1
        self.handles_created["Certificate"] += 1
        return context

    def CertFreeCertificateContext(self, context: int) -> None:
        self.get_object(context, Certificate)

    def release(self, handle: int) -> None:
        """Keep a certificate, and the key that it caches_handle, until its last holder releases it."""
        thing = self.get_object(handle, object)
        if isinstance(thing, Certificate):
            thing.reference_count -= 1
            if thing.reference_count:
                self.handles_released["Certificate"] += 1
                return
            if thing.cached:
                self.invalidate(thing.cached)
            thing.memory.pbCertEncoded = None
            self._quarantine.append(thing)
        self.invalidate(handle)

    def CertGetCertificateContextProperty(self, context: int, number: int, buffer: int | None, size: int) -> None:
        record = self.get_object(context, Certificate).record
        capacity = ctypes.c_uint32.from_address(size).value
        if number == 11 and record.friendly_name is not None:
            write_output(record.friendly_name, buffer, capacity, size, MORE_DATA)
        elif number == 2 and record.container is not None:
            self._write_key_info(record.container, buffer, capacity, size)
        else:
            raise CallFailedError(CODES["CRYPT_E_NOT_FOUND"])

    def _write_key_info(self, container: Container, buffer: int | None, capacity: int, size: int) -> None:
        """Write a structure, followed by the texts it points to."""
        name, provider = wide(container.name), wide(container.provider)
        head = ctypes.sizeof(CRYPT_KEY_PROV_INFO)
        write_output(bytes(head) + name + provider, buffer, capacity, size, MORE_DATA)
        if buffer is not None:
            info = CRYPT_KEY_PROV_INFO.from_address(buffer)
            info.dwProvType, info.dwKeySpec = container.type, container.spec
            info.dwFlags = MACHINE_KEYSET if container.machine else 0
            write_pointer(buffer + CRYPT_KEY_PROV_INFO.pwszContainerName.offset, buffer + head)
            write_pointer(buffer + CRYPT_KEY_PROV_INFO.pwszProvName.offset, buffer + head + len(name))

    def CertSetCertificateContextProperty(self, context: int, number: int, flags: int, value: int) -> None:
        certificate = self.get_object(context, Certificate)
        if certificate.store.readonly:
            raise CallFailedError(ACCESS_DENIED)
        if number == 2:
            info = CRYPT_KEY_PROV_INFO.from_address(value)
            machine = bool(info.dwFlags & MACHINE_KEYSET)
            certificate.record.container = Container(
                info.pwszProvName, info.pwszContainerName, info.dwProvType, machine, info.dwKeySpec
            )
        elif number == 11 and not value:
            certificate.record.friendly_name = None
        elif number == 11:
            blob = CRYPT_DATA_BLOB.from_address(value)
            certificate.record.friendly_name = ctypes.string_at(blob.pbData, blob.cbData)
        else:
            raise MisuseError(f"property {number}")

    def CertAddEncodedCertificateToStore(
        self, store: int, encoding: int, data: int, length: int, disposition: int, out: int
    ) -> None:
        opened, der = self.get_object(store, Store), ctypes.string_at(data, length)
        if opened.readonly:
            raise CallFailedError(ACCESS_DENIED)
        there = [each.der for each in opened.certificates]
        if der in there and disposition == 1:
            raise CallFailedError(CODES["CRYPT_E_EXISTS"])
        if der not in there:
            opened.certificates.append(CertificateRecord(der))
            there.append(der)
        number = there.index(der)
        write_pointer(out, self._hold(opened.certificates[number], opened, number))

    def CertDeleteCertificateFromStore(self, context: int) -> None:
        certificate = self.get_object(context, Certificate)
        if certificate.store.readonly:
            raise CallFailedError(ACCESS_DENIED)
        certificate.store.certificates.remove(certificate.record)

    def CryptAcquireCertificatePrivateKey(
        self, context: int, flags: int, parameters: int | None, handle: int, spec: int, owned: int
    ) -> None:
        require(flags, ACQUIRE_SILENT | PREFER_CNG)
        certificate = self.get_object(context, Certificate)
        container = certificate.record.container
        if container is None:
            raise CallFailedError(CODES["CRYPT_E_NO_KEY_PROPERTY"])
        if container.type and not self.cng_opens_legacy_keys:
            self._require_container(container)
            write_pointer(
                handle, self.new_handle(OpenContainer(container.provider, (container.name, container.machine)))
            )
            write_dword(spec, container.spec)
            write_dword(owned, 1)
            return
        caches_handle = certificate.record.caches_handle
        if not caches_handle or not certificate.cached:
            opened = self.new_handle(
                Key(
                    (container.provider, container.name, container.machine),
                    self._record_at(container),
                    cached=caches_handle,
                )
            )
            certificate.cached = opened if caches_handle else 0
        write_pointer(handle, certificate.cached or opened)
        write_dword(spec, CNG_SPEC)
        write_dword(owned, 0 if caches_handle else 1)

    def _record_at(self, container: Container) -> KeyRecord:
        if container.type:
            self._require_container(container)
            return self.csp[container.name, container.machine][container.spec]
        return self.find_record((container.provider, container.name, container.machine))

    def _require_container(self, container: Container) -> None:
        if (container.name, container.machine) not in self.csp:
            raise CallFailedError(CODES["NTE_BAD_KEYSET"])

    def PFXImportCertStore(self, blob: int, password: str, flags: int) -> int:
        require(flags, EXPORTABLE | USER_KEYSET | MACHINE_KEYSET | PREFER_CNG_KSP)
        given = CRYPT_DATA_BLOB.from_address(blob)
        if flags & PREFER_CNG_KSP and self.pfx_cng_error is not None:
            raise CallFailedError(self.pfx_cng_error)
        try:
            key, leaf, others = pkcs12.load_key_and_certificates(
                ctypes.string_at(given.pbData, given.cbData), password.encode()
            )
        except ValueError:
            raise CallFailedError(INVALID_PASSWORD) from None
        assert leaf
        machine, exportable = bool(flags & MACHINE_KEYSET), bool(flags & EXPORTABLE)
        name = f"{{{len(self.cng) + len(self.csp)}}}"
        record = KeyRecord(key, exportable=exportable)  # type: ignore[arg-type]  # RSA or EC
        if flags & PREFER_CNG_KSP:
            container = Container(SOFTWARE, name, machine=machine)
            self.cng[SOFTWARE, name, machine] = record
        else:
            if not isinstance(key, RSAPrivateKey):
                raise CallFailedError(CODES["NTE_BAD_ALGID"])
            container = Container(OLD_CSP, name, CSPS[OLD_CSP], machine, 1)
            self.csp[name, machine] = {1: record}
        certificates = [CertificateRecord(leaf.public_bytes(Encoding.DER), container)]
        certificates += [CertificateRecord(each.public_bytes(Encoding.DER)) for each in others]
        return self.new_handle(Store(certificates))


def install_double(monkeypatch: pytest.MonkeyPatch) -> ScriptedWindows:
    """Return a new simulated Windows, installed behind the plugin's bindings until the test ends."""
    double = ScriptedWindows()
    double.install(monkeypatch)
    return double


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> ScriptedWindows:
    """Return a new simulated Windows for the test."""
    return install_double(monkeypatch)


def uri_of(certificate: x509.Certificate) -> str:
    """Return the URI of a certificate, without its location."""
    return f"windows:thumbprint={thumbprint(certificate, 'sha1')}"


def pinned(certificate: x509.Certificate, location: str = "CurrentUser") -> str:
    """Return the pinned URI of a certificate in a location."""
    return f"{uri_of(certificate)};store=My;location={location}"


def make_certificate(key: AnyKey, subject: str = "CN=app", days: int = 30) -> x509.Certificate:
    """Return a self-signed certificate that is valid for some more days, or has expired if they are negative."""
    name, now = x509.Name.from_rfc4514_string(subject), dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - dt.timedelta(days=9)).not_valid_after(now + dt.timedelta(days=days))
    return builder.sign(key, SHA256())
