"""Calls of Windows' DLLs: loaded when they are first called, with declared functions, and failures as exceptions."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from typing import Any

from keyvouch.errors import NotSupported

# Not those of `ctypes.wintypes`: a DWORD there is a C long, which has 64 bits elsewhere.
BOOL = ctypes.c_int32
DWORD = ctypes.c_uint32
POINTER = ctypes.c_void_p
"""Handles too, and numbers that are as wide as one."""
TEXT = ctypes.c_wchar_p

DACL_SECURITY_INFORMATION = 4
"""Of a security descriptor: who may do what."""
LOAD_LIBRARY_SEARCH_SYSTEM32 = 0x800
"""The system's folder alone: a DLL of that name beside the program, or where a variable points, is not wanted."""

_LONGEST_SIGNATURE = 2048
"""Bytes: RSA-16384."""

Signature = tuple[type[Any] | None, Sequence[type[Any]]]
"""What a function returns, and what it takes."""


class NativeError(Exception):
    """A function of Windows' failed; `code` is an HRESULT or a Win32 error, without a sign."""

    def __init__(self, function: str, code: int) -> None:
        self.function = function
        self.code = code & 0xFFFFFFFF
        shown = f"0x{self.code:08X}" if self.code > 0xFFFF else str(self.code or "no reason given")  # noqa: PLR2004
        super().__init__(f"{function}: {shown}")


class Library:
    """A DLL and the functions of it that are declared."""

    def __init__(self, name: str, signatures: dict[str, Signature]) -> None:
        self.name = name
        self.signatures = signatures
        self.functions: dict[str, Callable[..., Any]] = {}
        """Those that were called already."""

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function and return what it returns. Raises `NotSupported` on another system than Windows."""
        function = self.functions.get(name) or self._find(name)
        _set_last_error_of_ctypes(0)  # what fails without a reason must not show that of a former call
        return function(*arguments)

    def demand(self, name: str, *arguments: Any) -> Any:
        """Call a function that returns 0 where it fails, and says why as the last error. Raises `NativeError`."""
        result = self.call(name, *arguments)
        if not result:
            raise NativeError(name, last_error())
        return result

    def check(self, name: str, *arguments: Any) -> None:
        """Call a function that returns 0 where it succeeds, else the reason. Raises `NativeError`."""
        if status := self.call(name, *arguments):
            raise NativeError(name, status)

    def _find(self, name: str) -> Callable[..., Any]:
        if os.name != "nt":
            raise NotSupported(
                "The Windows certificate store is there on Windows alone.",
                hint="Open it on Windows, or take another store here, as pfx: or pkcs11:.",
            )
        # A function object of its own: what is declared of it here, nobody else in the process sees or changes.
        function = getattr(_loader(f"{self.name}.dll", use_last_error=True, winmode=LOAD_LIBRARY_SEARCH_SYSTEM32), name)
        function.restype, function.argtypes = self.signatures[name]
        self.functions[name] = function
        return function  # type: ignore[no-any-return]


_loader: Callable[..., Any] = getattr(ctypes, "WinDLL", ctypes.CDLL)
_last_error_of_ctypes: Callable[[], int] = getattr(ctypes, "get_last_error", int)
_set_last_error_of_ctypes: Callable[[int], object] = getattr(ctypes, "set_last_error", int)
"""What ctypes kept when a function returned: Windows' own may be another's by the time Python asks for it."""


def last_error() -> int:
    """Return why the last call of this thread failed, without a sign."""
    return _last_error_of_ctypes() & 0xFFFFFFFF


def room_for_signature() -> ctypes.Array[ctypes.c_char]:
    """Return a buffer that any signature fits in, so that its length need not be asked for before."""
    return ctypes.create_string_buffer(_LONGEST_SIGNATURE)


def octets_of(ask: Callable[[Any, int, Any], object]) -> bytes:
    """Return what a function writes whose length it tells first, where it gets no buffer.

    `ask` calls it with a buffer, the room in that, and where the length goes.
    """
    size = DWORD()
    ask(None, 0, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    ask(buffer, size.value, ctypes.byref(size))
    return buffer.raw[: size.value]


def octets_at(address: int | None, length: int) -> bytes:
    """Return a copy of what is in memory there."""
    return ctypes.string_at(address, length) if address else b""
