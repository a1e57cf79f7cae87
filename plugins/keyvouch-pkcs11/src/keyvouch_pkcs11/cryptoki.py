"""Low-level PKCS#11: a module's functions, called through ctypes, which releases the GIL during each call.

Names, numbers and structures follow the OASIS standard (PKCS#11 Cryptographic Token Interface Base Specification
2.40, and 3.0 for EdDSA). Any return value other than CKR_OK is raised as `CryptokiError`.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

CK_ULONG = ctypes.c_ulong
CK_UNAVAILABLE_INFORMATION = CK_ULONG(-1).value

RETURN_VALUES = {
    "GENERAL_ERROR": 0x05,
    "FUNCTION_FAILED": 0x06,
    "ARGUMENTS_BAD": 0x07,
    "CANT_LOCK": 0x0A,
    "ATTRIBUTE_SENSITIVE": 0x11,
    "ATTRIBUTE_TYPE_INVALID": 0x12,
    "ATTRIBUTE_VALUE_INVALID": 0x13,
    "DATA_INVALID": 0x20,
    "DATA_LEN_RANGE": 0x21,
    "DEVICE_ERROR": 0x30,
    "DEVICE_MEMORY": 0x31,
    "DEVICE_REMOVED": 0x32,
    "FUNCTION_NOT_SUPPORTED": 0x54,
    "KEY_HANDLE_INVALID": 0x60,
    "KEY_SIZE_RANGE": 0x62,
    "KEY_TYPE_INCONSISTENT": 0x63,
    "KEY_FUNCTION_NOT_PERMITTED": 0x68,
    "MECHANISM_INVALID": 0x70,
    "MECHANISM_PARAM_INVALID": 0x71,
    "OBJECT_HANDLE_INVALID": 0x82,
    "OPERATION_ACTIVE": 0x90,
    "OPERATION_NOT_INITIALIZED": 0x91,
    "PIN_INCORRECT": 0xA0,
    "PIN_INVALID": 0xA1,
    "PIN_LEN_RANGE": 0xA2,
    "PIN_EXPIRED": 0xA3,
    "PIN_LOCKED": 0xA4,
    "SESSION_CLOSED": 0xB0,
    "SESSION_COUNT": 0xB1,
    "SESSION_HANDLE_INVALID": 0xB3,
    "SESSION_READ_ONLY": 0xB5,
    "TEMPLATE_INCOMPLETE": 0xD0,
    "TEMPLATE_INCONSISTENT": 0xD1,
    "TOKEN_NOT_PRESENT": 0xE0,
    "TOKEN_NOT_RECOGNIZED": 0xE1,
    "TOKEN_WRITE_PROTECTED": 0xE2,
    "USER_ALREADY_LOGGED_IN": 0x100,
    "USER_NOT_LOGGED_IN": 0x101,
    "USER_PIN_NOT_INITIALIZED": 0x102,
    "CURVE_NOT_SUPPORTED": 0x140,
    "BUFFER_TOO_SMALL": 0x150,
    "CRYPTOKI_NOT_INITIALIZED": 0x190,
    "CRYPTOKI_ALREADY_INITIALIZED": 0x191,
}
"""Return values that are shown by name; all others are shown as numbers."""
_RETURN_VALUE_NAMES = {value: name for name, value in RETURN_VALUES.items()}

# Only the object classes, key types, attributes, mechanisms and flags that this package uses.
CKO_CERTIFICATE, CKO_PUBLIC_KEY, CKO_PRIVATE_KEY = 1, 2, 3
CKK_RSA, CKK_EC, CKK_EC_EDWARDS = 0x00, 0x03, 0x40
CKC_X_509 = 0
CKA_CLASS, CKA_TOKEN, CKA_PRIVATE, CKA_LABEL = 0x00, 0x01, 0x02, 0x03
CKA_VALUE, CKA_CERTIFICATE_TYPE, CKA_ISSUER, CKA_SERIAL_NUMBER = 0x11, 0x80, 0x81, 0x82
CKA_KEY_TYPE, CKA_SUBJECT, CKA_ID, CKA_SENSITIVE = 0x100, 0x101, 0x102, 0x103
CKA_SIGN, CKA_VERIFY = 0x108, 0x10A
CKA_MODULUS, CKA_MODULUS_BITS, CKA_PUBLIC_EXPONENT = 0x120, 0x121, 0x122
CKA_PRIVATE_EXPONENT, CKA_PRIME_1, CKA_PRIME_2 = 0x123, 0x124, 0x125
CKA_EXPONENT_1, CKA_EXPONENT_2, CKA_COEFFICIENT = 0x126, 0x127, 0x128
CKA_EXTRACTABLE, CKA_EC_PARAMS, CKA_EC_POINT = 0x162, 0x180, 0x181
CKA_ALWAYS_AUTHENTICATE = 0x202
CKM_RSA_PKCS_KEY_PAIR_GEN, CKM_EC_KEY_PAIR_GEN, CKM_EC_EDWARDS_KEY_PAIR_GEN = 0x00, 0x1040, 0x1055
CKF_LOGIN_REQUIRED, CKF_TOKEN_INITIALIZED = 0x04, 0x400
CKF_USER_PIN_COUNT_LOW, CKF_USER_PIN_FINAL_TRY, CKF_USER_PIN_LOCKED = 0x10000, 0x20000, 0x40000
CKF_RW_SESSION, CKF_SERIAL_SESSION, CKF_OS_LOCKING_OK = 0x02, 0x04, 0x02
CKU_USER, CKU_CONTEXT_SPECIFIC = 1, 2

CKS_RO_USER_FUNCTIONS, CKS_RW_USER_FUNCTIONS = 1, 3

_FUNCTIONS = (
    *("Initialize", "Finalize", "GetInfo", "GetFunctionList", "GetSlotList", "GetSlotInfo"),
    *("GetTokenInfo", "GetMechanismList", "GetMechanismInfo", "InitToken", "InitPIN", "SetPIN"),
    *("OpenSession", "CloseSession", "CloseAllSessions", "GetSessionInfo", "GetOperationState"),
    *("SetOperationState", "Login", "Logout", "CreateObject", "CopyObject", "DestroyObject"),
    *("GetObjectSize", "GetAttributeValue", "SetAttributeValue", "FindObjectsInit", "FindObjects"),
    *("FindObjectsFinal", "EncryptInit", "Encrypt", "EncryptUpdate", "EncryptFinal", "DecryptInit"),
    *("Decrypt", "DecryptUpdate", "DecryptFinal", "DigestInit", "Digest", "DigestUpdate", "DigestKey"),
    *("DigestFinal", "SignInit", "Sign", "SignUpdate", "SignFinal", "SignRecoverInit", "SignRecover"),
    *("VerifyInit", "Verify", "VerifyUpdate", "VerifyFinal", "VerifyRecoverInit", "VerifyRecover"),
    *("DigestEncryptUpdate", "DecryptDigestUpdate", "SignEncryptUpdate", "DecryptVerifyUpdate"),
    *("GenerateKey", "GenerateKeyPair", "WrapKey", "UnwrapKey", "DeriveKey", "SeedRandom"),
    *("GenerateRandom", "GetFunctionStatus", "CancelFunction", "WaitForSlotEvent"),
)
MAX_SIGNATURE_SIZE = 1024
"""In bytes: that of RSA-8192."""
SignatureBuffer = ctypes.c_char * MAX_SIGNATURE_SIZE
_MAX_HANDLES = 64
"""Maximum number of handles that one call of C_FindObjects returns."""
_BUFFER_SIZE = 4096
"""In bytes, for an attribute of unknown size."""
_OF_ANY_SIZE = frozenset({CKA_LABEL, CKA_ID, CKA_VALUE})
"""Attributes that every object has for which they are read, and that may be larger than a buffer."""
_SIZES = {
    **dict.fromkeys((CKA_CLASS, CKA_KEY_TYPE), ctypes.sizeof(CK_ULONG)),
    **dict.fromkeys((CKA_SIGN, CKA_SENSITIVE, CKA_EXTRACTABLE, CKA_ALWAYS_AUTHENTICATE), 1),
}
"""The sizes of attributes that are numbers or flags: a module may expect exactly these."""


class CryptokiError(Exception):
    """A return value other than CKR_OK; `error.name` is the name CKR_... without its prefix."""

    def __init__(self, function: str, return_value: int) -> None:
        self.name = _RETURN_VALUE_NAMES.get(return_value, f"0x{return_value:X}")
        super().__init__(f"C_{function}: CKR_{self.name}")


class _Structure(ctypes.Structure):
    if sys.platform == "win32":
        _pack_ = 1


class _Version(_Structure):
    _fields_ = (("major", ctypes.c_ubyte), ("minor", ctypes.c_ubyte))


class Info(_Structure):
    """CK_INFO"""

    _fields_ = (
        ("cryptoki_version", _Version),
        ("manufacturer", ctypes.c_char * 32),
        ("flags", CK_ULONG),
        ("description", ctypes.c_char * 32),
        ("version", _Version),
    )


class SlotInfo(_Structure):
    """CK_SLOT_INFO"""

    _fields_ = (
        ("description", ctypes.c_char * 64),
        ("manufacturer", ctypes.c_char * 32),
        ("flags", CK_ULONG),
        ("hardware_version", _Version),
        ("firmware_version", _Version),
    )


class TokenInfo(_Structure):
    """CK_TOKEN_INFO"""

    _fields_ = (
        ("label", ctypes.c_char * 32),
        ("manufacturer", ctypes.c_char * 32),
        ("model", ctypes.c_char * 16),
        ("serial", ctypes.c_char * 16),
        ("flags", CK_ULONG),
        ("counts", CK_ULONG * 10),
        ("hardware_version", _Version),
        ("firmware_version", _Version),
        ("utc_time", ctypes.c_char * 16),
    )


class _SessionInfo(_Structure):
    """CK_SESSION_INFO"""

    _fields_ = (("slot", CK_ULONG), ("state", CK_ULONG), ("flags", CK_ULONG), ("device_error", CK_ULONG))


class _Attribute(_Structure):
    """CK_ATTRIBUTE"""

    _fields_ = (("type", CK_ULONG), ("value", ctypes.c_void_p), ("length", CK_ULONG))


class Mechanism(_Structure):
    """CK_MECHANISM; keeps a reference to the parameter it points to."""

    _fields_ = (("mechanism", CK_ULONG), ("parameter", ctypes.c_void_p), ("length", CK_ULONG))

    def __init__(self, mechanism: int, parameter: ctypes.Structure | None = None) -> None:
        self._parameter = parameter
        if parameter is None:
            super().__init__(mechanism, None, 0)
        else:
            super().__init__(mechanism, ctypes.addressof(parameter), ctypes.sizeof(parameter))


class PssParameters(_Structure):
    """CK_RSA_PKCS_PSS_PARAMS"""

    _fields_ = (("hash", CK_ULONG), ("mgf", CK_ULONG), ("salt_length", CK_ULONG))


class _InitializeArguments(_Structure):
    """CK_C_INITIALIZE_ARGS"""

    _fields_ = (("mutexes", ctypes.c_void_p * 4), ("flags", CK_ULONG), ("reserved", ctypes.c_char_p))


class _FunctionList(_Structure):
    """CK_FUNCTION_LIST"""

    _fields_ = (("version", _Version), ("functions", ctypes.c_void_p * len(_FUNCTIONS)))


AttributeValue = bytes | bool | int
"""An attribute's value: bytes, CK_BBOOL or CK_ULONG."""
Template = Mapping[int, AttributeValue]
"""Attribute values by attribute type (CKA_...)."""


class Cryptoki:
    """The functions of one module. Raises OSError if the file is not a library or not a PKCS#11 module."""

    def __init__(self, path: str) -> None:
        library = ctypes.CDLL(path)
        try:
            get_function_list = library.C_GetFunctionList
        except AttributeError:
            raise OSError("C_GetFunctionList not found") from None
        function_list = ctypes.POINTER(_FunctionList)()
        return_value = get_function_list(ctypes.byref(function_list))
        if return_value or not function_list:
            raise OSError(f"C_GetFunctionList returned {return_value}")
        function_type = ctypes.CFUNCTYPE(CK_ULONG)
        self._functions = {
            name: function_type(address)
            for name, address in zip(_FUNCTIONS, function_list.contents.functions, strict=True)
            if address is not None
        }
        self.sign_init, self.sign = (self._functions[name] for name in ("SignInit", "Sign"))
        """Looked up once; used on the signing path."""
        self.sign_init.argtypes = (CK_ULONG, ctypes.c_void_p, CK_ULONG)
        self.sign.argtypes = (CK_ULONG, ctypes.c_char_p, CK_ULONG, ctypes.c_char_p, ctypes.c_void_p)

    def _call(self, name: str, *arguments: Any) -> None:
        try:
            function = self._functions[name]
        except KeyError:
            raise CryptokiError(name, RETURN_VALUES["FUNCTION_NOT_SUPPORTED"]) from None
        return_value = function(*arguments)
        if return_value:
            raise CryptokiError(name, return_value)

    def initialize(self, reserved: bytes | None, *, locking: bool) -> None:
        """Initialize the module; with `locking`, it may use OS locks. `reserved`: the parameter string for NSS."""
        if not locking and reserved is None:
            self._call("Initialize", None)
            return
        arguments = _InitializeArguments(flags=CKF_OS_LOCKING_OK if locking else 0, reserved=reserved)
        self._call("Initialize", ctypes.byref(arguments))

    def finalize(self) -> None:
        """Finalize the module for this process."""
        self._call("Finalize", None)

    def info(self) -> Info:
        """Return the module's description of itself."""
        found = Info()
        self._call("GetInfo", ctypes.byref(found))
        return found

    def slots(self) -> list[int]:
        """Return the slots that contain a token."""
        count = CK_ULONG()
        self._call("GetSlotList", ctypes.c_ubyte(1), None, ctypes.byref(count))
        found = (CK_ULONG * count.value)()
        self._call("GetSlotList", ctypes.c_ubyte(1), found, ctypes.byref(count))
        return list(found[: count.value])

    def slot_info(self, slot: int) -> SlotInfo:
        """Return the information about a slot."""
        found = SlotInfo()
        self._call("GetSlotInfo", CK_ULONG(slot), ctypes.byref(found))
        return found

    def token_info(self, slot: int) -> TokenInfo:
        """Return the current information about the token in a slot."""
        found = TokenInfo()
        self._call("GetTokenInfo", CK_ULONG(slot), ctypes.byref(found))
        return found

    def open_session(self, slot: int, *, writable: bool = False) -> int:
        """Return the handle of a new session."""
        session = CK_ULONG()
        flags = CKF_SERIAL_SESSION | (CKF_RW_SESSION if writable else 0)
        self._call("OpenSession", CK_ULONG(slot), CK_ULONG(flags), None, None, ctypes.byref(session))
        return session.value

    def close_session(self, session: int) -> None:
        """Close a session; closing a token's last session also logs out."""
        self._call("CloseSession", CK_ULONG(session))

    def is_logged_in(self, session: int) -> bool:
        """Return whether the user is logged in to the session's token."""
        found = _SessionInfo()
        self._call("GetSessionInfo", CK_ULONG(session), ctypes.byref(found))
        return found.state in (CKS_RO_USER_FUNCTIONS, CKS_RW_USER_FUNCTIONS)

    def login(self, session: int, pin: bytes, user: int = CKU_USER) -> None:
        """Log the whole process in to the session's token; if `user` is context-specific, for one signature only."""
        self._call("Login", CK_ULONG(session), CK_ULONG(user), pin, CK_ULONG(len(pin)))

    def find_objects(self, session: int, template: Template) -> list[int]:
        """Return the handles of all objects with these attributes."""
        attributes, buffers = _attribute_array(template)
        self._call("FindObjectsInit", CK_ULONG(session), attributes, CK_ULONG(len(template)))
        found: list[int] = []
        try:
            handles, count = (CK_ULONG * _MAX_HANDLES)(), CK_ULONG()
            while True:
                self._call("FindObjects", CK_ULONG(session), handles, CK_ULONG(_MAX_HANDLES), ctypes.byref(count))
                found += handles[: count.value]
                if count.value < _MAX_HANDLES:  # as NSS and p11-kit do, which saves the call that returns none
                    return found
        finally:
            self._call("FindObjectsFinal", CK_ULONG(session))
            del buffers

    def read_attributes(self, session: int, handle: int, types: Sequence[int]) -> dict[int, bytes]:
        """Return the requested attributes that the object has and reveals.

        One call, into buffers that are nearly always large enough. Otherwise two, of which the first returns the sizes.
        """
        try:
            found = self._read_into_buffers(session, handle, {each: _SIZES.get(each, _BUFFER_SIZE) for each in types})
            # A module that reports that there is no such attribute may not report that a buffer is too small.
            if found.keys() >= _OF_ANY_SIZE.intersection(types):
                return found
        except CryptokiError as error:
            if error.name != "BUFFER_TOO_SMALL":
                raise
        lengths = (_Attribute * len(types))(*(_Attribute(each, None, 0) for each in types))
        self._get_attribute_values(session, handle, lengths)
        sizes = {each.type: each.length for each in lengths if each.length != CK_UNAVAILABLE_INFORMATION}
        return self._read_into_buffers(session, handle, sizes)

    def _read_into_buffers(self, session: int, handle: int, sizes: Mapping[int, int]) -> dict[int, bytes]:
        """Read attributes, each into a buffer of this size. Raises BUFFER_TOO_SMALL."""
        buffers = [ctypes.create_string_buffer(max(1, size)) for size in sizes.values()]
        values = (_Attribute * len(sizes))(
            *(
                _Attribute(each, ctypes.addressof(buffer), size)
                for (each, size), buffer in zip(sizes.items(), buffers, strict=True)
            )
        )
        self._get_attribute_values(session, handle, values)
        return {
            each.type: buffer.raw[: each.length]
            for each, buffer in zip(values, buffers, strict=True)
            if each.length != CK_UNAVAILABLE_INFORMATION
        }

    def _get_attribute_values(self, session: int, handle: int, attributes: Any) -> None:
        if not len(attributes):
            return
        try:
            self._call("GetAttributeValue", CK_ULONG(session), CK_ULONG(handle), attributes, CK_ULONG(len(attributes)))
        except CryptokiError as error:
            # The other attributes have been returned nevertheless (2.40, section 5.7).
            if error.name not in ("ATTRIBUTE_SENSITIVE", "ATTRIBUTE_TYPE_INVALID"):
                raise

    def create_object(self, session: int, template: Template) -> int:
        """Create an object and return its handle."""
        attributes, buffers = _attribute_array(template)
        handle = CK_ULONG()
        self._call("CreateObject", CK_ULONG(session), attributes, CK_ULONG(len(template)), ctypes.byref(handle))
        del buffers
        return handle.value

    def destroy_object(self, session: int, handle: int) -> None:
        """Delete an object."""
        self._call("DestroyObject", CK_ULONG(session), CK_ULONG(handle))

    def generate_key_pair(self, session: int, mechanism: int, public: Template, private: Template) -> tuple[int, int]:
        """Generate a key pair and return the handles of the public and the private key."""
        public_attributes, public_buffers = _attribute_array(public)
        private_attributes, private_buffers = _attribute_array(private)
        handles = CK_ULONG(), CK_ULONG()
        self._call(
            "GenerateKeyPair",
            CK_ULONG(session),
            ctypes.byref(Mechanism(mechanism)),
            public_attributes,
            CK_ULONG(len(public)),
            private_attributes,
            CK_ULONG(len(private)),
            *map(ctypes.byref, handles),
        )
        del public_buffers, private_buffers
        return handles[0].value, handles[1].value


def decode_padded(padded: bytes) -> str:
    """Return a structure's text field without its padding."""
    return padded.rstrip(b"\0 ").decode(errors="replace")


def _attribute_array(template: Template) -> tuple[Any, Iterable[object]]:
    """Return the array of attributes and the buffers it points to, which must live as long as the array."""
    values = [_encode_value(value) for value in template.values()]
    buffers = [ctypes.create_string_buffer(value, max(1, len(value))) for value in values]
    array = (_Attribute * len(template))(
        *(
            _Attribute(attribute_type, ctypes.addressof(buffer), len(value))
            for attribute_type, buffer, value in zip(template, buffers, values, strict=True)
        )
    )
    return array, buffers


def _encode_value(value: AttributeValue) -> bytes:
    if isinstance(value, bytes):
        return value
    return bytes([value]) if isinstance(value, bool) else bytes(CK_ULONG(value))
