"""The examples at the end of each command's `--help`."""

from __future__ import annotations

import sys

import click

_PFX = "'pfx:app.pfx?password=prompt:'"

EXAMPLES: dict[str, tuple[str, ...]] = {
    "": (
        "keyvouch demo",
        "keyvouch new --certificate-out app.cer --key 'pem:app.pem'",
        "keyvouch token --profile nightly",
    ),
    "token": (
        "keyvouch token --profile nightly",
        "keyvouch token --profile nightly --scope https://vault.azure.net/.default",
        "keyvouch token --output json --no-cache",
    ),
    "assertion": (
        "keyvouch assertion --profile nightly --output json",
        "keyvouch assertion --endpoint https://idp.example.com/token",
    ),
    "sign": (
        "keyvouch sign --profile nightly message.txt > message.sig",
        "keyvouch sign --algorithm RS256 --key 'pem:app.pem' message.txt",
        "keyvouch sign --form jws message.txt > message.jws",
    ),
    "verify": (
        "keyvouch verify message.txt --signature message.sig --certificate app.cer",
        "keyvouch verify --profile nightly message.jws",
    ),
    "keys": (
        "keyvouch keys --profile nightly",
        f"keyvouch keys --key {_PFX}",
        "keyvouch keys --output json --key 'pem:/etc/keyvouch'",
    ),
    "stores": ("keyvouch stores", "keyvouch stores pfx"),
    "profile": ("keyvouch profile list", "keyvouch profile show nightly"),
    "profile list": ("keyvouch profile list",),
    "profile show": ("keyvouch profile show nightly",),
    "profile add": (
        "keyvouch profile add nightly --tenant contoso.onmicrosoft.com \\",
        "  --client-id 8d2f7c1e-3f0a-4f4e-9d6e-6f0c6c1f4b7a \\",
        f"  --key {_PFX}",
        "keyvouch profile add partner --authority https://idp.example.com/app \\",
        "  --client-id nightly --scope reports --key 'pem:app.pem'",
    ),
    "profile path": ("keyvouch profile path",),
    "new": (
        "keyvouch new --subject CN=nightly --certificate-out app.cer \\",
        f"  --key {_PFX}",
        "keyvouch new --key-type P-256 --days 90 --key 'pem:app.pem'",
    ),
    "import": (f"keyvouch import --from {_PFX} --key 'pem:app.pem'",),
    "install": ("keyvouch install renewed.cer --profile nightly",),
    "export": (
        "keyvouch export --profile nightly --certificate app.cer",
        "keyvouch export --key 'pem:app.pem' --pfx copy.pfx --password prompt:",
    ),
    "delete": ("keyvouch delete --key 'pem:path=/etc/keyvouch/app.pem;spki-sha256=9F86...'",),
    "grant": (
        "keyvouch grant 'CONTOSO\\nightly$' --profile nightly",
        "keyvouch grant --revoke 'NETWORK SERVICE' --profile nightly",
        "keyvouch grant --list --profile nightly",
    ),
    "bench": (
        "keyvouch bench",
        f"keyvouch bench {_PFX} 'pem:app.pem'",
        "keyvouch bench --rate 200 --profile nightly --report bench.html",
        "keyvouch bench --output json > before.json",
        "keyvouch bench --compare before.json --fail-if-slower 10%",
    ),
    "doctor": ("keyvouch doctor --unseal",),
    "demo": ("keyvouch demo", "keyvouch demo --serve --register app.cer"),
}
"""The lines for each command, by its name without `keyvouch`. A line that continues another one is indented."""


def for_windows(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Return the lines for PowerShell and cmd.exe, both of which accept double quotes, and no backslash at an end."""
    return tuple("\n".join(lines).replace("\\\n  ", "").replace("'", '"').splitlines())


def add_examples(command: click.Command, name: str) -> None:
    """Add the command's examples, and those of its subcommands, to their help."""
    if lines := EXAMPLES.get(name):
        if sys.platform == "win32":
            lines = for_windows(lines)
        command.epilog = "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))
    if isinstance(command, click.Group):
        for subcommand in command.commands.values():
            add_examples(subcommand, f"{name} {subcommand.name}")
