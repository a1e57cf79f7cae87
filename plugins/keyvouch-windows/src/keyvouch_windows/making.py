"""Create and import keys and certificates in the stores."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from keyvouch.algorithms import CRYPTOGRAPHY, key_type
from keyvouch.certificate import check_chain, parse_subject, self_signed
from keyvouch.errors import CertificateMissing, ConfigurationError, KeyExists, NotSupported
from keyvouch.private_key import wrap
from keyvouch.store import KeySpec, KeyUri
from keyvouch_windows import crypt32, private_keys
from keyvouch_windows.codes import CODES
from keyvouch_windows.crypt32 import Container
from keyvouch_windows.entries import Entry, der_of, entries, held, matching, pinned, remove
from keyvouch_windows.failures import is_undone, name_of, told
from keyvouch_windows.native import NativeError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PrivateKey


def generate(uri: KeyUri, spec: KeySpec, *, silent: bool) -> KeyUri:
    """Generate a key and its certificate. Raises `KeyExists`, `NotSupported`, `ConfigurationError`."""
    parse_subject(spec.subject)
    _require_free(uri, spec.subject, further=spec.further)
    machine = uri.get("location") == "LocalMachine"
    with told("making a key", performed=True), _writable(uri) as store:
        place = _place(uri, machine=machine)
        try:
            key = private_keys.make(place, spec.key_type, exportable=spec.exportable, silent=silent)
        except NativeError as error:
            if is_undone(error):
                raise _not_made(spec.key_type, place, error) from error
            raise
        try:
            signing = wrap(key.public_key(), key.sign)
            certificate = self_signed(signing, spec.subject, spec.days)
            _add(store, uri, certificate, place)
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
            "The URI does not say where to: LocalMachine, where a service finds it, or CurrentUser.",
            hint="Add location=LocalMachine, or location=CurrentUser. Did the shell cut it off at `;`?",
            uri=uri,
        )
    bare = _bare(uri, chain[0]) if chain else None
    _require_free(uri, chain[0].subject.rfc4514_string() if chain else "", further=False, bare=bare)
    if not chain:
        raise CertificateMissing(
            "Windows finds a key by its certificate, and there is none.", hint="Import it with one."
        )
    check_chain(chain, key.public_key())
    if key_type(key) == "Ed25519":
        raise NotSupported("Windows has no Ed25519 keys.", hint="Make RSA-2048, or P-256.")
    with told("importing the key", performed=True), _writable(uri):
        try:
            place = _taken_in(uri, key, chain[0], exportable=exportable, silent=silent)
        except NativeError as error:
            if is_undone(error):
                raise NotSupported(
                    f"Windows takes in no {key_type(key)} keys here: {error}.", hint="Take RSA-2048."
                ) from error
            raise
        try:
            if bare:  # a store (at least Wine's) does not rewrite a certificate that it already contains
                remove(bare)
                uri = uri.replace({"friendly-name": uri.get("friendly-name") or bare.friendly_name})
            with _writable(uri) as store:
                _add(store, uri, chain[0], place)
        except BaseException:
            with contextlib.suppress(NativeError):
                private_keys.of_container(place, silent=silent).delete()
            if bare:
                _put_back(bare)
            raise
        _add_issuers(uri.get("location"), chain)
    return pinned(uri, chain[0])


def _put_back(bare: Entry) -> None:
    with (
        contextlib.suppress(NativeError),  # report the first failure
        crypt32.opened_store(bare.location, bare.store, write=True) as store,
        crypt32.added(store, der_of(bare.certificate), crypt32.CERT_STORE_ADD_USE_EXISTING) as context,
    ):
        crypt32.set_friendly_name(context, bare.friendly_name)


def _taken_in(uri: KeyUri, key: PrivateKey, leaf: Certificate, *, exportable: bool, silent: bool) -> Container:
    """Import a key where Windows chooses, as for a PFX file, or into the URI's legacy provider."""
    machine = uri.get("location") == "LocalMachine"
    if "provider" not in uri and "container" not in uri:
        password = secrets.token_urlsafe(24)
        bundle = _bundle(key, leaf, password)
        with crypt32.opened_pfx(bundle, password, machine=machine, exportable=exportable) as taken:
            places = [found for each in crypt32.contexts(taken) if (found := crypt32.container(each))]
        if not places:
            raise NativeError("PFXImportCertStore", CODES["CRYPT_E_NO_KEY_PROPERTY"])
        return places[0]
    place = _place(uri, machine=machine)
    if not place.type:
        raise NotSupported(
            "Into a provider of one's choice Windows takes keys in a legacy one alone.",
            hint=f"Leave provider= and container= out, for {private_keys.SOFTWARE}; or make the key: `keyvouch new`.",
            uri=uri,
        )
    if not key_type(key).startswith("RSA"):
        raise NotSupported(f"{place.provider} takes in RSA keys alone.", hint="Leave provider= out.", uri=uri)
    try:
        private_keys.take_in_legacy(place, key, exportable=exportable, silent=silent).close()  # type: ignore[arg-type]  # RSA
    except OverflowError as error:
        raise NotSupported(
            f"{place.provider} takes in no RSA key of such a form.", hint="Leave provider= out.", uri=uri
        ) from error
    return place


def _place(uri: KeyUri, *, machine: bool) -> Container:
    """Return the container for a new key."""
    return private_keys.container_of(
        uri.get("provider") or private_keys.SOFTWARE,
        uri.get("container") or f"keyvouch-{secrets.token_hex(12)}",  # cards allow at most 39 characters
        machine=machine,
    )


def install(uri: KeyUri, place: Container, chain: Sequence[Certificate], former: Entry | None = None) -> KeyUri:
    """Add a certificate, which may already be in the store, and link it to its key. Raises `NativeError`.

    `former`: the key's previous certificate. It stays, but its friendly name moves to the new one, so that the name
    still identifies a single certificate.
    """
    with (
        _writable(uri) as store,
        crypt32.added(store, der_of(chain[0]), crypt32.CERT_STORE_ADD_USE_EXISTING) as context,
    ):
        crypt32.set_container(context, place)
        if former and former.friendly_name:
            crypt32.set_friendly_name(context, former.friendly_name)
    if former and former.friendly_name and former.certificate != chain[0]:
        with held(former, write=True) as context:
            crypt32.set_friendly_name(context, None)
    _add_issuers(uri.get("location"), chain)
    return pinned(uri, chain[0])


def _require_free(uri: KeyUri, subject: str, *, further: bool, bare: Entry | None = None) -> None:
    """Raise `KeyExists` if there is a key of this friendly name, or else of this subject, unless `further` is set.

    `bare`: a certificate in the store whose key is about to be imported. Raises `ConfigurationError` if the URI selects
    an existing certificate or has another subject.
    """
    for name in ("thumbprint", "issuer"):
        if name in uri:
            raise ConfigurationError(
                f"{name}= means a certificate that there is already.", hint=f"Take {name}= out of the URI.", uri=uri
            )
    if "subject" in uri and uri.get("subject") != parse_subject(subject):
        raise ConfigurationError(
            f"The URI says another subject than {subject}.", hint="Take subject= out of the URI.", uri=uri
        )
    named = "friendly-name" in uri or "container" in uri or not subject
    asked = uri if named else uri.replace({"subject": subject})
    if "container" not in uri:  # a name means one family, whichever provider has its keys
        asked = asked.replace({"provider": None})
    with told("looking for keys", uri):
        there = [each for each in matching(asked) if each != bare]
    if there and not further:
        raise KeyExists(
            f"There is such a certificate already: {there[0].uri(uri).quoted}.",
            hint="Give this one a friendly-name= of its own; of a new key `--further` makes one more.",
            uri=uri,
        )


def _writable(uri: KeyUri) -> AbstractContextManager[int]:
    """Open the URI's store for writing. Do this before creating a key, which more accounts may do than may write."""
    return crypt32.opened_store(uri.get("location"), uri.get("store"), write=True)


def _bare(uri: KeyUri, certificate: Certificate) -> Entry | None:
    """Return the entry if this certificate is in the store without its key. Raises `KeyExists` if it has a key."""
    with told("looking for keys", uri):
        there = [each for each in entries(uri.get("location"), uri.get("store")) if each.certificate == certificate]
    if there and there[0].container:
        known = there[0].uri(uri).quoted
        raise KeyExists(
            f"This certificate is in the store already: {known}.",
            hint="Use that one, or delete it first, where its key is gone in certlm.msc or certmgr.msc; else:"
            f" keyvouch delete --key {known}",
            uri=uri,
        )
    return there[0] if there else None


def _add(store: int, uri: KeyUri, certificate: Certificate, place: Container) -> None:
    with crypt32.added(store, der_of(certificate), crypt32.CERT_STORE_ADD_NEW) as context:
        try:
            crypt32.set_container(context, place)
            if "friendly-name" in uri:
                crypt32.set_friendly_name(context, uri.get("friendly-name"))
        except BaseException:
            crypt32.delete(context)
            raise


def _add_issuers(location: str, chain: Sequence[Certificate]) -> None:
    """Store the intermediate certificates, but not the root: which roots to trust is the administrator's decision."""
    between = [each for each in chain[1:] if each.subject != each.issuer]
    if not between:
        return
    with crypt32.opened_store(location, "CA", write=True) as store:
        for each in between:
            with crypt32.added(store, der_of(each), crypt32.CERT_STORE_ADD_USE_EXISTING):
                pass


@CRYPTOGRAPHY
def _bundle(key: PrivateKey, leaf: Certificate, password: str) -> bytes:
    """Return a PKCS#12 bundle that every version of Windows can read; it does not leave this process."""
    from cryptography.hazmat.primitives.hashes import SHA1
    from cryptography.hazmat.primitives.serialization import PrivateFormat, pkcs12

    builder = PrivateFormat.PKCS12.encryption_builder().kdf_rounds(2000)
    builder = builder.key_cert_algorithm(pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC).hmac_hash(SHA1())  # noqa: S303 - older versions of Windows know only this
    return pkcs12.serialize_key_and_certificates(None, key, leaf, None, builder.build(password.encode()))


def _not_made(kind: str, place: Container, error: NativeError) -> NotSupported:
    return NotSupported(
        f"{place.provider} makes no {kind} here: {error} ({name_of(error)}).",
        hint="Ask for RSA-2048, or another provider=.",
    )
