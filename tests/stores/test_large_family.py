"""Families and folders with many files: only the files that decide the choice are read."""

import itertools
import os
from pathlib import Path

import pytest

from keyvouch.certificate import spki_sha256
from keyvouch.errors import AmbiguousKey, CertificateMismatch, KeyNotFound
from keyvouch.store import choose_one
from keyvouch.stores import key_files
from stores.key_material import certify, new_key, open_key, openssl_pfx, pem_of, store, uri, write
from stores.test_family import member, stamp


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the key files that have been read."""
    names: list[str] = []
    read = key_files.read_key_file

    def recorded(path: Path, *others: object) -> key_files.KeyFile:
        names.append(path.name)
        return read(path, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(key_files, "read_key_file", recorded)
    return names


def test_newest_settled_member_is_read(folder: Path, reads: list[str]) -> None:
    """The files are read from the newest on, down to the first one that has settled."""
    for number in range(30):
        member(folder, f"app-{number}", number, age=2000 + number)
    open_key(f"pem:{folder}/app-*.pem?select=newest")
    assert reads == ["app-0.pem"]
    member(folder, "app-young", 40, age=100)
    reads.clear()
    assert open_key(f"pem:{folder}/app-*.pem?select=newest").settles_at
    assert reads == ["app-young.pem", "app-0.pem"]


def test_order_by_the_time_in_the_name(folder: Path, reads: list[str]) -> None:
    """The time in a name counts, and the last change of files without one."""
    member(folder, f"app-{stamp(9000)}", 1)
    member(folder, f"app-{stamp(2000)}", 2, age=20000)
    member(folder, "app-plain", 3, age=5000)
    open_key(f"pem:{folder}/app-*.pem?select=newest&settle=2500")
    assert [name.startswith("app-2") for name in reads] == [True, False]


def test_files_that_cannot_sign_yet_are_read(folder: Path, reads: list[str]) -> None:
    """A newer file that is damaged, or has no certificate, does not end the search, and is reported as before."""
    member(folder, "app-c", 1, age=5000)
    member(folder, "app-d", 2, age=6000)
    for name, data, age in (("app-a", b"damaged", 2000), ("app-b", pem_of(new_key("P-256", 3)), 3000)):
        path = write(folder / f"{name}.pem", data)
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    key = open_key(f"pem:{folder}/app-*.pem?select=newest")
    assert reads == ["app-a.pem", "app-b.pem", "app-c.pem"]
    assert key.uri.get("path").name == "app-c.pem"
    assert "app-a.pem" in key.advice[0]


def test_change_of_a_file_that_was_not_read(folder: Path) -> None:
    """An older file could not have been chosen: its change is not a change of the family."""
    member(folder, "app-a", 1, age=5000)
    older = write(folder / "app-b.pem", b"damaged")
    os.utime(older, (0, 0))
    key = open_key(f"pem:{folder}/app-*.pem?select=newest")
    older.write_bytes(b"changed")
    assert not key.changed()


def test_same_choice_as_among_all_files(folder: Path) -> None:
    """The choice is the one among all members, whatever their ages, with and without certificates."""
    kinds = {"settled": 5000, "older": 9000, "young": 300, "bare": 4000, "young-bare": 60}
    for which, (name, age) in enumerate(kinds.items()):
        key = new_key("P-256", which)
        path = write(folder / f"{name}.pem", pem_of(key) if "bare" in name else pem_of(key, certify(key)))
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    for number in range(1, len(kinds) + 1):
        for names in itertools.combinations(kinds, number):
            chosen = folder / "+".join(("of", *names))
            chosen.mkdir()
            for name in names:
                os.link(folder / f"{name}.pem", chosen / f"app-{name}.pem")
            family = uri(f"pem:{chosen}/app-*.pem?select=newest")
            info, settles_at = choose_one(family, store("pem:").keys(family))
            key = open_key(str(family))
            assert (key.uri, key.settles_at) == (info.uri, settles_at)


def test_pinned_key_and_certificate_end_the_search(folder: Path, reads: list[str]) -> None:
    """A family is read up to the key of the digest or of the certificate."""
    certificates = [member(folder, f"app-{number}", number, age=1000 * number) for number in range(9)]
    assert open_key(f"pem:{folder}/app-*.pem?select=newest", certificates[2]).chain == (certificates[2],)
    assert reads == ["app-0.pem", "app-1.pem", "app-2.pem"]
    reads.clear()
    digest = spki_sha256(new_key("P-256", 1).public_key())
    assert open_key(f"pem:path={folder}/app-*.pem;spki-sha256={digest}").chain == (certificates[1],)
    assert reads == ["app-0.pem", "app-1.pem"]


def test_ambiguous_family(folder: Path, reads: list[str]) -> None:
    """Eleven usable members are read to list ten."""
    for number in range(30):
        member(folder, f"app-{number:02}", number)
    write(folder / "app-.pem", b"damaged")
    with pytest.raises(AmbiguousKey, match="More than 10 keys match") as caught:
        open_key(f"pem:{folder}/app-*.pem")
    assert len(caught.value.candidates) == 10
    assert len(reads) == 12
    assert "select=newest" in caught.value.hint


def test_skipped_files_are_not_all_listed(folder: Path) -> None:
    """An error lists ten of the files that cannot be read."""
    member(folder, "app-a", 1)
    for number in range(30):
        write(folder / f"app-{number}.pem", b"damaged")
    with pytest.raises(CertificateMismatch) as caught:
        open_key(f"pem:{folder}/app-*.pem", certify(new_key("P-256", 2)))
    assert caught.value.hint.count("Skipped: ") == 10
    assert caught.value.hint.endswith("\n...")


def test_missing_file_in_a_large_folder(folder: Path, reads: list[str]) -> None:
    """A missing file or an empty family reads no other file, and lists eight neighbours."""
    for number in range(30):
        write(folder / f"{number}.pem", b"x")
    for path in ("app.pem", "app-*.pem"):
        with pytest.raises(KeyNotFound) as caught:
            open_key(f"pem:{folder}/{path}")
        assert caught.value.hint.count(".pem") == 8
    assert reads == ["app.pem"]


def test_unknown_friendly_name(folder: Path) -> None:
    """An error for an unknown friendly name lists the nearest, or eight."""
    for number in range(9):
        openssl_pfx(folder / f"app-{number}.pfx", "-name", f"{number}" * 20, key=new_key("P-256", number))
    for wanted, listed in (("unknown", 8), ("1" * 19, 1)):
        with pytest.raises(KeyNotFound) as caught:
            open_key(f"pfx:path={folder}/app-*.pfx;friendly-name={wanted}?password=env:PASSWORD")
        assert caught.value.hint.count(",") == (listed if listed == 8 else 0)
        assert caught.value.hint.endswith("..." + "." if listed == 8 else f"{'1' * 20}.")
