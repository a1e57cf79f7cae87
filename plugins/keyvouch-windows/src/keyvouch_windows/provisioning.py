"""Create and import keys and certificates in the stores."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from keyvouch.algorithms import CRYPTOGRAPHY, key_type
from keyvouch.certificate import check_chain, parse_subject, self_signed, to_der
from keyvouch.errors import CertificateMissing, ConfigurationError, KeyExists, NotSupported
from keyvouch.private_key import wrap
from keyvouch.store import KeySpec, KeyUri
from keyvouch_windows import crypt32, private_keys
from keyvouch_windows.certificates import Entry, find_entries, list_entries, open_context, pinned, remove
from keyvouch_windows.crypt32 import Container
from keyvouch_windows.error_codes import CODES
from keyvouch_windows.error_translation import code_name, is_unsupported, translate_errors
from keyvouch_windows.native import NativeError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PrivateKey


def generate(uri: KeyUri, spec: KeySpec, *, silent: bool) -> KeyUri:
    """Generate a key and its certificate. Raises `KeyExists`, `NotSupported`, `ConfigurationError`."""
    parse_subject(spec.subject)
    family = _require_unused_name(uri, spec.subject, further=spec.further)
    machine = uri.get("location") == "LocalMachine"
    with translate_errors("creating a key", performed=True), _open_for_writing(uri) as store:
        container = _new_container(_in_provider_of(family, uri), machine=machine)
        try:
            key = private_keys.generate(container, spec.key_type, exportable=spec.exportable, silent=silent)
        except NativeError as error:
            if is_unsupported(error):
                raise _cannot_generate(spec.key_type, container, error) from error
            raise
        try:
            signing = wrap(key.public_key(), key.sign)
            certificate = self_signed(signing, spec.subject, spec.days)
            _add(store, uri, certificate, container)
        except BaseException:
            with contextlib.suppress(NativeError):  # report the first failure
                key.delete()
            raise
        key.close()
    return pinned(uri, certificate)


def import_key(uri: KeyUri, key: PrivateKey, chain: Sequence[Certificate], *, exportable: bool, silent: bool) -> KeyUri:
    """Import a key into Windows. Raises `KeyExists`, `NotSupported`, `ConfigurationError`, `CertificateMissing`."""
    if "location" not in uri:
        raise ConfigurationError(
            "Cannot import a key without location= in the URI.",
            hint="Add location=LocalMachine, which services can use, or location=CurrentUser. Quote the URI, so that"
            " the shell does not cut it off at `;`.",
            uri=uri,
        )
    keyless = _find_keyless(uri, chain[0]) if chain else None
    _require_unused_name(uri, chain[0].subject.rfc4514_string() if chain else "", further=False, keyless=keyless)
    if not chain:
        raise CertificateMissing(
            "Cannot import a key without a certificate: Windows finds keys by their certificates.",
            hint="Import the key with its certificate.",
        )
    check_chain(chain, key.public_key())
    if key_type(key) == "Ed25519":
        raise NotSupported("Windows does not support Ed25519 keys.", hint="Use RSA-2048 or P-256.")
    with translate_errors("importing the key", performed=True), _open_for_writing(uri):
        try:
            container = _import_into_provider(uri, key, chain[0], exportable=exportable, silent=silent)
        except NativeError as error:
            if is_unsupported(error):
                raise NotSupported(
                    f"Windows cannot import {key_type(key)} keys here: {error}.", hint="Use RSA-2048."
                ) from error
            raise
        try:
            if keyless:  # a store (at least Wine's) does not rewrite a certificate that it already contains
                remove(keyless)
                uri = uri.replace({"friendly-name": uri.get("friendly-name") or keyless.friendly_name})
            with _open_for_writing(uri) as store:
                _add(store, uri, chain[0], container)
        except BaseException:
            with contextlib.suppress(NativeError):
                private_keys.open_in_container(container, silent=silent).delete()
            if keyless:
                _restore(keyless)
            raise
        _add_issuers(uri.get("location"), chain)
    return pinned(uri, chain[0])


def _restore(keyless: Entry) -> None:
    with (
        contextlib.suppress(NativeError),  # report the first failure
        crypt32.open_store(keyless.location, keyless.store, write=True) as store,
        crypt32.add(store, to_der(keyless.certificate), crypt32.CERT_STORE_ADD_USE_EXISTING) as context,
    ):
        crypt32.set_friendly_name(context, keyless.friendly_name)


def _import_into_provider(
    uri: KeyUri, key: PrivateKey, leaf: Certificate, *, exportable: bool, silent: bool
) -> Container:
    """Import a key where Windows chooses, as for a PFX file, or into the URI's legacy provider."""
    machine = uri.get("location") == "LocalMachine"
    if "provider" not in uri and "container" not in uri:
        password = secrets.token_urlsafe(24)
        bundle = _to_legacy_pfx(key, leaf, password)
        with crypt32.import_pfx(bundle, password, machine=machine, exportable=exportable) as store:
            containers = [found for each in crypt32.contexts(store) if (found := crypt32.get_container(each))]
        if not containers:
            raise NativeError("PFXImportCertStore", CODES["CRYPT_E_NO_KEY_PROPERTY"])
        return containers[0]
    container = _new_container(uri, machine=machine)
    if not container.type:
        raise NotSupported(
            "provider= supports import only for legacy providers.",
            hint=f"Omit provider= and container= to import into {private_keys.SOFTWARE_PROVIDER}, or create a new key:"
            " `keyvouch new`.",
            uri=uri,
        )
    if not key_type(key).startswith("RSA"):
        raise NotSupported(f"{container.provider} supports only RSA keys.", hint="Omit provider=.", uri=uri)
    try:
        private_keys.import_legacy(container, key, exportable=exportable, silent=silent).close()  # type: ignore[arg-type]  # RSA
    except OverflowError as error:
        raise NotSupported(
            f"{container.provider} cannot import an RSA key of this form.", hint="Omit provider=.", uri=uri
        ) from error
    return container


def _new_container(uri: KeyUri, *, machine: bool) -> Container:
    """Return the container for a new key."""
    return private_keys.container_for(
        uri.get("provider") or private_keys.SOFTWARE_PROVIDER,
        uri.get("container") or f"keyvouch-{secrets.token_hex(12)}",  # cards allow at most 39 characters
        machine=machine,
    )


def install(uri: KeyUri, container: Container, chain: Sequence[Certificate], former: Entry | None = None) -> KeyUri:
    """Add a certificate, which may already be in the store, and link it to its key. Raises `NativeError`.

    `former`: the key's previous certificate. It stays, but its friendly name moves to the new one, so that the name
    still identifies a single certificate.
    """
    with (
        _open_for_writing(uri) as store,
        crypt32.add(store, to_der(chain[0]), crypt32.CERT_STORE_ADD_USE_EXISTING) as context,
    ):
        crypt32.set_container(context, container)
        if former and former.friendly_name:
            crypt32.set_friendly_name(context, former.friendly_name)
    if former and former.friendly_name and former.certificate != chain[0]:
        with open_context(former, write=True) as context:
            crypt32.set_friendly_name(context, None)
    _add_issuers(uri.get("location"), chain)
    return pinned(uri, chain[0])


def _in_provider_of(family: list[Entry], uri: KeyUri) -> KeyUri:
    """Return the URI with the provider of the family's newest key, unless the URI names one."""
    members = sorted(family, key=lambda each: each.certificate.not_valid_before_utc)
    providers = [each.container.provider for each in members if each.container]
    return uri if "provider" in uri or not providers else uri.replace({"provider": providers[-1]})


def _require_unused_name(uri: KeyUri, subject: str, *, further: bool, keyless: Entry | None = None) -> list[Entry]:
    """Return the certificates with this friendly name, or else this subject. Raises `KeyExists` unless `further`.

    `keyless`: a certificate in the store whose key is about to be imported. Raises `ConfigurationError` if the URI
    selects an existing certificate or has another subject.
    """
    for name in ("thumbprint", "issuer"):
        if name in uri:
            raise ConfigurationError(
                f"{name}= can only select an existing certificate.", hint=f"Remove {name}= from the URI.", uri=uri
            )
    if "subject" in uri and uri.get("subject") != parse_subject(subject):
        raise ConfigurationError(
            f"The subject in the URI differs from the requested {subject}.",
            hint="Remove subject= from the URI.",
            uri=uri,
        )
    named = "friendly-name" in uri or "container" in uri or not subject
    wanted = uri if named else uri.replace({"subject": subject})
    if "container" not in uri:  # a name means one family, whichever provider has its keys
        wanted = wanted.replace({"provider": None})
    with translate_errors("looking for keys", uri):
        existing = [each for each in find_entries(wanted) if each != keyless]
    if existing and not further:
        raise KeyExists(
            f"A matching certificate already exists: {existing[0].uri(uri).quoted}.",
            hint="Use a different friendly-name=. For a new key, `--further` adds one more with the same name.",
            uri=uri,
        )
    return existing


def _open_for_writing(uri: KeyUri) -> AbstractContextManager[int]:
    """Open the URI's store for writing. Do this before creating a key, which more accounts may do than may write."""
    return crypt32.open_store(uri.get("location"), uri.get("store"), write=True)


def _find_keyless(uri: KeyUri, certificate: Certificate) -> Entry | None:
    """Return the entry if this certificate is in the store without its key. Raises `KeyExists` if it has a key."""
    with translate_errors("looking for keys", uri):
        entries = list_entries(uri.get("location"), uri.get("store"))
    existing = [each for each in entries if each.certificate == certificate]
    if existing and existing[0].container:
        known = existing[0].uri(uri).quoted
        raise KeyExists(
            f"The certificate already exists in the store: {known}.",
            hint=f"Use that one, or delete it first: keyvouch delete --key {known}\n"
            "If its key no longer exists, delete the certificate in certlm.msc or certmgr.msc.",
            uri=uri,
        )
    return existing[0] if existing else None


def _add(store: int, uri: KeyUri, certificate: Certificate, container: Container) -> None:
    with crypt32.add(store, to_der(certificate), crypt32.CERT_STORE_ADD_NEW) as context:
        try:
            crypt32.set_container(context, container)
            if "friendly-name" in uri:
                crypt32.set_friendly_name(context, uri.get("friendly-name"))
        except BaseException:
            crypt32.delete(context)
            raise


def _add_issuers(location: str, chain: Sequence[Certificate]) -> None:
    """Store the intermediate certificates, but not the root: which roots to trust is the administrator's decision."""
    intermediates = [each for each in chain[1:] if each.subject != each.issuer]
    if not intermediates:
        return
    with crypt32.open_store(location, "CA", write=True) as store:
        for each in intermediates:
            with crypt32.add(store, to_der(each), crypt32.CERT_STORE_ADD_USE_EXISTING):
                pass


@CRYPTOGRAPHY
def _to_legacy_pfx(key: PrivateKey, leaf: Certificate, password: str) -> bytes:
    """Return a PKCS#12 bundle that every version of Windows can read; it does not leave this process."""
    from cryptography.hazmat.primitives.hashes import SHA1
    from cryptography.hazmat.primitives.serialization import PrivateFormat, pkcs12

    builder = PrivateFormat.PKCS12.encryption_builder().kdf_rounds(2000)
    builder = builder.key_cert_algorithm(pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC).hmac_hash(SHA1())  # noqa: S303 - older versions of Windows know only this
    return pkcs12.serialize_key_and_certificates(None, key, leaf, None, builder.build(password.encode()))


def _cannot_generate(kind: str, container: Container, error: NativeError) -> NotSupported:
    return NotSupported(
        f"{container.provider} does not support {kind} here: {error} ({code_name(error)}).",
        hint="Use RSA-2048, or another provider=.",
    )
