"""Protection of secrets: masks for URIs that are shown, and PINs that are tried only once."""
