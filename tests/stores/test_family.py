"""Families of files: one `*` in the name."""

import datetime as dt
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509

from keyvouch.errors import AmbiguousKey, CertificateMismatch, KeyNotFound, KeyUnusable, SecretIncorrect
from keyvouch.store import KeySpec
from keyvouch.stores import key_files
from stores.key_material import certify, new_key, open_key, openssl_pfx, pem_of, store, uri, write


def member(folder: Path, stem: str, which: int, age: int = 0) -> x509.Certificate:
    """Write a file with key and certificate, last changed `age` seconds ago."""
    key = new_key("P-256", which)
    path = write(folder / f"{stem}.pem", pem_of(key, certify(key)))
    changed = path.stat().st_mtime - age
    os.utime(path, (changed, changed))
    return certify(key)


def stamp(age: int) -> str:
    return (dt.datetime.now(dt.UTC) - dt.timedelta(seconds=age)).strftime("%Y%m%dT%H%M%S%fZ")


def test_family_needs_select(folder: Path) -> None:
    """Of several members none is taken unless asked for; the error lists a URI for each."""
    member(folder, "a", 1)
    member(folder, "b", 2)
    with pytest.raises(AmbiguousKey, match="To follow the family, add select=newest") as caught:
        open_key(f"pem:{folder}/*.pem")
    assert [open_key(candidate).uri.get("path").name for candidate in caught.value.candidates] == ["a.pem", "b.pem"]


def test_newest_settled_is_chosen(folder: Path) -> None:
    """A member's age is that of its file; the newest settled one is taken, and its successor is announced."""
    member(folder, "a", 1, age=5000)
    settled = member(folder, "b", 2, age=2000)
    member(folder, "c", 3, age=100)
    key = open_key(f"pem:{folder}/*.pem?select=newest")
    assert key.chain == (settled,)
    assert key.settles_at is not None
    assert 790 < (key.settles_at - dt.datetime.now(dt.UTC)).total_seconds() < 801


def test_new_member_is_a_change(folder: Path) -> None:
    """A new or removed member is a change, so that its settling time is counted; another file is not."""
    member(folder, "app-a", 1)
    key = open_key(f"pem:{folder}/app-*.pem?select=newest")
    assert not key.changed()
    member(folder, "other", 2)
    assert not key.changed()
    member(folder, "app-b", 3)
    assert key.changed()
    (folder / "app-b.pem").unlink()
    assert open_key(f"pem:{folder}/app-*.pem").changed() is False


def test_missing_folder_is_a_change(folder: Path, tmp_path: Path) -> None:
    """If the folder is gone, that counts as a change: reopening reports the error."""
    member(folder, "app-a", 1)
    key = open_key(f"pem:{folder}/app-*.pem?select=newest")
    folder.rename(tmp_path / "elsewhere")
    assert key.changed()


def test_time_in_name_is_creation_time(folder: Path) -> None:
    """The time in a member's name takes precedence over its modification time, which a copy loses."""
    member(folder, f"app-{stamp(9000)}", 1, age=1000)
    newer = member(folder, f"app-{stamp(2000)}", 2, age=5000)
    assert open_key(f"pem:{folder}/app-*.pem?select=newest").chain == (newer,)


def test_invalid_time_in_name_is_ignored(folder: Path) -> None:
    """If the digits are not a valid time, the age is the file's."""
    member(folder, "app-20269999T999999999999Z", 1, age=60)
    (info,) = store("pem:").keys(uri(f"pem:{folder}/app-*.pem"))
    assert info.created is not None
    assert 59 < (dt.datetime.now(dt.UTC) - info.created).total_seconds() < 70


def test_generated_name_is_parsed(folder: Path) -> None:
    """The time that `generate` puts into the name is read back to the microsecond."""
    pinned = store("pem:").generate(uri(f"pem:{folder}/app-*.pem"), KeySpec("P-256"))
    (info,) = store("pem:").keys(pinned)
    assert info.created is not None
    assert pinned.get("path").name == f"app-{info.created:%Y%m%dT%H%M%S%fZ}.pem"


def test_certificate_chooses_member(folder: Path) -> None:
    """The certificate given with the family selects the member."""
    wanted = member(folder, "a", 1)
    member(folder, "b", 2)
    assert open_key(f"pem:{folder}/*.pem?select=newest", wanted).chain == (wanted,)


def test_unreadable_member_is_skipped(folder: Path) -> None:
    """A member that cannot be read does not affect the others."""
    write(folder / "a.pem", b"broken")
    good = member(folder, "b", 1)
    assert open_key(f"pem:{folder}/*.pem").chain == (good,)


def test_member_with_another_password_is_skipped(folder: Path) -> None:
    """A member with another password does not affect the others."""
    openssl_pfx(folder / "a.pfx", password="other")
    openssl_pfx(folder / "b.pfx")
    assert open_key(f"pfx:{folder}/*.pfx?password=env:PASSWORD").uri.get("path").name == "b.pfx"


def test_newer_member_that_is_skipped_is_reported(folder: Path) -> None:
    """A newer member that cannot be used is advice about the key: path, reason and hint."""
    member(folder, "a", 1, age=5000)
    broken = write(folder / "b.pem", b"broken")
    (advice,) = open_key(f"pem:{folder}/*.pem?select=newest").advice
    assert advice.startswith(f"A newer key of the family is not used: {broken} is not a PEM file.\n")


def test_newer_key_of_an_unusable_type_is_reported(folder: Path) -> None:
    """A newer file that can be read, but whose key cannot sign, is reported with its path."""
    member(folder, "a", 1, age=5000)
    weak = write(folder / "b.pem", pem_of(new_key("RSA-1024")))
    (advice,) = open_key(f"pem:{folder}/*.pem?select=newest").advice
    assert str(weak) in advice
    assert "RSA-1024" in advice


def test_older_member_that_is_skipped_is_not_reported(folder: Path) -> None:
    """An older member would not be used anyway."""
    broken = write(folder / "a.pem", b"broken")
    os.utime(broken, (0, 0))
    member(folder, "b", 1)
    assert open_key(f"pem:{folder}/*.pem?select=newest").advice == ()


def test_pinned_member_has_no_successor(folder: Path) -> None:
    """If the URI or a certificate identifies the key, a newer one does not matter."""
    wanted = member(folder, "a", 1, age=5000)
    pinned = open_key(f"pem:{folder}/*.pem").uri
    write(folder / "b.pem", b"broken")
    digest = pinned.get("spki-sha256")
    assert open_key(f"pem:path={folder}/*.pem;spki-sha256={digest}").advice == ()
    assert open_key(f"pem:{folder}/*.pem?select=newest", wanted).advice == ()


def test_skipped_member_that_changes_is_a_change(folder: Path) -> None:
    """A member that was skipped, and whose content or permissions change, is a change."""
    member(folder, "a", 1, age=5000)
    broken = write(folder / "b.pem", b"broken")
    key = open_key(f"pem:{folder}/*.pem?select=newest")
    assert not key.changed()
    broken.chmod(0o400)
    assert key.changed()


def test_first_error_is_raised(folder: Path) -> None:
    """If no member can be read, the first one's error is raised."""
    openssl_pfx(folder / "a.pfx", password="other")
    write(folder / "b.pfx", b"broken")
    with pytest.raises(SecretIncorrect):
        open_key(f"pfx:{folder}/*.pfx?password=env:PASSWORD")
    write(folder / "a.pfx", b"broken")
    with pytest.raises(KeyUnusable):
        open_key(f"pfx:{folder}/*.pfx?password=env:PASSWORD")


def test_skipped_member_is_reported(folder: Path) -> None:
    """If no readable member matches, the error names those that could not be read."""
    write(folder / "a.pem", b"broken")
    member(folder, "b", 1)
    with pytest.raises(CertificateMismatch, match=r"Skipped: .*a\.pem is not a PEM file"):
        open_key(f"pem:{folder}/*.pem", certify(new_key("P-256", 2)))


def test_empty_family_is_not_found(folder: Path) -> None:
    """A family without members has no key, and its listing is empty."""
    write(folder / "other.pem", b"x")
    with pytest.raises(KeyNotFound, match=r"No file matches .*\n.*contains: other\.pem"):
        open_key(f"pem:{folder}/app-*.pem")
    assert store("pem:").keys(uri(f"pem:{folder}/app-*.pem")) == []


def test_family_in_missing_folder(folder: Path) -> None:
    """If the family's folder is missing, the error says so."""
    with pytest.raises(KeyNotFound, match="does not exist"):
        open_key(f"pem:{folder}/keys/*.pem")


def test_only_star_is_a_wildcard(folder: Path) -> None:
    """Other shell wildcards are literal, and a hidden file is not a member."""
    member(folder, "app[1]-a", 1)
    member(folder, "app1-b", 2)
    member(folder, ".app", 3)
    assert [info.uri.get("path").name for info in store("pem:").keys(uri(f"pem:{folder}/app[1]-*.pem"))] == [
        "app[1]-a.pem"
    ]
    assert len(store("pem:").keys(uri(f"pem:{folder}/*.pem"))) == 2


def test_prefix_and_suffix_do_not_overlap(folder: Path) -> None:
    """The * stands for any part of the name, even an empty one, but prefix and suffix never overlap."""
    member(folder, "app.pem", 1)
    assert store("pem:").keys(uri(f"pem:{folder}/app.pem*.pem.pem")) == []
    assert len(store("pem:").keys(uri(f"pem:{folder}/app.pem*.pem"))) == 1


def test_hidden_file_is_not_a_member(folder: Path) -> None:
    """As in a shell, a leading `*` does not match a dot; a family of hidden files includes the dot."""
    shown = member(folder, "app", 1)
    hidden = member(folder, ".app", 2)
    assert open_key(f"pem:{folder}/*.pem").chain == (shown,)
    assert open_key(f"pem:{folder}/.*.pem").chain == (hidden,)
    assert open_key(f"pem:{folder}/.a*.pem").chain == (hidden,)


@pytest.mark.parametrize("changed", [1e18, -1e18, float("inf"), float("-inf"), float("nan")])
def test_invalid_modification_time(folder: Path, changed: float) -> None:
    """A file with an invalid modification time counts as the oldest, and is still read."""
    status = SimpleNamespace(st_mtime=changed)
    assert key_files._last_change(status) == dt.datetime(1970, 1, 1, tzinfo=dt.UTC)  # type: ignore[arg-type]


@pytest.mark.parametrize("changed", [0, -86400, 2**33])
def test_modification_time_in_the_far_future(folder: Path, changed: int) -> None:
    """The modification time may be before 1970 or after 2038."""
    path = folder / "app.pem"
    member(folder, "app", 1)
    os.utime(path, (changed, changed))
    (info,) = store(f"pem:{path}").keys(uri(f"pem:{path}"))
    assert info.created == dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=changed)
