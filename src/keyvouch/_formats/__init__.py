"""Encodings of keys and certificates: ASN.1, PEM and PKCS#7, read without `cryptography`. Not public API."""
