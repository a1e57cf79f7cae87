"""keyvouch's store for keys on PKCS#11 tokens: HSMs, smart cards, TPMs, SoftHSM."""
