# make run: the whole study; make test: all tests; make test-cluster: those on clusters, Ray among them;
# make rehearsal: the paper profile in small, offline; make lab: JupyterLab; make clean: back to a fresh clone.
# Each makes the environment when it is missing.  Weights and paid-for completions live in the user's cache.
PYTHON ?= python3
PROFILE ?= quick
BIN := .venv/bin

.PHONY: run test test-cluster rehearsal lab clean setup

run: .venv/ready
	$(BIN)/python -m dreamprm_lib run --profile $(PROFILE)

test: .venv/ready
	$(BIN)/python -m pytest

test-cluster: .venv/ready
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[test,ray]"
	$(BIN)/python -m pytest -m cluster

rehearsal: .venv/ready
	$(BIN)/python tests/rehearsal.py

lab: .venv/ready
	$(BIN)/jupyter lab --notebook-dir=notebooks

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, not " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[test]"
	touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis dreamprm_lib.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find outputs -mindepth 1 -maxdepth 1 ! -name reference -exec rm -rf {} +
