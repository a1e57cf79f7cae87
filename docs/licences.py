"""Print `licences.md`: the license of each package that the distributions need. `make licences` runs this.

    python docs/licences.py PYTHON

PYTHON is an interpreter with nothing but the distributions, their extras and what these need. The exit status is 1 if
a license is neither permissive nor one of `EXCEPTIONS`.
"""

from __future__ import annotations

import json
import subprocess
import sys

PERMISSIVE = {
    "0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0",
    "Unlicense", "Zlib",
}  # fmt: skip
NAMES = {
    "Apache Software License": "Apache-2.0",
    "Apache Software License; BSD License": "Apache-2.0 OR BSD",
    "BSD License": "BSD",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""The names that classifiers give to licenses, and their SPDX identifiers; BSD's does not say which."""
EXCEPTIONS = {"certifi": "MPL-2.0"}
"""Its terms apply only to changed copies of its own files: a list of certificates."""
PAGE = """\
# Licenses

keyvouch and its plugins have the Apache License 2.0. This is the license of each package that they need, directly or
not, with all extras, on Linux and the newest tested Python. `make licences` writes this page, and fails if a license is
not permissive. There is one exception: certifi's applies only to changed copies of its list of certificates.

| package | license |
| --- | --- |
"""


def licences(python: str) -> dict[str, str]:
    """Return the license of each package that this interpreter has, except our own."""
    command = [sys.executable, "-m", "piplicenses", f"--python={python}", "--from=mixed", "--format=json"]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)  # noqa: S603
    return {
        each["Name"].lower().replace("_", "-"): NAMES.get(each["License"], each["License"])
        for each in listed
        if not each["Name"].startswith("keyvouch")
    }


def accepted(package: str, licence: str) -> bool:
    """Return whether one of the alternatives is permissive in all its parts, or the package is an exception."""
    alternatives = [set(each.split(" AND ")) for each in licence.split(" OR ")]
    return EXCEPTIONS.get(package) == licence or any(each <= PERMISSIVE for each in alternatives)


if __name__ == "__main__":
    found = sorted(licences(sys.argv[1]).items())
    print(PAGE + "\n".join(f"| {package} | {licence} |" for package, licence in found))
    if refused := [f"{package}: {licence}" for package, licence in found if not accepted(package, licence)]:
        sys.exit("Not permissive: " + ", ".join(refused))
