"""Keys in an ssh-agent, which signs without revealing them: `ssh-agent:socket=/run/agent.sock;comment=nightly`."""

import base64
import contextlib
import socket
import threading

from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from keyvouch.algorithms import key_type
from keyvouch.certificate import spki_sha256
from keyvouch.errors import AlgorithmUnsupported, KeyUnusable, NotSupported, SessionLost, StoreUnavailable
from keyvouch.store import Attribute, KeyInfo, KeyStore, ListsKeys, StoredKey, choose_one

# The messages of draft-ietf-sshm-ssh-agent: a type, then strings, each after its length.
LIST, SIGN, SIGNED, MAX_SIZE = 11, 13, 14, 255 * 1024
FLAGS = {"RS256": 2, "RS512": 4, "ES256": 0, "ES384": 0, "ES512": 0, "EdDSA": 0}
KEY_TYPES = (b"ssh-rsa", b"ssh-ed25519", b"ecdsa-sha2-nistp256", b"ecdsa-sha2-nistp384", b"ecdsa-sha2-nistp521")


class AgentStore(KeyStore, ListsKeys):
    """Keys in an ssh-agent: `ssh-agent:socket=/run/agent.sock;comment=nightly`."""

    # uri
    attributes = (
        Attribute("socket", "the path of the agent's socket", connection=True, environment=("SSH_AUTH_SOCK",)),
        Attribute("comment", "the key's comment", required_for=frozenset({"open"}), parse=bytes),
    )

    def __init__(self, uri, secrets):
        if not hasattr(socket, "AF_UNIX") or not uri.get("socket"):
            raise NotSupported("No ssh-agent is available.", hint="Start one, and set SSH_AUTH_SOCK.", uri=uri)
        self._path = uri.get("socket")
        self._session = None

    # connect
    def connect(self, *, timeout):
        session = Session(self._path, timeout)
        try:
            session.request(LIST, timeout=timeout)
        except SessionLost as error:
            raise StoreUnavailable(f"The agent at {self._path} does not respond.", hint="Restart it.") from error
        self._session = session  # keys that are open keep theirs

    def close(self):
        if self._session:
            self._session.close()

    # open
    def open(self, uri, certificate=None, *, timeout):
        session = self._session
        found = self._matching(uri, session, timeout)
        chosen, _ = choose_one(uri, [info for info, _, _ in found], certificate)
        return next(AgentKey(session, *each) for each in found if each[0] is chosen)

    @staticmethod
    def _matching(uri, session, timeout):
        found, listed = [], decode_strings(session.request(LIST, timeout=timeout)[5:])
        for blob, comment in zip(listed[::2], listed[1::2], strict=True):
            kind = decode_strings(blob)[0]
            if kind in KEY_TYPES and uri.get("comment") in (None, comment):
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
    """A key of the agent, and the session that it was opened with."""

    exportable = False

    def __init__(self, session, info, public_key, blob):
        self.uri, self.public_key = info.uri, public_key
        self._session, self._blob = session, blob

    def sign(self, message, algorithm, *, timeout):
        if algorithm.name not in FLAGS:
            raise AlgorithmUnsupported(f"An ssh-agent does not support {algorithm.name}.", hint="Use RS256 or RS512.")
        flags = FLAGS[algorithm.name].to_bytes(4)
        fields = encode_string(self._blob), encode_string(message), flags
        response = self._session.request(SIGN, *fields, timeout=timeout)
        if response[0] != SIGNED:
            raise KeyUnusable("The agent refused to sign.", hint="Check that it still has the key: `ssh-add -l`.")
        _, signature = decode_strings(decode_strings(response[1:])[0])
        if algorithm.family == "ECDSA":
            r, s = (int.from_bytes(each).to_bytes(algorithm.coordinate_size) for each in decode_strings(signature))
            return r + s
        return signature


# session
class Session:
    """One connection, for one request at a time."""

    def __init__(self, path, timeout):
        self._lock, self._socket = threading.Lock(), socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise StoreUnavailable(f"{path}: {error.strerror}.", hint="Check that the agent is running.") from error
        self._responses = self._socket.makefile("rb")

    def request(self, message_type, *fields, timeout):
        message = encode_string(bytes([message_type]) + b"".join(fields))
        if len(message) > MAX_SIZE:
            raise KeyUnusable("The message is too long for an ssh-agent.", hint="Sign at most 255 KiB.")
        if not self._lock.acquire(timeout=timeout):
            raise StoreUnavailable("Timed out waiting for the agent.", hint="Try again.")
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(message)
            return self._read(int.from_bytes(self._read(4)))
        except (OSError, EOFError, ValueError) as error:  # also after a timeout: the next call would get this response
            self.close()
            raise SessionLost("The connection to the agent was lost.", hint="Check that it is running.") from error
        finally:
            self._lock.release()

    def _read(self, size):
        data = self._responses.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def close(self):
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def encode_string(data):
    return len(data).to_bytes(4) + data


def decode_strings(data):
    found = []
    while data:
        size = int.from_bytes(data[:4])
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found
