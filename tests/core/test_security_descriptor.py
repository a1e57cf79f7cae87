"""Windows security descriptors, read and written as Windows does."""

from __future__ import annotations

import dataclasses
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvouch.security_descriptor import (
    ALLOW,
    DACL_PRESENT,
    DENY,
    FILE_ALL_ACCESS,
    FILE_GENERIC_READ,
    GENERIC_ALL,
    GENERIC_EXECUTE,
    GENERIC_READ,
    INHERIT_ONLY,
    INHERITED,
    READ_DATA,
    SACL_PRESENT,
    SELF_RELATIVE,
    WRITE_DATA,
    Ace,
    SecurityDescriptor,
    sid_to_bytes,
    sid_to_text,
)

# The sample in [MS-DTYP] 2.5.1.4.
MICROSOFT = bytes.fromhex(
    "010014b090000000a0000000140000003000000002001c000100000002801400"
    "00000080010100000000000100000000020060000400000000031800000000a0"
    "0102000000000005200000002102000000031800000000100102000000000005"
    "2000000020020000000314000000001001010000000000051200000000031400"
    "0000001001010000000000030000000001020000000000052000000020020000"
    "01020000000000052000000020020000"
)
# "O:SYG:BAD:(D;;GR;;;S-1-5-21-1-2-3-1104)(A;;FA;;;SY)(A;ID;FR;;;S-1-5-32-545)", by Wine's advapi32
WINE = bytes.fromhex(
    "01000480140000002000000000000000300000000101000000000005120000000102000000000005200000002002000002005800030000"
    "0001002400000000800105000000000005150000000100000002000000030000005004000000001400ff011f0001010000000000051200"
    "0000001018008900120001020000000000052000000021020000"
)
SYSTEM, ADMINISTRATORS, USERS, CREATOR = "S-1-5-18", "S-1-5-32-544", "S-1-5-32-545", "S-1-3-0"
SERVICE, OTHER = "S-1-5-21-1-2-3-1104", "S-1-5-21-1-2-3-1105"

numbers = st.integers(0, 2**32 - 1)
sids = st.builds(
    lambda authority, parts: "-".join(["S", "1", authority, *map(str, parts)]),
    st.integers(0, 2**48 - 1).map(lambda n: str(n) if n < 2**32 else f"0x{n:012X}"),
    st.lists(numbers, max_size=15),
)
words = st.binary(max_size=40).map(lambda data: data + bytes(-len(data) % 4))
flags = st.integers(0, 255)
plain = st.builds(Ace, st.sampled_from([0, 1, 2, 9, 10, 0x11, 0x13]), flags, numbers, sids, rest=words)
about_objects = st.builds(
    lambda kind, flag, mask, present, sid, rest: Ace(
        kind, flag, mask, sid, struct.pack("<I", present) + bytes(16 * present.bit_count()), rest
    ),
    *(st.sampled_from([5, 6, 0xB]), flags, numbers, st.integers(0, 3), sids, words),
)
unknown = st.builds(Ace, st.integers(0x15, 0xFF), flags, rest=words)
aces = st.one_of(plain, about_objects, unknown)
descriptors = st.builds(
    SecurityDescriptor,
    *(sids | st.none(), sids | st.none(), st.lists(aces, max_size=6).map(tuple)),
    st.sampled_from([0x8004, 0x9004, 0x8404, 0xB404]),
)


def with_rules(*rules: Ace) -> SecurityDescriptor:
    return SecurityDescriptor(SYSTEM, SYSTEM, rules)


def test_sample_of_the_specification() -> None:
    """Owner, group and rules are those that the specification gives for these bytes."""
    read = SecurityDescriptor.from_bytes(MICROSOFT)

    assert (read.owner, read.group) == (ADMINISTRATORS, ADMINISTRATORS)
    assert read.dacl == (
        Ace(ALLOW, 3, GENERIC_READ | GENERIC_EXECUTE, USERS),
        *(Ace(ALLOW, 3, GENERIC_ALL, sid) for sid in (ADMINISTRATORS, SYSTEM, CREATOR)),
    )
    assert read.sacl
    assert read.to_bytes() == MICROSOFT


def test_parts_in_any_order() -> None:
    """The specification does not fix the order of the parts."""
    assert SecurityDescriptor.from_bytes(WINE) == SecurityDescriptor(
        SYSTEM,
        ADMINISTRATORS,
        (
            Ace(DENY, 0, GENERIC_READ, SERVICE),
            Ace(ALLOW, 0, FILE_ALL_ACCESS, SYSTEM),
            Ace(ALLOW, INHERITED, FILE_GENERIC_READ, USERS),
        ),
    )


@given(descriptors)
def test_round_trip(descriptor: SecurityDescriptor) -> None:
    """Writing and reading is lossless, including rules of an unknown type."""
    assert SecurityDescriptor.from_bytes(descriptor.to_bytes()) == descriptor


@given(sids)
def test_sid_has_a_text_form(sid: str) -> None:
    """The binary and text forms of a SID agree."""
    assert sid_to_text(sid_to_bytes(sid)) == sid


@pytest.mark.parametrize(
    "text",
    [
        *("", "S", "S-1", "S-2-5-18", "SYSTEM", "S-1-5--18", "S-1-5-x", "S-1-5-+1", "S-1-5-1_0", "S-1-5- 1", "S-1-5-٣"),
        *("S-1-5-4294967296", "S-1-0x1000000000000-1", "S-1-5" + "-1" * 16),
    ],
)
def test_invalid_sid_is_rejected(text: str) -> None:
    """Invalid text, and a SID with too many or too large numbers, is refused."""
    with pytest.raises(ValueError, match="Invalid SID"):
        sid_to_bytes(text)


@given(
    st.binary(max_size=120)
    | st.integers(0, len(MICROSOFT) - 1).map(lambda end: MICROSOFT[:end])
    | st.builds(
        lambda at, octet: MICROSOFT[:at] + bytes([octet]) + MICROSOFT[at + 1 :],
        st.integers(0, len(MICROSOFT) - 1),
        st.integers(0, 255),
    )
)
def test_any_bytes(data: bytes) -> None:
    """Any bytes, truncated or damaged, are a descriptor or a ValueError."""
    try:
        read = SecurityDescriptor.from_bytes(data)
    except ValueError:
        return
    assert SecurityDescriptor.from_bytes(read.to_bytes()) == read


def test_missing_dacl_allows_everyone() -> None:
    """Without a DACL, or with a null one, everyone has access; with an empty one, nobody."""
    none = struct.pack("<BBHIIII", 1, 0, SELF_RELATIVE, 0, 0, 0, 0)
    null = struct.pack("<BBHIIII", 1, 0, SELF_RELATIVE | DACL_PRESENT, 0, 0, 0, 0)

    for data in (none, null):
        read = SecurityDescriptor.from_bytes(data)
        assert (read.dacl, read.allowed(READ_DATA)) == (None, None)
        assert read.allowing(SERVICE, GENERIC_READ) is read
        assert read.not_allowing(SERVICE) is read
        assert read.to_bytes() == data
    assert with_rules().allowed(READ_DATA) == ()


def test_audit_rules_are_kept() -> None:
    """Audit rules are written back unchanged."""
    read = SecurityDescriptor.from_bytes(MICROSOFT)

    changed = SecurityDescriptor.from_bytes(read.allowing(SERVICE, GENERIC_READ).to_bytes())

    assert changed.control & SACL_PRESENT
    assert dataclasses.replace(changed, dacl=read.dacl) == read


def test_order_of_a_new_rule() -> None:
    """Denials first, then permissions, then inherited rules: the order that Windows requires."""
    denied = Ace(DENY, 0, GENERIC_READ, OTHER)
    own, inherited = Ace(ALLOW, 0, GENERIC_ALL, SYSTEM), Ace(ALLOW, INHERITED, GENERIC_ALL, ADMINISTRATORS)

    changed = with_rules(denied, own, inherited).allowing(SERVICE, FILE_GENERIC_READ)

    assert changed.dacl == (denied, own, Ace(ALLOW, 0, FILE_GENERIC_READ, SERVICE), inherited)
    assert changed.not_allowing(SERVICE) == with_rules(denied, own, inherited)


@given(descriptors, sids)
def test_other_rules_are_unchanged(descriptor: SecurityDescriptor, sid: str) -> None:
    """Rules for others stay, as the same bytes in the same order; granting twice is granting once."""
    granted = descriptor.allowing(sid, FILE_GENERIC_READ)
    revoked = granted.not_allowing(sid)

    for changed in (granted, revoked):
        assert [ace for ace in changed.dacl or () if ace.sid != sid] == [
            ace for ace in descriptor.dacl or () if ace.sid != sid
        ]
    assert granted.allowing(sid, FILE_GENERIC_READ) is granted
    assert revoked.not_allowing(sid) is revoked


def test_existing_rule_is_extended() -> None:
    """An account that already has a rule has one afterwards, not two."""
    changed = with_rules(Ace(ALLOW, 0, WRITE_DATA, SERVICE)).allowing(SERVICE, READ_DATA)

    assert changed.dacl == (Ace(ALLOW, 0, WRITE_DATA | READ_DATA, SERVICE),)


def test_existing_right_is_not_granted_again() -> None:
    """Full control includes reading, in either spelling; an inherited rule counts as well."""
    for mask in (GENERIC_ALL, FILE_ALL_ACCESS, GENERIC_READ):
        there = with_rules(Ace(ALLOW, INHERITED, mask, SERVICE))
        assert there.allowing(SERVICE, FILE_GENERIC_READ) is there
        assert there.not_allowing(SERVICE) is there


def test_inherit_only_rules_are_ignored() -> None:
    """An inherit-only rule does not count."""
    below = with_rules(Ace(ALLOW, INHERIT_ONLY | 3, GENERIC_ALL, SERVICE))

    assert below.allowed(READ_DATA) == ()
    assert len(below.allowing(SERVICE, GENERIC_READ).dacl or ()) == 2
    assert below.not_allowing(SERVICE) is below


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        ([(ALLOW, GENERIC_ALL)], True),
        ([(ALLOW, GENERIC_READ)], True),
        ([(ALLOW, FILE_GENERIC_READ)], True),
        ([(ALLOW, WRITE_DATA)], False),
        ([(DENY, GENERIC_ALL), (ALLOW, READ_DATA)], False),
        ([(DENY, READ_DATA), (ALLOW, GENERIC_READ)], False),
        ([(DENY, WRITE_DATA), (ALLOW, FILE_ALL_ACCESS)], True),
        ([(ALLOW, READ_DATA), (DENY, GENERIC_ALL)], True),
    ],
)
def test_first_matching_rule_wins(rules: list[tuple[int, int]], allowed: bool) -> None:
    """Generic and specific rights are equivalent; of two rules the first counts."""
    descriptor = with_rules(*(Ace(kind, 0, mask, SERVICE) for kind, mask in rules))

    assert descriptor.allowed(READ_DATA) == ((SERVICE,) if allowed else ())


def test_too_many_rules_are_rejected() -> None:
    """Windows limits a list to 64 KiB."""
    with pytest.raises(ValueError, match="too long"):
        with_rules(*[Ace(0xFF, rest=bytes(32000))] * 3).to_bytes()
    with pytest.raises(ValueError, match="too long"):
        with_rules(Ace(0xFF, rest=bytes(65536))).to_bytes()
