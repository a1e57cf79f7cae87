"""advapi32.dll: keys of the legacy providers (CSPs), and account names (wincrypt.h, winbase.h)."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from keyvouch_windows.native import (
    BOOL,
    DACL_SECURITY_INFORMATION,
    DWORD,
    POINTER,
    TEXT,
    Library,
    NativeError,
    last_error,
    read_memory,
    read_output,
    signature_buffer,
)

PROV_RSA_FULL, PROV_RSA_AES = 1, 24
CRYPT_NEWKEYSET, CRYPT_DELETEKEYSET, CRYPT_MACHINE_KEYSET, CRYPT_SILENT = 0x8, 0x10, 0x20, 0x40
CRYPT_EXPORTABLE = 0x1
AT_KEYEXCHANGE, AT_SIGNATURE = 1, 2
HP_HASHVAL = 2
KP_PERMISSIONS, CRYPT_EXPORT = 6, 0x4
PP_KEYSET_SEC_DESCR = 8
PUBLICKEYBLOB, PRIVATEKEYBLOB = 0x6, 0x7
CALG = {"sha256": 0x800C, "sha384": 0x800D, "sha512": 0x800E}
"""CALG_SHA_256 etc., by hash name."""
TOKEN_USER_CLASS = 1
"""TokenUser in TOKEN_INFORMATION_CLASS."""
ERROR_NO_MORE_ITEMS, ERROR_INSUFFICIENT_BUFFER, ERROR_NONE_MAPPED = 259, 122, 1332
_NOT_ACCOUNTS = frozenset({3, 6, 7, 8})
"""Values of SID_NAME_USE: domain (also returned for the computer's own name), deleted account, invalid, unknown."""
_EFFECTIVE_TOKEN = -6
"""The pseudo-handle, not to be closed, that GetCurrentThreadEffectiveToken, an inline function, returns."""
_MAX_TOKEN_USER = 128
"""In bytes: a pointer and attributes, followed by the longest SID."""

_dll = Library(
    "advapi32",
    {
        "CryptAcquireContextW": (BOOL, [POINTER, TEXT, TEXT, DWORD, DWORD]),
        "CryptReleaseContext": (BOOL, [POINTER, DWORD]),
        "CryptEnumProvidersW": (BOOL, [DWORD, POINTER, DWORD, POINTER, POINTER, POINTER]),
        "CryptGenKey": (BOOL, [POINTER, DWORD, DWORD, POINTER]),
        "CryptGetUserKey": (BOOL, [POINTER, DWORD, POINTER]),
        "CryptDestroyKey": (BOOL, [POINTER]),
        "CryptGetKeyParam": (BOOL, [POINTER, DWORD, POINTER, POINTER, DWORD]),
        "CryptGetProvParam": (BOOL, [POINTER, DWORD, POINTER, POINTER, DWORD]),
        "CryptSetProvParam": (BOOL, [POINTER, DWORD, POINTER, DWORD]),
        "CryptImportKey": (BOOL, [POINTER, POINTER, DWORD, POINTER, DWORD, POINTER]),
        "CryptExportKey": (BOOL, [POINTER, POINTER, DWORD, DWORD, POINTER, POINTER]),
        "CryptCreateHash": (BOOL, [POINTER, DWORD, POINTER, DWORD, POINTER]),
        "CryptSetHashParam": (BOOL, [POINTER, DWORD, POINTER, DWORD]),
        "CryptDestroyHash": (BOOL, [POINTER]),
        "CryptSignHashW": (BOOL, [POINTER, DWORD, TEXT, DWORD, POINTER, POINTER]),
        "GetTokenInformation": (BOOL, [POINTER, DWORD, POINTER, DWORD, POINTER]),
        "LookupAccountNameW": (BOOL, [TEXT, TEXT, POINTER, POINTER, POINTER, POINTER, POINTER]),
        "LookupAccountSidW": (BOOL, [TEXT, POINTER, POINTER, POINTER, POINTER, POINTER, POINTER]),
    },
)


def acquire(name: str, provider: str | None, kind: int, flags: int) -> int:
    """Open or create a key container; release it with `release`. `provider`: None for the type's default."""
    handle = POINTER()
    _dll.check_result("CryptAcquireContextW", ctypes.byref(handle), name, provider, kind, flags)
    return handle.value or 0


def release(handle: int) -> None:
    """Release the handle of a container."""
    _dll.call("CryptReleaseContext", handle, 0)


def delete(name: str, provider: str | None, kind: int, flags: int) -> None:
    """Delete a container and its keys."""
    _dll.check_result("CryptAcquireContextW", ctypes.byref(POINTER()), name, provider, kind, flags | CRYPT_DELETEKEYSET)


def providers() -> dict[str, int]:
    """Return the installed legacy providers' types, by name."""
    found: dict[str, int] = {}
    kind, size = DWORD(), DWORD()
    buffer = ctypes.create_unicode_buffer(512)
    for index in range(1000):
        size.value = ctypes.sizeof(buffer)
        arguments = (index, None, 0, ctypes.byref(kind), buffer, ctypes.byref(size))
        if not _dll.call("CryptEnumProvidersW", *arguments):
            if (reason := last_error()) != ERROR_NO_MORE_ITEMS:
                raise NativeError("CryptEnumProvidersW", reason)
            break
        found[buffer.value] = kind.value
    return found


def generate(handle: int, spec: int, bits: int, *, exportable: bool) -> None:
    """Generate a key in a container."""
    key = POINTER()
    flags = bits << 16 | (CRYPT_EXPORTABLE if exportable else 0)
    _dll.check_result("CryptGenKey", handle, spec, flags, ctypes.byref(key))
    _dll.call("CryptDestroyKey", key)


def import_key(handle: int, blob: bytes, *, exportable: bool) -> None:
    """Import a key into a container; `blob` is a PRIVATEKEYBLOB."""
    key = POINTER()
    flags = CRYPT_EXPORTABLE if exportable else 0
    _dll.check_result("CryptImportKey", handle, blob, len(blob), None, flags, ctypes.byref(key))
    _dll.call("CryptDestroyKey", key)


@contextlib.contextmanager
def open_key(handle: int, spec: int) -> Iterator[int]:
    """Open a container's key of this kind. Raises `NativeError`: NTE_NO_KEY if there is none."""
    key = POINTER()
    _dll.check_result("CryptGetUserKey", handle, spec, ctypes.byref(key))
    try:
        yield key.value or 0
    finally:
        _dll.call("CryptDestroyKey", key)


def permissions(key: int) -> int:
    """Return a key's permission flags, such as CRYPT_EXPORT."""
    value, size = DWORD(), DWORD(ctypes.sizeof(DWORD))
    _dll.check_result("CryptGetKeyParam", key, KP_PERMISSIONS, ctypes.byref(value), ctypes.byref(size), 0)
    return value.value


def export(key: int, kind: int) -> bytes:
    """Return a key as a PUBLICKEYBLOB or PRIVATEKEYBLOB."""
    return read_output(lambda buffer, _, size: _dll.check_result("CryptExportKey", key, None, kind, 0, buffer, size))


def sign(handle: int, spec: int, digest: bytes, hash_name: str) -> bytes:
    """Sign a digest with PKCS#1 v1.5 and return the signature in big-endian order (CryptoAPI's is little-endian)."""
    hash_handle = POINTER()
    _dll.check_result("CryptCreateHash", handle, CALG[hash_name], None, 0, ctypes.byref(hash_handle))
    try:
        _dll.check_result("CryptSetHashParam", hash_handle, HP_HASHVAL, digest, 0)
        buffer = signature_buffer()
        size = DWORD(len(buffer))
        _dll.check_result("CryptSignHashW", hash_handle, spec, None, 0, buffer, ctypes.byref(size))
        return buffer.raw[: size.value][::-1]
    finally:
        _dll.call("CryptDestroyHash", hash_handle)


def signing_functions() -> tuple[Callable[..., int], ...]:
    """Return the functions that `sign` calls, themselves and in this order."""
    names = ("CryptCreateHash", "CryptSetHashParam", "CryptSignHashW", "CryptDestroyHash")
    return tuple(_dll.function(name) for name in names)


def security_descriptor(handle: int) -> bytes:
    """Return a container's security descriptor, with its DACL only."""

    def call(buffer: object, _: int, size: object) -> None:
        _dll.check_result("CryptGetProvParam", handle, PP_KEYSET_SEC_DESCR, buffer, size, DACL_SECURITY_INFORMATION)

    return read_output(call)


def set_security_descriptor(handle: int, descriptor: bytes) -> None:
    """Set the DACL of a container from a security descriptor."""
    _dll.check_result("CryptSetProvParam", handle, PP_KEYSET_SEC_DESCR, descriptor, DACL_SECURITY_INFORMATION)


def current_sid() -> bytes:
    """Return the SID of the account that this thread runs as."""
    buffer, size = ctypes.create_string_buffer(_MAX_TOKEN_USER), DWORD()
    arguments = (_EFFECTIVE_TOKEN, TOKEN_USER_CLASS, buffer, len(buffer), ctypes.byref(size))
    _dll.check_result("GetTokenInformation", *arguments)
    sid = POINTER.from_buffer(buffer).value or 0  # TOKEN_USER starts with a pointer to the SID
    return read_memory(sid, 8 + 4 * read_memory(sid, 2)[1])


def sid_of(account: str) -> bytes | None:
    """Return the SID of an account, `DOMAIN\\name`; None if there is no such account."""
    found = _look_up("LookupAccountNameW", account, ctypes.create_string_buffer)
    return None if found is None or found.kind in _NOT_ACCOUNTS else bytes(found.result.raw)


def account_of(sid: bytes) -> str | None:
    """Return the name of an account, `DOMAIN\\name`; None if the SID is unknown."""
    found = _look_up("LookupAccountSidW", sid, ctypes.create_unicode_buffer)
    if found is None:
        return None
    return f"{found.domain}\\{found.result.value}" if found.domain else str(found.result.value)


class _Account(NamedTuple):
    result: Any
    """The buffer with the SID or the name that was looked up."""
    domain: str
    kind: int
    """A value of SID_NAME_USE."""


def _look_up(function: str, known: str | bytes, buffer: Callable[[int], Any]) -> _Account | None:
    result_size, domain_size, kind = DWORD(), DWORD(), DWORD()
    sizes = (ctypes.byref(result_size), ctypes.byref(domain_size))
    if not _dll.call(function, None, known, None, sizes[0], None, sizes[1], ctypes.byref(kind)):
        if (reason := last_error()) == ERROR_NONE_MAPPED:
            return None
        if reason != ERROR_INSUFFICIENT_BUFFER:
            raise NativeError(function, reason)
    result = buffer(result_size.value or 1)
    domain = ctypes.create_unicode_buffer(domain_size.value or 1)
    _dll.check_result(function, None, known, result, sizes[0], domain, sizes[1], ctypes.byref(kind))
    return _Account(result, domain.value, kind.value)
