"""What the operating system says of a file's access rules, and files made with rules of their own: Windows alone."""

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

from keyvouch import access_rules
from keyvouch.security_descriptor import SecurityDescriptor, sid_text

assert sys.platform == "win32"  # noqa: S101 - for mypy, which then reads what follows for that system alone

_OWNER, _DACL, _PROTECTED, _UNPROTECTED = 0x1, 0x4, 0x80000000, 0x20000000
"""Of SECURITY_INFORMATION: which parts of a descriptor are meant."""
_DACL_PROTECTED = 0x1000
"""Control flag of a descriptor: nothing is inherited."""
_READ_CONTROL, _GENERIC_WRITE = 0x20000, 0x40000000
_SHARE_ALL = 0x7
_CREATE_NEW, _OPEN_EXISTING = 1, 3
_NORMAL, _BACKUP_SEMANTICS, _OPEN_REPARSE_POINT = 0x80, 0x02000000, 0x00200000
"""Attributes and flags for opening: folders too, and a link itself."""
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
    (_advapi32, "SetNamedSecurityInfoW", wintypes.DWORD, "ZIIPPPP"),
):
    _function = getattr(_dll, _name)
    _function.restype = _result
    _kinds = {"P": ctypes.c_void_p, "I": wintypes.DWORD, "Z": wintypes.LPCWSTR}
    _function.argtypes = [_kinds[letter] for letter in _arguments]


def rules_of(handle: int) -> SecurityDescriptor:
    """Return the owner and the rules of an open file, by its descriptor. Raises OSError."""
    return SecurityDescriptor.from_bytes(_octets_of(msvcrt.get_osfhandle(handle)))


def rules_at(place: Path) -> SecurityDescriptor:
    """Return the owner and the rules of a file or folder; of a link its own. Raises OSError."""
    return SecurityDescriptor.from_bytes(_octets_at(place))


@functools.cache
def this_user() -> str:
    """Return the SID of the account that this process runs as."""
    token = wintypes.HANDLE()
    process = _kernel32.GetCurrentProcess()
    _demand(_advapi32.OpenProcessToken(process, _TOKEN_QUERY, ctypes.byref(token)), "this process")
    try:
        size = wintypes.DWORD()
        _advapi32.GetTokenInformation(token, _TOKEN_USER, None, 0, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        what = (token, _TOKEN_USER, buffer, size.value, ctypes.byref(size))
        _demand(_advapi32.GetTokenInformation(*what), "this process")
    finally:
        _kernel32.CloseHandle(token)
    sid = ctypes.cast(buffer, ctypes.POINTER(ctypes.c_void_p))[0]  # TOKEN_USER begins with a pointer to it
    return sid_text(ctypes.string_at(sid, _advapi32.GetLengthSid(sid)))


def create(path: Path) -> int:
    """Make a file for this account, Administrators and SYSTEM alone, and return its descriptor, open for writing.

    Raises OSErrors as they come, FileExistsError among them.
    """
    with _attributes(folder=False) as attributes:
        handle = _kernel32.CreateFileW(str(path), _GENERIC_WRITE, 0, attributes, _CREATE_NEW, _NORMAL, None)
        _demand(handle != _INVALID, path)
    return msvcrt.open_osfhandle(handle, os.O_WRONLY)


def make_folder(folder: Path) -> None:
    """Make a folder for this account, Administrators and SYSTEM alone. Raises OSErrors as they come."""
    with _attributes(folder=True) as attributes:
        _demand(_kernel32.CreateDirectoryW(str(folder), attributes), folder)


def give_rules(path: Path, rules: SecurityDescriptor) -> None:
    """Let a file have these rules; what is inherited comes from the folder anew. Raises OSErrors as they come."""
    protected = rules.control & _DACL_PROTECTED
    if rules.dacl and not protected:
        rules = rules.with_dacl(ace for ace in rules.dacl if not ace.inherited)
    buffer = ctypes.create_string_buffer(rules.to_bytes())
    dacl, present, defaulted = ctypes.c_void_p(), wintypes.BOOL(), wintypes.BOOL()
    _advapi32.GetSecurityDescriptorDacl(buffer, *map(ctypes.byref, (present, dacl, defaulted)))
    which = _DACL | (_PROTECTED if protected else _UNPROTECTED)
    if status := _advapi32.SetNamedSecurityInfoW(str(path), _FILE_OBJECT, which, None, None, dacl, None):
        raise ctypes.WinError(status)


def is_console(handle: int) -> bool:
    """Tell whether a descriptor leads to a console; NUL, for which `isatty` is true as well, is none."""
    return bool(_kernel32.GetConsoleMode(msvcrt.get_osfhandle(handle), ctypes.byref(wintypes.DWORD())))


@contextmanager
def _attributes(*, folder: bool) -> Iterator[object]:
    """Give the SECURITY_ATTRIBUTES of what is private."""
    descriptor = ctypes.c_void_p()
    text = access_rules.private(this_user(), folder=folder)
    convert = _advapi32.ConvertStringSecurityDescriptorToSecurityDescriptorW
    _demand(convert(text, 1, ctypes.byref(descriptor), None), "the access rules")
    try:
        yield ctypes.byref(_SecurityAttributes(ctypes.sizeof(_SecurityAttributes), descriptor, False))
    finally:
        _kernel32.LocalFree(descriptor)


def _octets_at(place: Path) -> bytes:
    flags = _BACKUP_SEMANTICS | _OPEN_REPARSE_POINT
    handle = _kernel32.CreateFileW(str(place), _READ_CONTROL, _SHARE_ALL, None, _OPEN_EXISTING, flags, None)
    _demand(handle != _INVALID, place)
    try:
        return _octets_of(handle)
    finally:
        _kernel32.CloseHandle(handle)


def _octets_of(handle: int) -> bytes:
    size = wintypes.DWORD()
    _advapi32.GetKernelObjectSecurity(handle, _OWNER | _DACL, None, 0, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    what = (handle, _OWNER | _DACL, buffer, size.value, ctypes.byref(size))
    _demand(_advapi32.GetKernelObjectSecurity(*what), "the file")
    return buffer.raw


def _demand(result: object, place: object) -> None:
    """Raise the OSError that the last call left where it failed."""
    if not result:
        error = ctypes.WinError(ctypes.get_last_error())
        error.filename = str(place)
        raise error
