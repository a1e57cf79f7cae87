"""The double's key providers: CNG (ncrypt.dll) and legacy (advapi32.dll)."""
# ruff: noqa: N802 - functions have their names in Windows

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm

from keyvouch.security_descriptor import sid_to_bytes
from keyvouch_windows.advapi32 import PROV_RSA_AES, PROV_RSA_FULL
from keyvouch_windows.error_codes import CODES
from keyvouch_windows.key_blobs import legacy_private_key
from keyvouch_windows.ncrypt import (
    BCRYPT_PKCS1_PADDING_INFO,
    BCRYPT_PSS_PADDING_INFO,
)
from scripted_calls import CallFailedError, Calls, MisuseError, write_dword, write_output, write_pointer
from scripted_key_formats import CURVES, AnyKey, encrypted_pkcs8, legacy_blob, public_blob

SOFTWARE, PLATFORM = "Microsoft Software Key Storage Provider", "Microsoft Platform Crypto Provider"
SMART_CARD = "Microsoft Smart Card Key Storage Provider"
AES_CSP, OLD_CSP = (
    "Microsoft Enhanced RSA and AES Cryptographic Provider",
    "Microsoft Enhanced Cryptographic Provider v1.0",
)
CSPS = {AES_CSP: PROV_RSA_AES, OLD_CSP: PROV_RSA_FULL}
HASHES: dict[str, HashAlgorithm] = {"SHA256": SHA256(), "SHA384": SHA384(), "SHA512": SHA512()}
CALG: dict[int, HashAlgorithm] = {0x800C: SHA256(), 0x800D: SHA384(), 0x800E: SHA512()}
MACHINE, SILENT, PERSIST, PKCS1, PSS = 0x20, 0x40, 0x80000000, 0x2, 0x8
NEWKEYSET, DELETEKEYSET = 0x8, 0x10
BUFFER_TOO_SMALL = 0x80090028
MORE_DATA = 234
ACCOUNT = "CONTOSO\\svc"
"""The account that the tests run as."""

INSUFFICIENT_BUFFER, NONE_MAPPED = 122, 1332
DACL = 4
DEFAULT_DESCRIPTOR = bytes.fromhex(
    "0100049400000000000000000000000014000000020034000200000000001400ff011fd001010000000000051200000000001800ff011f"
    "d001020000000000052000000020020000"
)
"""D:PAI(A;;0xd01f01ff;;;SY)(A;;0xd01f01ff;;;BA), which Windows sets for a new machine key."""
ACCOUNTS = {
    "NT AUTHORITY\\SYSTEM": ("S-1-5-18", 5),
    "NT AUTHORITY\\NETWORK SERVICE": ("S-1-5-20", 5),
    "BUILTIN\\Administrators": ("S-1-5-32-544", 4),
    ACCOUNT: ("S-1-5-21-1-2-3-1000", 1),
}
"""Accounts by name, each with its SID and SID_NAME_USE."""

_made: dict[str, AnyKey] = {}


def make_key(kind: str) -> AnyKey:
    """Return a key of a type, such as "RSA-2048" or "ECDSA_P256", generated once per run since that is slow."""
    if kind not in _made:
        curve = CURVES.get(kind)
        _made[kind] = ec.generate_private_key(curve[0]) if curve else rsa.generate_private_key(65537, int(kind[4:]))
    return _made[kind]


@dataclass
class KeyRecord:
    """A key in a provider."""

    key: AnyKey
    exportable: bool = False
    policy: int | None = None
    """CNG's export policy, if it is not determined by `exportable`."""
    pss: str = "digest"
    """The salt: "digest", as long as the digest; "maximum", whatever is requested; "zeros", no valid signature."""
    requires_pin: bool = False
    """Whether it requires a PIN for each signature."""
    properties: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    """Properties with the flags used to set them."""
    descriptor: bytes = DEFAULT_DESCRIPTOR
    stores_rules: bool = True
    """Whether its provider really stores new access rules; it reports success in either case."""

    def set_rules(self, data: bytes) -> None:
        """Replace the access rules, if the provider stores them."""
        if self.stores_rules:
            self.descriptor = data


@dataclass(frozen=True)
class Provider:
    """An open CNG provider."""

    name: str


@dataclass
class Key:
    """An open CNG key."""

    key_id: tuple[str, str, bool]
    """Provider, name, and whether it is a machine key."""
    record: KeyRecord | None
    algorithm: str = ""
    cached: bool = False
    """Whether it is cached by a certificate, which releases it itself."""


@dataclass(frozen=True)
class OpenContainer:
    """An open container of a legacy provider."""

    provider: str
    container_id: tuple[str, bool]


@dataclass(frozen=True)
class ContainerKey:
    """An open key of a container."""

    record: KeyRecord


@dataclass
class Hash:
    """A legacy provider's hash object."""

    container: OpenContainer
    algorithm: HashAlgorithm
    digest: bytes = b""


class Keys(Calls):
    """The providers and their keys."""

    def __init__(self) -> None:
        super().__init__()
        self.ksp = {SOFTWARE, PLATFORM, SMART_CARD}
        self.cng: dict[tuple[str, str, bool], KeyRecord] = {}
        """Keys by provider, name, and whether they are machine keys."""
        self.csp: dict[tuple[str, bool], dict[int, KeyRecord]] = {}
        """Containers by name and whether they belong to the machine; their keys by key spec."""
        self.account = ACCOUNT
        """The account that this process runs as."""
        self.accounts = ACCOUNTS
        """The accounts that Windows knows."""

    # ncrypt.dll

    def NCryptOpenStorageProvider(self, out: int, name: str, flags: int) -> None:
        if flags:
            raise CallFailedError(CODES["NTE_BAD_FLAGS"])
        if name not in self.ksp:
            raise CallFailedError(CODES["NTE_PROV_DLL_NOT_FOUND"])
        write_pointer(out, self.new_handle(Provider(name)))

    def NCryptOpenKey(self, provider: int, out: int, name: str, legacy: int, flags: int) -> None:
        require(flags, MACHINE | SILENT)
        key_id = (self.get_object(provider, Provider).name, name, bool(flags & MACHINE))
        write_pointer(out, self.new_handle(Key(key_id, self.find_record(key_id))))

    def find_record(self, key_id: tuple[str, str, bool]) -> KeyRecord:
        if key_id not in self.cng:
            raise CallFailedError(CODES["NTE_BAD_KEYSET"])
        return self.cng[key_id]

    def NCryptCreatePersistedKey(
        self, provider: int, out: int, algorithm: str, name: str, legacy: int, flags: int
    ) -> None:
        require(flags, MACHINE)
        key_id = (self.get_object(provider, Provider).name, name, bool(flags & MACHINE))
        if key_id in self.cng:
            raise CallFailedError(CODES["NTE_EXISTS"])
        if algorithm != "RSA" and algorithm not in CURVES:
            raise CallFailedError(CODES["NTE_NOT_SUPPORTED"])
        record = KeyRecord(make_key("RSA-2048"))
        write_pointer(out, self.new_handle(Key(key_id, record, algorithm)))

    def NCryptSetProperty(self, key: int, name: str, data: int, size: int, flags: int) -> None:
        record = self.key_at(key)
        if name == "Security Descr":
            assert flags == DACL | PERSIST
            record.set_rules(ctypes.string_at(data, size))
            return
        if name == "Length" and flags & PERSIST:
            raise MisuseError("the length is not a persistent property")
        record.properties[name] = (ctypes.string_at(data, size), flags)

    def NCryptFinalizeKey(self, key: int, flags: int) -> None:
        require(flags, SILENT)
        created = self.get_object(key, Key)
        record = self.key_at(key)
        bits, _ = record.properties.get("Length", (struct.pack("<I", 2048), 0))
        record.key = make_key(
            f"RSA-{struct.unpack('<I', bits)[0]}" if created.algorithm == "RSA" else created.algorithm
        )
        policy, _ = record.properties.get("Export Policy", (bytes(4), 0))
        record.exportable = policy != bytes(4)
        self.cng[created.key_id] = record

    def key_at(self, handle: int) -> KeyRecord:
        record = self.get_object(handle, Key).record
        if record is None:
            raise MisuseError("the key was deleted")
        return record

    def NCryptDeleteKey(self, key: int, flags: int) -> None:
        require(flags, SILENT)
        key_object = self.get_object(key, Key)
        if key_object.cached:
            raise MisuseError("this key is released with its certificate, and again by deleting it")
        self.cng.pop(key_object.key_id)
        self.invalidate(key)

    def NCryptFreeObject(self, handle: int) -> None:
        thing = self.get_object(handle, object)
        if not isinstance(thing, Provider | Key):
            raise MisuseError(f"{thing} is not a CNG object")
        if isinstance(thing, Key) and thing.cached:
            raise MisuseError("its certificate releases this key")

    def NCryptGetProperty(self, key: int, name: str, buffer: int | None, capacity: int, size: int, flags: int) -> None:
        record = self.key_at(key)
        policy = int(record.exportable) if record.policy is None else record.policy
        values = {"Export Policy": struct.pack("<I", policy), "Security Descr": record.descriptor}
        if name not in values:
            raise CallFailedError(CODES["NTE_NOT_SUPPORTED"])
        assert flags == (DACL if name == "Security Descr" else 0)
        write_output(values[name], buffer, capacity, size, BUFFER_TOO_SMALL)

    def NCryptSignHash(
        self,
        key: int,
        info: int | None,
        digest: int,
        length: int,
        buffer: int | None,
        capacity: int,
        size: int,
        flags: int,
    ) -> None:
        require(flags, PKCS1 | PSS | SILENT)
        record = self.key_at(key)
        if record.requires_pin and flags & SILENT:
            raise CallFailedError(CODES["NTE_SILENT_CONTEXT"])
        signature = _sign(record, ctypes.string_at(digest, length), info, flags & ~SILENT)
        if record.pss == "zeros" and flags & PSS:
            signature = bytes(len(signature))
        write_output(signature, buffer, capacity, size, BUFFER_TOO_SMALL)

    def NCryptExportKey(
        self,
        key: int,
        encrypting: int | None,
        kind: str,
        parameters: int | None,
        buffer: int | None,
        capacity: int,
        size: int,
        flags: int,
    ) -> None:
        require(flags, SILENT)
        record = self.key_at(key)
        if kind == "PKCS8_PRIVATEKEY":
            if not record.exportable:
                raise CallFailedError(CODES["NTE_NOT_SUPPORTED"])
            data = encrypted_pkcs8(record.key, parameters)
        else:
            data = public_blob(record.key, kind)
        if buffer is None and kind == "PKCS8_PRIVATEKEY":
            data += bytes(16)  # the length reported first may be more than needed
        write_output(data, buffer, capacity, size, BUFFER_TOO_SMALL)

    # advapi32.dll

    def CryptAcquireContextW(self, out: int, name: str, provider: str, kind: int, flags: int) -> None:
        require(flags, MACHINE | SILENT | NEWKEYSET | DELETEKEYSET)
        if provider not in CSPS:
            raise CallFailedError(CODES["NTE_KEYSET_NOT_DEF"])
        if CSPS[provider] != kind:
            raise CallFailedError(CODES["NTE_PROV_TYPE_NO_MATCH"])
        container_id = (name, bool(flags & MACHINE))
        if flags & NEWKEYSET:
            if container_id in self.csp:
                raise CallFailedError(CODES["NTE_EXISTS"])
            self.csp[container_id] = {}
        if container_id not in self.csp:
            raise CallFailedError(CODES["NTE_BAD_KEYSET"])
        if flags & DELETEKEYSET:
            del self.csp[container_id]
        else:
            write_pointer(out, self.new_handle(OpenContainer(provider, container_id)))

    def CryptReleaseContext(self, container: int, flags: int) -> None:
        self.get_object(container, OpenContainer)

    def CryptEnumProvidersW(
        self, index: int, reserved: None, flags: int, kind: int, name: int | None, size: int
    ) -> None:
        if index >= len(CSPS):
            raise CallFailedError(259)
        provider = [*CSPS][index]
        write_dword(kind, CSPS[provider])
        write_output(wide(provider), name, ctypes.c_uint32.from_address(size).value, size, MORE_DATA)

    def CryptGenKey(self, container: int, spec: int, flags: int, out: int) -> None:
        record = KeyRecord(make_key(f"RSA-{flags >> 16}"), exportable=bool(flags & 1))
        self.csp[self.get_object(container, OpenContainer).container_id][spec] = record
        write_pointer(out, self.new_handle(ContainerKey(record)))

    def CryptImportKey(
        self, container: int, data: int, length: int, decrypting: int | None, flags: int, out: int
    ) -> None:
        record = KeyRecord(legacy_private_key(ctypes.string_at(data, length)), exportable=bool(flags & 1))
        self.csp[self.get_object(container, OpenContainer).container_id][1] = record
        write_pointer(out, self.new_handle(ContainerKey(record)))

    def CryptGetUserKey(self, container: int, spec: int, out: int) -> None:
        write_pointer(
            out, self.new_handle(ContainerKey(self._record_in(self.get_object(container, OpenContainer), spec)))
        )

    def _record_in(self, container: OpenContainer, spec: int) -> KeyRecord:
        if spec not in self.csp[container.container_id]:
            raise CallFailedError(CODES["NTE_NO_KEY"])
        return self.csp[container.container_id][spec]

    def CryptDestroyKey(self, key: int) -> None:
        self.get_object(key, ContainerKey)

    def CryptGetKeyParam(self, key: int, what: int, buffer: int, size: int, flags: int) -> None:
        exportable = self.get_object(key, ContainerKey).record.exportable
        write_dword(buffer, 0x3B | (0x4 if exportable else 0))  # the other bits are further permissions

    def CryptExportKey(
        self, key: int, encrypting: int | None, kind: int, flags: int, buffer: int | None, size: int
    ) -> None:
        record = self.get_object(key, ContainerKey).record
        if kind == 0x7 and not record.exportable:
            raise CallFailedError(CODES["NTE_BAD_KEY_STATE"])
        data = legacy_blob(record.key, private=kind == 0x7)
        write_output(data, buffer, ctypes.c_uint32.from_address(size).value, size, MORE_DATA)

    def CryptCreateHash(self, container: int, algorithm: int, key: int | None, flags: int, out: int) -> None:
        opened = self.get_object(container, OpenContainer)
        if opened.provider == OLD_CSP or algorithm not in CALG:
            raise CallFailedError(CODES["NTE_BAD_ALGID"])
        write_pointer(out, self.new_handle(Hash(opened, CALG[algorithm])))

    def CryptSetHashParam(self, handle: int, what: int, data: int, flags: int) -> None:
        created = self.get_object(handle, Hash)
        created.digest = ctypes.string_at(data, created.algorithm.digest_size)

    def CryptSignHashW(
        self, handle: int, spec: int, text: str | None, flags: int, buffer: int | None, size: int
    ) -> None:
        created = self.get_object(handle, Hash)
        key = self._record_in(created.container, spec).key
        assert isinstance(key, rsa.RSAPrivateKey)
        signature = key.sign(created.digest, padding.PKCS1v15(), Prehashed(created.algorithm))[::-1]
        write_output(signature, buffer, ctypes.c_uint32.from_address(size).value, size, MORE_DATA)

    def CryptDestroyHash(self, handle: int) -> None:
        self.get_object(handle, Hash)

    def CryptGetProvParam(self, container: int, what: int, buffer: int | None, size: int, flags: int) -> None:
        assert (what, flags) == (8, DACL)
        (record,) = self.csp[self.get_object(container, OpenContainer).container_id].values()
        write_output(record.descriptor, buffer, ctypes.c_uint32.from_address(size).value, size, MORE_DATA)

    def CryptSetProvParam(self, container: int, what: int, data: int, flags: int) -> None:
        assert (what, flags) == (8, DACL)
        (record,) = self.csp[self.get_object(container, OpenContainer).container_id].values()
        (offset,) = struct.unpack("<I", ctypes.string_at(data + 16, 4))
        (length,) = struct.unpack("<H", ctypes.string_at(data + offset + 2, 2))
        record.set_rules(ctypes.string_at(data, offset + length))

    def LookupAccountNameW(
        self, system: str | None, account: str, sid: int | None, size: int, domain: int | None, capacity: int, kind: int
    ) -> None:
        found = next((known for known in self.accounts if known.lower() == account.lower()), None)
        if found is None:
            raise CallFailedError(NONE_MAPPED)
        self._write_account(found, self._sid_of(found), (sid, size), (domain, capacity), kind)

    def LookupAccountSidW(
        self, system: str | None, sid: int, name: int | None, size: int, domain: int | None, capacity: int, kind: int
    ) -> None:
        data = ctypes.string_at(sid, 8 + 4 * ctypes.string_at(sid, 2)[1])
        found = next((known for known in self.accounts if self._sid_of(known) == data), None)
        if found is None:
            raise CallFailedError(NONE_MAPPED)
        self._write_account(found, wide(found.rpartition("\\")[2]), (name, size), (domain, capacity), kind)

    def _write_account(
        self, account: str, data: bytes, first: tuple[int | None, int], second: tuple[int | None, int], kind: int
    ) -> None:
        """Write the result and the domain; text sizes are in characters."""
        domain, texts = wide(account.rpartition("\\")[0]), ctypes.sizeof(ctypes.c_wchar)
        write_dword(kind, self.accounts[account][1])
        write_dword(first[1], len(data) // (1 if data[:1] == b"\x01" else texts))
        write_dword(second[1], len(domain) // texts)
        if first[0] is None or second[0] is None:
            raise CallFailedError(INSUFFICIENT_BUFFER)
        ctypes.memmove(first[0], data, len(data))
        ctypes.memmove(second[0], domain, len(domain))

    def _sid_of(self, account: str) -> bytes:
        return sid_to_bytes(self.accounts[account][0])

    def GetTokenInformation(self, token: int, what: int, buffer: int, capacity: int, size: int) -> None:
        assert (token, what) == (2**64 - 6, 1)
        token_user = struct.pack("<QII", buffer + 16, 0, 0) + self._sid_of(self.account)
        write_output(token_user, buffer, capacity, size, INSUFFICIENT_BUFFER)


def require(flags: int, known: int) -> None:
    """Raise `MisuseError` for flags that are not documented for the function."""
    if flags & ~known:
        raise MisuseError(f"flags {flags:#x}")


def wide(text: str) -> bytes:
    """Return a text as a null-terminated string of this machine's `wchar_t`."""
    return ctypes.string_at(ctypes.create_unicode_buffer(text), (len(text) + 1) * ctypes.sizeof(ctypes.c_wchar))


def _sign(record: KeyRecord, digest: bytes, info: int | None, flags: int) -> bytes:
    if isinstance(record.key, ec.EllipticCurvePrivateKey):
        if flags or info:
            raise CallFailedError(CODES["NTE_BAD_FLAGS"])
        hashed = next(each for each in HASHES.values() if each.digest_size == len(digest))
        r, s = decode_dss_signature(record.key.sign(digest, ec.ECDSA(Prehashed(hashed))))
        width = (record.key.key_size + 7) // 8
        return r.to_bytes(width, "big") + s.to_bytes(width, "big")
    if info is None or flags not in (PKCS1, PSS):
        raise CallFailedError(CODES["NTE_INVALID_PARAMETER"])
    how: Any
    if flags == PKCS1:
        hashed, how = HASHES[BCRYPT_PKCS1_PADDING_INFO.from_address(info).pszAlgId], padding.PKCS1v15()
    else:
        pss = BCRYPT_PSS_PADDING_INFO.from_address(info)
        hashed = HASHES[pss.pszAlgId]
        salt = padding.PSS.MAX_LENGTH if record.pss == "maximum" else pss.cbSalt
        how = padding.PSS(padding.MGF1(hashed), salt)
    return record.key.sign(digest, how, Prehashed(hashed))
