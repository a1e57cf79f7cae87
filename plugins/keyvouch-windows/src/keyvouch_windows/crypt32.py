"""crypt32.dll: the stores of certificates, and what they know of a certificate's private key (wincrypt.h)."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

from keyvouch_windows.advapi32 import AT_KEYEXCHANGE, AT_SIGNATURE
from keyvouch_windows.codes import CODES
from keyvouch_windows.native import BOOL, DWORD, POINTER, TEXT, Library, NativeError, last_error, octets_at

CERT_STORE_PROV_SYSTEM_W, CERT_STORE_PROV_SYSTEM_REGISTRY_W = 10, 13
CERT_SYSTEM_STORE_CURRENT_USER, CERT_SYSTEM_STORE_LOCAL_MACHINE = 0x10000, 0x20000
CERT_STORE_OPEN_EXISTING_FLAG, CERT_STORE_READONLY_FLAG = 0x4000, 0x8000
X509_ASN_ENCODING = 1
CERT_KEY_PROV_INFO_PROP_ID, CERT_FRIENDLY_NAME_PROP_ID = 2, 11
CERT_STORE_ADD_NEW, CERT_STORE_ADD_USE_EXISTING = 1, 2
CERT_FIND_SUBJECT_NAME = 0x20007
CRYPT_ACQUIRE_SILENT_FLAG, CRYPT_ACQUIRE_PREFER_NCRYPT_KEY_FLAG = 0x40, 0x20000
CERT_NCRYPT_KEY_SPEC = 0xFFFFFFFF
CRYPT_EXPORTABLE, CRYPT_MACHINE_KEYSET, CRYPT_USER_KEYSET = 0x1, 0x20, 0x1000
PKCS12_PREFER_CNG_KSP = 0x100
ERROR_NO_MORE_FILES = 18
_END = (CODES["CRYPT_E_NOT_FOUND"], ERROR_NO_MORE_FILES, 0)
"""Why there is no further certificate in a store, where nothing failed."""
_FLAG_REFUSED = (0, CODES["ERROR_INVALID_PARAMETER"], CODES["NTE_BAD_FLAGS"])

_EVERYWHERE = ("my", "ca")
LOCATIONS = {"CurrentUser": CERT_SYSTEM_STORE_CURRENT_USER, "LocalMachine": CERT_SYSTEM_STORE_LOCAL_MACHINE}
"""By the names that PowerShell has for them, in the order in which they are looked through."""


class CRYPT_DATA_BLOB(ctypes.Structure):  # noqa: N801 - as Windows calls it, here and below
    _fields_ = (("cbData", DWORD), ("pbData", POINTER))


class CERT_CONTEXT(ctypes.Structure):  # noqa: N801
    _fields_ = (
        ("dwCertEncodingType", DWORD),
        ("pbCertEncoded", POINTER),
        ("cbCertEncoded", DWORD),
        ("pCertInfo", POINTER),
        ("hCertStore", POINTER),
    )


class CRYPT_KEY_PROV_INFO(ctypes.Structure):  # noqa: N801
    _fields_ = (
        ("pwszContainerName", TEXT),
        ("pwszProvName", TEXT),
        ("dwProvType", DWORD),
        ("dwFlags", DWORD),
        ("cProvParam", DWORD),
        ("rgProvParam", POINTER),
        ("dwKeySpec", DWORD),
    )


_dll = Library(
    "crypt32",
    {
        "CertOpenStore": (POINTER, [POINTER, DWORD, POINTER, DWORD, TEXT]),
        "CertCloseStore": (BOOL, [POINTER, DWORD]),
        "CertEnumCertificatesInStore": (POINTER, [POINTER, POINTER]),
        "CertFindCertificateInStore": (POINTER, [POINTER, DWORD, DWORD, DWORD, POINTER, POINTER]),
        "CertDuplicateCertificateContext": (POINTER, [POINTER]),
        "CertFreeCertificateContext": (BOOL, [POINTER]),
        "CertGetCertificateContextProperty": (BOOL, [POINTER, DWORD, POINTER, POINTER]),
        "CertSetCertificateContextProperty": (BOOL, [POINTER, DWORD, DWORD, POINTER]),
        "CertAddEncodedCertificateToStore": (BOOL, [POINTER, DWORD, POINTER, DWORD, DWORD, POINTER]),
        "CertDeleteCertificateFromStore": (BOOL, [POINTER]),
        "CryptAcquireCertificatePrivateKey": (BOOL, [POINTER, DWORD, POINTER, POINTER, POINTER, POINTER]),
        "PFXImportCertStore": (POINTER, [POINTER, TEXT, DWORD]),
    },
)


@dataclass(frozen=True)
class Container:
    """Where a private key is kept."""

    provider: str
    name: str
    type: int = 0
    """Of a legacy provider (CSP): PROV_RSA_FULL and so on. 0: the provider is one of CNG (KSP)."""
    machine: bool = False
    """Whether it is one of the machine's, and not the user's."""
    spec: int = 0
    """Of a legacy provider: AT_KEYEXCHANGE or AT_SIGNATURE."""


@dataclass(frozen=True)
class Acquired:
    """A private key that Windows has opened."""

    handle: int
    spec: int
    """CERT_NCRYPT_KEY_SPEC where it is a key of CNG, else the handle is a legacy provider's."""
    owned: bool
    """Whether the caller gives it back."""


@contextlib.contextmanager
def opened_store(location: str, name: str, *, write: bool = False, physical: bool = False) -> Iterator[int]:
    """Open one of the system's stores. Raises `NativeError`: ERROR_FILE_NOT_FOUND where there is none of that name.

    `physical`: not the collection of that name, but what the registry keeps of it (Microsoft, Logical and Physical
    Stores).
    """
    kind = CERT_STORE_PROV_SYSTEM_REGISTRY_W if physical else CERT_STORE_PROV_SYSTEM_W
    # Those that every Windows has may not be there before they are used; another name is a mistyped one.
    flags = LOCATIONS[location] | (0 if write and name.lower() in _EVERYWHERE else CERT_STORE_OPEN_EXISTING_FLAG)
    flags |= 0 if write else CERT_STORE_READONLY_FLAG
    with _closing_store(_dll.demand("CertOpenStore", kind, 0, None, flags, name)) as store:
        yield store


def is_absent(error: NativeError) -> bool:
    """Tell whether it was that there is no such store."""
    return (error.function, error.code) == ("CertOpenStore", CODES["ERROR_FILE_NOT_FOUND"])


@contextlib.contextmanager
def opened_pfx(octets: bytes, password: str, *, machine: bool, exportable: bool) -> Iterator[int]:
    """Take in the keys of a PKCS#12, and open a store in memory with its certificates, which know of the keys."""
    buffer = ctypes.create_string_buffer(octets, len(octets))
    blob = CRYPT_DATA_BLOB(len(octets), ctypes.addressof(buffer))
    flags = CRYPT_MACHINE_KEYSET if machine else CRYPT_USER_KEYSET
    flags |= CRYPT_EXPORTABLE if exportable else 0
    what = (ctypes.byref(blob), password)
    taken = _dll.call("PFXImportCertStore", *what, flags | PKCS12_PREFER_CNG_KSP)
    # Wine takes keys into legacy providers alone, and refuses the flag without a reason.
    if not taken and (reason := last_error()) not in _FLAG_REFUSED:
        raise NativeError("PFXImportCertStore", reason)
    with _closing_store(taken or _dll.demand("PFXImportCertStore", *what, flags)) as store:
        yield store


@contextlib.contextmanager
def _closing_store(store: int) -> Iterator[int]:
    try:
        yield store
    finally:
        _dll.call("CertCloseStore", store, 0)


def contexts(store: int) -> Iterator[int]:
    """Give each certificate of a store, held while it is looked at: `duplicated` holds it for longer."""
    return _each("CertEnumCertificatesInStore", store)


def with_subject(store: int, name: bytes) -> list[bytes]:
    """Return the DER of each certificate of a store with this subject, which is a name in DER."""
    buffer = ctypes.create_string_buffer(name, len(name))
    blob = CRYPT_DATA_BLOB(len(name), ctypes.addressof(buffer))
    what = (X509_ASN_ENCODING, 0, CERT_FIND_SUBJECT_NAME, ctypes.byref(blob))
    return [encoded(context) for context in _each("CertFindCertificateInStore", store, *what)]


def _each(function: str, *what: object) -> Iterator[int]:
    context = None
    try:
        while context := _dll.call(function, *what, context):  # gives the one before back
            yield context
        if (reason := last_error()) not in _END:
            raise NativeError(function, reason)
    finally:
        if context:
            _dll.call("CertFreeCertificateContext", context)


@contextlib.contextmanager
def duplicated(context: int) -> Iterator[int]:
    """Hold a certificate."""
    held = _dll.demand("CertDuplicateCertificateContext", context)
    try:
        yield held
    finally:
        _dll.call("CertFreeCertificateContext", held)


def encoded(context: int) -> bytes:
    """Return a certificate in DER."""
    found = CERT_CONTEXT.from_address(context)
    return octets_at(found.pbCertEncoded, found.cbCertEncoded)


def container(context: int) -> Container | None:
    """Return where a certificate's private key is kept; None where it has none."""
    buffer = _property(context, CERT_KEY_PROV_INFO_PROP_ID)
    if buffer is None:
        return None
    found = CRYPT_KEY_PROV_INFO.from_buffer(buffer)
    return Container(
        found.pwszProvName or "",
        found.pwszContainerName or "",
        found.dwProvType,
        bool(found.dwFlags & CRYPT_MACHINE_KEYSET),
        _spec(found) if found.dwProvType else 0,
    )


def _spec(found: CRYPT_KEY_PROV_INFO) -> int:
    """Return which of a legacy container's two keys it is; Wine tells 3 of imported ones, where it means the first."""
    return AT_SIGNATURE if found.dwKeySpec == AT_SIGNATURE else AT_KEYEXCHANGE


def friendly_name(context: int) -> str | None:
    """Return the name that somebody gave a certificate."""
    buffer = _property(context, CERT_FRIENDLY_NAME_PROP_ID)
    return None if buffer is None else buffer.raw.decode("utf-16-le", "replace").rstrip("\0")


def _property(context: int, number: int) -> ctypes.Array[ctypes.c_char] | None:
    size = DWORD()
    what = (context, number)
    if not _dll.call("CertGetCertificateContextProperty", *what, None, ctypes.byref(size)):
        if (reason := last_error()) == CODES["CRYPT_E_NOT_FOUND"]:
            return None
        raise NativeError("CertGetCertificateContextProperty", reason)
    buffer = ctypes.create_string_buffer(size.value)
    _dll.demand("CertGetCertificateContextProperty", *what, buffer, ctypes.byref(size))
    return buffer


def set_container(context: int, place: Container) -> None:
    """Tell a certificate of a store where its private key is."""
    flags = CRYPT_MACHINE_KEYSET if place.machine else 0
    told = CRYPT_KEY_PROV_INFO(place.name, place.provider, place.type, flags, 0, None, place.spec)
    _dll.demand("CertSetCertificateContextProperty", context, CERT_KEY_PROV_INFO_PROP_ID, 0, ctypes.byref(told))


def set_friendly_name(context: int, name: str | None) -> None:
    """Give a certificate of a store a name, or take it away."""
    what = (context, CERT_FRIENDLY_NAME_PROP_ID, 0)
    if name is None:
        _dll.demand("CertSetCertificateContextProperty", *what, None)
        return
    octets = ctypes.create_string_buffer(name.encode("utf-16-le") + b"\0")  # ctypes adds one more
    blob = CRYPT_DATA_BLOB(len(octets), ctypes.addressof(octets))
    _dll.demand("CertSetCertificateContextProperty", *what, ctypes.byref(blob))


@contextlib.contextmanager
def added(store: int, der: bytes, disposition: int) -> Iterator[int]:
    """Put a certificate into a store and hold it there. Raises `NativeError`, of CERT_STORE_ADD_NEW: CRYPT_E_EXISTS."""
    context = POINTER()
    what = (der, len(der), disposition, ctypes.byref(context))
    _dll.demand("CertAddEncodedCertificateToStore", store, X509_ASN_ENCODING, *what)
    try:
        yield context.value or 0
    finally:
        _dll.call("CertFreeCertificateContext", context)


def delete(context: int) -> None:
    """Take a certificate out of the store that it was found in."""
    held = _dll.demand("CertDuplicateCertificateContext", context)
    _dll.demand("CertDeleteCertificateFromStore", held)  # which gives it back, also where it fails


def acquire(context: int, *, silent: bool) -> Acquired:
    """Open the private key of a certificate, by CNG where it may be. `silent`: show no dialog, rather fail."""
    flags = CRYPT_ACQUIRE_PREFER_NCRYPT_KEY_FLAG | (CRYPT_ACQUIRE_SILENT_FLAG if silent else 0)
    handle, spec, owned = POINTER(), DWORD(), BOOL()
    answers = (ctypes.byref(handle), ctypes.byref(spec), ctypes.byref(owned))
    _dll.demand("CryptAcquireCertificatePrivateKey", context, flags, None, *answers)
    return Acquired(handle.value or 0, spec.value, bool(owned.value))
