"""keyvouch's store for keys in the transit engine of HashiCorp Vault and OpenBao."""
