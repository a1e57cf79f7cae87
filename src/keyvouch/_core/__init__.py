"""How keys are opened and used: not part of the public API."""
