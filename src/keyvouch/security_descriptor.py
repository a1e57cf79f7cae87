"""Windows security descriptors: the owner of an object and its access rules (MS-DTYP 2.4.6).

Converts bytes to facts and back without system calls, so that it works, and is tested, on every platform. Accounts are
SIDs in text form ("S-1-5-18"), which is the same in every language. Malformed bytes raise `ValueError`.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Ace", "SecurityDescriptor", "sid_to_bytes", "sid_to_text", "specific"]

ALLOW, DENY = 0, 1
"""Types of an ACE: ACCESS_ALLOWED_ACE_TYPE, ACCESS_DENIED_ACE_TYPE."""
INHERIT_ONLY, INHERITED = 0x08, 0x10
"""ACE flags: it applies only to objects below; it was inherited from above."""
READ_DATA, WRITE_DATA, APPEND_DATA, DELETE_CHILD = 0x1, 0x2, 0x4, 0x40
DELETE, WRITE_DAC, WRITE_OWNER = 0x10000, 0x40000, 0x80000
"""Rights to a file or folder, and to a key, which has the rights of its file."""
GENERIC_READ, GENERIC_WRITE, GENERIC_EXECUTE, GENERIC_ALL = 0x80000000, 0x40000000, 0x20000000, 0x10000000
FILE_GENERIC_READ, FILE_ALL_ACCESS = 0x120089, 0x1F01FF
DACL_PRESENT, DACL_DEFAULTED, SACL_PRESENT, SELF_RELATIVE = 0x4, 0x8, 0x10, 0x8000
"""Control flags of a descriptor."""

_GENERIC = {
    GENERIC_READ: FILE_GENERIC_READ,
    GENERIC_WRITE: 0x120116,
    GENERIC_EXECUTE: 0x1200A0,
    GENERIC_ALL: FILE_ALL_ACCESS,
}
_PLAIN = frozenset({0x00, 0x01, 0x02, 0x03, 0x09, 0x0A, 0x0D, 0x0E, 0x11, 0x12, 0x13})
"""ACE types whose access mask is followed by the SID."""
_OBJECT = frozenset({0x05, 0x06, 0x07, 0x08, 0x0B, 0x0C, 0x0F, 0x10})
"""ACE types with flags, and up to two GUIDs, between the mask and the SID."""
_ALLOWING, _DENYING = frozenset({ALLOW, 0x05, 0x09, 0x0B}), frozenset({DENY, 0x06, 0x0A, 0x0C})
_MAX_SUB_AUTHORITIES = 15
"""Maximum number of sub-authorities in a SID (SID_MAX_SUB_AUTHORITIES)."""
_MAX_ACL_SIZE = 0xFFFF
"""Maximum size of an ACL in bytes."""


@dataclass(frozen=True)
class Ace:
    """An entry of an access control list."""

    type: int
    flags: int = 0
    mask: int = 0
    """Its rights; 0 for an unknown type."""
    sid: str | None = None
    """The account; None for an unknown type."""
    objects: bytes = b""
    """Bytes before the SID, in the types for directory objects."""
    rest: bytes = b""
    """Bytes after the SID, such as a condition; for an unknown type, all of them."""

    @property
    def inherited(self) -> bool:
        """True if it was inherited from above, and can be changed only there."""
        return bool(self.flags & INHERITED)

    @property
    def allows(self) -> bool:
        """True if it allows something here, perhaps under a condition."""
        return self.type in _ALLOWING and not self.flags & INHERIT_ONLY

    @property
    def denies(self) -> bool:
        """True if it denies something here, perhaps under a condition."""
        return self.type in _DENYING and not self.flags & INHERIT_ONLY

    @property
    def rights(self) -> int:
        """The mask, with each generic right replaced by the file rights that it means."""
        return specific(self.mask)

    @classmethod
    def _from_bytes(cls, data: bytes) -> Ace:
        kind, flags = data[0], data[1]
        if kind not in _PLAIN | _OBJECT:
            return cls(kind, flags, rest=data[4:])
        (mask,) = _unpack("<I", data, 4)
        start = 8
        if kind in _OBJECT:
            (present,) = _unpack("<I", data, 8)
            start = 12 + 16 * (present & 1) + 8 * (present & 2)
        sid = _sid_at(data, start)
        return cls(kind, flags, mask, sid_to_text(sid), data[8:start], data[start + len(sid) :])

    def _to_bytes(self) -> bytes:
        known = self.sid is not None
        body = struct.pack("<I", self.mask) + self.objects + sid_to_bytes(self.sid or "") if known else b""
        size = 4 + len(body) + len(self.rest)
        if size > _MAX_ACL_SIZE:
            raise ValueError("Access control entry too long.")
        return struct.pack("<BBH", self.type, self.flags, size) + body + self.rest


@dataclass(frozen=True)
class SecurityDescriptor:
    """The owner of an object and its access rules."""

    owner: str | None = None
    group: str | None = None
    dacl: tuple[Ace, ...] | None = ()
    """In order of evaluation; None if there is no list, so that everyone may do everything."""
    control: int = SELF_RELATIVE | DACL_PRESENT
    """Control flags as read."""
    revision: int = 2
    """Revision of the list: 4 if it contains rules for directory objects."""
    sacl: bytes | None = None
    """Audit rules; kept unchanged."""
    resource_manager: int = 0
    """A byte for the resource manager; kept unchanged."""

    @classmethod
    def from_bytes(cls, data: bytes) -> SecurityDescriptor:
        """Read a self-relative descriptor. Raises `ValueError`."""
        version, manager, control, *offsets = _unpack("<BBHIIII", data, 0)
        if version != 1 or not control & SELF_RELATIVE:
            raise ValueError("Not a self-relative security descriptor of revision 1.")
        owner, group = (sid_to_text(_sid_at(data, at)) if at else None for at in offsets[:2])
        sacl, acl = (
            _acl_at(data, at) if at and control & present else None
            for at, present in zip(offsets[2:], (SACL_PRESENT, DACL_PRESENT), strict=True)
        )
        dacl, revision = (None, 2) if acl is None else (_aces(acl), acl[0])
        return cls(owner, group, dacl, control, revision, sacl, manager)

    def to_bytes(self) -> bytes:
        """Return the self-relative form, with its parts in the order that Windows uses. Raises `ValueError`."""
        acl = None if self.dacl is None else _acl(self.dacl, self.revision)
        sids = [sid_to_bytes(sid) if sid else None for sid in (self.owner, self.group)]
        at, body, offsets = 20, b"", []
        for part in (self.sacl, acl, *sids):
            offsets.append(at + len(body) if part else 0)
            body += part or b""
        sacl, dacl, owner, group = offsets
        control = self.control | SELF_RELATIVE
        return struct.pack("<BBHIIII", 1, self.resource_manager, control, owner, group, sacl, dacl) + body

    def with_dacl(self, aces: Iterable[Ace]) -> SecurityDescriptor:
        """Return a copy with another list of rules."""
        control = (self.control | DACL_PRESENT) & ~DACL_DEFAULTED
        return dataclasses.replace(self, dacl=tuple(aces), control=control)

    def allowing(self, sid: str, mask: int) -> SecurityDescriptor:
        """Return a copy that also allows an account these rights; the rules of others and their order are unchanged.

        A new rule follows the others that are not inherited: denials first, then permissions, then inherited rules.
        Nothing changes if there is no list, or if the account already has these rights.
        """
        if self.dacl is None:
            return self
        own = [ace for ace in self.dacl if ace.sid == sid and ace.type == ALLOW and ace.allows and not ace.objects]
        if any(specific(mask) & ~ace.rights == 0 for ace in own):
            return self
        for ace in own:
            if ace.flags == 0:
                wider = dataclasses.replace(ace, mask=ace.mask | mask)
                return self.with_dacl(wider if each is ace else each for each in self.dacl)
        end = next((index for index, ace in enumerate(self.dacl) if ace.inherited), len(self.dacl))
        return self.with_dacl((*self.dacl[:end], Ace(ALLOW, 0, mask, sid), *self.dacl[end:]))

    def not_allowing(self, sid: str) -> SecurityDescriptor:
        """Return a copy without the explicit rules that allow this account something; inherited rules stay."""
        if self.dacl is None:
            return self
        kept = tuple(ace for ace in self.dacl if ace.sid != sid or not ace.allows or ace.inherited)
        return self if kept == self.dacl else self.with_dacl(kept)

    def allowed(self, rights: int) -> tuple[str, ...] | None:
        """Return the SIDs that have any of these (specific) rights; None if everyone has them, as there is no list.

        Each SID is evaluated by itself: group membership is not known here, so denying a group takes nothing from an
        account. If two rules for one SID conflict, the first wins, as in Windows.
        """
        if self.dacl is None:
            return None
        granted: dict[str, int] = {}
        denied: dict[str, int] = {}
        for ace in self.dacl:
            if ace.sid is None:
                continue
            if ace.allows:
                granted[ace.sid] = granted.get(ace.sid, 0) | ace.rights & ~denied.get(ace.sid, 0)
            elif ace.denies:
                denied[ace.sid] = denied.get(ace.sid, 0) | ace.rights & ~granted.get(ace.sid, 0)
        return tuple(sid for sid, have in granted.items() if have & rights)


def specific(mask: int) -> int:
    """Return an access mask with each generic right replaced by the file rights that it means."""
    for generic, meant in _GENERIC.items():
        if mask & generic:
            mask = mask & ~generic | meant
    return mask


def sid_to_text(data: bytes) -> str:
    """Return the text form of a SID, such as "S-1-5-18". Raises `ValueError`."""
    if len(data) < 8 or data[0] != 1 or data[1] > _MAX_SUB_AUTHORITIES or len(data) != 8 + 4 * data[1]:  # noqa: PLR2004
        raise ValueError("Invalid SID.")
    authority = int.from_bytes(data[2:8], "big")
    parts = struct.unpack(f"<{data[1]}I", data[8:])
    # MS-DTYP 2.4.2.1: an authority that needs more than 32 bits is written in hexadecimal.
    first = str(authority) if authority < 1 << 32 else f"0x{authority:012X}"
    return "-".join(["S", "1", first, *map(str, parts)])


def sid_to_bytes(text: str) -> bytes:
    """Return the SID with this text form. Raises `ValueError`."""
    letter, _, rest = text.partition("-")
    version, *numbers = rest.split("-")
    if letter.upper() != "S" or version != "1" or not 1 <= len(numbers) <= 1 + _MAX_SUB_AUTHORITIES:
        raise ValueError(f"Invalid SID: {text!r}.")
    if not all(number.isascii() and number.isalnum() for number in numbers):  # int() accepts signs, spaces, underscores
        raise ValueError(f"Invalid SID: {text!r}.")
    try:
        authority = int(numbers[0], 16 if numbers[0][:2].lower() == "0x" else 10)
        parts = [int(number) for number in numbers[1:]]
    except ValueError:
        raise ValueError(f"Invalid SID: {text!r}.") from None
    if authority >= 1 << 48 or any(part >= 1 << 32 for part in parts):
        raise ValueError(f"Invalid SID: {text!r}: a number is too large.")
    return struct.pack("<BB", 1, len(parts)) + authority.to_bytes(6, "big") + struct.pack(f"<{len(parts)}I", *parts)


def _unpack(form: str, data: bytes, at: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(form, data, at)
    except struct.error:
        raise ValueError("Truncated security descriptor.") from None


def _sid_at(data: bytes, at: int) -> bytes:
    _, parts = _unpack("<BB", data, at)
    return data[at : at + 8 + 4 * parts]


def _acl_at(data: bytes, at: int) -> bytes:
    _, _, size, *_ = _unpack("<BBHHH", data, at)
    if size < 8 or at + size > len(data):  # noqa: PLR2004
        raise ValueError("Truncated access control list.")
    return data[at : at + size]


def _aces(acl: bytes) -> tuple[Ace, ...]:
    count, at, found = _unpack("<H", acl, 4)[0], 8, []
    for _ in range(count):
        _, _, size = _unpack("<BBH", acl, at)
        if size < 4 or size % 4 or at + size > len(acl):  # noqa: PLR2004
            raise ValueError("Invalid length of an access control entry.")
        found.append(Ace._from_bytes(acl[at : at + size]))  # noqa: SLF001
        at += size
    return tuple(found)


def _acl(aces: tuple[Ace, ...], revision: int) -> bytes:
    body = b"".join(ace._to_bytes() for ace in aces)  # noqa: SLF001
    if len(body) + 8 > _MAX_ACL_SIZE:
        raise ValueError("Access control list too long.")
    return struct.pack("<BBHHH", revision, 0, 8 + len(body), len(aces), 0) + body
