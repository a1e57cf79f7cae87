"""Signatures by Windows' functions called through ctypes, for comparison with keyvouch."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from keyvouch_windows import advapi32, ncrypt
from keyvouch_windows.native import DWORD, POINTER, NativeError, last_error, signature_buffer

if TYPE_CHECKING:
    from keyvouch.algorithms import Algorithm


def cng_peer(key: int, algorithm: Algorithm, *, silent: bool) -> Callable[[bytes], bytes]:
    """Return a function that calls NCryptSignHash with a key's handle, and raises `NativeError`."""
    sign_hash, hash_name = ncrypt.sign_hash_function(), algorithm.hash_name
    padding, flags = _padding(algorithm)
    flags |= ncrypt.NCRYPT_SILENT_FLAG if silent else 0

    def sign(message: bytes) -> bytes:
        digest = hashlib.new(hash_name, message).digest()
        buffer, length = signature_buffer(), DWORD()
        status = sign_hash(key, padding, digest, len(digest), buffer, len(buffer), ctypes.byref(length), flags)
        if status:
            raise NativeError("NCryptSignHash", status)
        return buffer.raw[: length.value]

    return sign


def _padding(algorithm: Algorithm) -> tuple[Any, int]:
    name = algorithm.hash_name.upper()
    if algorithm.family == "RSA-PSS":
        salt = hashlib.new(algorithm.hash_name).digest_size
        return ctypes.byref(ncrypt.BCRYPT_PSS_PADDING_INFO(name, salt)), ncrypt.NCRYPT_PAD_PSS_FLAG
    if algorithm.family == "RSA-PKCS1":
        return ctypes.byref(ncrypt.BCRYPT_PKCS1_PADDING_INFO(name)), ncrypt.NCRYPT_PAD_PKCS1_FLAG
    return None, 0


def legacy_peer(container: int, spec: int, algorithm: Algorithm) -> Callable[[bytes], bytes]:
    """Return a function that calls CryptSignHash with a container's handle, and raises `NativeError`."""
    create, set_value, sign_hash, destroy = advapi32.signing_functions()
    hash_name, calg = algorithm.hash_name, advapi32.CALG[algorithm.hash_name]

    def sign(message: bytes) -> bytes:
        digest = hashlib.new(hash_name, message).digest()
        handle, buffer = POINTER(), signature_buffer()
        length = DWORD(len(buffer))
        try:
            if not (
                create(container, calg, None, 0, ctypes.byref(handle))
                and set_value(handle, advapi32.HP_HASHVAL, digest, 0)
                and sign_hash(handle, spec, None, 0, buffer, ctypes.byref(length))
            ):
                raise NativeError("CryptSignHash", last_error())
        finally:
            if handle:
                destroy(handle)
        return buffer.raw[: length.value][::-1]

    return sign
