"""Run the development authority and the Key Vault simulator until Ctrl-C, and print what to type.

In a checkout: pip install '.[testing]' './plugins/keyvouch-azure-keyvault[testing]'
"""

import contextlib
import tempfile
import time

import keyvouch
from keyvouch.testing.authority import Authority
from keyvouch_azure_keyvault.testing import KeyVault

LINES = """\
A development authority and a Key Vault are running until Ctrl-C. Type this in another terminal:

keyvouch profile add reader {options} --key '{reader}'
keyvouch profile add nightly {options} --key '{vault};certificate=app{login}'
keyvouch token --profile nightly --no-cache

To create another certificate in the vault:

keyvouch new --key '{vault};certificate=other{login}' --subject CN=other
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, Authority() as authority, KeyVault(authority) as vault:
        reader = f"pem:{folder}/reader.pem"  # the key that signs in to the vault
        with keyvouch.open_store(reader) as store:
            store.generate(keyvouch.KeySpec(subject="CN=reader"))
        with keyvouch.open_signer(reader) as signer:
            app = authority.register(certificates=signer.chain)
        app.add_certificate(vault.make_certificate("app").certificate)
        options = (
            f"--tenant {app.tenant} --client-id {app.client_id} --authority {authority.url} --ca-file {vault.ca_file}"
        )
        login = f"?auth=profile&profile=reader&ca-file={vault.ca_file}"
        print(  # noqa: T201 - what this script is for
            LINES.format(options=options, reader=reader, vault=f"azure-keyvault:vault={vault.url}", login=login),
            flush=True,
        )
        while True:  # on Windows, Ctrl-C ends only a sleep
            time.sleep(3600)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
