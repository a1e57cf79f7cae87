"""secur32.dll: as whom this process runs (secext.h)."""

from __future__ import annotations

import ctypes

from keyvouch_windows.native import DWORD, POINTER, Library

NAME_SAM_COMPATIBLE = 2
"""Of EXTENDED_NAME_FORMAT: `DOMAIN\\name`."""

_LONGEST = 512
_dll = Library("secur32", {"GetUserNameExW": (ctypes.c_uint8, [ctypes.c_int32, POINTER, POINTER])})


def account() -> str:
    """Return the account of this thread, `DOMAIN\\name`: of a service too, whose environment tells another one.

    Where Windows does not say, it is "this account".
    """
    name, size = ctypes.create_unicode_buffer(_LONGEST), DWORD(_LONGEST)
    if not _dll.call("GetUserNameExW", NAME_SAM_COMPATIBLE, name, ctypes.byref(size)):
        return "this account"
    return name.value
