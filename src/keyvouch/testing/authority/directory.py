"""Tenants and the applications registered in them."""

import threading
import uuid
from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives import hashes


def as_guid(text: str) -> str | None:
    """Return the GUID in its canonical form, or None if `text` is not a GUID."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return None


class App:
    """An application's registration: its ID, its roles, and the certificates that it may sign in with.

    Created by `Authority.register`. Changes, from any thread, take effect with the next token request.
    """

    def __init__(
        self, client_id: str, tenant: str, roles: Iterable[str], certificates: Iterable[x509.Certificate]
    ) -> None:
        self.client_id = client_id
        """The application (client) id: a program's `client_id`."""
        self.tenant = tenant
        """The id (a GUID) of the tenant in which it is registered."""
        self.roles = tuple(roles)
        """The application permissions contained in every token for it."""
        self.public = False
        """True for a public client: see `make_public`."""
        self.trusts: tuple[tuple[x509.Name, x509.Certificate], ...] = ()
        """The trusted subjects, each with its issuer: see `trust_subject`."""
        self._lock = threading.Lock()
        self._certificates = tuple(certificates)
        self._revoked: frozenset[bytes] = frozenset()

    @property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        """The registered certificates, in the order of registration."""
        return self._certificates

    def add_certificate(self, certificate: x509.Certificate) -> None:
        """Register another certificate; does nothing if it is already registered."""
        with self._lock:
            if certificate not in self._certificates:
                self._certificates += (certificate,)

    def remove_certificate(self, certificate: x509.Certificate) -> None:
        """Remove a certificate from the registration."""
        with self._lock:
            self._certificates = tuple(other for other in self._certificates if other != certificate)

    def trust_subject(self, subject: str, issuer: x509.Certificate) -> None:
        """Trust every certificate with this subject (RFC 4514: `CN=app,O=Contoso`) whose chain leads to this issuer.

        Entra ID calls this subject name and issuer (SNI) trust. From now on, an assertion with an `x5c` is validated
        only by its chain, even if its certificate is registered too.
        """
        trust = (x509.Name.from_rfc4514_string(subject), issuer)
        with self._lock:
            self.trusts += (trust,)

    def revoke(self, certificate: x509.Certificate) -> None:
        """Refuse this certificate as revoked, no matter how it is trusted."""
        with self._lock:
            self._revoked |= {certificate.fingerprint(hashes.SHA256())}

    def revoked(self, certificate: x509.Certificate) -> bool:
        """Return True if the certificate was revoked."""
        return certificate.fingerprint(hashes.SHA256()) in self._revoked

    def make_public(self) -> None:
        """Make it a public client, which must not present a credential."""
        self.public = True


class Directory:
    """All tenants, by id and by domain name, and their applications."""

    def __init__(self, domain: str) -> None:
        self._lock = threading.Lock()
        self._tenants: dict[str, str] = {}
        self._apps: dict[tuple[str, str], App] = {}
        self.home = self._make_tenant(domain)

    def find_tenant(self, name: str) -> str | None:
        """Return the id of the tenant with this id or domain name, ignoring case."""
        return self._tenants.get(name.lower())

    def find_app(self, tenant: str, client_id: str) -> App | None:
        """Return the tenant's application with this client id, ignoring case."""
        return self._apps.get((tenant, client_id.lower()))

    def register(
        self, client_id: str | None, tenant: str | None, roles: Iterable[str], certificates: Iterable[x509.Certificate]
    ) -> App:
        """Register an application, creating its tenant if it is new."""
        with self._lock:
            home = self._make_tenant(tenant) if tenant else self.home
            app = App(client_id or str(uuid.uuid4()), home, roles, certificates)
            if self._apps.setdefault((home, app.client_id.lower()), app) is not app:
                raise ValueError(f"the application {app.client_id} is already registered in this tenant")
        return app

    def _make_tenant(self, name: str) -> str:
        name = name.lower()
        if name not in self._tenants:
            tenant = as_guid(name) or str(uuid.uuid4())
            self._tenants[name] = self._tenants[tenant] = tenant
        return self._tenants[name]
