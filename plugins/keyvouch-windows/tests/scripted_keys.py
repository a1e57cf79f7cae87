"""The double's key providers: CNG (ncrypt.dll) and legacy (advapi32.dll)."""
# ruff: noqa: N802 - functions have their names in Windows

from __future__ import annotations

import ctypes
import struct
import subprocess
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keyvouch.security_descriptor import sid_to_bytes
from keyvouch_windows.advapi32 import PROV_RSA_AES, PROV_RSA_FULL
from keyvouch_windows.error_codes import CODES
from keyvouch_windows.key_blobs import legacy_private_key
from keyvouch_windows.ncrypt import (
    BCRYPT_PKCS1_PADDING_INFO,
    BCRYPT_PSS_PADDING_INFO,
    CRYPT_PKCS12_PBE_PARAMS,
    NCryptBuffer,
    NCryptBufferDesc,
)
from scripted_calls import Calls, FailsError, MisuseError, answer_octets, put_handle, put_number

AnyKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
SOFTWARE, PLATFORM = "Microsoft Software Key Storage Provider", "Microsoft Platform Crypto Provider"
SMART_CARD = "Microsoft Smart Card Key Storage Provider"
AES_CSP, OLD_CSP = (
    "Microsoft Enhanced RSA and AES Cryptographic Provider",
    "Microsoft Enhanced Cryptographic Provider v1.0",
)
CSPS = {AES_CSP: PROV_RSA_AES, OLD_CSP: PROV_RSA_FULL}
HASHES: dict[str, HashAlgorithm] = {"SHA256": SHA256(), "SHA384": SHA384(), "SHA512": SHA512()}
CALG: dict[int, HashAlgorithm] = {0x800C: SHA256(), 0x800D: SHA384(), 0x800E: SHA512()}
CURVES: dict[str, tuple[ec.EllipticCurve, bytes]] = {
    "ECDSA_P256": (ec.SECP256R1(), b"ECS1"),
    "ECDSA_P384": (ec.SECP384R1(), b"ECS3"),
    "ECDSA_P521": (ec.SECP521R1(), b"ECS5"),
}
MACHINE, SILENT, PERSIST, PKCS1, PSS = 0x20, 0x40, 0x80000000, 0x2, 0x8
NEWKEYSET, DELETEKEYSET = 0x8, 0x10
ROOM = 0x80090028
MORE_DATA = 234
ACCOUNT = "CONTOSO\\svc"
"""The account that the tests run as."""

INSUFFICIENT_BUFFER, NONE_MAPPED = 122, 1332
DACL = 4
FRESH = bytes.fromhex(
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
class Kept:
    """A key in a provider."""

    key: AnyKey
    exportable: bool = False
    policy: int | None = None
    """CNG's export policy, if it is not determined by `exportable`."""
    pss: str = "digest"
    """The salt: "digest", as long as the digest; "maximum", whatever is requested; "zeros", no valid signature."""
    asks: bool = False
    """Whether it requires a PIN for each signature."""
    properties: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    """Properties with the flags used to set them."""
    descriptor: bytes = FRESH
    keeps_rules: bool = True
    """Whether its provider really stores new access rules; it reports success in either case."""

    def set_rules(self, octets: bytes) -> None:
        """Replace the access rules, if the provider stores them."""
        if self.keeps_rules:
            self.descriptor = octets


@dataclass(frozen=True)
class Provider:
    """An open CNG provider."""

    name: str


@dataclass
class Key:
    """An open CNG key."""

    place: tuple[str, str, bool]
    """Provider, name, and whether it is a machine key."""
    kept: Kept | None
    algorithm: str = ""
    lent: bool = False
    """Whether it is lent by a certificate, which releases it itself."""


@dataclass(frozen=True)
class Container:
    """An open container of a legacy provider."""

    provider: str
    place: tuple[str, bool]


@dataclass(frozen=True)
class ContainerKey:
    """An open key of a container."""

    kept: Kept


@dataclass
class Hash:
    """A legacy provider's hash object."""

    container: Container
    algorithm: HashAlgorithm
    digest: bytes = b""


class Keys(Calls):
    """The providers and their keys."""

    def __init__(self) -> None:
        super().__init__()
        self.ksp = {SOFTWARE, PLATFORM, SMART_CARD}
        self.cng: dict[tuple[str, str, bool], Kept] = {}
        """Keys by provider, name, and whether they are machine keys."""
        self.csp: dict[tuple[str, bool], dict[int, Kept]] = {}
        """Containers by name and whether they belong to the machine; their keys by key spec."""
        self.account = ACCOUNT
        """The account that this process runs as."""
        self.accounts = ACCOUNTS
        """The accounts that Windows knows."""

    # ncrypt.dll

    def NCryptOpenStorageProvider(self, out: int, name: str, flags: int) -> None:
        if flags:
            raise FailsError(CODES["NTE_BAD_FLAGS"])
        if name not in self.ksp:
            raise FailsError(CODES["NTE_PROV_DLL_NOT_FOUND"])
        put_handle(out, self.hand_out(Provider(name)))

    def NCryptOpenKey(self, provider: int, out: int, name: str, legacy: int, flags: int) -> None:
        require(flags, MACHINE | SILENT)
        place = (self.at(provider, Provider).name, name, bool(flags & MACHINE))
        put_handle(out, self.hand_out(Key(place, self.kept(place))))

    def kept(self, place: tuple[str, str, bool]) -> Kept:
        if place not in self.cng:
            raise FailsError(CODES["NTE_BAD_KEYSET"])
        return self.cng[place]

    def NCryptCreatePersistedKey(
        self, provider: int, out: int, algorithm: str, name: str, legacy: int, flags: int
    ) -> None:
        require(flags, MACHINE)
        place = (self.at(provider, Provider).name, name, bool(flags & MACHINE))
        if place in self.cng:
            raise FailsError(CODES["NTE_EXISTS"])
        if algorithm != "RSA" and algorithm not in CURVES:
            raise FailsError(CODES["NTE_NOT_SUPPORTED"])
        fresh = Kept(make_key("RSA-2048"))
        put_handle(out, self.hand_out(Key(place, fresh, algorithm)))

    def NCryptSetProperty(self, key: int, name: str, octets: int, size: int, flags: int) -> None:
        kept = self.key_at(key)
        if name == "Security Descr":
            assert flags == DACL | PERSIST
            kept.set_rules(ctypes.string_at(octets, size))
            return
        if name == "Length" and flags & PERSIST:
            raise MisuseError("the length is no property that is kept by itself")
        kept.properties[name] = (ctypes.string_at(octets, size), flags)

    def NCryptFinalizeKey(self, key: int, flags: int) -> None:
        require(flags, SILENT)
        made = self.at(key, Key)
        kept = self.key_at(key)
        bits, _ = kept.properties.get("Length", (struct.pack("<I", 2048), 0))
        kept.key = make_key(f"RSA-{struct.unpack('<I', bits)[0]}" if made.algorithm == "RSA" else made.algorithm)
        policy, _ = kept.properties.get("Export Policy", (bytes(4), 0))
        kept.exportable = policy != bytes(4)
        self.cng[made.place] = kept

    def key_at(self, handle: int) -> Kept:
        kept = self.at(handle, Key).kept
        if kept is None:
            raise MisuseError("the key was deleted")
        return kept

    def NCryptDeleteKey(self, key: int, flags: int) -> None:
        require(flags, SILENT)
        gone = self.at(key, Key)
        if gone.lent:
            raise MisuseError("this key is given back with its certificate, and again by deleting it")
        self.cng.pop(gone.place)
        self.take_back(key)

    def NCryptFreeObject(self, handle: int) -> None:
        thing = self.at(handle, object)
        if not isinstance(thing, Provider | Key):
            raise MisuseError(f"{thing} is no object of CNG")
        if isinstance(thing, Key) and thing.lent:
            raise MisuseError("its certificate gives this key back")

    def NCryptGetProperty(self, key: int, name: str, buffer: int | None, room: int, size: int, flags: int) -> None:
        kept = self.key_at(key)
        policy = int(kept.exportable) if kept.policy is None else kept.policy
        values = {"Export Policy": struct.pack("<I", policy), "Security Descr": kept.descriptor}
        if name not in values:
            raise FailsError(CODES["NTE_NOT_SUPPORTED"])
        assert flags == (DACL if name == "Security Descr" else 0)
        answer_octets(values[name], buffer, room, size, ROOM)

    def NCryptSignHash(
        self, key: int, info: int | None, digest: int, length: int, buffer: int | None, room: int, size: int, flags: int
    ) -> None:
        require(flags, PKCS1 | PSS | SILENT)
        kept = self.key_at(key)
        if kept.asks and flags & SILENT:
            raise FailsError(CODES["NTE_SILENT_CONTEXT"])
        signature = _sign(kept, ctypes.string_at(digest, length), info, flags & ~SILENT)
        if kept.pss == "zeros" and flags & PSS:
            signature = bytes(len(signature))
        answer_octets(signature, buffer, room, size, ROOM)

    def NCryptExportKey(
        self,
        key: int,
        encrypting: int | None,
        kind: str,
        parameters: int | None,
        buffer: int | None,
        room: int,
        size: int,
        flags: int,
    ) -> None:
        require(flags, SILENT)
        kept = self.key_at(key)
        if kind == "PKCS8_PRIVATEKEY":
            if not kept.exportable:
                raise FailsError(CODES["NTE_NOT_SUPPORTED"])
            octets = _encrypted(kept.key, parameters)
        else:
            octets = _public_blob(kept.key, kind)
        if buffer is None and kind == "PKCS8_PRIVATEKEY":
            octets += bytes(16)  # the length reported first may be more than needed
        answer_octets(octets, buffer, room, size, ROOM)

    # advapi32.dll

    def CryptAcquireContextW(self, out: int, name: str, provider: str, kind: int, flags: int) -> None:
        require(flags, MACHINE | SILENT | NEWKEYSET | DELETEKEYSET)
        if provider not in CSPS:
            raise FailsError(CODES["NTE_KEYSET_NOT_DEF"])
        if CSPS[provider] != kind:
            raise FailsError(CODES["NTE_PROV_TYPE_NO_MATCH"])
        place = (name, bool(flags & MACHINE))
        if flags & NEWKEYSET:
            if place in self.csp:
                raise FailsError(CODES["NTE_EXISTS"])
            self.csp[place] = {}
        if place not in self.csp:
            raise FailsError(CODES["NTE_BAD_KEYSET"])
        if flags & DELETEKEYSET:
            del self.csp[place]
        else:
            put_handle(out, self.hand_out(Container(provider, place)))

    def CryptReleaseContext(self, container: int, flags: int) -> None:
        self.at(container, Container)

    def CryptEnumProvidersW(
        self, index: int, reserved: None, flags: int, kind: int, name: int | None, size: int
    ) -> None:
        if index >= len(CSPS):
            raise FailsError(259)
        told = [*CSPS][index]
        put_number(kind, CSPS[told])
        answer_octets(wide(told), name, ctypes.c_uint32.from_address(size).value, size, MORE_DATA)

    def CryptGenKey(self, container: int, spec: int, flags: int, out: int) -> None:
        kept = Kept(make_key(f"RSA-{flags >> 16}"), exportable=bool(flags & 1))
        self.csp[self.at(container, Container).place][spec] = kept
        put_handle(out, self.hand_out(ContainerKey(kept)))

    def CryptImportKey(
        self, container: int, octets: int, length: int, decrypting: int | None, flags: int, out: int
    ) -> None:
        kept = Kept(legacy_private_key(ctypes.string_at(octets, length)), exportable=bool(flags & 1))
        self.csp[self.at(container, Container).place][1] = kept
        put_handle(out, self.hand_out(ContainerKey(kept)))

    def CryptGetUserKey(self, container: int, spec: int, out: int) -> None:
        put_handle(out, self.hand_out(ContainerKey(self._kept_in(self.at(container, Container), spec))))

    def _kept_in(self, container: Container, spec: int) -> Kept:
        if spec not in self.csp[container.place]:
            raise FailsError(CODES["NTE_NO_KEY"])
        return self.csp[container.place][spec]

    def CryptDestroyKey(self, key: int) -> None:
        self.at(key, ContainerKey)

    def CryptGetKeyParam(self, key: int, what: int, buffer: int, size: int, flags: int) -> None:
        exportable = self.at(key, ContainerKey).kept.exportable
        put_number(buffer, 0x3B | (0x4 if exportable else 0))  # the other bits are further permissions

    def CryptExportKey(
        self, key: int, encrypting: int | None, kind: int, flags: int, buffer: int | None, size: int
    ) -> None:
        kept = self.at(key, ContainerKey).kept
        if kind == 0x7 and not kept.exportable:
            raise FailsError(CODES["NTE_BAD_KEY_STATE"])
        octets = _legacy_blob(kept.key, private=kind == 0x7)
        answer_octets(octets, buffer, ctypes.c_uint32.from_address(size).value, size, MORE_DATA)

    def CryptCreateHash(self, container: int, algorithm: int, key: int | None, flags: int, out: int) -> None:
        opened = self.at(container, Container)
        if opened.provider == OLD_CSP or algorithm not in CALG:
            raise FailsError(CODES["NTE_BAD_ALGID"])
        put_handle(out, self.hand_out(Hash(opened, CALG[algorithm])))

    def CryptSetHashParam(self, handle: int, what: int, octets: int, flags: int) -> None:
        made = self.at(handle, Hash)
        made.digest = ctypes.string_at(octets, made.algorithm.digest_size)

    def CryptSignHashW(
        self, handle: int, spec: int, text: str | None, flags: int, buffer: int | None, size: int
    ) -> None:
        made = self.at(handle, Hash)
        key = self._kept_in(made.container, spec).key
        assert isinstance(key, rsa.RSAPrivateKey)
        signature = key.sign(made.digest, padding.PKCS1v15(), Prehashed(made.algorithm))[::-1]
        answer_octets(signature, buffer, ctypes.c_uint32.from_address(size).value, size, MORE_DATA)

    def CryptDestroyHash(self, handle: int) -> None:
        self.at(handle, Hash)

    def CryptGetProvParam(self, container: int, what: int, buffer: int | None, size: int, flags: int) -> None:
        assert (what, flags) == (8, DACL)
        (kept,) = self.csp[self.at(container, Container).place].values()
        answer_octets(kept.descriptor, buffer, ctypes.c_uint32.from_address(size).value, size, MORE_DATA)

    def CryptSetProvParam(self, container: int, what: int, octets: int, flags: int) -> None:
        assert (what, flags) == (8, DACL)
        (kept,) = self.csp[self.at(container, Container).place].values()
        (place,) = struct.unpack("<I", ctypes.string_at(octets + 16, 4))
        (length,) = struct.unpack("<H", ctypes.string_at(octets + place + 2, 2))
        kept.set_rules(ctypes.string_at(octets, place + length))

    def LookupAccountNameW(
        self, system: str | None, account: str, sid: int | None, size: int, domain: int | None, room: int, kind: int
    ) -> None:
        found = next((known for known in self.accounts if known.lower() == account.lower()), None)
        if found is None:
            raise FailsError(NONE_MAPPED)
        self._answer_account(found, self._octets_of(found), (sid, size), (domain, room), kind)

    def LookupAccountSidW(
        self, system: str | None, sid: int, name: int | None, size: int, domain: int | None, room: int, kind: int
    ) -> None:
        octets = ctypes.string_at(sid, 8 + 4 * ctypes.string_at(sid, 2)[1])
        found = next((known for known in self.accounts if self._octets_of(known) == octets), None)
        if found is None:
            raise FailsError(NONE_MAPPED)
        self._answer_account(found, wide(found.rpartition("\\")[2]), (name, size), (domain, room), kind)

    def _answer_account(
        self, account: str, octets: bytes, first: tuple[int | None, int], second: tuple[int | None, int], kind: int
    ) -> None:
        """Write the result and the domain; text sizes are in characters."""
        domain, texts = wide(account.rpartition("\\")[0]), ctypes.sizeof(ctypes.c_wchar)
        put_number(kind, self.accounts[account][1])
        put_number(first[1], len(octets) // (1 if octets[:1] == b"\x01" else texts))
        put_number(second[1], len(domain) // texts)
        if first[0] is None or second[0] is None:
            raise FailsError(INSUFFICIENT_BUFFER)
        ctypes.memmove(first[0], octets, len(octets))
        ctypes.memmove(second[0], domain, len(domain))

    def _octets_of(self, account: str) -> bytes:
        return sid_to_bytes(self.accounts[account][0])

    def GetTokenInformation(self, token: int, what: int, buffer: int, room: int, size: int) -> None:
        assert (token, what) == (2**64 - 6, 1)
        told = struct.pack("<QII", buffer + 16, 0, 0) + self._octets_of(self.account)
        answer_octets(told, buffer, room, size, INSUFFICIENT_BUFFER)


def require(flags: int, known: int) -> None:
    """Raise `MisuseError` for flags that are not documented for the function."""
    if flags & ~known:
        raise MisuseError(f"flags {flags:#x}")


def wide(text: str) -> bytes:
    """Return a text as a null-terminated string of this machine's `wchar_t`."""
    return ctypes.string_at(ctypes.create_unicode_buffer(text), (len(text) + 1) * ctypes.sizeof(ctypes.c_wchar))


def _sign(kept: Kept, digest: bytes, info: int | None, flags: int) -> bytes:
    if isinstance(kept.key, ec.EllipticCurvePrivateKey):
        if flags or info:
            raise FailsError(CODES["NTE_BAD_FLAGS"])
        hashed = next(each for each in HASHES.values() if each.digest_size == len(digest))
        r, s = decode_dss_signature(kept.key.sign(digest, ec.ECDSA(Prehashed(hashed))))
        width = (kept.key.key_size + 7) // 8
        return r.to_bytes(width, "big") + s.to_bytes(width, "big")
    if info is None or flags not in (PKCS1, PSS):
        raise FailsError(CODES["NTE_INVALID_PARAMETER"])
    how: Any
    if flags == PKCS1:
        hashed, how = HASHES[BCRYPT_PKCS1_PADDING_INFO.from_address(info).pszAlgId], padding.PKCS1v15()
    else:
        told = BCRYPT_PSS_PADDING_INFO.from_address(info)
        hashed = HASHES[told.pszAlgId]
        salt = padding.PSS.MAX_LENGTH if kept.pss == "maximum" else told.cbSalt
        how = padding.PSS(padding.MGF1(hashed), salt)
    return kept.key.sign(digest, how, Prehashed(hashed))


def _public_blob(key: AnyKey, kind: str) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey) and kind == "RSAPUBLICBLOB":
        numbers = key.public_key().public_numbers()
        modulus = numbers.n.to_bytes(key.key_size // 8, "big")
        return (
            b"RSA1" + struct.pack("<5I", key.key_size, 3, len(modulus), 0, 0) + numbers.e.to_bytes(3, "big") + modulus
        )
    if isinstance(key, ec.EllipticCurvePrivateKey) and kind == "ECCPUBLICBLOB":
        point, width = key.public_key().public_numbers(), (key.key_size + 7) // 8
        (magic,) = (magic for curve, magic in CURVES.values() if curve.name == key.curve.name)
        return magic + struct.pack("<I", width) + point.x.to_bytes(width, "big") + point.y.to_bytes(width, "big")
    raise FailsError(CODES["NTE_NOT_SUPPORTED"])


def _encrypted(key: AnyKey, parameters: int | None) -> bytes:
    """Return PKCS#8, encrypted according to the parameters; with OpenSSL, since `cryptography` lacks this format."""
    if parameters is None:
        raise FailsError(CODES["NTE_BAD_FLAGS"])
    listed = NCryptBufferDesc.from_address(parameters)
    buffers = (NCryptBuffer * listed.cBuffers).from_address(listed.pBuffers)
    told = {each.BufferType: ctypes.string_at(each.pvBuffer, each.cbBuffer) for each in buffers}
    assert (listed.ulVersion, [each.BufferType for each in buffers]) == (0, [46, 41, 42])
    secret = told[46].decode("utf-16-le")
    assert secret.endswith("\0")
    assert "\0" not in secret[:-1]
    assert told[41] == b"1.2.840.113549.1.12.1.3\0"
    derived = CRYPT_PKCS12_PBE_PARAMS.from_buffer_copy(told[42])
    assert derived.iIterations >= 2000
    assert derived.cbSalt == len(told[42]) - ctypes.sizeof(derived) == 8
    assert told[42][-8:] not in (bytes(8), secret.encode()[:8])
    plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    forms = ("-topk8", "-inform", "DER", "-outform", "DER", "-v1", "PBE-SHA1-3DES")
    return subprocess.run(
        ["openssl", "pkcs8", *forms, "-passout", f"pass:{secret[:-1]}"], input=plain, capture_output=True, check=True
    ).stdout


def _legacy_blob(key: AnyKey, *, private: bool) -> bytes:
    assert isinstance(key, rsa.RSAPrivateKey)
    told, bits = key.private_numbers(), key.key_size
    head = struct.pack("<BBHI", 0x7 if private else 0x6, 2, 0, 0xA400)
    head += (b"RSA2" if private else b"RSA1") + struct.pack("<II", bits, told.public_numbers.e)
    numbers = [(told.public_numbers.n, 8)]
    if private:
        numbers += [*((each, 16) for each in (told.p, told.q, told.dmp1, told.dmq1, told.iqmp)), (told.d, 8)]
    return head + b"".join(number.to_bytes(bits // part, "little") for number, part in numbers)
