"""Mutation tests: change the code slightly, and see whether the tests notice. `make mutation` runs this.

    python tests/mutation/run.py [MODULE...]

Without arguments every module in `TESTS` is tested in turn, by the tests that cover it. For each
module the numbers of killed and surviving mutants are printed, and each survivor's diff. A survivor is a missing
test or an equivalent mutant; the exit status is 0 in either case. Everything happens in a copy of the tracked files.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT = 1800
"""Time limit for one module, in seconds."""
TESTS = {
    "src/keyvouch/algorithms.py": ["tests/core/test_algorithms.py", "tests/core/test_usable_keys.py"],
    "src/keyvouch/assertion.py": ["tests/core/test_assertion.py"],
    "src/keyvouch/certificate.py": ["tests/core/test_certificate.py", "tests/stores/test_pem_reading.py"],
    "src/keyvouch/config.py": ["tests/core/test_config.py"],
    "src/keyvouch/_core/connections.py": ["tests/core/test_connections.py", "tests/core/test_store_faults.py"],
    "src/keyvouch/entra/cache_file.py": ["tests/entra/test_locked_token_cache.py", "tests/entra/test_cached_token.py"],
    "src/keyvouch/entra/cached_token.py": ["tests/entra/test_cached_token.py", "tests/entra/test_connect.py"],
    "src/keyvouch/entra/client_key.py": [
        "tests/entra/test_client_key.py",
        "tests/entra/test_key_failover.py",
        "tests/entra/test_rotation.py",
    ],
    "src/keyvouch/entra/msal_errors.py": [
        "tests/entra/test_msal_errors.py",
        "tests/entra/test_connection_errors.py",
        "tests/entra/test_client.py",
    ],
    "src/keyvouch/entra/key_failover.py": [
        "tests/entra/test_key_failover.py",
        "tests/entra/test_shared_requests.py",
        "tests/entra/test_token_responses.py",
    ],
    "src/keyvouch/entra/outcome.py": [
        "tests/entra/test_outcome.py",
        "tests/entra/test_aadsts_advice.py",
        "tests/entra/test_token_responses.py",
    ],
    "src/keyvouch/entra/locked_token_cache.py": [
        "tests/entra/test_locked_token_cache.py",
        "tests/entra/test_connect.py",
        "tests/cli/test_full_disk.py",
    ],
    "src/keyvouch/entra/request_lock.py": ["tests/entra/test_many_processes.py"],
    "src/keyvouch/_system/files/copied_access.py": ["tests/core/test_writing.py", "tests/core/test_files.py"],
    "src/keyvouch/_system/files/errors.py": ["tests/core/test_files.py", "tests/stores/test_key_files.py"],
    "src/keyvouch/_system/files/folders.py": ["tests/core/test_files.py", "tests/core/test_hostile_folders.py"],
    "src/keyvouch/_system/files/locations.py": ["tests/core/test_files.py", "tests/core/test_hostile_folders.py"],
    "src/keyvouch/_system/files/locks.py": ["tests/core/test_files.py", "tests/core/test_hostile_folders.py"],
    "src/keyvouch/_system/files/path_resolution.py": [
        "tests/core/test_files.py",
        "tests/core/test_hostile_folders.py",
    ],
    "src/keyvouch/_system/files/posix_acl.py": ["tests/core/test_access_rules.py"],
    "src/keyvouch/_system/files/reading.py": ["tests/core/test_files.py"],
    "src/keyvouch/_system/files/temporary_files.py": ["tests/core/test_writing.py", "tests/core/test_files.py"],
    "src/keyvouch/_system/files/foreign_writers.py": ["tests/core/test_foreign_writers.py"],
    "src/keyvouch/_system/files/writing.py": ["tests/core/test_writing.py", "tests/core/test_files.py"],
    "src/keyvouch/_system/forks.py": ["tests/core/test_fork_gate.py", "tests/core/test_signer_forks.py"],
    "src/keyvouch/hosts.py": ["tests/core/test_hosts.py"],
    "src/keyvouch/https.py": ["tests/core/test_https.py", "tests/core/test_deadlines.py"],
    "src/keyvouch/_system/in_use.py": ["tests/core/test_connections.py", "tests/core/test_signer.py"],
    "src/keyvouch/_secrets/pin_attempts.py": ["tests/core/test_pin_attempts.py"],
    "src/keyvouch/_core/key_choice.py": ["tests/core/test_choose_one.py"],
    "src/keyvouch/_core/opened_key.py": ["tests/core/test_opening.py", "tests/core/test_usable_keys.py"],
    "src/keyvouch/_secrets/pin_records.py": ["tests/core/test_pin_attempts.py", "tests/core/test_hostile_state.py"],
    "src/keyvouch/_system/programs.py": ["tests/core/test_secrets.py"],
    "src/keyvouch/proxies.py": ["tests/core/test_https.py", "tests/core/test_uri.py"],
    "src/keyvouch/_core/registry.py": ["tests/core/test_registry.py"],
    "src/keyvouch/_system/search_path.py": ["tests/core/test_registry.py"],
    "src/keyvouch/secrets.py": ["tests/core/test_secrets.py"],
    "src/keyvouch/_core/signer.py": ["tests/core/test_signer.py", "tests/core/test_signer_faults.py"],
    "src/keyvouch/_system/single_flight.py": ["tests/core/test_single_flight.py"],
    "src/keyvouch/_system/sockets.py": ["tests/core/test_deadlines.py", "tests/core/test_https.py"],
    "src/keyvouch/_system/tls.py": ["tests/core/test_https.py", "tests/core/test_foreign_writers.py"],
    "src/keyvouch/_system/urllib3_pools.py": ["tests/core/test_deadlines.py", "tests/core/test_https.py"],
    "src/keyvouch/_core/store_faults.py": ["tests/core/test_store_faults.py"],
    "src/keyvouch/stores/asn1.py": ["tests/stores/test_asn1.py", "tests/stores/test_limits.py"],
    "src/keyvouch/stores/jwk.py": ["tests/stores/test_jwk.py"],
    "src/keyvouch/stores/references.py": ["tests/stores/test_references.py"],
    "src/keyvouch/_core/environment.py": ["tests/entra/test_environment_settings.py"],
    "src/keyvouch/stores/pbe.py": ["tests/stores/test_pfx_encryption.py", "tests/stores/test_pfx_reading.py"],
    "src/keyvouch/stores/private_keys.py": ["tests/stores/test_old_encodings.py"],
    "src/keyvouch/_formats/asn1.py": ["tests/stores/test_asn1.py", "tests/stores/test_limits.py"],
    "src/keyvouch/stores/limits.py": ["tests/stores/test_derivation_rounds.py", "tests/stores/test_limits.py"],
    "src/keyvouch/stores/pem.py": ["tests/stores/test_pem_reading.py", "tests/stores/test_limits.py"],
    "src/keyvouch/stores/pfx.py": ["tests/stores/test_pfx_reading.py", "tests/stores/test_limits.py"],
    "src/keyvouch/stores/key_files.py": [
        "tests/stores/test_key_files.py",
        "tests/stores/test_lookup.py",
        "tests/stores/test_family.py",
    ],
    "src/keyvouch/tokens.py": ["tests/core/test_tokens.py"],
    "src/keyvouch/uri.py": ["tests/core/test_uri.py"],
    "src/keyvouch/_core/uri_attributes.py": ["tests/core/test_uri.py"],
    "src/keyvouch/_core/uri_errors.py": ["tests/core/test_uri.py"],
    "src/keyvouch/_core/uri_mistakes.py": ["tests/core/test_uri.py", "tests/core/test_uri_mistakes.py"],
    "src/keyvouch/_core/uri_text.py": ["tests/core/test_uri.py"],
}
"""The core modules, each with the tests that cover it directly, so that a mutant takes about a second."""


def main() -> None:
    """Test the modules named by the arguments, or all."""
    for module in sys.argv[1:] or TESTS:
        if module not in TESTS:
            sys.exit(f"{module} has no entry in TESTS of {Path(__file__).relative_to(ROOT)}: add one.")
        with tempfile.TemporaryDirectory(prefix="keyvouch-mutation-") as folder:
            run(module, Path(folder))


def run(module: str, tree: Path) -> None:
    """Test one module in the folder `tree`, and print what survived."""
    copy_files(tree)
    configure(tree, module)
    done = mutmut(tree, "run", "--max-children", str(os.cpu_count()))
    meta = tree / "mutants" / f"{module}.meta"
    if not meta.exists():
        sys.exit(f"{module}: mutmut failed.\n{done[-2000:]}")
    ends = json.loads(meta.read_text())["exit_code_by_key"]
    survivors = sorted(name for name, status in ends.items() if status == 0)
    untested = [name for name, status in ends.items() if status in {None, 5, 33}]
    killed = len(ends) - len(survivors) - len(untested)
    print(f"## {module}: {killed} killed, {len(survivors)} survived, {len(untested)} without a test or not run")
    for name in survivors + untested:
        print(mutmut(tree, "show", name), flush=True)


def copy_files(tree: Path) -> None:
    """Copy what git tracks, including uncommitted changes."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)


def configure(tree: Path, module: str) -> None:
    """Configure in the copy's pyproject.toml what mutmut changes and runs."""
    settings = {
        "source_paths": ["src/"],
        "only_mutate": [module],
        "also_copy": ["conftest.py", "tests", "plugins"],
        "pytest_add_cli_args_test_selection": TESTS[module],
        "pytest_add_cli_args": ["-p", "no:cacheprovider"],
        "timeout_constant": 3,  # seconds added to the duration of a mutant's tests; then multiplied by the next value
        "timeout_multiplier": 5,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    with (tree / "pyproject.toml").open("a") as file:
        file.write("\n".join(["\n[tool.mutmut]", *lines, ""]))


def mutmut(tree: Path, *arguments: str) -> str:
    """Run mutmut in the copy, and return its output."""
    program = Path(sys.executable).with_name("mutmut")
    try:
        done = subprocess.run(
            [program, *arguments],
            cwd=tree,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return str(error.output)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
