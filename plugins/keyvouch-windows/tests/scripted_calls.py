"""How a double of Windows' DLLs is called: through the C calling convention, with every handle counted.

The functions get addresses and numbers, as a DLL does, and nothing of Python's: an argument that is cut to 32 bits, or
a buffer that was let go too early, shows here too.
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
GIVES_BACK = {
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
"""Functions that take a handle back however they end, and as which argument."""


class MisuseError(AssertionError):
    """Windows was called as its documentation forbids: a handle given back twice, a buffer too short."""


class FailsError(Exception):
    """For a scripted function to raise: it fails with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(hex(code))
        self.code = code


@dataclass(frozen=True)
class Call:
    """One call, and what was given with it; addresses as numbers."""

    function: str
    arguments: tuple[Any, ...]


class Calls:
    """What every scripted DLL has: calls that are recorded and made to fail, and handles."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.given: Counter[str] = Counter()
        """Handles that were given out, by the kind of what they stand for."""
        self.returned: Counter[str] = Counter()
        self.last_error = 0
        self.made = 0
        """Calls, also where none is recorded."""
        self.recording = True
        self._live: dict[int, Any] = {}
        self._next_handle = 0x7FF0_1234_5000
        """More than 32 bits."""
        self._scripted: dict[tuple[str, int], int] = {}
        self._every: dict[str, int] = {}
        self._seen: Counter[str] = Counter()
        self._failing_call = (0, 0)
        self._fault: BaseException | None = None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put the double behind the plugin's bindings, until the test ends."""
        for library in LIBRARIES:
            functions = {name: self._foreign(name, *signature) for name, signature in library.signatures.items()}
            monkeypatch.setattr(library, "functions", functions)
        monkeypatch.setattr(native, "_last_error_of_ctypes", lambda: self.last_error)
        monkeypatch.setattr(native, "_set_last_error_of_ctypes", lambda code: setattr(self, "last_error", code))

    def fail(self, function: str, code: int, nth: int | None = None) -> None:
        """Let the nth call from now on of a function fail; each call where no number is given."""
        if nth is None:
            self._every[function] = code
        else:
            self._scripted[function, self._seen[function] + nth] = code

    def fail_call(self, number: int, code: int) -> None:
        """Let the call with this number fail, whichever function it is of."""
        self._failing_call = (number, code)

    def called(self, function: str) -> list[tuple[Any, ...]]:
        """Return with what a function was called."""
        return [each.arguments for each in self.calls if each.function == function]

    def assert_nothing_held(self) -> None:
        """Judge that each handle was given back, once."""
        assert not self._live, f"not given back: {[*self._live.values()]}"
        assert self.given == self.returned

    # For the scripted functions.

    def hand_out(self, thing: Any, address: int | None = None) -> int:
        """Return a handle for a thing; it is counted."""
        self._next_handle += 16
        handle = address or self._next_handle
        self._live[handle] = thing
        self.given[type(thing).__name__] += 1
        return handle

    def at(self, handle: int | None, kind: type[T]) -> T:
        """Return what a handle stands for. Raises `MisuseError` where it was given back, or is of another kind."""
        thing = self._live.get(handle or 0)
        if not isinstance(thing, kind):
            raise MisuseError(f"{handle and hex(handle)} is no handle of {kind.__name__}, but {thing}")
        return thing

    def take_back(self, handle: int) -> None:
        """Forget a handle."""
        thing = self._live.pop(handle, None)
        if thing is None:
            raise MisuseError(f"{handle:#x} was given back before, or never given out")
        self.returned[type(thing).__name__] += 1

    def give_back(self, handle: int) -> None:
        """Do what the function does that takes a handle back."""
        self.take_back(handle)

    def _foreign(self, name: str, returned: type[Any] | None, arguments: Any) -> Callable[..., Any]:
        act = getattr(self, name, None)
        is_status = name.startswith("NCrypt")

        def body(*given: Any) -> Any:
            try:
                return self._answer(name, act, given, is_status=is_status)
            except BaseException as error:  # noqa: BLE001 - it cannot pass through C: `call` raises it
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

    def _answer(self, name: str, act: Callable[..., Any] | None, given: tuple[Any, ...], *, is_status: bool) -> Any:
        if act is None:
            raise MisuseError(f"{name} is not scripted")
        if self.recording:
            self.calls.append(Call(name, given))
        try:
            try:
                self._fail_where_scripted(name)
                result = act(*given)
            finally:
                if name in GIVES_BACK and given[GIVES_BACK[name]]:
                    self.give_back(given[GIVES_BACK[name]])
        except FailsError as failure:
            if is_status:
                return ctypes.c_int32(failure.code).value
            self.last_error = failure.code
            return 0
        if is_status:
            return 0
        return 1 if result is None else result

    def _fail_where_scripted(self, name: str) -> None:
        self._seen[name] += 1
        self.made += 1
        code = self._scripted.pop((name, self._seen[name]), 0) or self._every.get(name, 0)
        if self.made == self._failing_call[0]:
            code = self._failing_call[1]
        if code:
            raise FailsError(code)


def put_number(address: int, value: int) -> None:
    """Write a DWORD."""
    ctypes.c_uint32.from_address(address).value = value


def put_handle(address: int, value: int) -> None:
    """Write what is as wide as a pointer."""
    ctypes.c_void_p.from_address(address).value = value


def answer_octets(octets: bytes, buffer: int | None, room: int, size: int, too_small: int) -> None:
    """Give octets as Windows does: only their length where there is no buffer. Raises `FailsError`: `too_small`."""
    put_number(size, len(octets))
    if buffer is None:
        return
    if room < len(octets):
        raise FailsError(too_small)
    ctypes.memmove(buffer, octets, len(octets))
