"""Files, processes and sockets, on each operating system: not part of the public API."""
