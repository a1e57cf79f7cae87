# Everything installs itself: a virtual environment, packages, and for the tests what their servers need.

PYTHON ?= python3
VENV   ?= .venv
TESTS  ?=
BIN    := $(VENV)/bin
PIP    := $(VENV)/bin/python -m pip --quiet install --constraint constraints.txt
READY  := $(VENV)/ready
PLUGINS := $(wildcard plugins/*/)

.PHONY: demo test soak lint docs bench clean

demo: $(READY)
	@tests/servers/install-system-packages softhsm2-util
	@$(BIN)/keyvouch demo

test: $(READY)
	@tests/servers/install-system-packages
	$(BIN)/pytest -n auto --dist loadgroup $(TESTS)

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
