"""ncrypt.dll: CNG keys in software, on smart cards and in the TPM (ncrypt.h, bcrypt.h)."""

from __future__ import annotations

import contextlib
import ctypes
import secrets
from collections.abc import Callable, Iterator

from keyvouch_windows.native import DWORD, POINTER, TEXT, Library, read_output, signature_buffer

NCRYPT_MACHINE_KEY_FLAG, NCRYPT_SILENT_FLAG = 0x20, 0x40
NCRYPT_PERSIST_FLAG = 0x80000000
NCRYPT_PAD_PKCS1_FLAG, NCRYPT_PAD_PSS_FLAG = 0x2, 0x8
NCRYPT_ALLOW_EXPORT_FLAG, NCRYPT_ALLOW_PLAINTEXT_EXPORT_FLAG = 0x1, 0x2
NCRYPT_ALLOW_SIGNING_FLAG = 0x2
NCRYPTBUFFER_VERSION = 0
NCRYPTBUFFER_PKCS_ALG_OID, NCRYPTBUFFER_PKCS_ALG_PARAM, NCRYPTBUFFER_PKCS_SECRET = 41, 42, 46

NCRYPT_LENGTH_PROPERTY = "Length"
NCRYPT_EXPORT_POLICY_PROPERTY = "Export Policy"
NCRYPT_KEY_USAGE_PROPERTY = "Key Usage"
NCRYPT_SECURITY_DESCR_PROPERTY = "Security Descr"
BCRYPT_RSAPUBLIC_BLOB, BCRYPT_ECCPUBLIC_BLOB = "RSAPUBLICBLOB", "ECCPUBLICBLOB"
NCRYPT_PKCS8_PRIVATE_KEY_BLOB = "PKCS8_PRIVATEKEY"

_PBE_SHA1_3DES = b"1.2.840.113549.1.12.1.3\0"
"""The only encryption of PKCS#8 that every version of Windows supports (RFC 7292, appendix C)."""
_ROUNDS, _SALT = 2048, 8
"""Its iteration count, and its salt size in bytes. The password is random and short-lived."""


class BCRYPT_PKCS1_PADDING_INFO(ctypes.Structure):  # noqa: N801 - the name in Windows, here and below
    _fields_ = (("pszAlgId", TEXT),)


class BCRYPT_PSS_PADDING_INFO(ctypes.Structure):  # noqa: N801
    _fields_ = (("pszAlgId", TEXT), ("cbSalt", DWORD))


class NCryptBuffer(ctypes.Structure):
    _fields_ = (("cbBuffer", DWORD), ("BufferType", DWORD), ("pvBuffer", POINTER))


class NCryptBufferDesc(ctypes.Structure):
    _fields_ = (("ulVersion", DWORD), ("cBuffers", DWORD), ("pBuffers", POINTER))


class CRYPT_PKCS12_PBE_PARAMS(ctypes.Structure):  # noqa: N801
    _fields_ = (("iIterations", ctypes.c_int32), ("cbSalt", DWORD))


_STATUS = ctypes.c_int32
_dll = Library(
    "ncrypt",
    {
        "NCryptOpenStorageProvider": (_STATUS, [POINTER, TEXT, DWORD]),
        "NCryptOpenKey": (_STATUS, [POINTER, POINTER, TEXT, DWORD, DWORD]),
        "NCryptCreatePersistedKey": (_STATUS, [POINTER, POINTER, TEXT, TEXT, DWORD, DWORD]),
        "NCryptFinalizeKey": (_STATUS, [POINTER, DWORD]),
        "NCryptDeleteKey": (_STATUS, [POINTER, DWORD]),
        "NCryptFreeObject": (_STATUS, [POINTER]),
        "NCryptGetProperty": (_STATUS, [POINTER, TEXT, POINTER, DWORD, POINTER, DWORD]),
        "NCryptSetProperty": (_STATUS, [POINTER, TEXT, POINTER, DWORD, DWORD]),
        "NCryptSignHash": (_STATUS, [POINTER, POINTER, POINTER, DWORD, POINTER, DWORD, POINTER, DWORD]),
        "NCryptExportKey": (_STATUS, [POINTER, POINTER, TEXT, POINTER, POINTER, DWORD, POINTER, DWORD]),
    },
)


@contextlib.contextmanager
def open_provider(name: str) -> Iterator[int]:
    """Open a key storage provider (KSP) by name."""
    provider = POINTER()
    _dll.check_status("NCryptOpenStorageProvider", ctypes.byref(provider), name, 0)
    try:
        yield provider.value or 0
    finally:
        free(provider.value or 0)


def open_key(provider: int, name: str, *, machine: bool, silent: bool) -> int:
    """Open a provider's key and return its handle; release it with `free`."""
    key = POINTER()
    _dll.check_status("NCryptOpenKey", provider, ctypes.byref(key), name, 0, _flags(machine=machine, silent=silent))
    return key.value or 0


def create_key(provider: int, algorithm: str, name: str, *, machine: bool) -> int:
    """Start creating a key; `finalize` completes it. Raises `NativeError`: NTE_EXISTS if the name is taken."""
    key = POINTER()
    flags = NCRYPT_MACHINE_KEY_FLAG if machine else 0
    _dll.check_status("NCryptCreatePersistedKey", provider, ctypes.byref(key), algorithm, name, 0, flags)
    return key.value or 0


def finalize(key: int, *, silent: bool) -> None:
    """Complete a new key once its properties are set."""
    _dll.check_status("NCryptFinalizeKey", key, NCRYPT_SILENT_FLAG if silent else 0)


def free(handle: int) -> None:
    """Release the handle of a provider or a key."""
    _dll.call("NCryptFreeObject", handle)


def delete_key(key: int, *, silent: bool) -> None:
    """Delete a key and release its handle, even if deleting fails."""
    try:
        _dll.check_status("NCryptDeleteKey", key, NCRYPT_SILENT_FLAG if silent else 0)
    except BaseException:
        free(key)
        raise


def get_int(key: int, name: str) -> int:
    """Return a numeric property."""
    value, size = DWORD(), DWORD()
    _dll.check_status("NCryptGetProperty", key, name, ctypes.byref(value), ctypes.sizeof(value), ctypes.byref(size), 0)
    return value.value


def set_int(key: int, name: str, value: int, *, persist: bool = True) -> None:
    """Set a numeric property."""
    number = DWORD(value)
    flags = NCRYPT_PERSIST_FLAG if persist else 0
    _dll.check_status("NCryptSetProperty", key, name, ctypes.byref(number), ctypes.sizeof(number), flags)


def get_bytes(key: int, name: str, flags: int = 0) -> bytes:
    """Return a property as bytes."""
    return read_output(lambda *output: _dll.check_status("NCryptGetProperty", key, name, *output, flags))


def set_bytes(key: int, name: str, value: bytes, flags: int = 0) -> None:
    """Set a property to these bytes."""
    _dll.check_status("NCryptSetProperty", key, name, value, len(value), flags)


def sign_pkcs1(key: int, digest: bytes, hash_name: str, *, silent: bool) -> bytes:
    """Sign a digest with PKCS#1 v1.5; `hash_name` is Windows' name, such as SHA256."""
    padding = BCRYPT_PKCS1_PADDING_INFO(hash_name)
    return _sign(key, ctypes.byref(padding), digest, NCRYPT_PAD_PKCS1_FLAG, silent=silent)


def sign_pss(key: int, digest: bytes, hash_name: str, *, silent: bool) -> bytes:
    """Sign a digest with PSS and a salt as long as the digest."""
    padding = BCRYPT_PSS_PADDING_INFO(hash_name, len(digest))
    return _sign(key, ctypes.byref(padding), digest, NCRYPT_PAD_PSS_FLAG, silent=silent)


def sign_ecdsa(key: int, digest: bytes, *, silent: bool) -> bytes:
    """Sign a digest with ECDSA and return r||s."""
    return _sign(key, None, digest, 0, silent=silent)


def _sign(key: int, padding: object, digest: bytes, flags: int, *, silent: bool) -> bytes:
    flags |= NCRYPT_SILENT_FLAG if silent else 0
    size = DWORD()
    # A single call, without one for the length first: a card may ask for its PIN at every call.
    buffer = signature_buffer()
    arguments = (key, padding, digest, len(digest), buffer, len(buffer), ctypes.byref(size), flags)
    _dll.check_status("NCryptSignHash", *arguments)
    return buffer.raw[: size.value]


def sign_hash_function() -> Callable[..., int]:
    """Return NCryptSignHash itself."""
    return _dll.function("NCryptSignHash")


def export(key: int, kind: str, *, silent: bool) -> bytes:
    """Return a public key, or an unencrypted private key, as a blob of this kind."""
    return _export(key, kind, None, silent=silent)


def export_pkcs8(key: int, password: str, *, silent: bool) -> bytes:
    """Return a private key as encrypted PKCS#8, which also works if plaintext export is not allowed."""
    secret = ctypes.create_string_buffer(password.encode("utf-16-le") + b"\0")
    # The salt follows the structure. The buffer's extra zero byte does not matter: the length is given explicitly.
    derived = ctypes.create_string_buffer(bytes(CRYPT_PKCS12_PBE_PARAMS(_ROUNDS, _SALT)) + secrets.token_bytes(_SALT))
    oid = ctypes.create_string_buffer(_PBE_SHA1_3DES, len(_PBE_SHA1_3DES))
    buffers = (NCryptBuffer * 3)(
        NCryptBuffer(len(secret), NCRYPTBUFFER_PKCS_SECRET, ctypes.addressof(secret)),
        NCryptBuffer(len(oid), NCRYPTBUFFER_PKCS_ALG_OID, ctypes.addressof(oid)),
        NCryptBuffer(len(derived) - 1, NCRYPTBUFFER_PKCS_ALG_PARAM, ctypes.addressof(derived)),
    )
    parameters = NCryptBufferDesc(NCRYPTBUFFER_VERSION, len(buffers), ctypes.addressof(buffers))
    return _export(key, NCRYPT_PKCS8_PRIVATE_KEY_BLOB, ctypes.byref(parameters), silent=silent)


def _export(key: int, kind: str, parameters: object, *, silent: bool) -> bytes:
    flags = NCRYPT_SILENT_FLAG if silent else 0
    arguments = (key, None, kind, parameters)
    return read_output(lambda *output: _dll.check_status("NCryptExportKey", *arguments, *output, flags))


def _flags(*, machine: bool, silent: bool) -> int:
    return (NCRYPT_MACHINE_KEY_FLAG if machine else 0) | (NCRYPT_SILENT_FLAG if silent else 0)
