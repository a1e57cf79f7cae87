from servers.fixtures import oidc_provider

__all__ = ["oidc_provider"]
