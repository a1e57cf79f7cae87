"""Where a module may not be found."""

from pathlib import Path

from accounts import SERVICE, answer_as, only_root, public  # noqa: F401 - a fixture
from keyvouch.uri import parse_uri
from keyvouch_pkcs11 import module_lookup
from keyvouch_pkcs11.store import Pkcs11Store


@only_root
def test_module_in_a_closed_folder(public: Path) -> None:
    """A module in a folder that this account cannot enter is not found."""
    (public / "closed").mkdir(mode=0o700)
    path = public / "closed" / "module.so"
    path.write_bytes(b"")
    uri = parse_uri(f"pkcs11:token=t?module-path={path}", Pkcs11Store.attributes)

    told = answer_as(SERVICE, lambda: str(module_lookup._by_path(str(path), uri)))
    assert told.startswith(f"PKCS#11 module not found: {path}.")
    assert answer_as(SERVICE, lambda: str(module_lookup._module_file(str(path)))) == "None"
