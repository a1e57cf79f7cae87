"""crypt32.dll: certificate stores, and the private keys that their certificates refer to (wincrypt.h)."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

from keyvouch_windows.advapi32 import AT_KEYEXCHANGE, AT_SIGNATURE
from keyvouch_windows.error_codes import CODES
from keyvouch_windows.native import BOOL, DWORD, POINTER, TEXT, Library, NativeError, last_error, read_memory

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
_END_OF_ENUMERATION = (CODES["CRYPT_E_NOT_FOUND"], ERROR_NO_MORE_FILES, 0)
"""Last errors at the end of an enumeration that did not fail."""
_FLAG_UNSUPPORTED = (0, CODES["ERROR_INVALID_PARAMETER"], CODES["NTE_BAD_FLAGS"])

_CREATED_ON_DEMAND = ("my", "ca")
LOCATIONS = {"CurrentUser": CERT_SYSTEM_STORE_CURRENT_USER, "LocalMachine": CERT_SYSTEM_STORE_LOCAL_MACHINE}
"""Locations by their PowerShell names, in search order."""


class CRYPT_DATA_BLOB(ctypes.Structure):  # noqa: N801 - the name in Windows, here and below
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
    """A legacy provider's (CSP's) type, such as PROV_RSA_FULL; 0 for a CNG provider (KSP)."""
    machine: bool = False
    """Whether it belongs to the machine rather than to the user."""
    spec: int = 0
    """AT_KEYEXCHANGE or AT_SIGNATURE for a legacy provider; otherwise 0."""


@dataclass(frozen=True)
class AcquiredKey:
    """A private key that Windows has opened."""

    handle: int
    spec: int
    """CERT_NCRYPT_KEY_SPEC for a CNG key; otherwise the handle is that of a legacy provider."""
    owned: bool
    """Whether the caller must release the handle."""


@contextlib.contextmanager
def open_store(location: str, name: str, *, write: bool = False, physical: bool = False) -> Iterator[int]:
    """Open a system store. Raises `NativeError`: ERROR_FILE_NOT_FOUND if there is none of this name.

    `physical`: open only the physical store in the registry, not the logical store of this name (Microsoft, Logical
    and Physical Stores).
    """
    kind = CERT_STORE_PROV_SYSTEM_REGISTRY_W if physical else CERT_STORE_PROV_SYSTEM_W
    # Standard stores may not exist until first used; any other missing store is a mistyped name.
    flags = LOCATIONS[location] | (0 if write and name.lower() in _CREATED_ON_DEMAND else CERT_STORE_OPEN_EXISTING_FLAG)
    flags |= 0 if write else CERT_STORE_READONLY_FLAG
    with _closing_store(_dll.check_result("CertOpenStore", kind, 0, None, flags, name)) as store:
        yield store


def is_missing_store(error: NativeError) -> bool:
    """Return whether the error means that the store does not exist."""
    return (error.function, error.code) == ("CertOpenStore", CODES["ERROR_FILE_NOT_FOUND"])


@contextlib.contextmanager
def import_pfx(data: bytes, password: str, *, machine: bool, exportable: bool) -> Iterator[int]:
    """Import the keys of a PKCS#12 bundle, and open a memory store with its certificates, which refer to the keys."""
    buffer = ctypes.create_string_buffer(data, len(data))
    blob = CRYPT_DATA_BLOB(len(data), ctypes.addressof(buffer))
    flags = CRYPT_MACHINE_KEYSET if machine else CRYPT_USER_KEYSET
    flags |= CRYPT_EXPORTABLE if exportable else 0
    arguments = (ctypes.byref(blob), password)
    imported = _dll.call("PFXImportCertStore", *arguments, flags | PKCS12_PREFER_CNG_KSP)
    # Wine imports keys into legacy providers only, and rejects the flag without a reason.
    if not imported and (reason := last_error()) not in _FLAG_UNSUPPORTED:
        raise NativeError("PFXImportCertStore", reason)
    with _closing_store(imported or _dll.check_result("PFXImportCertStore", *arguments, flags)) as store:
        yield store


@contextlib.contextmanager
def _closing_store(store: int) -> Iterator[int]:
    try:
        yield store
    finally:
        _dll.call("CertCloseStore", store, 0)


def contexts(store: int) -> Iterator[int]:
    """Yield each certificate context of a store, valid until the next one; `duplicate` keeps it for longer."""
    return _iterate("CertEnumCertificatesInStore", store)


def find_by_subject(store: int, name: bytes) -> list[bytes]:
    """Return as DER each certificate of a store with this subject, a DER-encoded name."""
    buffer = ctypes.create_string_buffer(name, len(name))
    blob = CRYPT_DATA_BLOB(len(name), ctypes.addressof(buffer))
    arguments = (X509_ASN_ENCODING, 0, CERT_FIND_SUBJECT_NAME, ctypes.byref(blob))
    return [to_der(context) for context in _iterate("CertFindCertificateInStore", store, *arguments)]


def _iterate(function: str, *arguments: object) -> Iterator[int]:
    context = None
    try:
        while context := _dll.call(function, *arguments, context):  # frees the previous context
            yield context
        if (reason := last_error()) not in _END_OF_ENUMERATION:
            raise NativeError(function, reason)
    finally:
        if context:
            _dll.call("CertFreeCertificateContext", context)


@contextlib.contextmanager
def duplicate(context: int) -> Iterator[int]:
    """Hold another reference to a certificate context."""
    held = _dll.check_result("CertDuplicateCertificateContext", context)
    try:
        yield held
    finally:
        _dll.call("CertFreeCertificateContext", held)


def to_der(context: int) -> bytes:
    """Return a certificate as DER."""
    found = CERT_CONTEXT.from_address(context)
    return read_memory(found.pbCertEncoded, found.cbCertEncoded)


def get_container(context: int) -> Container | None:
    """Return the container of a certificate's private key; None if it has none."""
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
    """Return which of a legacy container's two keys it is. For imported keys Wine reports 3 and means the first."""
    return AT_SIGNATURE if found.dwKeySpec == AT_SIGNATURE else AT_KEYEXCHANGE


def get_friendly_name(context: int) -> str | None:
    """Return a certificate's friendly name, if it has one."""
    buffer = _property(context, CERT_FRIENDLY_NAME_PROP_ID)
    return None if buffer is None else buffer.raw.decode("utf-16-le", "replace").rstrip("\0")


def _property(context: int, number: int) -> ctypes.Array[ctypes.c_char] | None:
    size = DWORD()
    arguments = (context, number)
    if not _dll.call("CertGetCertificateContextProperty", *arguments, None, ctypes.byref(size)):
        if (reason := last_error()) == CODES["CRYPT_E_NOT_FOUND"]:
            return None
        raise NativeError("CertGetCertificateContextProperty", reason)
    buffer = ctypes.create_string_buffer(size.value)
    _dll.check_result("CertGetCertificateContextProperty", *arguments, buffer, ctypes.byref(size))
    return buffer


def set_container(context: int, container: Container) -> None:
    """Link a certificate of a store to its private key's container."""
    flags = CRYPT_MACHINE_KEYSET if container.machine else 0
    info = CRYPT_KEY_PROV_INFO(container.name, container.provider, container.type, flags, 0, None, container.spec)
    _dll.check_result("CertSetCertificateContextProperty", context, CERT_KEY_PROV_INFO_PROP_ID, 0, ctypes.byref(info))


def set_friendly_name(context: int, name: str | None) -> None:
    """Set the friendly name of a certificate of a store, or remove it."""
    arguments = (context, CERT_FRIENDLY_NAME_PROP_ID, 0)
    if name is None:
        _dll.check_result("CertSetCertificateContextProperty", *arguments, None)
        return
    text = ctypes.create_string_buffer(name.encode("utf-16-le") + b"\0")  # ctypes adds another zero byte
    blob = CRYPT_DATA_BLOB(len(text), ctypes.addressof(text))
    _dll.check_result("CertSetCertificateContextProperty", *arguments, ctypes.byref(blob))


@contextlib.contextmanager
def add(store: int, der: bytes, disposition: int) -> Iterator[int]:
    """Add a certificate to a store and hold its context.

    Raises `NativeError`; with CERT_STORE_ADD_NEW, CRYPT_E_EXISTS if the certificate is in the store already.
    """
    context = POINTER()
    arguments = (der, len(der), disposition, ctypes.byref(context))
    _dll.check_result("CertAddEncodedCertificateToStore", store, X509_ASN_ENCODING, *arguments)
    try:
        yield context.value or 0
    finally:
        _dll.call("CertFreeCertificateContext", context)


def delete(context: int) -> None:
    """Delete a certificate from the store in which it was found."""
    own = _dll.check_result("CertDuplicateCertificateContext", context)
    _dll.check_result("CertDeleteCertificateFromStore", own)  # which frees the context, even if it fails


def acquire_key(context: int, *, silent: bool) -> AcquiredKey:
    """Open the private key of a certificate, through CNG if possible. `silent`: fail rather than show a dialog."""
    flags = CRYPT_ACQUIRE_PREFER_NCRYPT_KEY_FLAG | (CRYPT_ACQUIRE_SILENT_FLAG if silent else 0)
    handle, spec, owned = POINTER(), DWORD(), BOOL()
    outputs = (ctypes.byref(handle), ctypes.byref(spec), ctypes.byref(owned))
    _dll.check_result("CryptAcquireCertificatePrivateKey", context, flags, None, *outputs)
    return AcquiredKey(handle.value or 0, spec.value, bool(owned.value))
