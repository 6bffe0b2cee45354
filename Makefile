# The commands of this project. `make` alone prints them.

VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev

# PySpark, for the comparison only: half a gigabyte that no other command needs.
PEERS_VENV := .venv-peers
INSTALLED_PEERS := $(PEERS_VENV)/.installed

# The first interpreter that is new enough; name another one with `make install PYTHON=...`.
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for candidate in python3 python3.13 python3.12 python3.11; do \
	if $$candidate -c '$(IS_NEW_ENOUGH)' >/dev/null 2>&1; then echo $$candidate; break; fi; \
	done)

# More options for pytest or the benchmark: `make test ARGS="-k frontier"`.
ARGS ?=

PIP_INSTALL := $(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check --requirement

.DEFAULT_GOAL := help
.PHONY: help install run test examples faults soak mutants bench bench-peers install-check clean

help: ## Print this list
	@echo "Usage: make <command>"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Create .venv with the pinned requirements of the service

run: install ## Run the whole service on its embedded demo; Ctrl-C stops it
	@exec $(VENV_PYTHON) -m supervisor --demo

test: $(INSTALLED_DEV) ## Run the tests, on a real Kafka and a real MinIO where they can be had
	@exec $(VENV_PYTHON) -m pytest $(ARGS)

examples: $(INSTALLED_DEV) ## Run the worked examples: DuckDB, Polars, PySpark, dbt, Airflow
	@$(VENV_PYTHON) -m tests.examples.environments
	@exec $(VENV_PYTHON) -m pytest tests/examples $(ARGS)

faults: $(INSTALLED_DEV) ## Run every fault of the matrix; EVIDENCE_FILE=... keeps what they saw
	@exec $(VENV_PYTHON) -m pytest -m "" tests/simulation tests/faults $(ARGS)

soak: $(INSTALLED_DEV) ## Random faults for HOURS=1 hours, judged at the end
	@exec $(VENV_PYTHON) -m tests.soak --hours $(or $(HOURS),1) $(ARGS)

mutants: $(INSTALLED_DEV) ## Break the product on purpose, many times, and see that tests notice
	@exec $(VENV_PYTHON) -m tests.mutants $(ARGS)

bench: $(INSTALLED_DEV) ## Measure the performance contract on a real Kafka and a real MinIO
	@exec $(VENV_PYTHON) -m bench $(ARGS)

bench-peers: $(INSTALLED_DEV) ## Let a plain loop and Spark do the same work, and compare
	@$(VENV_PYTHON) -m bench.peers --check-tools
	@$(MAKE) --no-print-directory $(INSTALLED_PEERS)
	@exec $(VENV_PYTHON) -m bench.peers $(ARGS)

install-check: $(INSTALLED_DEV) ## Follow docs/install.md on a bare Debian under systemd; needs root
	@exec $(VENV_PYTHON) -m tests.install $(ARGS)

clean: ## Remove .venv and every cache inside this checkout
	rm -rf $(VENV) $(PEERS_VENV) .pytest_cache .hypothesis .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The two stamps make a second run of any command start at once: pip is asked again
# only after the pins changed, or after the environment was removed.
$(INSTALLED): requirements.txt
	@if [ -z "$(PYTHON)" ] || ! "$(PYTHON)" -c '$(IS_NEW_ENOUGH)'; then \
		found="$(or $(PYTHON),python3)"; \
		echo "error: Python 3.11 or newer is needed, and $$found is" \
			"`$$found --version 2>&1 || true`." >&2; \
		echo "Install one, or name it: make install PYTHON=/path/to/python3.11" >&2; \
		exit 1; \
	fi
	@if ! { $(VENV_PYTHON) -c '$(IS_NEW_ENOUGH)' && $(VENV_PYTHON) -m pip --version; } \
		>/dev/null 2>&1; then \
		echo "Creating $(VENV) with `"$(PYTHON)" --version`" >&2; \
		"$(PYTHON)" -m venv --clear $(VENV) || { \
			rm -rf $(VENV); \
			echo "error: $(PYTHON) could not create $(VENV) (see above); Debian and" \
				"Ubuntu keep the venv module in a package: apt install python3-venv" >&2; \
			exit 1; \
		}; \
	fi
	@echo "Installing requirements.txt into $(VENV)" >&2
	@$(PIP_INSTALL) requirements.txt
	@touch $@

$(INSTALLED_DEV): requirements-dev.txt $(INSTALLED)
	@echo "Installing requirements-dev.txt into $(VENV)" >&2
	@$(PIP_INSTALL) requirements-dev.txt
	@touch $@

$(INSTALLED_PEERS): requirements-peers.txt $(INSTALLED)
	@echo "Installing requirements-peers.txt into $(PEERS_VENV), some minutes" >&2
	@$(VENV_PYTHON) -m venv --clear $(PEERS_VENV)
	@$(PEERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--requirement requirements-peers.txt
	@touch $@
