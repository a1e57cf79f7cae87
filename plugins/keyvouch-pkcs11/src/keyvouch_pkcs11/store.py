"""Keys on PKCS#11 tokens: `pkcs11:token=prod;object=app?module-path=/usr/lib/libmodule.so&pin-source=env:HSM_PIN`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from keyvouch.certificate import check_chain, parse_subject, self_signed, spki_sha256
from keyvouch.errors import (
    ConfigurationError,
    KeyNotFound,
    KeyUnusable,
    SessionLost,
    StoreUnavailable,
)
from keyvouch.store import (
    Attribute,
    DeletesKeys,
    GeneratesKeys,
    HoldsCertificates,
    ImportsKeys,
    KeyInfo,
    KeySpec,
    KeyStore,
    KeyUri,
    ListsKeys,
    ListsTokens,
    OffersPeer,
    ProcessLocal,
    TokenInfo,
    UriSyntax,
    choose_one,
    is_decided,
)
from keyvouch_pkcs11 import objects, templates
from keyvouch_pkcs11.cryptoki import CryptokiError
from keyvouch_pkcs11.error_translation import translate_errors, unsupported_key_type
from keyvouch_pkcs11.key import Pkcs11Key
from keyvouch_pkcs11.module import Module, load_module
from keyvouch_pkcs11.module_lookup import find_module
from keyvouch_pkcs11.token import DEFAULT_TIMEOUT, Token
from keyvouch_pkcs11.uri_attributes import (
    ATTRIBUTES,
    LIBRARY_ATTRIBUTES,
    PIN_SOURCE,
    SLOT_ATTRIBUTES,
    SYNTAX,
    gives_any,
    library_attributes,
    matches,
    module_uri,
    pinned_uri,
    require_matchable,
    slot_attributes,
    token_attributes,
    token_uri,
    with_hexadecimal_id,
)
from keyvouch_pkcs11.write_session import new_identifiers, write_session

if TYPE_CHECKING:
    import datetime as dt

    from cryptography.x509 import Certificate

    from keyvouch.algorithms import Algorithm, PrivateKey
    from keyvouch.secrets import SecretResolver
    from keyvouch_pkcs11.peer import Peer


_IsEnough = Callable[[Token, objects.PrivateKeyObject], bool]


class _SelectedKey(NamedTuple):
    token: Token
    key: objects.PrivateKeyObject
    uri: KeyUri
    """Pinned."""
    settles_at: dt.datetime | None


class Pkcs11Store(
    KeyStore, ListsTokens, ListsKeys, GeneratesKeys, ImportsKeys, HoldsCertificates, DeletesKeys, OffersPeer
):
    """Keys on PKCS#11 tokens: `pkcs11:token=prod;object=app?module-path=/usr/lib/libmodule.so&pin-source=env:HSM_PIN`.

    The URI follows RFC 7512. keyvouch initializes each module once, and logs in to a token when the first of its keys
    is opened.
    """

    attributes: ClassVar[tuple[Attribute, ...]] = ATTRIBUTES
    uri_syntax: ClassVar[UriSyntax] = SYNTAX

    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:
        self._uri = uri
        self._secrets = secrets
        self._module: Module | None = None
        self._epoch = ProcessLocal[int]()
        """The module's epoch at the last `connect`."""
        self._peers: list[Peer] = []

    def connect(self, *, timeout: float) -> None:  # noqa: ARG002 - a module cannot be interrupted
        """Initialize the module, or discard all logins; `open` logs in to tokens."""
        if self._module is None:
            self._module = load_module(find_module(self._uri))
        previous = None
        with contextlib.suppress(SessionLost):  # raised if this process has not connected before
            previous = self._epoch.get()
        self._epoch.set(self._module.connect(previous, serialise=self._uri.get("serialise")))

    def close(self) -> None:
        """Log out if nothing else in this process uses the module."""
        while self._peers:
            self._peers.pop().close()
        module, self._module = self._module, None
        if self._epoch.take() is not None and module is not None:
            module.release()

    def open(self, uri: KeyUri, certificate: Certificate | None = None, *, timeout: float) -> Pkcs11Key:
        """Log in to the token if the URI has a PIN, and find the key."""
        selected = self._select(uri, certificate, timeout)
        if not selected.key.can_sign:
            raise KeyUnusable(
                "The key is not permitted to sign (CKA_SIGN is false).",
                hint="Create a key that permits signing: `keyvouch new`.",
                uri=selected.uri,
            )
        key = Pkcs11Key(selected.token, selected.key, selected.uri, certificate, self._secrets)
        key.settles_at = selected.settles_at
        return key

    def tokens(self, uri: KeyUri) -> list[TokenInfo]:
        """Return the tokens, with the information they show without a login."""
        found = []
        for token in self._matching_tokens(uri):
            with translate_errors("reading the token's flags"):
                pin_state = token.pin_state()
            attributes = token.uri_attributes
            described = ", ".join(filter(None, (attributes["manufacturer"], attributes["model"], *pin_state)))
            found.append(TokenInfo(token_uri(uri, attributes).replace({"object": None, "id": None}), described))
        return found

    def keys(self, uri: KeyUri) -> list[KeyInfo]:
        """Return the keys that the tokens show, after a login if the URI has a PIN."""
        digest = uri.get("spki-sha256")
        found = [(token, each) for token, each in self._search(uri, DEFAULT_TIMEOUT) if each.public_key is not None]
        listed = [_key_info(uri, token, each, None) for token, each in found]
        return [info for info in listed if digest in (None, info.spki_sha256)]

    def generate(self, uri: KeyUri, spec: KeySpec) -> KeyUri:
        """Generate a key, not exportable unless the spec says so, and its self-signed certificate."""
        parse_subject(spec.subject)
        mechanism, key_attributes = templates.generation(spec.key_type)
        token = self._token_to_write(uri)
        identifiers = new_identifiers(uri, token, further=spec.further)
        public = templates.public_key_template(identifiers, key_attributes)
        private = templates.private_key_template(identifiers, {}, exportable=spec.exportable)
        with translate_errors("generating a key", performed=True), write_session(token) as session:
            with unsupported_key_type(f"The token cannot generate {spec.key_type} keys.", "Use RSA-2048 or P-256."):
                handle = session.generate_key_pair(mechanism, public, private)
            generated = session.read_private_key(handle)
            public_key = objects.require_public_key(generated, None)
            pinned = pinned_uri(uri, token.uri_attributes, generated, spki_sha256(public_key))
            key = Pkcs11Key(token, generated, pinned, None, self._secrets)
            from keyvouch.private_key import wrap

            signing = wrap(public_key, lambda *what: key.sign(*what, timeout=DEFAULT_TIMEOUT))
            session.write_chain([self_signed(signing, spec.subject, spec.days)], identifiers)
        return pinned

    def import_key(
        self, uri: KeyUri, key: PrivateKey, chain: Sequence[Certificate], *, exportable: bool = False
    ) -> KeyUri:
        """Write the key and its chain to the token."""
        check_chain(chain, key.public_key())
        private_attributes, public_attributes = templates.imported_key(key)
        token = self._token_to_write(uri)
        identifiers = new_identifiers(uri, token, further=False)
        private = templates.private_key_template(identifiers, private_attributes, exportable=exportable)
        public = templates.public_key_template(identifiers, public_attributes)
        with translate_errors("importing a key", performed=True), write_session(token) as session:
            with unsupported_key_type(
                "The token cannot import this key.", "Generate one on the token: `keyvouch new`."
            ):
                handle = session.create(private)
            session.create(public)
            session.write_chain(chain, identifiers)
            imported = session.read_private_key(handle)
        return pinned_uri(uri, token.uri_attributes, imported, spki_sha256(key.public_key()))

    def install_certificate(self, uri: KeyUri, chain: Sequence[Certificate]) -> KeyUri:
        """Write the chain for the key, replacing its current certificate."""
        token, key, pinned, _ = self._select(uri, chain[0], DEFAULT_TIMEOUT)
        check_chain(chain, objects.require_public_key(key, chain[0]))
        with translate_errors("writing a certificate", performed=True), write_session(token) as session:
            replaced = session.find_certificates(key.id)
            session.write_chain(chain, templates.KeyIdentifiers(key.id, key.label))
            session.destroy(*replaced)
        return pinned

    def delete(self, uri: KeyUri) -> None:
        """Delete the key, its public key and its certificate; leave those of another key with the same id."""
        token, key, _, _ = self._select(uri, None, DEFAULT_TIMEOUT)
        with translate_errors("deleting a key", performed=True), write_session(token) as session:
            session.destroy(key.handle, *session.find_public_objects(key))

    def peer(self, uri: KeyUri, algorithm: Algorithm) -> Callable[[bytes], bytes]:
        """Return a function that calls C_SignInit and C_Sign, in a session for each thread."""
        made = self.open(uri, timeout=DEFAULT_TIMEOUT).make_peer(algorithm)
        self._peers.append(made)
        return made.sign

    # Tokens and their objects.

    def _connected_module(self) -> Module:
        module = self._module
        if module is None or not module.is_current(self._epoch.get()):
            raise SessionLost("The connection to the module was reset.", hint="Try again.", performed=False)
        return module

    def _matching_tokens(self, uri: KeyUri) -> list[Token]:
        """Return the tokens that match the URI; skip slots that cannot be read."""
        require_matchable(uri)
        module = self._connected_module()
        with translate_errors("listing the tokens"), module as functions:
            is_meant = not gives_any(uri, LIBRARY_ATTRIBUTES) or matches(uri, library_attributes(functions))
            slots = functions.slots() if is_meant else []
        found = []
        for slot in slots:
            try:
                with module as functions:
                    attributes = token_attributes(functions, slot)
                    if gives_any(uri, SLOT_ATTRIBUTES) and not matches(uri, slot_attributes(functions, slot)):
                        continue
            except CryptokiError:
                continue
            if attributes and matches(uri, attributes):
                token = module.token(slot, attributes, self._epoch.get())
                if token is None:
                    break
                found.append(token)
        self._connected_module()
        return found

    def _token_to_write(self, uri: KeyUri) -> Token:
        """Return the one token to write to, logged in. Raises `StoreUnavailable`."""
        found = self._matching_tokens(uri)
        if not found:
            raise _no_token(uri)
        if len(found) > 1:
            raise _several_tokens(uri, found)
        found[0].log_in(uri, self._secrets, DEFAULT_TIMEOUT)
        found[0].require_login(uri, DEFAULT_TIMEOUT)
        return found[0]

    def _search(
        self, uri: KeyUri, timeout: float, is_enough: _IsEnough = lambda *_: False
    ) -> list[tuple[Token, objects.PrivateKeyObject]]:
        """Return the keys that match the URI, each with its token, after a login if the URI has a PIN.

        Of each token, the keys up to the first one for which `is_enough` returns True.
        """
        tokens = self._matching_tokens(uri)
        if not tokens:
            raise _no_token(uri)
        if len(tokens) > 1 and PIN_SOURCE in uri:  # never try a PIN on a token it is not meant for
            raise _several_tokens(uri, tokens)
        found = []
        for token in tokens:
            token.log_in(uri, self._secrets, timeout)
            keys = self._keys_on(token, uri, timeout, functools.partial(is_enough, token))
            if not keys and token.is_logged_in:
                token.require_login(uri, timeout)
            found += [(token, each) for each in keys]
        return found

    def _keys_on(
        self, token: Token, uri: KeyUri, timeout: float, is_enough: Callable[[objects.PrivateKeyObject], bool]
    ) -> list[objects.PrivateKeyObject]:
        with (
            translate_errors("searching for keys"),
            token.session(timeout) as session,
            self._connected_module() as functions,
        ):
            return objects.find_private_keys(
                functions, session, key_id=uri.get("id"), label=uri.get("object"), is_enough=is_enough
            )

    def _select(self, uri: KeyUri, certificate: Certificate | None, timeout: float) -> _SelectedKey:
        """Return the one key that the URI selects. Raises `KeyNotFound`, `SecretRequired`, and as `choose_one`."""
        infos: list[KeyInfo] = []

        def is_enough(token: Token, key: objects.PrivateKeyObject) -> bool:
            infos.append(_key_info(uri, token, key, certificate))
            return is_decided(uri, infos, certificate)

        found = self._search(uri, timeout, is_enough)
        if not found:
            for token in self._matching_tokens(uri):
                token.require_login(uri, timeout)
            raise KeyNotFound(f"No key matches {uri}.", hint=self._hint_for_missing(uri, timeout), uri=uri)
        info, settles_at = choose_one(uri, infos, certificate)
        return _SelectedKey(*found[infos.index(info)], info.uri, settles_at)

    def _hint_for_missing(self, uri: KeyUri, timeout: float) -> str:
        meant = with_hexadecimal_id(uri)
        if meant is not None and self._search(meant, timeout):
            return f"id= takes bytes, each written as % and two hexadecimal digits. Write {meant.quoted}."
        return f"List the keys: keyvouch keys --key {uri.replace({'object': None, 'id': None}).quoted}."


def _key_info(uri: KeyUri, token: Token, key: objects.PrivateKeyObject, certificate: Certificate | None) -> KeyInfo:
    public_key = objects.require_public_key(key, certificate)
    exact = pinned_uri(uri, token.uri_attributes, key, spki_sha256(public_key))
    return KeyInfo.from_chain(exact, public_key, key.chain, exportable=key.exportable)


def _several_tokens(uri: KeyUri, tokens: Sequence[Token]) -> ConfigurationError:
    names = "\n".join(f"  {token_uri(uri, each.uri_attributes).quoted}" for each in tokens)
    return ConfigurationError(f"{len(tokens)} tokens match {uri}.", hint=f"Select one:\n{names}", uri=uri)


def _no_token(uri: KeyUri) -> StoreUnavailable:
    return StoreUnavailable(
        f"No token matches {uri}.",
        hint=f"Connect the token, or list the tokens: keyvouch keys --key {module_uri(uri).quoted}",
        uri=uri,
    )
