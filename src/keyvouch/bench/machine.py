"""What a measurement depends on besides the store: the machine, and the versions of the libraries."""

from __future__ import annotations

import contextlib
import os
import platform
import ssl
from pathlib import Path

import psutil

from keyvouch._core import registry
from keyvouch.bench.document import Machine


def this_machine() -> Machine:
    """Describe this machine."""
    load = None
    with contextlib.suppress(AttributeError, OSError):
        load = round(os.getloadavg()[0], 2)
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        processor=_processor(),
        cores=len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count() or 1,
        memory=psutil.virtual_memory().total,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        load=load,
    )


def resident_bytes() -> int:
    """Return how much of this process is in RAM."""
    return int(psutil.Process().memory_info().rss)


def versions() -> dict[str, str]:
    """Return the versions of keyvouch, its plugins, and what they use."""
    from importlib import metadata

    from cryptography.hazmat.backends.openssl.backend import backend

    wanted = ("cryptography", "msal", "urllib3", "azure-keyvault-keys", "azure-core", "hvac")
    found = {each.distribution: each.version for each in registry.plugins()}
    for name in wanted:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    libraries = {"cryptography": backend.openssl_version_text(), "Python": ssl.OPENSSL_VERSION}
    return dict(sorted(found.items())) | {f"OpenSSL ({user})": version for user, version in libraries.items()}


def _processor() -> str:
    """Return the CPU's model, which Python reports only on some systems."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
