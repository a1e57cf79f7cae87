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
    octets_at,
    octets_of,
    room_for_signature,
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
_NOBODY = frozenset({3, 6, 7, 8})
"""Values of SID_NAME_USE: domain (also returned for the computer's own name), deleted account, invalid, unknown."""
_EFFECTIVE_TOKEN = -6
"""The pseudo-handle, not to be closed, that GetCurrentThreadEffectiveToken, an inline function, returns."""
_LONGEST_TOKEN_USER = 128
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
    _dll.demand("CryptAcquireContextW", ctypes.byref(handle), name, provider, kind, flags)
    return handle.value or 0


def release(handle: int) -> None:
    """Release the handle of a container."""
    _dll.call("CryptReleaseContext", handle, 0)


def delete(name: str, provider: str | None, kind: int, flags: int) -> None:
    """Delete a container and its keys."""
    _dll.demand("CryptAcquireContextW", ctypes.byref(POINTER()), name, provider, kind, flags | CRYPT_DELETEKEYSET)


def providers() -> dict[str, int]:
    """Return the installed legacy providers' types, by name."""
    found: dict[str, int] = {}
    kind, size = DWORD(), DWORD()
    buffer = ctypes.create_unicode_buffer(512)
    for index in range(1000):
        size.value = ctypes.sizeof(buffer)
        what = (index, None, 0, ctypes.byref(kind), buffer, ctypes.byref(size))
        if not _dll.call("CryptEnumProvidersW", *what):
            if (reason := last_error()) != ERROR_NO_MORE_ITEMS:
                raise NativeError("CryptEnumProvidersW", reason)
            break
        found[buffer.value] = kind.value
    return found


def generate(handle: int, spec: int, bits: int, *, exportable: bool) -> None:
    """Generate a key in a container."""
    key = POINTER()
    flags = bits << 16 | (CRYPT_EXPORTABLE if exportable else 0)
    _dll.demand("CryptGenKey", handle, spec, flags, ctypes.byref(key))
    _dll.call("CryptDestroyKey", key)


def take_in(handle: int, blob: bytes, *, exportable: bool) -> None:
    """Import a key into a container; `blob` is a PRIVATEKEYBLOB."""
    key = POINTER()
    flags = CRYPT_EXPORTABLE if exportable else 0
    _dll.demand("CryptImportKey", handle, blob, len(blob), None, flags, ctypes.byref(key))
    _dll.call("CryptDestroyKey", key)


@contextlib.contextmanager
def key_of(handle: int, spec: int) -> Iterator[int]:
    """Open a container's key of this kind. Raises `NativeError`: NTE_NO_KEY if there is none."""
    key = POINTER()
    _dll.demand("CryptGetUserKey", handle, spec, ctypes.byref(key))
    try:
        yield key.value or 0
    finally:
        _dll.call("CryptDestroyKey", key)


def permissions(key: int) -> int:
    """Return a key's permission flags, such as CRYPT_EXPORT."""
    value, size = DWORD(), DWORD(ctypes.sizeof(DWORD))
    _dll.demand("CryptGetKeyParam", key, KP_PERMISSIONS, ctypes.byref(value), ctypes.byref(size), 0)
    return value.value


def export(key: int, kind: int) -> bytes:
    """Return a key as a PUBLICKEYBLOB or PRIVATEKEYBLOB."""
    return octets_of(lambda buffer, _, size: _dll.demand("CryptExportKey", key, None, kind, 0, buffer, size))


def sign(handle: int, spec: int, digest: bytes, hash_name: str) -> bytes:
    """Sign a digest with PKCS#1 v1.5 and return the signature in big-endian order (CryptoAPI's is little-endian)."""
    made = POINTER()
    _dll.demand("CryptCreateHash", handle, CALG[hash_name], None, 0, ctypes.byref(made))
    try:
        _dll.demand("CryptSetHashParam", made, HP_HASHVAL, digest, 0)
        buffer = room_for_signature()
        size = DWORD(len(buffer))
        _dll.demand("CryptSignHashW", made, spec, None, 0, buffer, ctypes.byref(size))
        return buffer.raw[: size.value][::-1]
    finally:
        _dll.call("CryptDestroyHash", made)


def security_descriptor(handle: int) -> bytes:
    """Return a container's security descriptor, with its DACL only."""
    what = (handle, PP_KEYSET_SEC_DESCR)
    return octets_of(
        lambda buffer, _, size: _dll.demand("CryptGetProvParam", *what, buffer, size, DACL_SECURITY_INFORMATION)
    )


def set_security_descriptor(handle: int, octets: bytes) -> None:
    """Set the DACL of a container from a security descriptor."""
    _dll.demand("CryptSetProvParam", handle, PP_KEYSET_SEC_DESCR, octets, DACL_SECURITY_INFORMATION)


def sid_of_this_account() -> bytes:
    """Return the SID of the account that this thread runs as."""
    buffer, size = ctypes.create_string_buffer(_LONGEST_TOKEN_USER), DWORD()
    what = (_EFFECTIVE_TOKEN, TOKEN_USER_CLASS, buffer, len(buffer), ctypes.byref(size))
    _dll.demand("GetTokenInformation", *what)
    sid = POINTER.from_buffer(buffer).value or 0  # TOKEN_USER starts with a pointer to the SID
    return octets_at(sid, 8 + 4 * octets_at(sid, 2)[1])


def sid_of(account: str) -> bytes | None:
    """Return the SID of an account, `DOMAIN\\name`; None if there is no such account."""
    found = _looked_up("LookupAccountNameW", account, ctypes.create_string_buffer)
    return None if found is None or found.kind in _NOBODY else bytes(found.first.raw)


def account_of(sid: bytes) -> str | None:
    """Return the name of an account, `DOMAIN\\name`; None if the SID is unknown."""
    found = _looked_up("LookupAccountSidW", sid, ctypes.create_unicode_buffer)
    if found is None:
        return None
    return f"{found.domain}\\{found.first.value}" if found.domain else str(found.first.value)


class _Account(NamedTuple):
    first: Any
    """The buffer with the SID or the name that was looked up."""
    domain: str
    kind: int
    """A value of SID_NAME_USE."""


def _looked_up(function: str, known: str | bytes, buffer: Callable[[int], Any]) -> _Account | None:
    first_size, domain_size, kind = DWORD(), DWORD(), DWORD()
    sizes = (ctypes.byref(first_size), ctypes.byref(domain_size))
    if not _dll.call(function, None, known, None, sizes[0], None, sizes[1], ctypes.byref(kind)):
        if (reason := last_error()) == ERROR_NONE_MAPPED:
            return None
        if reason != ERROR_INSUFFICIENT_BUFFER:
            raise NativeError(function, reason)
    first = buffer(first_size.value or 1)
    domain = ctypes.create_unicode_buffer(domain_size.value or 1)
    _dll.demand(function, None, known, first, sizes[0], domain, sizes[1], ctypes.byref(kind))
    return _Account(first, domain.value, kind.value)
