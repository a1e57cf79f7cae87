# Everything installs itself: a virtual environment, packages, and for the tests what their servers need.

PYTHON ?= python3
VENV   ?= .venv
TESTS  ?=
MODULES ?=
BIN    := $(VENV)/bin
PIP    := $(VENV)/bin/python -m pip --quiet install --constraint constraints.txt
READY  := $(VENV)/ready
PLUGINS := $(wildcard plugins/*/)
LOWEST  := .venv-lowest/bin
RUNTIME := .venv-runtime/bin

.PHONY: demo test lowest soak mutation lint actionlint docs reference diagrams dist runtime sbom licences bench clean

demo: $(READY)
	@tests/servers/install-system-packages softhsm2-util
	@$(BIN)/keyvouch demo

test: $(READY)
	@tests/servers/install-system-packages
	$(BIN)/pytest -n auto --dist loadgroup $(TESTS)

lowest: # the oldest releases that are allowed, of what the distributions require themselves
	test -x $(LOWEST)/python || $(PYTHON) -m venv .venv-lowest
	$(LOWEST)/python -m pip --quiet install --constraint constraints.txt uv
	$(LOWEST)/uv pip install --quiet --python $(LOWEST)/python --resolution lowest-direct \
		--editable '.[all]' $(PLUGINS:%=--editable %)
	$(LOWEST)/uv pip install --quiet --python $(LOWEST)/python hypothesis pytest-xdist
	$(LOWEST)/pytest -n auto -m "not server" tests/stores tests/core/test_certificate.py tests/entra/test_client.py \
		plugins/keyvouch-azure-keyvault/tests/test_azure_signing.py plugins/keyvouch-azure-keyvault/tests/test_azure_lifecycle.py \
		plugins/keyvouch-pkcs11 plugins/keyvouch-vault/tests/test_vault_secrets.py \
		plugins/keyvouch-windows/tests/test_windows_private_keys.py $(TESTS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/validate-pyproject pyproject.toml $(PLUGINS:%=%pyproject.toml)
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms $(addprefix .github/ISSUE_TEMPLATE/,bug.yml change.yml)
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/zizmor --quiet --offline --no-progress .github
	@$(MAKE) --no-print-directory actionlint

actionlint: # written in Go, and not on PyPI as a wheel
	@if command -v go >/dev/null; then go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12 ; \
		else echo "actionlint was left out: Go is not installed."; fi

docs: $(READY)
	@$(PIP) --group docs
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

reference: $(READY)
	$(BIN)/python docs/reference.py

diagrams:  # with graphviz, which nothing else needs; the pictures are committed
	for each in docs/diagrams/*.dot; do dot -Tsvg "$$each" -o "$${each%.dot}.svg"; done

dist: $(READY)
	@$(PIP) --group packaging
	rm -rf dist
	@for project in . $(PLUGINS); do $(BIN)/python -m build --quiet --no-isolation --outdir dist $$project || exit; done
	$(BIN)/twine check --strict dist/*

runtime: dist
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-runtime
	@$(BIN)/uv pip install --quiet --python $(RUNTIME)/python --constraint constraints.txt \
		"$$(echo dist/keyvouch-*.whl)[all]" dist/keyvouch_*.whl
	@# Again by name, so that no path of this machine is recorded.
	@$(BIN)/uv pip install --quiet --python $(RUNTIME)/python --no-index --find-links dist --no-deps --reinstall \
		keyvouch $(notdir $(PLUGINS:%/=%))

sbom: runtime
	mkdir -p sbom
	$(BIN)/cyclonedx-py environment --output-reproducible --output-file sbom/keyvouch.cdx.json $(RUNTIME)/python

licences: runtime
	$(BIN)/python docs/licences.py $(RUNTIME)/python > docs/licences.md

soak: $(READY)
	@tests/servers/install-system-packages
	$(BIN)/pytest --soak tests/fuzz tests/core -k "fuzz or header_and_signature" $(TESTS)
	$(BIN)/pytest --soak plugins/keyvouch-azure-keyvault/tests/test_azure_soak.py $(TESTS)
	$(BIN)/pytest --soak -rP plugins/keyvouch-pkcs11 -k "many_signatures or under_load or forked_workers" $(TESTS)
	$(BIN)/pytest --soak plugins/keyvouch-vault -k five_seconds $(TESTS)

mutation: $(READY)
	@$(PIP) --group mutation
	$(BIN)/python tests/mutation/run.py $(MODULES)

bench: $(READY) runtime
	@tests/servers/install-system-packages softhsm2-util pkcs11-tool dbus-daemon swtpm tpm2-abrmd \
		tpm2_dictionarylockout libtpm2_pkcs11.so tabrmd
	@$(PIP) 'python-pkcs11>=0.9,<0.11'
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf .venv .venv-* .cache dist docs/_build sbom

$(READY): pyproject.toml constraints.txt $(PLUGINS:%=%pyproject.toml)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(PIP) --editable '.[bench,testing,keyring]' $(PLUGINS:%=--editable %) --group dev
	@touch $@
