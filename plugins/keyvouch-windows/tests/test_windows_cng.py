"""A CNG key in Windows: created and used in one process by our bindings, verified outside by `cryptography`."""

from __future__ import annotations

import base64
import json
import textwrap

import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm

from wine import Windows

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("windows")]
OPENS = 300

SIGN = """
    import base64, json
    from contextlib import closing
    from keyvouch.algorithms import find_algorithm
    from keyvouch_windows import private_keys
    from keyvouch_windows.crypt32 import Container

    container = Container(private_keys.SOFTWARE_PROVIDER, "in-process")
    # RS first: under Wine, a key that has signed with PSS no longer signs with PKCS#1 v1.5.
    with closing(private_keys.generate(container, "RSA-2048", exportable=False, silent=True)) as key:
        numbers = key.public_key().public_numbers()
        names = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
        signatures = {}
        for each in names:
            signatures[each] = key.sign(b"message", find_algorithm(each))
            signatures[f"{each} by the peer"] = key.make_peer(find_algorithm(each))(b"message")
    result = {name: base64.b64encode(signature).decode() for name, signature in signatures.items()}
    print(json.dumps({"e": numbers.e, "n": numbers.n, "signatures": result}))
"""

COUNT = """
    import collections, ctypes, json, sys
    import keyvouch
    from keyvouch.store import KeySpec
    from keyvouch_windows import advapi32, crypt32, ncrypt

    GIVEN = {
        "CertOpenStore": "store", "CertEnumCertificatesInStore": "certificate",
        "CertFindCertificateInStore": "certificate", "CertDuplicateCertificateContext": "certificate",
        "CryptAcquireContextW": "container", "CryptGetUserKey": "key", "CryptCreateHash": "hash",
        "NCryptOpenStorageProvider": "object", "NCryptOpenKey": "object",
    }
    TAKEN = {
        "CertCloseStore": "store", "CertFreeCertificateContext": "certificate", "CryptReleaseContext": "container",
        "CryptDestroyKey": "key", "CryptDestroyHash": "hash", "NCryptFreeObject": "object",
    }
    given, taken, refused = collections.Counter(), collections.Counter(), collections.Counter()

    def counting(library):
        call = library.call

        def counted(name, *arguments):
            result = call(name, *arguments)
            succeeded = not result if name.startswith("NCrypt") else bool(result)
            if name in ("CertEnumCertificatesInStore", "CertFindCertificateInStore") and arguments[-1]:
                taken["certificate"] += 1
            if name == "CryptAcquireCertificatePrivateKey" and succeeded and arguments[5]._obj.value:
                cng = arguments[4]._obj.value == crypt32.CERT_NCRYPT_KEY_SPEC
                given["object" if cng else "container"] += 1
            if name == "CertDeleteCertificateFromStore":
                taken["certificate"] += 1
            if name == "CryptAcquireContextW" and arguments[4] & advapi32.CRYPT_DELETEKEYSET:
                return result  # it gives no handle
            if name in GIVEN and succeeded:
                given[GIVEN[name]] += 1
            if name in TAKEN:
                (taken if succeeded else refused)[TAKEN[name]] += 1
            return result

        library.call = counted

    provider = "Microsoft Enhanced RSA and AES Cryptographic Provider"
    at = f"windows:location=CurrentUser;friendly-name=counted;provider={provider}"
    with keyvouch.open_store(at) as store:
        uri = str(store.generate(KeySpec("RSA-2048", "CN=counted")))
    for each in (advapi32._dll, crypt32._dll, ncrypt._dll):
        counting(each)
    for _ in range(int(sys.argv[1])):
        with keyvouch.open_signer(uri) as signer:
            signer.sign(b"x", "RS256")
    opens = dict(given)
    with keyvouch.open_store(uri) as store:
        store.delete()
    print(json.dumps([opens, given, taken, refused]))
"""


def ran(windows: Windows, program: str, *arguments: str) -> object:
    done = windows.run("-c", textwrap.dedent(program), *arguments)
    assert done.status == 0, done
    return json.loads(done.output.splitlines()[-1])


def test_cng_rsa_key_signs(windows: Windows) -> None:
    """A CNG key, and its peer, sign with PKCS#1 v1.5 and PSS and each hash; the salt is as long as the digest."""
    result = ran(windows, SIGN)
    assert isinstance(result, dict)
    public_key = RSAPublicNumbers(result["e"], result["n"]).public_key()
    hashes: dict[str, HashAlgorithm] = {"256": SHA256(), "384": SHA384(), "512": SHA512()}
    for name, signature in result["signatures"].items():
        hashed = hashes[name[2:5]]
        pss = padding.PSS(padding.MGF1(hashed), hashed.digest_size)
        scheme = pss if name.startswith("PS") else padding.PKCS1v15()
        public_key.verify(base64.b64decode(signature), b"message", scheme, hashed)
    assert len(result["signatures"]) == 12


def test_opening_a_real_key_leaks_no_handle(windows: Windows) -> None:
    """Handles of each type are released exactly once, and every release succeeds."""
    result = ran(windows, COUNT, str(OPENS))
    assert isinstance(result, list)
    opens, given, taken, refused = result
    assert refused == {}
    assert given == taken
    assert opens["container"] >= OPENS
    assert opens["hash"] >= OPENS
