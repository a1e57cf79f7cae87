"""Structures, constants and functions of the bindings, compared with those of mingw-w64's headers for 64 bits.

A program in C is made of what the plugin's modules define, and prints what the headers make of it: so nobody can add a
structure, a constant or a function that is not compared.
"""

from __future__ import annotations

import ctypes
import importlib
import pkgutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import keyvouch_windows
from keyvouch_windows.native import Library
from windows_fixtures import windows  # noqa: F401 - a fixture
from windows_python import COMPILER
from wine import Windows

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("windows")]

MODULES = [
    importlib.import_module(f"keyvouch_windows.{each.name}") for each in pkgutil.iter_modules(keyvouch_windows.__path__)
]
OURS = {
    "SOFTWARE": "MS_KEY_STORAGE_PROVIDER",
    "_AES": "MS_ENH_RSA_AES_PROV_W",
}
"""Names of our own for what the headers call otherwise."""
ENUMERATED = {"NAME_SAM_COMPATIBLE": "NameSamCompatible"}
"""Likewise, of constants that are no macros."""
HASHES = {"sha256": "CALG_SHA_256", "sha384": "CALG_SHA_384", "sha512": "CALG_SHA_512"}
PROVIDERS_WITHOUT_SHA2 = ("MS_DEF_PROV_W", "MS_ENHANCED_PROV_W", "MS_DEF_RSA_SCHANNEL_PROV_W", "MS_STRONG_PROV_W")
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
"""Constants that mingw-w64 lacks, each with the page that tells its value."""

HEAD = """
#define SECURITY_WIN32
#include <stddef.h>
#include <stdio.h>
#include <windows.h>
#include <security.h>
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
    """Give what the plugin's modules define or import of one another."""
    for module in MODULES:
        for name, value in vars(module).items():
            if isinstance(value, kinds):
                yield name, value


def structures() -> set[type[ctypes.Structure]]:
    return {each for _, each in defined(type) if issubclass(each, ctypes.Structure)}


def constants() -> dict[str, int | str]:
    """The constants by the headers' names, also those in our tables."""
    tables = dict(defined(dict))
    assert tables["CALG"].keys() == HASHES.keys()
    told = [
        *tables["CODES"].items(),
        *((HASHES[name], value) for name, value in tables["CALG"].items()),
        *((name, value) for name, value in defined(int, str) if name.isupper() and not name.startswith("_")),
        *((name, value) for name, value in defined(str) if name in OURS),
    ]
    found: dict[str, int | str] = {}
    for name, value in told:
        if not isinstance(value, bool):
            theirs = (OURS | ENUMERATED).get(name, name)
            assert found.setdefault(theirs, value) == value, f"{name} has two values"
    return found


def printed(windows: Windows, folder: Path, lines: list[str]) -> dict[str, str]:
    """Let the compiler make a program of these lines, run it, and return what it prints."""
    code, program = folder / "layout.c", folder / "layout.exe"
    code.write_text(HEAD + "\n".join(lines) + "\nreturn 0; }\n")
    built = subprocess.run([COMPILER, "-o", program, code], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    done = windows.start(program)
    assert done.status == 0, done
    return dict(line.split(" = ", 1) for line in done.output.splitlines())


def test_structures_lie_as_in_the_headers(windows: Windows, tmp_path: Path) -> None:
    """Each structure has the size, and each field the place and width, that the C compiler gives them."""
    ours, lines = {}, []
    for each in structures():
        name = each.__name__
        ours[name] = str(ctypes.sizeof(each))
        lines.append(f'number("{name}", sizeof({name}));')
        for field, kind in each._fields_:  # type: ignore[misc]  # no bit fields here
            ours[f"{name}.{field}"] = str(getattr(each, field).offset)
            ours[f"width of {name}.{field}"] = str(ctypes.sizeof(kind))
            lines.append(f'number("{name}.{field}", offsetof({name}, {field}));')
            lines.append(f'number("width of {name}.{field}", sizeof((({name} *)0)->{field}));')

    assert len(ours) > 20
    assert printed(windows, tmp_path, lines) == ours


def test_constants_are_those_of_the_headers(windows: Windows, tmp_path: Path) -> None:
    """Each constant has the value that the header gives it; those that no header has are listed with their source."""
    ours, lines = {}, []
    for name, value in constants().items():
        ours[name] = repr(value) if isinstance(value, str) else str(value)
        call = f'text("{name}", {name});' if isinstance(value, str) else f'number("{name}", (size_t)({name}));'
        absent = f'#ifdef {name}\n{call}\n#else\nprintf("{name} = not there\\n");\n#endif'
        lines.append(call if name in ENUMERATED.values() else absent)

    told = printed(windows, tmp_path, lines)

    assert {name for name, value in told.items() if value == "not there"} == NOT_IN_THE_HEADERS.keys()
    assert {name: value for name, value in told.items() if value != "not there"} == {
        name: value for name, value in ours.items() if name not in NOT_IN_THE_HEADERS
    }
    assert len(told) > 100


def test_names_are_those_of_the_headers(windows: Windows, tmp_path: Path) -> None:
    """The legacy providers that know no SHA-2 are Microsoft's, by their full names; so is the way to encrypt a key."""
    lines = [f'text("{name}", {name});' for name in PROVIDERS_WITHOUT_SHA2]
    way = "szOID_PKCS_12_pbeWithSHA1And3KeyTripleDES"

    told = printed(windows, tmp_path, [*lines, f'printf("way = %s\\n", {way});'])

    assert told.pop("way") == dict(defined(bytes))["_PBE_SHA1_3DES"].rstrip(b"\0").decode()
    assert {value.strip("'") for value in told.values()} == dict(defined(frozenset))["_WITHOUT_SHA2"]


def test_functions_take_what_the_headers_declare(windows: Windows, tmp_path: Path) -> None:
    """Each function takes as many arguments, each as wide, and returns as many octets, as the header declares."""
    headers = subprocess.run(
        [COMPILER, "-E", "-P", "-"],
        input=HEAD.partition("static")[0],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    text = " ".join(headers.split())
    ours, lines = {}, []
    for _, library in defined(Library):
        for name, (returned, arguments) in library.signatures.items():
            result, taken = declaration(text, name)
            assert len(taken) == len(arguments), (name, taken)
            for number, (kind, declared) in enumerate([(returned, result), *zip(arguments, taken, strict=True)]):
                ours[f"{name} {number}"] = str(ctypes.sizeof(kind) if kind else 0)
                lines.append(f'number("{name} {number}", sizeof({declared}));')

    assert len(ours) > 150
    assert printed(windows, tmp_path, lines) == ours


def declaration(text: str, name: str) -> tuple[str, list[str]]:
    """Return the type of what a function returns, and those of its arguments, of what the preprocessor wrote."""
    before, _, after = text.partition(f" {name}(") if f" {name}(" in text else text.partition(f" {name} (")
    assert after, f"no header declares {name}"
    result = before.rpartition(";")[2].rpartition("}")[2]
    for noise in ('extern "C"', "extern", "__attribute__((dllimport))", "__attribute__((__stdcall__))", "__stdcall"):
        result = result.replace(noise, " ")
    arguments = [each.strip() for each in after.partition(")")[0].split(",")]
    # The last word is the argument's name, and may stand at a star.
    return result.strip(), [each[: len(each) - len(each.split("*")[-1].split()[-1])] for each in arguments]
