"""From a scheme to its store, with distributions laid out as pip does, made for each test."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import keyvouch
from keyvouch._core import registry
from keyvouch._core.registry import plugins, store_class
from keyvouch.errors import PluginBroken, PluginConflict, PluginMissing
from scripted_store import without_coverage

STORE = """
from keyvouch.store import KeyStore

class Store(KeyStore):
    attributes = ()
    def __init__(self, uri, secrets): ...
    def connect(self, *, timeout): ...
    def open(self, uri, certificate=None, *, timeout): ...
    def close(self): ...
"""
TRACE = "import pathlib; pathlib.Path(__file__).with_suffix('.ran').touch()\n"


def install(
    folder: Path, name: str, scheme: str = "demo", module: str = STORE, point: str = "{}:Store [contract1]"
) -> Path:
    """Install a distribution with one module into a folder, as pip does; return the module's path."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    package = f"module_of_{name.replace('-', '_')}"
    (info / "entry_points.txt").write_text(f"[keyvouch.stores]\n{scheme} = {point.format(package)}\n")
    path = folder / f"{package}.py"
    path.write_text(module)
    return path


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on `sys.path` to install into."""
    place = tmp_path / "site-packages"
    place.mkdir()
    monkeypatch.syspath_prepend(place)
    store_class.cache_clear()
    yield place
    store_class.cache_clear()
    for name in [name for name in sys.modules if name.startswith("module_of_")]:
        del sys.modules[name]


def schemes() -> list[str]:
    return [plugin.scheme for plugin in plugins()]


def broken(scheme: str = "demo") -> PluginBroken:
    with pytest.raises(PluginBroken) as caught:
        store_class(scheme)
    assert caught.value.hint
    return caught.value


# Found


def test_store_is_found_by_its_entry_point(site: Path) -> None:
    """A scheme leads to the class in the entry point of an installed distribution."""
    install(site, "acme-store")
    assert store_class("demo").__module__ == "module_of_acme_store"
    assert store_class("demo") is store_class("demo")


def test_plugin_has_the_rights_of_the_program(site: Path, tmp_path: Path) -> None:
    """A store's code runs in the program: it can access keys opened by other stores, and everything else."""
    steal = """
import gc, pathlib
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
with pathlib.Path(__file__).with_suffix(".stolen").open("wb") as stolen:
    for each in gc.get_objects():
        if type(each).__name__ == "FileKey":
            stolen.write(each._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
"""
    module = install(site, "acme-store", module=steal + STORE)
    uri = f"pem:{tmp_path / 'app.pem'}"
    with keyvouch.open_store(uri) as store:
        store.generate(keyvouch.KeySpec(key_type="P-256"))
    with keyvouch.open_signer(uri):
        store_class("demo")
    key = (tmp_path / "app.pem").read_bytes().partition(b"-----BEGIN CERTIFICATE")[0]
    assert key in module.with_suffix(".stolen").read_bytes()


@pytest.mark.parametrize("scheme", ["pfx", "pem"])
def test_built_in_stores_are_no_exception(scheme: str) -> None:
    """The file stores are found by entry point too, and are written for this contract."""
    (plugin,) = (plugin for plugin in plugins() if plugin.scheme == scheme)
    assert (plugin.distribution, plugin.contract) == ("keyvouch", "contract1")
    assert store_class(scheme).__module__ == "keyvouch.stores.file"


def test_plugins_are_listed_without_import(site: Path) -> None:
    """Listing the stores runs none of their code."""
    module = install(site, "acme-store", module=TRACE)
    (plugin,) = (plugin for plugin in plugins() if plugin.scheme == "demo")
    assert (plugin.distribution, plugin.version) == ("acme-store", "1.0")
    assert not module.with_suffix(".ran").exists()
    assert schemes() == sorted(schemes())


def test_shadowed_copy_claims_nothing(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second copy of a distribution further down the path is not a second claimant."""
    install(site, "acme-store", module="raise RuntimeError")
    upper = tmp_path / "upper"
    install(upper, "acme-store")
    monkeypatch.syspath_prepend(upper)
    assert schemes().count("demo") == 1
    assert str(sys.modules[store_class("demo").__module__].__file__).startswith(str(upper))


# Missing


def test_unknown_scheme_is_missing(site: Path) -> None:
    """An unknown scheme is reported with the installed ones; no unvetted name is suggested for installation."""
    install(site, "acme-store")
    with pytest.raises(
        PluginMissing, match=r"No store is installed for qqq: \(installed: .*demo, .*pem, pfx"
    ) as caught:
        store_class("qqq")
    assert "pip install" not in caught.value.hint


@pytest.mark.parametrize(("scheme", "meant"), [("pxf", "pfx"), ("demos", "demo"), ("vualt", "vault")])
def test_near_scheme_is_suggested(site: Path, scheme: str, meant: str) -> None:
    """For a typo the nearest scheme is suggested, installed or known."""
    install(site, "acme-store")
    with pytest.raises(PluginMissing) as caught:
        store_class(scheme)
    assert caught.value.hint == f'Did you mean "{meant}:"?'


@pytest.mark.parametrize(("scheme", "package"), registry.KNOWN.items())
def test_known_scheme_says_what_to_install(monkeypatch: pytest.MonkeyPatch, scheme: str, package: str) -> None:
    """This project's plugins are suggested by name."""
    monkeypatch.setattr("keyvouch._system.search_path.trusted", list)
    store_class.cache_clear()
    with pytest.raises(PluginMissing) as caught:
        store_class(scheme)
    assert caught.value.hint == f"In a checkout of keyvouch, run: pip install . ./plugins/{package}"


@pytest.mark.parametrize("entry_points", ["", "[console_scripts]\ndemo = a:b\n", "[keyvouch.store]\ndemo = a:b\n"])
def test_installed_without_its_entry_point(site: Path, entry_points: str) -> None:
    """A plugin that is installed but declares nothing is distinguished from a missing one."""
    install(site, "keyvouch-demo")
    (site / "keyvouch_demo-1.0.dist-info" / "entry_points.txt").write_text(entry_points)
    with pytest.raises(
        PluginMissing, match="keyvouch-demo is installed, but does not declare the entry point demo"
    ) as caught:
        store_class("demo")
    assert caught.value.hint == "Reinstall keyvouch-demo from where you got it."


def test_missing_store_is_looked_for_again(site: Path) -> None:
    """A plugin that is installed in the meantime is found."""
    with pytest.raises(PluginMissing):
        store_class("demo")
    install(site, "acme-store")
    assert store_class("demo").__name__ == "Store"


# In conflict


def test_two_claimants_are_a_conflict(site: Path) -> None:
    """Neither of two distributions that claim a scheme is guessed or imported."""
    modules = [install(site, name, module=TRACE) for name in ("acme-store", "other-store")]
    with pytest.raises(
        PluginConflict, match="More than one distribution provides the scheme demo: acme-store and other-store"
    ) as caught:
        store_class("demo")
    assert "pip uninstall other-store" in caught.value.hint
    assert not any(module.with_suffix(".ran").exists() for module in modules)


# Broken


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("raise RuntimeError('no driver')", "RuntimeError: no driver"),
        ("raise SystemExit('no driver')", "SystemExit: no driver"),
        ("class Odd(BaseException): ...\nraise Odd('no driver')", "Odd: no driver"),
        ("def (", "SyntaxError"),
        ("", "AttributeError"),
    ],
)
def test_import_that_fails_is_told(site: Path, module: str, reason: str) -> None:
    """A plugin that fails to import is reported with its version, its error, and how to reinstall it."""
    install(site, "acme-store", module=module)
    error = broken()
    assert error.message.startswith(f"Cannot load acme-store 1.0: {reason}")
    assert error.hint == "Reinstall acme-store 1.0 and its dependencies from where you got it."
    assert error.__cause__ is not None


@pytest.mark.parametrize(
    ("point", "named"),
    [
        ("{}:Store [contract2]", "contract2"),
        ("{}:Store [contract11]", "contract11"),
        ("{}:Store [contract1,other]", "contract1,other"),
        ("{}:Store []", "none"),
        ("{}:Store", "none"),
        ("no entry point!", "none"),
    ],
)
def test_other_contract_is_not_imported(site: Path, point: str, named: str) -> None:
    """A plugin for another version of the contract is reported before any of its code runs."""
    module = install(site, "acme-store", module=TRACE, point=point)
    error = broken()
    assert error.message.endswith(f"expected contract1 in its entry point, got {named}.")
    assert error.hint == "Update keyvouch and acme-store together, to releases for the same contract."
    assert not module.with_suffix(".ran").exists()


@pytest.mark.parametrize(
    "module",
    ["class Store: ...", "Store = 1", STORE + "Store = Store.close", STORE + "del Store.attributes"],
)
def test_store_must_be_one(site: Path, module: str) -> None:
    """An entry point that leads to something other than a KeyStore is the plugin's defect."""
    install(site, "acme-store", module=module)
    assert broken().message == (
        "module_of_acme_store:Store [contract1] from acme-store is not a KeyStore subclass with a tuple `attributes`."
    )


@pytest.mark.parametrize("point", ["no entry point! [contract1]", "{}: [contract1]", "{}:a b [contract1]"])
def test_senseless_entry_point_is_broken(site: Path, point: str) -> None:
    """An entry point that names nothing is reported like any other that cannot be loaded."""
    install(site, "acme-store", point=point)
    assert "acme-store" in broken().message


def test_bad_plugin_leaves_the_others_be(site: Path) -> None:
    """A broken plugin affects only those that use it."""
    install(site, "bad-store", "bad", module="raise RuntimeError")
    install(site, "old-store", "old", point="{}:Store [contract0]")
    install(site, "acme-store")
    assert {"bad", "old", "demo", "pfx"} <= set(schemes())
    assert store_class("demo").__name__ == "Store"
    assert store_class("pfx").__name__ == "PfxStore"


@pytest.mark.parametrize("damage", ["no metadata", "empty metadata", "senseless entry points", "binary entry points"])
def test_damaged_distribution_leaves_the_others_be(site: Path, damage: str) -> None:
    """Damaged metadata in any distribution does not hide the stores of others."""
    install(site, "bad-store", "bad")
    install(site, "acme-store")
    info = site / "bad_store-1.0.dist-info"
    match damage:
        case "no metadata":
            (info / "METADATA").unlink()
        case "empty metadata":
            (info / "METADATA").write_text("")
        case "senseless entry points":
            (info / "entry_points.txt").write_text("[console_scripts]\nno equals sign\n")
        case "binary entry points":
            (info / "entry_points.txt").write_bytes(b"\xff\xfe\x00")
    assert "bad" not in schemes()
    assert store_class("demo").__name__ == "Store"


# The working directory

LIST = "from keyvouch._core import registry; print([plugin.scheme for plugin in registry.plugins()])"


def run(*arguments: str, cwd: Path, **environment: str) -> str:
    # Without coverage, which a .pth file would import first.
    given = {**without_coverage(), **environment}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, check=True, cwd=cwd, env=given)
    return done.stdout.decode()


def test_planted_plugin_is_not_listed(tmp_path: Path) -> None:
    """A plugin in the working directory is not trusted: `python -m keyvouch` does not see it."""
    module = install(tmp_path, "evil", "evil", module=TRACE + STORE)
    (tmp_path / "keyvouch.py").write_text(TRACE)
    assert "evil" not in run("-m", "keyvouch", "stores", "--output", "json", cwd=tmp_path)
    assert not module.with_suffix(".ran").exists()


@pytest.mark.parametrize("way", ["-c", "-m", "PYTHONPATH"])
def test_working_directory_is_no_place_for_plugins(tmp_path: Path, way: str) -> None:
    """Another program that runs there with `-c` or `-m` does not find a planted store either."""
    install(tmp_path, "evil", "evil")
    (tmp_path / "program.py").write_text(LIST)
    arguments = {"-c": ("-c", LIST), "-m": ("-m", "program"), "PYTHONPATH": ("-P", "-c", LIST)}[way]
    path = {"PYTHONPATH": str(tmp_path)} if way == "PYTHONPATH" else {}
    listed = run(*arguments, cwd=tmp_path, **path)
    assert "pfx" in listed
    assert "evil" not in listed


def test_folder_below_the_working_directory_is_searched(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the directory itself is skipped: a virtual environment in it contains plugins."""
    install(site, "acme-store")
    monkeypatch.chdir(site.parent)
    assert "demo" in schemes()
    monkeypatch.chdir(site)
    assert "demo" not in schemes()


def test_skipped_store_is_named(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store found only in the working directory is not loaded, and the error says that it was skipped, and why."""
    module = install(site, "acme-store", module=TRACE)
    (site / "fifo-1.0.dist-info").mkdir()
    os.mkfifo(site / "fifo-1.0.dist-info" / "entry_points.txt")
    monkeypatch.chdir(site)
    with pytest.raises(PluginMissing, match=r"Skipped .*site-packages/acme_store-1.0.dist-info\.") as caught:
        store_class("demo")
    assert "working directory are not trusted" in caught.value.hint
    assert not module.with_suffix(".ran").exists()
    with pytest.raises(PluginMissing) as caught:  # not for what nobody asked for
        store_class("qqq")
    assert "Skipped" not in caught.value.message


@pytest.mark.parametrize("entry", ["", ".", "site-packages/../site-packages", "./site-packages"])
def test_relative_entry_is_not_trusted(site: Path, monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    """The meaning of a relative `sys.path` entry depends on the working directory, so it is not trusted."""
    install(site, "acme-store")
    monkeypatch.setattr(sys, "path", [entry, *(each for each in sys.path if each != str(site))])
    monkeypatch.chdir(site if len(entry) < 2 else site.parent)
    assert "demo" not in schemes()
    assert "pem" in schemes()


def test_odd_entries_of_the_path_are_passed_over(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, missing folders and entries that are not text on `sys.path` do no harm."""
    install(site, "acme-store")
    (site / "file").write_bytes(b"no archive")
    odd = [site / "path", None, 5, b"octets", "a\0b", str(site / "file"), str(site / "missing"), *sys.path]
    monkeypatch.setattr(sys, "path", odd)
    assert "demo" in schemes()


def test_link_to_the_working_directory_is_not_trusted(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The working directory is recognized however an entry of `sys.path` spells it."""
    install(site, "acme-store")
    (tmp_path / "link").symlink_to(site)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "link"), *(each for each in sys.path if each != str(site))])
    assert "demo" in schemes()
    monkeypatch.chdir(site)
    assert "demo" not in schemes()


def test_missing_working_directory_hides_nothing(tmp_path: Path) -> None:
    """If the working directory is gone, nothing can be in it, and stores are found."""
    program = f"import os; os.rmdir({str(tmp_path / 'gone')!r}); {LIST}"
    (tmp_path / "gone").mkdir()
    assert "pfx" in run("-c", program, cwd=tmp_path / "gone")


# Layouts: keyvouch itself in the working directory, as on AWS Lambda.


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from this code."""
    root = Path(registry.__file__).parents[3]
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, check=True, capture_output=True, cwd=root)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture
def target(wheel: Path, tmp_path: Path) -> Path:
    """A folder into which pip installed keyvouch with --target."""
    folder = tmp_path / "task"
    options = ["--no-deps", "--no-index", "--no-compile", "--target", str(folder)]
    command = [sys.executable, "-m", "pip", "install", "-q", *options, str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


HERE = "import keyvouch; print(keyvouch.__file__); " + LIST


@pytest.mark.parametrize("way", ["-c", "PYTHONPATH", "relative", "below"])
def test_stores_beside_keyvouch_are_found(target: Path, tmp_path: Path, way: str) -> None:
    """`pip install --target .`: distributions in the folder that contains keyvouch are trusted like keyvouch."""
    install(target, "acme-store")
    other = tmp_path / "other"
    install(other, "evil", "evil")
    program, cwd, path = f"import sys; {HERE}", target, {}
    match way:
        case "PYTHONPATH":
            path = {"PYTHONPATH": str(target)}
            program = f"import os; os.chdir({str(other)!r}); {program}"
        case "relative":
            program, cwd = f"import sys; sys.path.insert(0, 'task'); {HERE}", tmp_path
        case "below":
            path, cwd = {"PYTHONPATH": f"{target}:"}, other
    said = run("-c", program, cwd=cwd, **path)
    assert str(target / "keyvouch") in said
    assert "'demo'" in said
    assert "'pem'" in said
    assert "evil" not in said


def test_command_runs_beside_its_packages(target: Path) -> None:
    """`python -m keyvouch` in that folder works too."""
    install(target, "acme-store")
    said = run("-m", "keyvouch", "stores", "--output", "json", cwd=target)
    assert '"pem"' in said
    assert "acme-store" in said


@pytest.mark.parametrize("way", ["path", "main"])
def test_zip_archive_with_keyvouch_is_trusted(target: Path, tmp_path: Path, way: str) -> None:
    """A ZIP archive from which keyvouch was imported is trusted, even with a relative path."""
    install(target, "acme-store")
    (target / "__main__.py").write_text(HERE)
    archive = Path(shutil.make_archive(str(tmp_path / "app"), "zip", target))
    said = run("app.zip", cwd=tmp_path) if way == "main" else run("-c", HERE, cwd=tmp_path, PYTHONPATH=str(archive))
    assert "app.zip/keyvouch" in said
    assert "'demo'" in said
    assert "'pem'" in said


# What the command imports.

PLANTED = (
    *("click", "msal", "cryptography", "keyring", "rich", "requests", "msgspec", "stevedore", "platformdirs"),
    *("keyvouch_pkcs11", "keyvouch_vault", "hvac", "azure"),
    *("typing", "__future__", "json", "pathlib", "shlex", "tomllib", "difflib", "logging", "hashlib"),
)


def plant(folder: Path, *more: str) -> None:
    for name in (*PLANTED, *more):
        package = folder / name
        package.mkdir()
        (package / "__init__.py").write_text(f"import os; os.write(2, b'planted: {name}; ')\nraise RuntimeError")


@pytest.mark.parametrize("path", [":", ".", "{}", "/nowhere:", "{}/", "{}/../{name}", None])
@pytest.mark.parametrize("arguments", [("stores",), ("keys", "--key", "vault:address=https://vault.test?auth=none")])
def test_command_imports_nothing_from_the_working_directory(
    tmp_path: Path, path: str | None, arguments: tuple[str, ...]
) -> None:
    """Whatever puts the working directory on the path, the command does not import planted modules."""
    plant(tmp_path)
    code = "import sys; from keyvouch.__main__ import main; sys.argv[0] = 'keyvouch'; main()"  # like pip's script
    script = tmp_path.parent / f"{tmp_path.name}-bin" / "keyvouch"
    script.parent.mkdir()
    script.write_text(code)
    environment = without_coverage()
    command = [sys.executable, str(script)]
    if path is None:
        command = [sys.executable, "-m", "keyvouch"]
    else:
        environment["PYTHONPATH"] = path.format(tmp_path, name=tmp_path.name)
    done = subprocess.run(
        [*command, *arguments], cwd=tmp_path, env=environment, capture_output=True, check=False, text=True
    )
    assert "planted" not in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 2)


def test_command_names_what_it_skipped(tmp_path: Path) -> None:
    """The skipped store is named even after the command removed the working directory from its path."""
    install(tmp_path, "acme-store")
    command = [sys.executable, "-m", "keyvouch", "keys", "--key", "demo:x"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, text=True)
    assert done.returncode == 2
    assert f"Skipped {tmp_path}/acme_store-1.0.dist-info." in done.stderr


def test_importing_keyvouch_imports_nothing_from_the_working_directory(tmp_path: Path) -> None:
    """Even a program that keeps the working directory on its own path imports nothing from there."""
    plant(
        tmp_path, "contextlib", "threading", "weakref", "collections", "time", "re", "string", "traceback", "warnings"
    )
    assert run("-c", "import keyvouch, sys; print(sys.path[0] == '')", cwd=tmp_path).strip() == "True"


def test_moved_entry_point_is_explained(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin whose module is only in the working directory is broken, and the hint says why."""
    install(site, "acme-store", module="import nothing_of_that_name")
    assert "working directory" not in broken().hint
    monkeypatch.syspath_prepend("")
    assert "run it elsewhere" in broken().hint
