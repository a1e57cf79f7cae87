"""Private keys that Windows has opened, from CNG and from the legacy providers."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from keyvouch.algorithms import CRYPTOGRAPHY, Algorithm
from keyvouch.errors import NotSupported
from keyvouch.store import ForkGate
from keyvouch_windows import advapi32, crypt32, key_blobs, ncrypt
from keyvouch_windows.crypt32 import Container
from keyvouch_windows.error_codes import CODES
from keyvouch_windows.error_translation import is_unsupported
from keyvouch_windows.native import DACL_SECURITY_INFORMATION, NativeError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from keyvouch.algorithms import PrivateKey, PublicKey

_IMPORT_GATE = ForkGate()
SOFTWARE_PROVIDER = "Microsoft Software Key Storage Provider"
"""CNG's software provider, which stores keys in files; used for new keys if the URI does not name a provider."""
_AES_PROVIDER = "Microsoft Enhanced RSA and AES Cryptographic Provider"
_WITHOUT_SHA2 = frozenset(
    {
        "Microsoft Base Cryptographic Provider v1.0",
        "Microsoft Enhanced Cryptographic Provider v1.0",
        "Microsoft RSA SChannel Cryptographic Provider",
        "Microsoft Strong Cryptographic Provider",
    }
)
"""Legacy providers that do not support SHA-2; they share their containers with one that does."""


class OpenKey(ABC):
    """An open private key."""

    @abstractmethod
    def sign(self, message: bytes, algorithm: Algorithm) -> bytes:
        """Return the signature in JOSE form. Raises `NativeError`."""

    @abstractmethod
    def make_peer(self, algorithm: Algorithm) -> Callable[[bytes], bytes]:
        """Return a function that signs with an algorithm with which `sign` has signed, until `close`."""

    @abstractmethod
    def public_key(self) -> PublicKey:
        """Return its public key."""

    @abstractmethod
    def exportable(self) -> bool | None:
        """Return whether it may be exported; None if its provider does not say."""

    @abstractmethod
    def private_key(self) -> PrivateKey:
        """Export it. Raises `NativeError` if it may not be exported."""

    @abstractmethod
    def access_rules(self) -> bytes:
        """Return its security descriptor, with the DACL only."""

    @abstractmethod
    def set_access_rules(self, descriptor: bytes) -> None:
        """Set its DACL from a security descriptor."""

    @abstractmethod
    def delete(self) -> None:
        """Delete it permanently and close it."""

    @abstractmethod
    def close(self) -> None:
        """Release its handle."""


class CngKey(OpenKey):
    """A key of a CNG provider."""

    def __init__(self, handle: int, *, silent: bool, release: Callable[[], object] | None = None) -> None:
        self._handle = handle
        self._silent = silent
        self._release = release or (lambda: ncrypt.free(handle))

    def sign(self, message: bytes, algorithm: Algorithm) -> bytes:
        digest, name = hashlib.new(algorithm.hash_name, message).digest(), algorithm.hash_name.upper()
        if algorithm.family == "ECDSA":
            return ncrypt.sign_ecdsa(self._handle, digest, silent=self._silent)
        sign = ncrypt.sign_pss if algorithm.family == "RSA-PSS" else ncrypt.sign_pkcs1
        return sign(self._handle, digest, name, silent=self._silent)

    def make_peer(self, algorithm: Algorithm) -> Callable[[bytes], bytes]:
        with _IMPORT_GATE:
            from keyvouch_windows.peer import cng_peer
        return cng_peer(self._handle, algorithm, silent=self._silent)

    def public_key(self) -> PublicKey:
        try:
            return key_blobs.rsa_public_key(
                ncrypt.export(self._handle, ncrypt.BCRYPT_RSAPUBLIC_BLOB, silent=self._silent)
            )
        except NativeError as error:
            if not is_unsupported(error):
                raise
        return key_blobs.ec_public_key(ncrypt.export(self._handle, ncrypt.BCRYPT_ECCPUBLIC_BLOB, silent=self._silent))

    def exportable(self) -> bool | None:
        try:
            policy = ncrypt.get_int(self._handle, ncrypt.NCRYPT_EXPORT_POLICY_PROPERTY)
        except NativeError:
            return None
        return bool(policy & (ncrypt.NCRYPT_ALLOW_EXPORT_FLAG | ncrypt.NCRYPT_ALLOW_PLAINTEXT_EXPORT_FLAG))

    @CRYPTOGRAPHY
    def private_key(self) -> PrivateKey:
        from cryptography.hazmat.primitives.serialization import load_der_private_key

        password = secrets.token_urlsafe(24)
        pkcs8 = ncrypt.export_pkcs8(self._handle, password, silent=self._silent)
        return load_der_private_key(pkcs8, password.encode())  # type: ignore[return-value]  # RSA or EC

    def access_rules(self) -> bytes:
        return ncrypt.get_bytes(self._handle, ncrypt.NCRYPT_SECURITY_DESCR_PROPERTY, DACL_SECURITY_INFORMATION)

    def set_access_rules(self, descriptor: bytes) -> None:
        flags = DACL_SECURITY_INFORMATION | ncrypt.NCRYPT_PERSIST_FLAG
        ncrypt.set_bytes(self._handle, ncrypt.NCRYPT_SECURITY_DESCR_PROPERTY, descriptor, flags)

    def delete(self) -> None:
        handle, self._handle = self._handle, 0
        ncrypt.delete_key(handle, silent=self._silent)

    def close(self) -> None:
        if self._handle:
            self._handle = 0
            self._release()


class CspKey(OpenKey):
    """A key of a legacy provider: RSA with PKCS#1 v1.5 only."""

    def __init__(self, handle: int, container: Container, *, silent: bool) -> None:
        self._handle = handle
        self._container = container
        self._silent = silent

    def sign(self, message: bytes, algorithm: Algorithm) -> bytes:
        if algorithm.family != "RSA-PKCS1":
            raise NativeError("CryptSignHash", CODES["NTE_BAD_ALGID"])
        digest = hashlib.new(algorithm.hash_name, message).digest()
        return advapi32.sign(self._handle, self._container.spec, digest, algorithm.hash_name)

    def make_peer(self, algorithm: Algorithm) -> Callable[[bytes], bytes]:
        with _IMPORT_GATE:
            from keyvouch_windows.peer import legacy_peer
        return legacy_peer(self._handle, self._container.spec, algorithm)

    def public_key(self) -> PublicKey:
        with advapi32.open_key(self._handle, self._container.spec) as key:
            return key_blobs.legacy_public_key(advapi32.export(key, advapi32.PUBLICKEYBLOB))

    def exportable(self) -> bool | None:
        try:
            with advapi32.open_key(self._handle, self._container.spec) as key:
                return bool(advapi32.permissions(key) & advapi32.CRYPT_EXPORT)
        except NativeError:
            return None

    def private_key(self) -> PrivateKey:
        with advapi32.open_key(self._handle, self._container.spec) as key:
            return key_blobs.legacy_private_key(advapi32.export(key, advapi32.PRIVATEKEYBLOB))

    def access_rules(self) -> bytes:
        return advapi32.security_descriptor(self._handle)

    def set_access_rules(self, descriptor: bytes) -> None:
        advapi32.set_security_descriptor(self._handle, descriptor)

    def delete(self) -> None:
        self.close()
        advapi32.delete(*_acquire_arguments(self._container, silent=self._silent))

    def close(self) -> None:
        handle, self._handle = self._handle, 0
        if handle:
            advapi32.release(handle)


def open_for_certificate(context: int, container: Container, *, silent: bool) -> OpenKey:
    """Open the private key of a certificate context. Raises `NativeError`."""
    with contextlib.ExitStack() as undo:
        context = undo.enter_context(crypt32.duplicate(context))
        try:
            acquired = crypt32.acquire_key(context, silent=silent)
        except NativeError as error:
            if error.code != CODES["CRYPT_E_NO_KEY_PROPERTY"]:
                raise
            # This is also reported for a key that cannot be reached; the provider gives a better reason, or opens it.
            return open_in_container(container, silent=silent)
        if acquired.spec == crypt32.CERT_NCRYPT_KEY_SPEC:
            if acquired.owned:
                return CngKey(acquired.handle, silent=silent)
            # A handle that is not owned lives as long as the certificate context.
            return CngKey(acquired.handle, silent=silent, release=undo.pop_all().close)
        if acquired.owned:
            advapi32.release(acquired.handle)
    return _open_legacy(container, silent=silent)


def open_in_container(container: Container, *, silent: bool) -> OpenKey:
    """Open the key in a container. Raises `NativeError`."""
    if container.type:
        return _open_legacy(container, silent=silent)
    with ncrypt.open_provider(container.provider) as provider:
        handle = ncrypt.open_key(provider, container.name, machine=container.machine, silent=silent)
    return CngKey(handle, silent=silent)


def _open_legacy(container: Container, *, silent: bool) -> CspKey:
    return CspKey(advapi32.acquire(*_acquire_arguments(container, silent=silent)), container, silent=silent)


def _acquire_arguments(container: Container, *, silent: bool) -> tuple[str, str, int, int]:
    provider, kind = container.provider, container.type
    if provider in _WITHOUT_SHA2:
        provider, kind = _AES_PROVIDER, advapi32.PROV_RSA_AES
    return container.name, provider, kind, _flags(container, silent=silent)


def _flags(container: Container, *, silent: bool) -> int:
    return (advapi32.CRYPT_MACHINE_KEYSET if container.machine else 0) | (advapi32.CRYPT_SILENT if silent else 0)


def container_for(provider: str, name: str, *, machine: bool) -> Container:
    """Return a key's container in a CNG or legacy provider."""
    kind = advapi32.providers().get(provider, 0)
    return Container(provider, name, kind, machine, advapi32.AT_KEYEXCHANGE if kind else 0)


def generate(container: Container, key_type: str, *, exportable: bool, silent: bool) -> OpenKey:
    """Generate a key in a new container. Raises `NativeError`, `NotSupported`."""
    kind, _, size = key_type.partition("-")
    if container.type:
        if kind != "RSA":
            raise NotSupported(
                f"{container.provider} supports only RSA keys.",
                hint=f"Use RSA-2048, or provider={SOFTWARE_PROVIDER}.",
            )
        return _generate_legacy(container, int(size), exportable=exportable, silent=silent)
    if kind not in ("RSA", "P"):
        raise NotSupported(f"Windows does not support {key_type} keys.", hint="Use RSA-2048 or P-256.")
    with ncrypt.open_provider(container.provider) as provider:
        algorithm = "RSA" if kind == "RSA" else f"ECDSA_P{size}"
        key = ncrypt.create_key(provider, algorithm, container.name, machine=container.machine)
        try:
            if kind == "RSA":
                ncrypt.set_int(key, ncrypt.NCRYPT_LENGTH_PROPERTY, int(size), persist=False)
            ncrypt.set_int(key, ncrypt.NCRYPT_KEY_USAGE_PROPERTY, ncrypt.NCRYPT_ALLOW_SIGNING_FLAG)
            # If it is exportable, then only in encrypted form.
            policy = ncrypt.NCRYPT_ALLOW_EXPORT_FLAG if exportable else 0
            ncrypt.set_int(key, ncrypt.NCRYPT_EXPORT_POLICY_PROPERTY, policy)
            ncrypt.finalize(key, silent=silent)
        except BaseException:
            ncrypt.free(key)  # a key that was not finalized is discarded
            raise
    return CngKey(key, silent=silent)


def _generate_legacy(container: Container, bits: int, *, exportable: bool, silent: bool) -> CspKey:
    def fill(handle: int) -> None:
        advapi32.generate(handle, container.spec, bits, exportable=exportable)

    return _create_container(container, fill, silent=silent)


def import_legacy(container: Container, key: RSAPrivateKey, *, exportable: bool, silent: bool) -> OpenKey:
    """Import a key into a new container of a legacy provider. Raises `NativeError`, and as `key_blobs.legacy_blob`."""
    blob = key_blobs.legacy_blob(key)

    def fill(handle: int) -> None:
        advapi32.import_key(handle, blob, exportable=exportable)

    return _create_container(container, fill, silent=silent)


def _create_container(container: Container, fill: Callable[[int], None], *, silent: bool) -> CspKey:
    # A provider with SHA-2, which is needed to sign the key's certificate.
    name, provider, kind, flags = _acquire_arguments(container, silent=silent)
    handle = advapi32.acquire(name, provider, kind, flags | advapi32.CRYPT_NEWKEYSET)
    try:
        fill(handle)
    except BaseException:
        advapi32.release(handle)
        with contextlib.suppress(NativeError):  # report the first failure
            advapi32.delete(name, provider, kind, flags)
        raise
    return CspKey(handle, container, silent=silent)
