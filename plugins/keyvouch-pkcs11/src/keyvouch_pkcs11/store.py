"""Keys on PKCS#11 tokens: `pkcs11:token=prod;object=app?module-path=/usr/lib/libmodule.so&pin-source=env:HSM_PIN`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from keyvouch.algorithms import key_type
from keyvouch.certificate import check_chain, parse_subject, self_signed, spki_sha256
from keyvouch.errors import (
    ConfigurationError,
    KeyNotFound,
    KeyUnusable,
    NotSupported,
    SessionLost,
    StoreUnavailable,
)
from keyvouch.private_key import wrap
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
    StoredKey,
    TokenInfo,
    choose_one,
)
from keyvouch.uri import parse_flag
from keyvouch_pkcs11 import cryptoki as ck
from keyvouch_pkcs11 import objects, writing
from keyvouch_pkcs11.cryptoki import CryptokiError
from keyvouch_pkcs11.failures import UNDONE, told
from keyvouch_pkcs11.key import Pkcs11Key
from keyvouch_pkcs11.locations import locate
from keyvouch_pkcs11.module import Module, facts_of_library, module_at
from keyvouch_pkcs11.token import OWN_TIMEOUT, PIN, Token, facts_of

if TYPE_CHECKING:
    import datetime as dt

    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PrivateKey
    from keyvouch.secrets import SecretResolver

_TOKEN = ("token", "manufacturer", "serial", "model", "slot-id", "slot-description", "slot-manufacturer")
_LIBRARY = ("library-manufacturer", "library-description", "library-version")
_UNMADE = UNDONE | {"ATTRIBUTE_VALUE_INVALID", "CURVE_NOT_SUPPORTED", "KEY_SIZE_RANGE"}
"""Return values of a token that cannot generate or import a type of key."""


def _type(octets: bytes) -> str:
    if octets != b"private":
        raise ValueError("keys are private: leave it out")
    return "private"


def _pin_source(octets: bytes) -> str:
    """Return a secret reference for a pin-source of RFC 7512 (section 2.4): a file path or URI, or | and a command."""
    text = octets.decode()
    if text.startswith("|"):
        return f"command:{text[1:]}"
    if text.startswith("file:///"):
        return f"file:{text.removeprefix('file://')}"
    return f"file:{text}" if text.startswith("/") else text


class _Chosen(NamedTuple):
    token: Token
    key: objects.PrivateObject
    uri: KeyUri
    """Pinned."""
    settles_at: dt.datetime | None


class Pkcs11Store(KeyStore, ListsTokens, ListsKeys, GeneratesKeys, ImportsKeys, HoldsCertificates, DeletesKeys):
    """Keys on PKCS#11 tokens: `pkcs11:token=prod;object=app?module-path=/usr/lib/libmodule.so&pin-source=env:HSM_PIN`.

    The URI is that of RFC 7512. Its module is the connection; a token is logged in to when a key of it is opened.
    """

    attributes: ClassVar[tuple[Attribute, ...]] = (
        Attribute("token", "the token's label"),
        Attribute("manufacturer", "of the token"),
        Attribute("serial", "of the token"),
        Attribute("model", "of the token"),
        Attribute("slot-id", "the number of its slot; it may be another after a restart"),
        Attribute("slot-description", "of its slot"),
        Attribute("slot-manufacturer", "of its slot"),
        Attribute("library-manufacturer", "of the module"),
        Attribute("library-description", "of the module"),
        Attribute("library-version", "of the module: 2.6"),
        Attribute("object", "the key's label (CKA_LABEL)", parse=bytes),
        Attribute("id", "the key's CKA_ID: octets, as %01%A2", parse=bytes),
        Attribute("type", "private, and nothing else", parse=_type),
        Attribute("module-path", "the module's file", query=True, connection=True, parse=os.fsdecode),
        Attribute("module-name", "the module, by the name that p11-kit knows", query=True, connection=True),
        Attribute(
            "serialise",
            "true: one call at a time, for a module that is not thread-safe",
            query=True,
            connection=True,
            default=False,
            parse=parse_flag,
        ),
        Attribute(
            PIN,
            "the PIN: a reference, or as RFC 7512 has it a file's path, or | and a program",
            query=True,
            secret=True,
            parse=_pin_source,
        ),
        Attribute("x-*", "a vendor's own: kept, and not looked at", query=True),
    )

    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:
        self._uri = uri
        self._secrets = secrets
        self._module: Module | None = None
        self._epoch = 0
        self._process = 0

    def connect(self, *, timeout: float) -> None:  # noqa: ARG002 - a module cannot be interrupted
        """Initialise the module, or give up all log-ins; `open` logs in to tokens."""
        if self._module is None:
            self._module = module_at(locate(self._uri))
        known = self._epoch if self._process == os.getpid() else None
        self._epoch = self._module.connect(known, serialise=self._uri.get("serialise"))
        self._process = os.getpid()

    def close(self) -> None:
        """Log out if nothing else in this process uses the module."""
        module, self._module = self._module, None
        if module is not None and self._process == os.getpid():
            module.release()
        self._process = 0

    def open(self, uri: KeyUri, certificate: Certificate | None = None, *, timeout: float) -> StoredKey:
        """Log in to the token if the URI has a PIN, and find the key."""
        chosen = self._choose(uri, certificate, timeout)
        if not chosen.key.signs:
            raise KeyUnusable(
                "The key may not sign (CKA_SIGN).", hint="Make one that may: `keyvouch new`.", uri=chosen.uri
            )
        key = Pkcs11Key(chosen.token, chosen.key, chosen.uri, certificate, self._secrets)
        key.settles_at = chosen.settles_at
        return key

    def tokens(self, uri: KeyUri) -> list[TokenInfo]:
        """Return the tokens, with the information they show without a log-in."""
        found = []
        for token in self._tokens(uri):
            with told("asking for the token"):
                state = token.state()
            described = ", ".join(filter(None, (token.facts["manufacturer"], token.facts["model"], *state)))
            found.append(TokenInfo(_of_token(uri, token).replace({"object": None, "id": None}), described))
        return found

    def keys(self, uri: KeyUri) -> list[KeyInfo]:
        """Return the keys that the tokens show, after a log-in if the URI has a PIN."""
        digest = uri.get("spki-sha256")
        shown = [(token, each) for token, each in self._search(uri, OWN_TIMEOUT) if each.public_key is not None]
        listed = [self._info(uri, token, each, None) for token, each in shown]
        return [info for info in listed if digest in (None, info.spki_sha256)]

    def generate(self, uri: KeyUri, spec: KeySpec) -> KeyUri:
        """Generate a key, not exportable unless the spec says so, and its self-signed certificate."""
        parse_subject(spec.subject)
        mechanism, of_public = objects.generation(spec.key_type)
        token = self._one_token(uri)
        place = writing.free_place(uri, token, further=spec.further)
        public = {**place.attributes, ck.CKA_PRIVATE: False, ck.CKA_VERIFY: True, **of_public}
        private = {**place.attributes, **writing.protection(exportable=spec.exportable)}
        with told("making a key", performed=True), writing.session(token) as session:
            try:
                with token.module as functions:
                    session.made += functions.generate(session.handle, mechanism, public, private)
            except CryptokiError as error:
                if error.name in _UNMADE:
                    raise NotSupported(
                        f"The token makes no {spec.key_type}.", hint="Make RSA-2048, or P-256."
                    ) from error
                raise
            with token.module as functions:
                made = objects.described(functions, session.handle, session.made[-1])
            public_key = objects.require_public_key(made, [])
            pinned = _pinned(uri, token, made, spki_sha256(public_key))
            key = Pkcs11Key(token, made, pinned, None, self._secrets)
            signing = wrap(public_key, lambda *what: key.sign(*what, timeout=OWN_TIMEOUT))
            session.write_chain([self_signed(signing, spec.subject, spec.days)], place)
        return pinned

    def import_key(
        self, uri: KeyUri, key: PrivateKey, chain: Sequence[Certificate], *, exportable: bool = False
    ) -> KeyUri:
        """Write the key and its chain to the token."""
        check_chain(chain, key.public_key())
        of_private, of_public = objects.importable(key)
        token = self._one_token(uri)
        place = writing.free_place(uri, token, further=False)
        protection = writing.protection(exportable=exportable)
        private = {ck.CKA_CLASS: ck.CKO_PRIVATE_KEY, **place.attributes, **protection, **of_private}
        visible = {ck.CKA_PRIVATE: False, ck.CKA_VERIFY: True}
        public = {ck.CKA_CLASS: ck.CKO_PUBLIC_KEY, **place.attributes, **visible, **of_public}
        with told("importing a key", performed=True), writing.session(token) as session:
            try:
                session.create(private)
            except CryptokiError as error:
                if error.name in _UNMADE:
                    raise NotSupported(
                        "The token takes no such key from elsewhere.", hint="Make one there: `keyvouch new`."
                    ) from error
                raise
            session.create(public)
            session.write_chain(chain, place)
            with token.module as functions:
                made = objects.described(functions, session.handle, session.made[0])
        return _pinned(uri, token, made, spki_sha256(key.public_key()))

    def install_certificate(self, uri: KeyUri, chain: Sequence[Certificate]) -> KeyUri:
        """Write the chain for the key, replacing its current certificate."""
        token, key, pinned, _ = self._choose(uri, chain[0], OWN_TIMEOUT)
        check_chain(chain, objects.require_public_key(key, chain))
        with told("writing a certificate", performed=True), writing.session(token) as session:
            with token.module as functions:
                former = objects.certificate_objects(functions, session.handle, {ck.CKA_ID: key.id})
            session.write_chain(chain, writing.Place(key.id, key.label))
            session.destroy(*(handle for handle, _ in former))
        return pinned

    def delete(self, uri: KeyUri) -> None:
        """Delete the key, its public key and its certificate; leave those of another key with the same id."""
        token, key, _, _ = self._choose(uri, None, OWN_TIMEOUT)
        with told("deleting a key", performed=True), writing.session(token) as session:
            with token.module as functions:
                beside = objects.belongings(functions, session.handle, key)
            session.destroy(key.handle, *beside)

    # Tokens and their objects.

    def _connected(self) -> Module:
        if self._module is None or self._process != os.getpid() or self._module.epoch != self._epoch:
            raise SessionLost("The module's log-ins were given up.", hint="Try again.", performed=False)
        return self._module

    def _tokens(self, uri: KeyUri) -> list[Token]:
        """Return the tokens that match the URI; skip slots that cannot be read."""
        module = self._connected()
        with told("looking for tokens"), module as functions:
            library = facts_of_library(functions)
            slots = functions.slots() if _matches(uri, library, _LIBRARY) else []
        found = []
        for slot in slots:
            try:
                facts = facts_of(module, slot)
            except CryptokiError:
                continue
            if facts and _matches(uri, facts, _TOKEN):
                with module.lock:
                    if module.epoch != self._epoch:
                        break
                    token = module.tokens.get(slot)
                    if token is None or token.facts != facts:
                        token = module.tokens[slot] = Token(module, slot, facts)
                found.append(token)
        self._connected()
        return found

    def _one_token(self, uri: KeyUri) -> Token:
        """Return the one token to write to, logged in. Raises `StoreUnavailable`."""
        found = self._tokens(uri)
        if not found:
            raise _no_token(uri)
        if len(found) > 1:
            raise _several_tokens(uri, found)
        found[0].log_in(uri, self._secrets, OWN_TIMEOUT)
        found[0].require_log_in(uri, OWN_TIMEOUT)
        return found[0]

    def _search(self, uri: KeyUri, timeout: float) -> list[tuple[Token, objects.PrivateObject]]:
        tokens = self._tokens(uri)
        if not tokens:
            raise _no_token(uri)
        if len(tokens) > 1 and PIN in uri:  # never try a PIN on a token it is not meant for
            raise _several_tokens(uri, tokens)
        found = []
        for token in tokens:
            token.log_in(uri, self._secrets, timeout)
            with told("looking for keys"), token.session(timeout) as session, self._connected() as functions:
                listed = objects.private_objects(functions, session, identity=uri.get("id"), label=uri.get("object"))
            if not listed and token.is_logged_in:
                token.require_log_in(uri, timeout)
            found += [(token, each) for each in listed]
        return found

    def _choose(self, uri: KeyUri, certificate: Certificate | None, timeout: float) -> _Chosen:
        """Return the one key that the URI selects. Raises `KeyNotFound`, `SecretRequired`, and as `choose_one`."""
        found = self._search(uri, timeout)
        if not found:
            for token in self._tokens(uri):
                token.require_log_in(uri, timeout)
            raise KeyNotFound(
                f"No key matches {uri}.",
                hint=f"List what is there: keyvouch keys --key {uri.replace({'object': None, 'id': None}).quoted}.",
                uri=uri,
            )
        infos = [self._info(uri, token, each, certificate) for token, each in found]
        info, settles_at = choose_one(uri, infos, certificate)
        return _Chosen(*found[infos.index(info)], info.uri, settles_at)

    def _info(
        self, uri: KeyUri, token: Token, found: objects.PrivateObject, certificate: Certificate | None
    ) -> KeyInfo:
        public_key = objects.require_public_key(found, [certificate] if certificate else [])
        digest = spki_sha256(public_key)
        leaf = found.chain[0] if found.chain else None
        return KeyInfo(
            _pinned(uri, token, found, digest),
            key_type(public_key),
            digest,
            subject=leaf.subject.rfc4514_string() if leaf else None,
            not_before=leaf.not_valid_before_utc if leaf else None,
            not_after=leaf.not_valid_after_utc if leaf else None,
            exportable=found.exportable,
            has_certificate=leaf is not None,
        )


def _of_token(uri: KeyUri, token: Token) -> KeyUri:
    return uri.replace({each: token.facts[each] for each in ("token", "serial")})


def _pinned(uri: KeyUri, token: Token, found: objects.PrivateObject, digest: str) -> KeyUri:
    return _of_token(uri, token).replace(
        {
            "object": found.label or None,
            "id": found.id or None,
            "spki-sha256": digest,
            "select": None,
            "settle": None,
        }
    )


def _matches(uri: KeyUri, facts: dict[str, str], names: Sequence[str]) -> bool:
    """Return whether the URI agrees with these facts, as far as it gives them (RFC 7512, section 2.5)."""
    return all(uri.get(each) in (None, facts[each]) for each in names)


def _several_tokens(uri: KeyUri, tokens: Sequence[Token]) -> ConfigurationError:
    names = "\n".join(f"  token={token.facts['token']};serial={token.facts['serial']}" for token in tokens)
    return ConfigurationError(f"{len(tokens)} tokens match {uri}.", hint=f"Say which:\n{names}", uri=uri)


def _no_token(uri: KeyUri) -> StoreUnavailable:
    module = uri.replace(dict.fromkeys((*_TOKEN, *_LIBRARY, "object", "id", "spki-sha256", PIN)))
    return StoreUnavailable(
        f"No token matches {uri}.",
        hint=f"Plug it in, or see which there are: keyvouch keys --key {module.quoted}",
        uri=uri,
    )
