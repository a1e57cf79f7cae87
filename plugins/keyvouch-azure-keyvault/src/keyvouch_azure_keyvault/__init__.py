"""keyvouch's store for certificates and keys in Azure Key Vault and Managed HSM."""
