"""Compare the bindings' structures, constants and functions with those in mingw-w64's headers for 64 bits.

A C program is generated from the definitions in the plugin's modules and prints the headers' values, so every new
structure, constant or function is compared.
"""

from __future__ import annotations

import ctypes
import importlib
import pkgutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import keyvouch_windows
from keyvouch_windows.native import Library
from windows_python import COMPILER
from wine import Windows

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("windows")]

MODULES = [
    importlib.import_module(f"keyvouch_windows.{each.name}") for each in pkgutil.iter_modules(keyvouch_windows.__path__)
]
OURS = {
    "SOFTWARE_PROVIDER": "MS_KEY_STORAGE_PROVIDER",
    "_AES_PROVIDER": "MS_ENH_RSA_AES_PROV_W",
}
"""Our names of constants that have other names in the headers."""
ENUMERATED = {
    "TOKEN_USER_CLASS": "TokenUser",
}
"""Likewise, for enumerators, which are not macros."""
HASHES = {"sha256": "CALG_SHA_256", "sha384": "CALG_SHA_384", "sha512": "CALG_SHA_512"}
WITHOUT_SHA2 = {
    "MS_DEF_PROV_W": "Microsoft Base Cryptographic Provider v1.0",
    "MS_ENHANCED_PROV_W": "Microsoft Enhanced Cryptographic Provider v1.0",
    "MS_DEF_RSA_SCHANNEL_PROV_W": "Microsoft RSA SChannel Cryptographic Provider",
    "MS_STRONG_PROV_W": "Microsoft Strong Cryptographic Provider",
}
ABSENT = "not there"
CODES_OF_TPMS = "https://learn.microsoft.com/en-us/windows/win32/com/com-error-codes-6"
NOT_IN_THE_HEADERS = dict.fromkeys(
    (
        "TPM_20_E_AUTH_FAIL",
        "TPM_20_E_HASH",
        "TPM_20_E_LOCKOUT",
        "TPM_20_E_RETRY",
        "TPM_20_E_SCHEME",
        "TPM_E_DEFEND_LOCK_RUNNING",
        "TPM_E_LOCKED_OUT",
        "TPM_E_PCP_AUTHENTICATION_FAILED",
        "TPM_E_PCP_AUTHENTICATION_IGNORED",
        "TPM_E_PCP_DEVICE_NOT_READY",
        "TPM_E_PCP_FLAG_NOT_SUPPORTED",
        "TPM_E_PCP_INTERNAL_ERROR",
        "TPM_E_PCP_INVALID_HANDLE",
        "TPM_E_PCP_INVALID_PARAMETER",
        "TPM_E_PCP_KEY_HANDLE_INVALIDATED",
        "TPM_E_PCP_NOT_SUPPORTED",
        "TPM_E_PCP_UNSUPPORTED_PSS_SALT",
    ),
    CODES_OF_TPMS,
)
"""Constants that mingw-w64 lacks, each with the page that documents its value."""

HEAD = """
#include <stddef.h>
#include <stdio.h>
#include <windows.h>
#include <wincrypt.h>
#include <bcrypt.h>
#include <ncrypt.h>
#include <sddl.h>
#include <aclapi.h>
static void number(const char *name, unsigned long long value) { printf("%s = %llu\\n", name, value & 0xFFFFFFFF); }
static void text(const char *name, const wchar_t *value) { printf("%s = '%ls'\\n", name, value); }
int main(void) {
"""


def defined(*kinds: type[Any]) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of these types that the plugin's modules define or import from one another."""
    for module in MODULES:
        for name, value in vars(module).items():
            if isinstance(value, kinds):
                yield name, value


def is_constant(name: str) -> bool:
    return name.isupper() and not name.startswith("_")


def structures() -> set[type[ctypes.Structure]]:
    return {each for _, each in defined(type) if issubclass(each, ctypes.Structure)}


def constants() -> dict[str, int | str]:
    """Return the constants by the headers' names, including those in our tables."""
    tables = dict(defined(dict))
    assert tables["CALG"].keys() == HASHES.keys()
    pairs = [
        *tables["CODES"].items(),
        *((HASHES[name], value) for name, value in tables["CALG"].items()),
        *((name, value) for name, value in defined(int, str) if is_constant(name)),
        *((name, value) for name, value in defined(str) if name in OURS),
    ]
    found: dict[str, int | str] = {}
    for name, value in pairs:
        if not isinstance(value, bool):
            theirs = (OURS | ENUMERATED).get(name, name)
            assert found.setdefault(theirs, value) == value, f"{name} has two values"
    return found


def of_structures() -> dict[str, tuple[str, str]]:
    """Return for each compared item our value and the C code that prints the headers'. Likewise below."""
    found = {}
    for each in structures():
        name = each.__name__
        found[name] = (str(ctypes.sizeof(each)), number(name, f"sizeof({name})"))
        for field, kind in each._fields_:  # type: ignore[misc]  # none is a bit field
            offset, width = f"{name}.{field}", f"width of {name}.{field}"
            found[offset] = (str(getattr(each, field).offset), number(offset, f"offsetof({name}, {field})"))
            found[width] = (str(ctypes.sizeof(kind)), number(width, f"sizeof((({name} *)0)->{field})"))
    return found


def of_constants() -> dict[str, tuple[str, str]]:
    found = {}
    for name, value in constants().items():
        line = text(name, name) if isinstance(value, str) else number(name, f"(size_t)({name})")
        if name not in ENUMERATED.values():
            line = f'#ifdef {name}\n{line}\n#else\nprintf("{name} = {ABSENT}\\n");\n#endif'
        found[name] = (repr(value) if isinstance(value, str) else str(value), line)
    return found


def of_functions() -> dict[str, tuple[str, str]]:
    """Compare the size of each argument, by position from 1; 0 is the return value."""
    headers = subprocess.run(
        [COMPILER, "-E", "-P", "-"], input=HEAD.partition("static")[0], capture_output=True, text=True, check=True
    ).stdout
    words, found = " ".join(headers.split()), {}
    for _, library in defined(Library):
        for name, (returned, arguments) in library.signatures.items():
            result, taken = declaration(words, name)
            assert len(taken) == len(arguments), (name, taken)
            for index, (kind, declared) in enumerate([(returned, result), *zip(arguments, taken, strict=True)]):
                found[f"{name} {index}"] = (
                    str(ctypes.sizeof(kind) if kind else 0),
                    number(f"{name} {index}", f"sizeof({declared})"),
                )
    return found


def of_names() -> dict[str, tuple[str, str]]:
    """Compare the legacy providers without SHA-2, and the OID for encrypting a key."""
    oid = dict(defined(bytes))["_PBE_SHA1_3DES"].rstrip(b"\0").decode()
    assert {*WITHOUT_SHA2.values()} == dict(defined(frozenset))["_WITHOUT_SHA2"]
    found = {"oid": (oid, 'printf("oid = %s\\n", szOID_PKCS_12_pbeWithSHA1And3KeyTripleDES);')}
    return found | {name: (repr(value), text(name, name)) for name, value in WITHOUT_SHA2.items()}


def number(name: str, expression: str) -> str:
    return f'number("{name}", {expression});'


def text(name: str, expression: str) -> str:
    return f'text("{name}", {expression});'


@pytest.fixture(scope="module")
def headers(windows: Windows, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the headers' values of all compared items, printed by one program."""
    folder = tmp_path_factory.mktemp("layout")
    code, program = folder / "layout.c", folder / "layout.exe"
    lines = [line for part in PARTS for _, line in part().values()]
    code.write_text(HEAD + "\n".join(lines) + "\nreturn 0; }\n")
    built = subprocess.run([COMPILER, "-o", program, code], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    done = windows.start(program)
    assert done.status == 0, done
    return dict(line.split(" = ", 1) for line in done.output.splitlines())


PARTS: dict[Callable[[], dict[str, tuple[str, str]]], int] = {
    of_structures: 40,
    of_constants: 150,
    of_functions: 150,
    of_names: 5,
}
"""Each with the minimum number of items."""


@pytest.mark.parametrize("part", PARTS)
def test_bindings_match_the_headers(headers: dict[str, str], part: Callable[[], dict[str, tuple[str, str]]]) -> None:
    """Our sizes, offsets, widths and values equal the compiler's."""
    ours = {name: value for name, (value, _) in part().items() if name not in NOT_IN_THE_HEADERS}
    assert {name: headers[name] for name in ours} == ours
    assert len(ours) >= PARTS[part]


def test_constants_missing_in_the_headers(headers: dict[str, str]) -> None:
    """Exactly the constants missing in the headers are listed with their source."""
    assert {name for name, value in headers.items() if value == ABSENT} == NOT_IN_THE_HEADERS.keys()


def declaration(text: str, name: str) -> tuple[str, list[str]]:
    """Return a function's result type and argument types from the preprocessor's output."""
    before, _, after = text.partition(f" {name}(") if f" {name}(" in text else text.partition(f" {name} (")
    assert after, f"no header declares {name}"
    result = before.rpartition(";")[2].rpartition("}")[2]
    for noise in ('extern "C"', "extern", "__attribute__((dllimport))", "__attribute__((__stdcall__))", "__stdcall"):
        result = result.replace(noise, " ")
    arguments = [each.strip() for each in after.partition(")")[0].split(",")]
    # The last word is the argument's name, possibly directly after an asterisk.
    return result.strip(), [each[: len(each) - len(each.split("*")[-1].split()[-1])] for each in arguments]
