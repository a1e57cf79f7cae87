# Everything installs itself: a virtual environment, packages, and for the tests what their servers need.

PYTHON ?= python3
VENV   ?= .venv
TESTS  ?=
MODULES ?=
BIN    := $(VENV)/bin
PIP    := $(VENV)/bin/python -m pip --quiet install --constraint constraints.txt
READY  := $(VENV)/ready
PLUGINS := $(wildcard plugins/*/)
LOWEST  := $(shell sed -n '/^dependencies = \[/,/^\]/s/^ *"\([a-z0-9-]*\)>=\([0-9.]*\).*/\1==\2/p' pyproject.toml)

.PHONY: demo test lowest soak mutation lint docs bench clean

demo: $(READY)
	@tests/servers/install-system-packages softhsm2-util
	@$(BIN)/keyvouch demo

test: $(READY)
	@tests/servers/install-system-packages
	$(BIN)/pytest -n auto --dist loadgroup $(TESTS)

lowest:
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip --quiet install $(LOWEST) pytest hypothesis
	.venv-lowest/bin/python -m pip --quiet install --no-deps --editable .
	.venv-lowest/bin/pytest tests/stores tests/core/test_certificate.py $(TESTS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/validate-pyproject pyproject.toml

docs: $(READY)
	@$(PIP) --group docs
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

soak: $(READY)
	@tests/servers/install-system-packages
	$(BIN)/pytest --soak tests/fuzz tests/core -k "fuzz or header_and_signature" $(TESTS)
	$(BIN)/pytest --soak plugins/keyvouch-azure-keyvault/tests/test_azure_soak.py $(TESTS)
	$(BIN)/pytest --soak -rP plugins/keyvouch-pkcs11 -k "many_signatures or under_load or forked_workers" $(TESTS)
	$(BIN)/pytest --soak plugins/keyvouch-vault -k five_seconds $(TESTS)

mutation: $(READY)
	@$(PIP) --group mutation
	$(BIN)/python tests/mutation/run.py $(MODULES)

bench: $(READY)
	$(BIN)/python benchmarks/assertion.py
	$(BIN)/python benchmarks/azure_key_vault.py
	$(BIN)/python benchmarks/commands.py
	$(BIN)/python benchmarks/growth.py
	tests/servers/install-system-packages
	$(PIP) 'python-pkcs11>=0.9,<0.11'
	$(BIN)/python benchmarks/pkcs11.py
	$(BIN)/python benchmarks/vault.py

clean:
	rm -rf .venv .venv-* .cache docs/_build

$(READY): pyproject.toml constraints.txt $(PLUGINS:%=%pyproject.toml)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(PIP) --editable '.[testing,keyring]' $(PLUGINS:%=--editable %) --group dev
	@touch $@
