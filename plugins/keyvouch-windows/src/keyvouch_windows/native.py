"""Calls to Windows DLLs: loaded on the first call, with declared signatures, and failures raised as exceptions."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from typing import Any

from keyvouch.errors import NotSupported

# Not the types of `ctypes.wintypes`: its DWORD is a C unsigned long, which has 64 bits on other systems.
BOOL = ctypes.c_int32
DWORD = ctypes.c_uint32
POINTER = ctypes.c_void_p
"""Also for handles and pointer-sized integers."""
TEXT = ctypes.c_wchar_p

DACL_SECURITY_INFORMATION = 4
"""Selects the DACL of a security descriptor."""
LOAD_LIBRARY_SEARCH_SYSTEM32 = 0x800
"""Search only the system folder, so that no DLL of that name beside the program or on the search path is loaded."""

_MAX_SIGNATURE = 2048
"""In bytes: that of RSA-16384."""

Signature = tuple[type[Any] | None, Sequence[type[Any]]]
"""A function's result type and argument types."""


class NativeError(Exception):
    """A Windows function failed; `code` is an HRESULT or a Win32 error, as an unsigned integer."""

    def __init__(self, function: str, code: int) -> None:
        self.function = function
        self.code = code & 0xFFFFFFFF
        shown = f"0x{self.code:08X}" if self.code > 0xFFFF else str(self.code or "no error code")  # noqa: PLR2004
        super().__init__(f"{function}: {shown}")


class Library:
    """A DLL and its declared functions."""

    def __init__(self, name: str, signatures: dict[str, Signature]) -> None:
        self.name = name
        self.signatures = signatures
        self.functions: dict[str, Callable[..., Any]] = {}
        """The functions that have already been called."""

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function and return its result. Raises `NotSupported` on systems other than Windows."""
        function = self.function(name)
        _set_last_error_of_ctypes(0)  # a failure without a reason must not report that of an earlier call
        return function(*arguments)

    def function(self, name: str) -> Callable[..., Any]:
        """Return a declared function. Raises `NotSupported` on systems other than Windows."""
        return self.functions.get(name) or self._find(name)

    def check_result(self, name: str, *arguments: Any) -> Any:
        """Call a function that on failure returns 0 and sets the last error. Raises `NativeError`."""
        result = self.call(name, *arguments)
        if not result:
            raise NativeError(name, last_error())
        return result

    def check_status(self, name: str, *arguments: Any) -> None:
        """Call a function that returns 0 on success, otherwise an error code. Raises `NativeError`."""
        if status := self.call(name, *arguments):
            raise NativeError(name, status)

    def _find(self, name: str) -> Callable[..., Any]:
        if os.name != "nt":
            raise NotSupported(
                "The Windows certificate store requires Windows.",
                hint="Run this on Windows, or use another store, such as pfx: or pkcs11:.",
            )
        # A separate function object: no other code in the process sees or changes the types declared here.
        function = getattr(_loader(f"{self.name}.dll", use_last_error=True, winmode=LOAD_LIBRARY_SEARCH_SYSTEM32), name)
        function.restype, function.argtypes = self.signatures[name]
        self.functions[name] = function
        return function  # type: ignore[no-any-return]


_loader: Callable[..., Any] = getattr(ctypes, "WinDLL", ctypes.CDLL)
_last_error_of_ctypes: Callable[[], int] = getattr(ctypes, "get_last_error", int)
_set_last_error_of_ctypes: Callable[[int], object] = getattr(ctypes, "set_last_error", int)
"""The copy that ctypes keeps when a function returns: Windows' own may be overwritten before Python reads it."""


def last_error() -> int:
    """Return the error code of this thread's last failed call, as an unsigned integer."""
    return _last_error_of_ctypes() & 0xFFFFFFFF


def signature_buffer() -> ctypes.Array[ctypes.c_char]:
    """Return a buffer large enough for any signature, so that no call is needed to get its length first."""
    return ctypes.create_string_buffer(_MAX_SIGNATURE)


def read_output(call: Callable[[Any, int, Any], object]) -> bytes:
    """Return the output of a function that reports the required length if called without a buffer.

    `call` calls the function with a buffer, the buffer's size, and a pointer to the length.
    """
    size = DWORD()
    call(None, 0, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    call(buffer, size.value, ctypes.byref(size))
    return buffer.raw[: size.value]


def read_memory(address: int | None, length: int) -> bytes:
    """Return a copy of the memory at an address; empty if the address is null."""
    return ctypes.string_at(address, length) if address else b""
