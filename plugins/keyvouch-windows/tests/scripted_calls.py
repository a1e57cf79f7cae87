"""Base of a test double for Windows DLLs: called through the C calling convention, with every handle counted.

Like a DLL's, the functions receive addresses and numbers instead of Python objects, so an argument truncated to 32 bits
or a buffer released too early is detected here too.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from keyvouch_windows import advapi32, crypt32, native, ncrypt

T = TypeVar("T")
LIBRARIES = (crypt32._dll, ncrypt._dll, advapi32._dll)
RELEASED_ARGUMENT = {
    "CertCloseStore": 0,
    "CertDeleteCertificateFromStore": 0,
    "CertEnumCertificatesInStore": 1,
    "CertFindCertificateInStore": 5,
    "CertFreeCertificateContext": 0,
    "CryptDestroyHash": 0,
    "CryptDestroyKey": 0,
    "CryptReleaseContext": 0,
    "NCryptFreeObject": 0,
}
"""Functions that release a handle whether they succeed or fail, and the index of that argument."""


class MisuseError(AssertionError):
    """A call that violates Windows' documentation, such as releasing a handle twice or passing too short a buffer."""


class CallFailedError(Exception):
    """Raised by a scripted function to make it fail with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(hex(code))
        self.code = code


@dataclass(frozen=True)
class Call:
    """A call and its arguments, with addresses as numbers."""

    function: str
    arguments: tuple[Any, ...]


class Calls:
    """Base of the scripted DLLs: records calls, makes calls fail, and manages handles."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.handles_created: Counter[str] = Counter()
        """Number of handles given out, by the type of object."""
        self.handles_released: Counter[str] = Counter()
        self.last_error = 0
        self.call_count = 0
        """Number of calls, including those not recorded."""
        self.recording = True
        self._live: dict[int, Any] = {}
        self._next_handle = 0x7FF0_1234_5000
        """Needs more than 32 bits."""
        self._scripted: dict[tuple[str, int], int] = {}
        self._every: dict[str, int] = {}
        self._seen: Counter[str] = Counter()
        self._failing_call = (0, 0)
        self._fault: BaseException | None = None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Install the double behind the plugin's bindings until the test ends."""
        for library in LIBRARIES:
            functions = {name: self._c_function(name, *signature) for name, signature in library.signatures.items()}
            monkeypatch.setattr(library, "functions", functions)
        monkeypatch.setattr(native, "_last_error_of_ctypes", lambda: self.last_error)
        monkeypatch.setattr(native, "_set_last_error_of_ctypes", lambda code: setattr(self, "last_error", code))

    def fail(self, function: str, code: int, nth: int | None = None) -> None:
        """Make the nth call of a function from now on fail, or every call if `nth` is None."""
        if nth is None:
            self._every[function] = code
        else:
            self._scripted[function, self._seen[function] + nth] = code

    def fail_call(self, number: int, code: int) -> None:
        """Make the call with this number fail, whichever function it calls."""
        self._failing_call = (number, code)

    def called(self, function: str) -> list[tuple[Any, ...]]:
        """Return the arguments of each call of a function."""
        return [each.arguments for each in self.calls if each.function == function]

    def assert_all_released(self) -> None:
        """Assert that each handle was released exactly once."""
        assert not self._live, f"not released: {[*self._live.values()]}"
        assert self.handles_created == self.handles_released

    # Helpers for the scripted functions.

    def new_handle(self, thing: Any, address: int | None = None) -> int:
        """Return a new handle for an object, and count it."""
        self._next_handle += 16
        handle = address or self._next_handle
        self._live[handle] = thing
        self.handles_created[type(thing).__name__] += 1
        return handle

    def get_object(self, handle: int | None, kind: type[T]) -> T:
        """Return the object of a handle. Raises `MisuseError` if it was released or is of another type."""
        thing = self._live.get(handle or 0)
        if not isinstance(thing, kind):
            raise MisuseError(f"{handle and hex(handle)} is not a handle of {kind.__name__}, but {thing}")
        return thing

    def invalidate(self, handle: int) -> None:
        """Invalidate a handle, and count it as released."""
        thing = self._live.pop(handle, None)
        if thing is None:
            raise MisuseError(f"{handle:#x} was already released, or never created")
        self.handles_released[type(thing).__name__] += 1

    def release(self, handle: int) -> None:
        """Release a handle on behalf of a scripted function."""
        self.invalidate(handle)

    def _c_function(self, name: str, returned: type[Any] | None, arguments: Any) -> Callable[..., Any]:
        act = getattr(self, name, None)
        is_status = name.startswith("NCrypt")

        def body(*given: Any) -> Any:
            try:
                return self._respond(name, act, given, is_status=is_status)
            except BaseException as error:  # noqa: BLE001 - cannot propagate through C: `call` raises it
                self._fault = error
                return 0

        function = ctypes.CFUNCTYPE(returned, *arguments)(body)

        def call(*given: Any) -> Any:
            result = function(*given)
            if self._fault is not None:
                fault, self._fault = self._fault, None
                raise fault
            return result

        return call

    def _respond(self, name: str, act: Callable[..., Any] | None, given: tuple[Any, ...], *, is_status: bool) -> Any:
        if act is None:
            raise MisuseError(f"{name} is not scripted")
        if self.recording:
            self.calls.append(Call(name, given))
        try:
            try:
                self._fail_if_scripted(name)
                result = act(*given)
            finally:
                if name in RELEASED_ARGUMENT and given[RELEASED_ARGUMENT[name]]:
                    self.release(given[RELEASED_ARGUMENT[name]])
        except CallFailedError as failure:
            if is_status:
                return ctypes.c_int32(failure.code).value
            self.last_error = failure.code
            return 0
        if is_status:
            return 0
        return 1 if result is None else result

    def _fail_if_scripted(self, name: str) -> None:
        self._seen[name] += 1
        self.call_count += 1
        code = self._scripted.pop((name, self._seen[name]), 0) or self._every.get(name, 0)
        if self.call_count == self._failing_call[0]:
            code = self._failing_call[1]
        if code:
            raise CallFailedError(code)


def write_dword(address: int, value: int) -> None:
    """Write a DWORD at an address."""
    ctypes.c_uint32.from_address(address).value = value


def write_pointer(address: int, value: int) -> None:
    """Write a pointer-sized value at an address."""
    ctypes.c_void_p.from_address(address).value = value


def write_output(data: bytes, buffer: int | None, capacity: int, size: int, too_small: int) -> None:
    """Return bytes as Windows does: without a buffer, only their length. Raises `CallFailedError` with `too_small`."""
    write_dword(size, len(data))
    if buffer is None:
        return
    if capacity < len(data):
        raise CallFailedError(too_small)
    ctypes.memmove(buffer, data, len(data))
