"""Each row of the tables in docs/stores/windows-errors.md: Windows' error code and the error that callers get."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import keyvouch
from keyvouch import cli
from keyvouch.errors import AccessDenied, KeyNotFound, KeyUnusable, KeyvouchError
from keyvouch.secrets import Secret
from keyvouch.store import KeySpec
from keyvouch_windows.crypt32 import Container
from keyvouch_windows.error_codes import CODES
from keyvouch_windows.error_mappings import MAPPINGS_BY_FUNCTION
from scripted_keys import ACCOUNT, AES_CSP, SOFTWARE, make_key
from scripted_windows import ScriptedWindows, make_certificate, pinned, uri_of

PAGE = Path(__file__).parents[3] / "docs/stores/windows-errors.md"
UNKNOWN = (0x8009FFFF, 0xC0000022, 0x80070001, 4711)
IN_CNG = Container(SOFTWARE, "app")
NEAR = 0.2
"""Timeout in seconds, during which the core retries."""


def rows(columns: int) -> list[list[str]]:
    """Return the rows of the page's table that has this number of columns."""
    lines = [line.strip("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if "|" in line]
    return [cells for cells in lines if len(cells) == columns and "`" in cells[0]]


def codes_in(cell: str) -> dict[str, int]:
    return {name: int(value, 0) for name, value in re.findall(r"`(\w+)` \((\w+)\)", cell)}


def errors_in(cell: str) -> list[str]:
    return re.findall(r"\[`([a-z-]+)`\]", cell)


EXPECTED = {name: (errors_in(error), hint) for code, error, _, hint in rows(4) for name in codes_in(code)}
"""By code name: the errors and the hint."""


def says(hint: str, name: str) -> bool:
    """Return whether a hint is the page's for a code or, if the page quotes parts, contains one of them."""
    written = EXPECTED[name][1]
    parts = re.findall(r"``?(.+?)``?(?:,|;|$|\.$)", written) if " `" in written or written.startswith("`") else []
    parts = [part.partition(" --key")[0] for part in parts]
    return hint == written or any(part in hint for part in parts)


def refused(act: Callable[[], object]) -> KeyvouchError:
    """Call a function that must fail, and return its typed error, which must have a hint."""
    with pytest.raises(KeyvouchError) as caught:
        act()
    assert caught.value.hint
    return caught.value


def error_of(act: Callable[[], object]) -> KeyvouchError | None:
    """Call a function and return its typed error, or None; any other exception propagates."""
    try:
        act()
    except KeyvouchError as error:
        return error
    return None


def test_page_has_each_code_once() -> None:
    """Each code has exactly one row, with the number from the headers."""
    written = [pair for code, *_ in rows(4) for pair in codes_in(code).items()]
    assert sorted(written) == sorted(CODES.items())


@pytest.mark.parametrize("name", EXPECTED)
def test_error_on_opening(scripted: ScriptedWindows, name: str) -> None:
    """CryptoAPI's last error on opening a certificate's key becomes the page's error."""
    certificate = scripted.add(make_key("RSA-2048"), IN_CNG)
    scripted.fail("CryptAcquireCertificatePrivateKey", CODES[name])
    scripted.cng.clear()

    error = refused(lambda: keyvouch.open_signer(pinned(certificate), timeout=NEAR))

    if name == "CRYPT_E_NO_KEY_PROPERTY":  # the provider is then asked, and gives a better reason
        name = "NTE_BAD_KEYSET"
    assert error.code in EXPECTED[name][0]
    assert says(error.hint, name)
    assert name in error.message
    scripted.assert_all_released()


@pytest.mark.parametrize("name", EXPECTED)
def test_error_on_signing(scripted: ScriptedWindows, name: str) -> None:
    """CNG's (signed) status on signing a digest becomes the page's error."""
    certificate = scripted.add(make_key("RSA-2048"), IN_CNG)
    with keyvouch.open_signer(pinned(certificate)) as signer:
        scripted.fail("NCryptSignHash", CODES[name])
        error = refused(lambda: signer.sign(b"x", "RS256", timeout=NEAR))

    assert error.code in EXPECTED[name][0]
    assert says(error.hint, name)
    assert name in error.message
    scripted.assert_all_released()


def opening(uri: str) -> object:
    return keyvouch.open_signer(uri, timeout=NEAR)


def listing(uri: str) -> object:
    with keyvouch.open_store("windows:") as store:
        return store.keys()


def making(uri: str) -> object:
    with keyvouch.open_store(f"windows:location=CurrentUser;friendly-name=new;provider={SOFTWARE}") as store:
        return store.generate(KeySpec("RSA-2048", "CN=new"))


def making_legacy(uri: str) -> object:
    with keyvouch.open_store(f"windows:location=CurrentUser;friendly-name=new;provider={AES_CSP}") as store:
        return store.generate(KeySpec("RSA-2048", "CN=new"))


def importing(uri: str) -> object:
    with keyvouch.open_store("windows:location=CurrentUser;friendly-name=new") as store:
        return store.import_key(make_key("RSA-2048"), [make_certificate(make_key("RSA-2048"))])


def installing(uri: str) -> object:
    with keyvouch.open_store(uri) as store:
        return store.install_certificate([make_certificate(make_key("RSA-2048"))])


def exporting(uri: str) -> object:
    with keyvouch.open_store(uri) as store:
        return store.export_pfx(Secret("secret"))


def deleting(uri: str) -> object:
    with keyvouch.open_store(uri) as store:
        return store.delete()


FAILING = [
    *(
        (opening, "CertOpenStore"),
        (listing, "CertEnumCertificatesInStore"),
        (opening, "CertGetCertificateContextProperty"),
    ),
    *((making, "NCryptOpenStorageProvider"), (making, "NCryptFinalizeKey"), (making_legacy, "CryptAcquireContextW")),
    *((making, "CertAddEncodedCertificateToStore"), (importing, "PFXImportCertStore")),
    *((installing, "CertSetCertificateContextProperty"), (exporting, "NCryptExportKey"), (deleting, "NCryptDeleteKey")),
]


@pytest.mark.parametrize("code", [*CODES.values(), *UNKNOWN], ids=hex)
@pytest.mark.parametrize(("act", "function"), FAILING, ids=lambda each: each if isinstance(each, str) else "")
def test_every_code_is_an_error_with_a_hint(
    scripted: ScriptedWindows, monkeypatch: pytest.MonkeyPatch, act: Callable[[str], object], function: str, code: int
) -> None:
    """Every operation raises a typed error with a hint for every code, even for unknown ones."""
    monkeypatch.setattr("keyvouch._core.key_management.CHANGE_TIMEOUT", NEAR)
    monkeypatch.setattr("keyvouch._core.opening.OPEN_TIMEOUT", NEAR)
    uri = pinned(scripted.add(make_key("RSA-2048"), IN_CNG, exportable=True))
    scripted.fail(function, code)
    # Some codes are not failures, such as those for a missing store or the end of an enumeration.
    error = error_of(lambda: act(uri))
    assert error is None or (error.hint and error.exit_status in (2, 3, 4, 5, 6))
    scripted.assert_all_released()


@pytest.mark.parametrize(("function", "name"), MAPPINGS_BY_FUNCTION)
def test_codes_with_another_meaning_for_a_function(scripted: ScriptedWindows, function: str, name: str) -> None:
    """These codes raise the errors in the page's second table."""
    by_function = {(cells[0].strip("`"), next(iter(codes_in(cells[1])))): cells for cells in rows(5)}
    assert by_function.keys() == MAPPINGS_BY_FUNCTION.keys()
    act = {"CertOpenStore": making, "CryptAcquireContextW": making_legacy, "NCryptOpenStorageProvider": making}[
        function
    ]
    # The first lookups in a missing store do not fail: it is treated as empty.
    scripted.fail(function, CODES[name], nth=3 if function == "CertOpenStore" else 1)

    error = refused(lambda: act(""))

    _, _, kind, message, hint = by_function[function, name]
    assert (error.code, error.hint) == (*errors_in(kind), hint)
    assert message[:-1] in error.message


@pytest.mark.parametrize("account", [ACCOUNT, r"NT AUTHORITY\NETWORK SERVICE"])
def test_service_account_gets_the_grant_command(scripted: ScriptedWindows, account: str) -> None:
    """For a machine key that the account may not use, the hint has the account and the key's pinned URI."""
    scripted.account = account
    certificate = scripted.add(make_key("RSA-2048"), Container(SOFTWARE, "app", machine=True))
    scripted.fail("CryptAcquireCertificatePrivateKey", CODES["NTE_BAD_KEYSET"])
    known_as = pinned(certificate, "LocalMachine")

    error = refused(lambda: keyvouch.open_signer(uri_of(certificate)))

    assert isinstance(error, AccessDenied)
    grant, _, otherwise = error.hint.partition("\n")
    assert grant == f"As administrator, run: keyvouch grant '{account}' --key '{known_as}'"
    assert otherwise == "If the key no longer exists, delete its certificate in certlm.msc."


@pytest.mark.parametrize("code", ["NTE_NOT_SUPPORTED", "NTE_BAD_KEYSET"])
@pytest.mark.parametrize(("machine", "dialog"), [(False, "certmgr.msc"), (True, "certlm.msc")])
def test_undeletable_key_leaves_a_certificate(
    scripted: ScriptedWindows, code: str, dialog: str, *, machine: bool
) -> None:
    """If the key cannot be opened, the hint says where its certificate can be deleted, and not to choose a provider."""
    certificate = scripted.add(make_key("RSA-2048"), Container(SOFTWARE, "app", machine=machine))
    scripted.fail("NCryptOpenKey", CODES[code])
    error = refused(lambda: deleting(pinned(certificate, "LocalMachine" if machine else "CurrentUser")))
    assert error.hint.endswith(f"elete its certificate in {dialog}.")
    assert "provider=" not in error.hint


@pytest.mark.parametrize(("machine", "asked"), [(False, "LocalMachine"), (True, "CurrentUser")])
def test_certificate_in_the_other_location(scripted: ScriptedWindows, asked: str, *, machine: bool) -> None:
    """The hint gives the correct location."""
    certificate = scripted.add(make_key("RSA-2048"), Container(SOFTWARE, "app", machine=machine))
    error = refused(lambda: keyvouch.open_signer(pinned(certificate, asked)))
    assert isinstance(error, KeyNotFound)
    assert error.hint == f"Use location={'LocalMachine' if machine else 'CurrentUser'} in the URI."


def test_unknown_code_is_shown_as_a_number(scripted: ScriptedWindows) -> None:
    """An unknown code is shown as a number, and the hint says how to look it up."""
    certificate = scripted.add(make_key("RSA-2048"), IN_CNG)
    scripted.fail("CryptAcquireCertificatePrivateKey", 0x8009FFFF)
    error = refused(lambda: keyvouch.open_signer(pinned(certificate)))
    assert isinstance(error, KeyUnusable)
    assert "CryptAcquireCertificatePrivateKey: 0x8009FFFF" in error.message
    assert error.hint == "Look up the code: `certutil -error 0x8009FFFF`."


@pytest.mark.parametrize("code", [*CODES.values(), *UNKNOWN], ids=hex)
def test_command_shows_no_traceback(
    scripted: ScriptedWindows, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The command prints Windows' error and what to do, and exits with a documented status."""
    monkeypatch.setattr("keyvouch._core.opening.OPEN_TIMEOUT", 0.2)  # transient errors are retried for this long
    certificate = scripted.add(make_key("RSA-2048"), IN_CNG)
    scripted.fail("CertGetCertificateContextProperty", code)
    if code == CODES["CRYPT_E_NOT_FOUND"]:  # here it means that the certificate has no key
        return
    with pytest.raises(SystemExit) as ended:
        cli.main(["keys", "--key", pinned(certificate)])
    errors = capsys.readouterr().err
    assert ended.value.code in (2, 3, 4, 5, 6)
    assert "Traceback" not in errors
    assert errors.startswith("error[")
    assert len(errors.splitlines()) >= 2
