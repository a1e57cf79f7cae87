"""The public interface of the Key Vault simulator."""

import contextlib
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from keyvouch.testing.authority import Authority
from keyvouch.testing.authority.server import HttpsServer, Request, Response
from keyvouch.testing.authority.tls import make_context
from keyvouch_azure_keyvault.testing.certificate_endpoints import CertificateEndpoints
from keyvouch_azure_keyvault.testing.certificates import complete_policy, self_sign
from keyvouch_azure_keyvault.testing.faults import Fault, play
from keyvouch_azure_keyvault.testing.key_endpoints import KeyEndpoints
from keyvouch_azure_keyvault.testing.keys import make_version
from keyvouch_azure_keyvault.testing.objects import Item, ObjectStore, Secret, SecretVersion, Version
from keyvouch_azure_keyvault.testing.protocol import API_VERSIONS, JsonResponse, find_route, read_call
from keyvouch_azure_keyvault.testing.refusals import Refusal, missing_role
from keyvouch_azure_keyvault.testing.secret_endpoints import SecretEndpoints
from keyvouch_azure_keyvault.testing.soft_delete import PurgeProtection
from keyvouch_azure_keyvault.testing.token_validation import TokenValidator

Failure = Fault | Refusal
SIGN = "keys/sign"


class KeyVault:
    """A Key Vault simulator. As a context manager it runs during the block; otherwise use `start()` and `close()`.

    It accepts the tokens that the running `authority` issued for its default tenant.

    `managed_hsm`: act as a Managed HSM: only keys, of the types RSA-HSM and EC-HSM, and tokens for Managed HSM.
    `purge_protection`: keep deleted objects; they can only be recovered.
    `names`: additional DNS names besides `localhost`, as used through `keyvouch.testing.relay.Proxy`, by which a client
    reaches it as `contoso.vault.azure.net`, for example.
    `slow`: number of requests after each deletion, purge and recovery that still see the former state: the service
    takes some seconds for each.
    `api_versions`: the API versions that it supports, oldest first; by default those of the service.
    `creates_at_once`: respond to the creation of a self-signed certificate with a completed operation, as some Key
    Vault emulators do. The service's operation is always in progress at first.
    """

    def __init__(
        self,
        authority: Authority,
        *,
        managed_hsm: bool = False,
        purge_protection: bool = False,
        names: Iterable[str] = (),
        slow: int = 1,
        api_versions: Sequence[str] = API_VERSIONS,
        creates_at_once: bool = False,
    ) -> None:
        self.authority = authority
        self.deny: set[str] = set()
        """Permissions that nobody has, such as `keys/sign` or `certificates/list`."""
        self.disturb: Callable[[str], Failure | None] = lambda _: None
        """Called with the permission needed by each request with a valid token; returns a fault or refusal, or None."""
        self._names, self._api_versions = tuple(names), tuple(api_versions)
        self._validator = TokenValidator(authority, managed_hsm=managed_hsm)
        self._managed_hsm = managed_hsm
        self._protection = PurgeProtection(enabled=purge_protection)
        self._items: ObjectStore[Item] = ObjectStore(slow)
        self._secrets: ObjectStore[Secret] = ObjectStore(slow)
        endpoints: list[Any] = [KeyEndpoints(self._items, self._protection, managed_hsm=managed_hsm)]
        if not managed_hsm:
            endpoints.append(CertificateEndpoints(self._items, self._protection, creates_at_once=creates_at_once))
            endpoints.append(SecretEndpoints(self._secrets, self._items, self._protection))
        self._routes = [route for each in endpoints for route in each.routes()]
        self._lock = threading.Lock()
        self._calls: list[str] = []
        self._faults: dict[str, deque[Failure]] = {}
        self._resumed = threading.Event()
        self._resources = contextlib.ExitStack()
        self._running: tuple[int, str] | None = None

    def start(self) -> Self:
        """Start serving. Does nothing if it is running."""
        if self._running is None:
            with contextlib.ExitStack() as resources:
                self._running = self._start(resources)
                self._resources = resources.pop_all()
        return self

    def close(self) -> None:
        """Stop the server and its open connections, and remove its files. Does nothing if it is closed."""
        self._running = None
        self.resume()
        self._resources.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Address and trust.

    @property
    def url(self) -> str:
        """The URL: `https://localhost:PORT`."""
        return f"https://localhost:{self.port}"

    @property
    def port(self) -> int:
        """The port, on 127.0.0.1 and on ::1."""
        return self._state()[0]

    @property
    def ca_file(self) -> str:
        """The path of the certificates (PEM) to trust, the vault's and the authority's; removed on closing."""
        return self._state()[1]

    # Access.

    @property
    def tenant(self) -> str:
        """The tenant whose tokens it accepts. Setting it moves the vault to another tenant."""
        return self._validator.tenant

    @tenant.setter
    def tenant(self, tenant: str) -> None:
        self._validator.tenant = tenant

    @property
    def resource(self) -> str:
        """The audience of accepted tokens: `https://vault.azure.net`. Setting it moves the vault to another cloud."""
        return self._validator.resource

    @resource.setter
    def resource(self, resource: str) -> None:
        self._validator.resource = resource

    @property
    def purge_protection(self) -> bool:
        """True if deleted objects cannot be purged."""
        return self._protection.enabled

    @purge_protection.setter
    def purge_protection(self, protected: bool) -> None:
        self._protection.enabled = protected

    def unauthorised(self) -> Refusal:
        """Return the refusal of an invalid token: 401, with a challenge for another one. For `fail()`."""
        return self._validator.unauthorised()

    def revoke_tokens(self) -> None:
        """Refuse all tokens that were used so far."""
        self._validator.revoke()

    # Contents.

    @property
    def keys(self) -> dict[str, Item]:
        """The keys by name, including those of certificates. Changes to it change the vault."""
        return self._items.live

    @property
    def deleted(self) -> list[str]:
        """The names of the keys and certificates that were deleted but not purged."""
        return [name for name, each in self._items.deleted.items() if not each.purged]

    def make_certificate(self, name: str, key_type: str = "RSA-2048", **attributes: Any) -> Version:
        """Make a self-signed certificate with a non-exportable key, or a new version of one.

        `key_type`: RSA-2048, RSA-3072, RSA-4096, P-256, P-384 or P-521. `attributes`: of the version.
        """
        if self._managed_hsm:
            raise ValueError("a Managed HSM has no certificates")
        policy = complete_policy(
            {
                "key_props": {"exportable": False, **_properties(key_type)},
                "x509_props": {"subject": f"CN={name}"},
                "lifetime_actions": [
                    {"trigger": {"lifetime_percentage": 80}, "action": {"action_type": "EmailContacts"}}
                ],
                "issuer": {"name": "Self"},
            }
        )
        version = make_version(policy["key_props"])
        version.certificate = self_sign(version.private_key, policy)
        return self._add(Item(name, policy=policy), version, attributes)

    def make_key(self, name: str, key_type: str = "RSA-2048", **attributes: Any) -> Version:
        """Make a key, or a new version of one; in a Managed HSM it has an HSM type. See `make_certificate`."""
        properties = _properties(key_type)
        if self._managed_hsm:
            properties["kty"] += "-HSM"
        return self._add(Item(name), make_version(properties), attributes)

    def set_secret(self, name: str, value: str) -> None:
        """Set the value of a secret."""
        with self._lock:
            self._secrets.live.setdefault(name, Secret(name)).versions.append(SecretVersion(value=value))

    # Requests and faults.

    @property
    def calls(self) -> list[str]:
        """The requests so far that had a valid token, by method and permission: `POST keys/sign`; a copy."""
        with self._lock:
            return list(self._calls)

    def count(self, call: str) -> int:
        """Return the number of requests of this kind: `POST keys/sign`."""
        return self.calls.count(call)

    def fail(self, permission: str, *failures: Failure) -> None:
        """Inject these faults into the next requests that need this permission (`keys/sign`), one each."""
        with self._lock:
            self._faults.setdefault(permission, deque()).extend(failures)

    def resume(self) -> None:
        """End all stalls and endless responses."""
        self._resumed.set()
        self._resumed = threading.Event()

    def _add(self, new: Item, version: Version, attributes: dict[str, Any]) -> Version:
        for attribute, value in attributes.items():
            if not hasattr(version, attribute):
                raise TypeError(f"a version has no {attribute}")
            setattr(version, attribute, value)
        with self._lock:
            self._items.live.setdefault(new.name, new).versions.append(version)
        return version

    def _state(self) -> tuple[int, str]:
        if self._running is None:
            raise RuntimeError("the vault is not running: use it in a `with` block, or call start()")
        return self._running

    def _start(self, resources: contextlib.ExitStack) -> tuple[int, str]:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="keyvouch-vault-")))
        context, ca_file = make_context(folder, self._names)
        both = folder / "both.pem"
        both.write_bytes(ca_file.read_bytes() + Path(self.authority.ca_file).read_bytes())
        server = HttpsServer(context)
        server.serve(self._respond)
        resources.callback(server.close)
        return server.port, str(both)

    def _respond(self, request: Request) -> Response:
        try:
            return self._handle(request)
        except Refusal as refusal:
            return JsonResponse(refusal.status, refusal.body, refusal.headers).response()

    def _handle(self, request: Request) -> Response:
        self._validator.validate(request.headers)
        route, found = find_route(self._routes, request)
        with self._lock:
            self._calls.append(f"{request.method} {route.permission}")
            waiting = self._faults.get(route.permission)
            failure = waiting.popleft() if waiting else None
        failure = failure or self.disturb(route.permission)
        if isinstance(failure, Refusal):
            raise failure
        if failure is not None and (played := play(failure, self._resumed)) is not None:
            return played
        if route.permission in self.deny:
            raise missing_role(route.permission)
        call = read_call(request, found, self._api_versions)
        # A signature changes nothing, and takes the longest: no lock is needed.
        with contextlib.nullcontext() if route.permission == SIGN else self._lock:
            return route.handler(call).response()


def _properties(key_type: str) -> dict[str, Any]:
    kind, _, size = key_type.partition("-")
    return {"kty": "RSA", "key_size": int(size)} if kind == "RSA" else {"kty": "EC", "crv": key_type}
