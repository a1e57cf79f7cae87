"""Keys in the Windows certificate store, for keyvouch."""
