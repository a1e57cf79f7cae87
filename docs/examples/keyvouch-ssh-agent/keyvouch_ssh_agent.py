"""Keys in an ssh-agent, which signs and gives none out: `ssh-agent:socket=/run/agent.sock;comment=nightly`."""

import base64
import contextlib
import socket
import threading

from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from keyvouch.algorithms import key_type
from keyvouch.certificate import spki_sha256
from keyvouch.errors import AlgorithmUnsupported, KeyUnusable, NotSupported, SessionLost, StoreUnavailable
from keyvouch.store import Attribute, KeyInfo, KeyStore, ListsKeys, StoredKey, choose_one

# The messages are those of draft-ietf-sshm-ssh-agent: a number, and strings with their lengths before them.
LIST, SIGN, SIGNED, LONGEST = 11, 13, 14, 255 * 1024
FLAGS = {"RS256": 2, "RS512": 4, "ES256": 0, "ES384": 0, "ES512": 0, "EdDSA": 0}
KINDS = (b"ssh-rsa", b"ssh-ed25519", b"ecdsa-sha2-nistp256", b"ecdsa-sha2-nistp384", b"ecdsa-sha2-nistp521")


class AgentStore(KeyStore, ListsKeys):
    """Keys in an ssh-agent: `ssh-agent:socket=/run/agent.sock;comment=nightly`."""

    # uri
    attributes = (
        Attribute("socket", "the agent's", connection=True, environment=("SSH_AUTH_SOCK",)),
        Attribute("comment", "the key's", required_for=frozenset({"open"}), parse=bytes),
    )

    def __init__(self, uri, secrets):
        if not hasattr(socket, "AF_UNIX") or not uri.get("socket"):
            raise NotSupported("There is no ssh-agent here.", hint="Start one, and set SSH_AUTH_SOCK.", uri=uri)
        self._path = uri.get("socket")
        self._session = None

    # connect
    def connect(self, *, timeout):
        session = Session(self._path, timeout)
        try:
            session.ask(LIST, timeout=timeout)
        except SessionLost as error:
            raise StoreUnavailable(f"The agent at {self._path} does not answer.", hint="Start it anew.") from error
        self._session = session  # keys that are open keep theirs

    def close(self):
        if self._session:
            self._session.end()

    # open
    def open(self, uri, certificate=None, *, timeout):
        session = self._session
        found = self._matching(uri, session, timeout)
        chosen, _ = choose_one(uri, [info for info, _, _ in found], certificate)
        return next(AgentKey(session, *each) for each in found if each[0] is chosen)

    @staticmethod
    def _matching(uri, session, timeout):
        found, listed = [], strings(session.ask(LIST, timeout=timeout)[5:])
        for blob, comment in zip(listed[::2], listed[1::2], strict=True):
            kind = strings(blob)[0]
            if kind in KINDS and uri.get("comment") in (None, comment):
                key = load_ssh_public_key(kind + b" " + base64.b64encode(blob))
                digest = spki_sha256(key)
                pinned = uri.replace({"comment": comment, "spki-sha256": digest, "select": None, "settle": None})
                found.append((KeyInfo(pinned, key_type(key), digest, exportable=False), key, blob))
        return found

    # keys
    def keys(self, uri):
        digest = uri.get("spki-sha256")
        listed = [info for info, _, _ in self._matching(uri, self._session, timeout=10.0)]
        return [info for info in listed if digest in (None, info.spki_sha256)]


# sign
class AgentKey(StoredKey):
    """One of them, and the session that it was opened with."""

    exportable = False

    def __init__(self, session, info, public_key, blob):
        self.uri, self.public_key = info.uri, public_key
        self._session, self._blob = session, blob

    def sign(self, message, algorithm, *, timeout):
        if algorithm.name not in FLAGS:
            raise AlgorithmUnsupported(f"An ssh-agent does not sign {algorithm.name}.", hint="Use RS256 or RS512.")
        flags = FLAGS[algorithm.name].to_bytes(4)
        answer = self._session.ask(SIGN, string(self._blob), string(message), flags, timeout=timeout)
        if answer[0] != SIGNED:
            raise KeyUnusable("The agent refuses to sign.", hint="Is the key still in it? `ssh-add -l` lists them.")
        _, signature = strings(strings(answer[1:])[0])
        if algorithm.family == "ECDSA":
            return b"".join(int.from_bytes(each).to_bytes(algorithm.coordinate_size) for each in strings(signature))
        return signature


# session
class Session:
    """One connection: one request at a time, whose answer comes next."""

    def __init__(self, path, timeout):
        self._lock, self._socket = threading.Lock(), socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise StoreUnavailable(f"{path}: {error.strerror}.", hint="Is the agent running?") from error
        self._answers = self._socket.makefile("rb")

    def ask(self, number, *fields, timeout):
        request = string(bytes([number]) + b"".join(fields))
        if len(request) > LONGEST:
            raise KeyUnusable("The message is too long for an ssh-agent.", hint="It takes 255 KiB.")
        if not self._lock.acquire(timeout=timeout):
            raise StoreUnavailable("The agent was busy for too long.", hint="Try again.")
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(request)
            return self._read(int.from_bytes(self._read(4)))
        except (OSError, EOFError, ValueError) as error:  # at a time-out too: the answer would be taken for the next
            self.end()
            raise SessionLost("The connection to the agent is gone.", hint="Start it anew.") from error
        finally:
            self._lock.release()

    def _read(self, size):
        octets = self._answers.read(size)
        if len(octets) < size:
            raise EOFError
        return octets

    def end(self):
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def string(octets):
    return len(octets).to_bytes(4) + octets


def strings(octets):
    found = []
    while octets:
        size = int.from_bytes(octets[:4])
        found.append(octets[4 : 4 + size])
        octets = octets[4 + size :]
    return found
