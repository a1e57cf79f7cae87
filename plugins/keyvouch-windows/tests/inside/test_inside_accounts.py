"""Accounts and access rules, compared with Windows' own functions."""

from __future__ import annotations

import ctypes
import os

import pytest

from keyvouch.errors import ConfigurationError
from keyvouch.security_descriptor import FILE_GENERIC_READ, GENERIC_READ, SecurityDescriptor, sid_to_bytes
from keyvouch_windows import accounts

advapi32 = getattr(ctypes, "WinDLL", ctypes.CDLL)("advapi32")


def descriptor_to_sddl(data: bytes) -> str:
    """Return a security descriptor's DACL as text, converted by Windows."""
    text = ctypes.c_wchar_p()
    buffer = ctypes.create_string_buffer(data, len(data))
    convert = advapi32.ConvertSecurityDescriptorToStringSecurityDescriptorW
    assert convert(buffer, 1, 4, ctypes.byref(text), None)
    return str(text.value)


def sddl_to_descriptor(text: str) -> bytes:
    """Return the security descriptor that Windows creates from a text."""
    descriptor, size = ctypes.c_void_p(), ctypes.c_uint32()
    convert = advapi32.ConvertStringSecurityDescriptorToSecurityDescriptorW
    assert convert(text, 1, ctypes.byref(descriptor), ctypes.byref(size))
    return ctypes.string_at(descriptor, size.value)


@pytest.mark.parametrize(
    ("written", "sid"),
    [
        ("SYSTEM", "S-1-5-18"),
        (r"NT AUTHORITY\NETWORK SERVICE", "S-1-5-20"),
        ("Administrators", "S-1-5-32-544"),
        (r"BUILTIN\Users", "S-1-5-32-545"),
    ],
)
def test_well_known_accounts(written: str, sid: str) -> None:
    """The plugin's own table of accounts agrees with Windows."""
    assert accounts.sid_of(written) == sid
    assert accounts.name_of(sid).rpartition("\\")[2] == written.rpartition("\\")[2]


def test_user_is_found() -> None:
    """The user is found in each notation, and by SID."""
    user = os.environ["USERNAME"]
    name = accounts.name_of(accounts.sid_of(user))

    assert name.rpartition("\\")[2] == user
    assert accounts.sid_of(name) == accounts.sid_of(rf".\{user}") == accounts.sid_of(user)


def test_current_account_is_found() -> None:
    """The own account's name can be used to grant it access."""
    user = os.environ["USERNAME"]
    assert accounts.sid_of(accounts.current_account()) == accounts.sid_of(user)


def test_unknown_account_is_refused() -> None:
    """An unknown name is an error; an unknown SID is shown as it is."""
    with pytest.raises(ConfigurationError, match="Unknown account"):
        accounts.sid_of("nobody-of-that-name")
    assert accounts.name_of("S-1-5-21-9-9-9-500") == "S-1-5-21-9-9-9-500"


def test_changed_rules_match_windows() -> None:
    """Adding an account gives the same bytes as Windows creates from the text with the added rule."""
    before = "D:PAI(D;;GA;;;S-1-5-21-9-9-9-500)(A;;0xd01f01ff;;;SY)"
    read = SecurityDescriptor.from_bytes(sddl_to_descriptor(before))

    changed = read.allowing("S-1-5-20", GENERIC_READ | FILE_GENERIC_READ).to_bytes()

    assert changed == sddl_to_descriptor(f"{before}(A;;0x80120089;;;NS)")
    assert descriptor_to_sddl(changed) == descriptor_to_sddl(sddl_to_descriptor(f"{before}(A;;0x80120089;;;NS)"))
    assert sid_to_bytes("S-1-5-20") in changed
