"""Access rules of files on Windows: reading them, and creating files and folders with their own rules."""

from __future__ import annotations

import ctypes
import functools
import msvcrt
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import wintypes
from pathlib import Path

from keyvouch._system.windows import access_rules
from keyvouch.security_descriptor import SecurityDescriptor, sid_to_text

assert sys.platform == "win32"  # noqa: S101 - mypy then checks the rest of the module for Windows only

_OWNER, _DACL, _PROTECTED, _UNPROTECTED = 0x1, 0x4, 0x80000000, 0x20000000
"""SECURITY_INFORMATION: the parts of a descriptor to read or write."""
_DACL_PROTECTED = 0x1000
"""Control flag of a descriptor: nothing is inherited."""
_READ_CONTROL, _WRITE_DAC, _GENERIC_WRITE = 0x20000, 0x40000, 0x40000000
_SHARE_ALL = 0x7
_CREATE_NEW, _OPEN_EXISTING = 1, 3
_NORMAL, _BACKUP_SEMANTICS, _OPEN_REPARSE_POINT = 0x80, 0x02000000, 0x00200000
"""Attributes and flags for opening files, folders, and links themselves."""
_TOKEN_QUERY, _TOKEN_USER = 0x8, 1
_FILE_OBJECT = 1
_INVALID = wintypes.HANDLE(-1).value

_kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
_advapi32 = ctypes.WinDLL("advapi32", use_last_error=True)


class _SecurityAttributes(ctypes.Structure):
    _fields_ = (("size", wintypes.DWORD), ("descriptor", wintypes.LPVOID), ("inherit", wintypes.BOOL))


for _dll, _name, _result, _arguments in (
    (_kernel32, "CloseHandle", wintypes.BOOL, "P"),
    (_kernel32, "CreateDirectoryW", wintypes.BOOL, "ZP"),
    (_kernel32, "CreateFileW", wintypes.HANDLE, "ZIIPIIP"),
    (_kernel32, "GetConsoleMode", wintypes.BOOL, "PP"),
    (_kernel32, "GetCurrentProcess", wintypes.HANDLE, ""),
    (_kernel32, "LocalFree", wintypes.LPVOID, "P"),
    (_advapi32, "ConvertStringSecurityDescriptorToSecurityDescriptorW", wintypes.BOOL, "ZIPP"),
    (_advapi32, "GetKernelObjectSecurity", wintypes.BOOL, "PIPIP"),
    (_advapi32, "GetLengthSid", wintypes.DWORD, "P"),
    (_advapi32, "GetSecurityDescriptorDacl", wintypes.BOOL, "PPPP"),
    (_advapi32, "GetTokenInformation", wintypes.BOOL, "PIPIP"),
    (_advapi32, "OpenProcessToken", wintypes.BOOL, "PIP"),
    (_advapi32, "SetSecurityInfo", wintypes.DWORD, "PIIPPPP"),
):
    _function = getattr(_dll, _name)
    _function.restype = _result
    _kinds = {"P": ctypes.c_void_p, "I": wintypes.DWORD, "Z": wintypes.LPCWSTR}
    _function.argtypes = [_kinds[letter] for letter in _arguments]


def rules_of(handle: int) -> SecurityDescriptor:
    """Return the owner and access rules of an open file, given its descriptor. Raises OSError."""
    return SecurityDescriptor.from_bytes(_descriptor_of(msvcrt.get_osfhandle(handle)))


def rules_at(path: Path) -> SecurityDescriptor:
    """Return the owner and access rules of a file or folder, or of the link itself. Raises OSError."""
    return SecurityDescriptor.from_bytes(_descriptor_at(path))


@functools.cache
def this_user() -> str:
    """Return the SID of the account that runs this process."""
    token = wintypes.HANDLE()
    process = _kernel32.GetCurrentProcess()
    _check(_advapi32.OpenProcessToken(process, _TOKEN_QUERY, ctypes.byref(token)), "this process")
    try:
        size = wintypes.DWORD()
        _advapi32.GetTokenInformation(token, _TOKEN_USER, None, 0, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        arguments = (token, _TOKEN_USER, buffer, size.value, ctypes.byref(size))
        _check(_advapi32.GetTokenInformation(*arguments), "this process")
    finally:
        _kernel32.CloseHandle(token)
    sid = ctypes.cast(buffer, ctypes.POINTER(ctypes.c_void_p))[0]  # TOKEN_USER begins with a pointer to it
    return sid_to_text(ctypes.string_at(sid, _advapi32.GetLengthSid(sid)))


def create(path: Path) -> int:
    """Create a file that only this account, Administrators and SYSTEM can use; return its descriptor, open for writing.

    Nobody else can open it until it is closed. Raises OSErrors as they come, including FileExistsError.
    """
    with _attributes(folder=False) as attributes:
        rights = _GENERIC_WRITE | _READ_CONTROL | _WRITE_DAC
        handle = _kernel32.CreateFileW(str(path), rights, 0, attributes, _CREATE_NEW, _NORMAL, None)
        _check(handle != _INVALID, path)
    return msvcrt.open_osfhandle(handle, os.O_WRONLY)


def make_folder(folder: Path) -> None:
    """Create a folder that only this account, Administrators and SYSTEM can use. Raises OSErrors as they come."""
    with _attributes(folder=True) as attributes:
        _check(_kernel32.CreateDirectoryW(str(folder), attributes), folder)


def set_rules(handle: int, rules: SecurityDescriptor) -> None:
    """Apply these rules to a file returned by `create`; it inherits the rest from its folder. Raises OSErrors."""
    protected = rules.control & _DACL_PROTECTED
    if rules.dacl and not protected:
        rules = rules.with_dacl(ace for ace in rules.dacl if not ace.inherited)
    buffer = ctypes.create_string_buffer(rules.to_bytes())
    dacl, present, defaulted = ctypes.c_void_p(), wintypes.BOOL(), wintypes.BOOL()
    _advapi32.GetSecurityDescriptorDacl(buffer, *map(ctypes.byref, (present, dacl, defaulted)))
    which = _DACL | (_PROTECTED if protected else _UNPROTECTED)
    file = msvcrt.get_osfhandle(handle)
    if status := _advapi32.SetSecurityInfo(file, _FILE_OBJECT, which, None, None, dacl, None):
        raise ctypes.WinError(status)


def is_console(handle: int) -> bool:
    """Return True if a descriptor is a console; NUL, for which `isatty` is also true, is not."""
    return bool(_kernel32.GetConsoleMode(msvcrt.get_osfhandle(handle), ctypes.byref(wintypes.DWORD())))


@contextmanager
def _attributes(*, folder: bool) -> Iterator[object]:
    """Yield the SECURITY_ATTRIBUTES for a private file or folder."""
    descriptor = ctypes.c_void_p()
    text = access_rules.private(this_user(), folder=folder)
    convert = _advapi32.ConvertStringSecurityDescriptorToSecurityDescriptorW
    _check(convert(text, 1, ctypes.byref(descriptor), None), "the access rules")
    try:
        yield ctypes.byref(_SecurityAttributes(ctypes.sizeof(_SecurityAttributes), descriptor, False))
    finally:
        _kernel32.LocalFree(descriptor)


def _descriptor_at(path: Path) -> bytes:
    flags = _BACKUP_SEMANTICS | _OPEN_REPARSE_POINT
    handle = _kernel32.CreateFileW(str(path), _READ_CONTROL, _SHARE_ALL, None, _OPEN_EXISTING, flags, None)
    _check(handle != _INVALID, path)
    try:
        return _descriptor_of(handle)
    finally:
        _kernel32.CloseHandle(handle)


def _descriptor_of(handle: int) -> bytes:
    size = wintypes.DWORD()
    _advapi32.GetKernelObjectSecurity(handle, _OWNER | _DACL, None, 0, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    arguments = (handle, _OWNER | _DACL, buffer, size.value, ctypes.byref(size))
    _check(_advapi32.GetKernelObjectSecurity(*arguments), "the file")
    return buffer.raw


def _check(result: object, path: object) -> None:
    """Raise the OSError of the last call if it failed."""
    if not result:
        error = ctypes.WinError(ctypes.get_last_error())
        error.filename = str(path)
        raise error
