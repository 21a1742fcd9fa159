# make run: the whole study; make test: all tests but the next three; make test-cluster: those on clusters, Ray among them;
# make test-browser: those in Chromium; make rehearsal: the paper profile in small, offline; make lab: JupyterLab;
# make student: JupyterLab on the students' edition, built where course/ has none; make book: the book in outputs/book;
# make clean: back to a fresh clone, but for course/, where people may have worked.
# Each makes the environment when it is missing.  Weights and paid-for completions live in the user's cache.
PYTHON ?= python3
PROFILE ?= quick
BIN := .venv/bin

.PHONY: run test test-cluster test-browser rehearsal lab student book clean setup

run: .venv/ready
	$(BIN)/python -m dreamprm_lib run --profile $(PROFILE)

test: .venv/ready
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest -n auto --dist loadfile

test-cluster: .venv/ready
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[test,ray]"
	$(BIN)/python -m pytest -m cluster

test-browser: .venv/extras
	$(BIN)/python -m pytest -m browser

rehearsal: .venv/ready
	$(BIN)/python -m pytest -m rehearsal
	@echo "The report: outputs/rehearsal/report.html"

lab: .venv/ready
	$(BIN)/jupyter lab --notebook-dir=notebooks

student: .venv/ready
	test -d course/student || $(BIN)/python -m dreamprm_lib course build
	$(BIN)/jupyter lab --notebook-dir=course/student

book: .venv/extras
	$(BIN)/python -m sphinx -W --keep-going -q docs outputs/book
	@echo "The book: outputs/book/index.html"

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, not " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[test]"
	touch $@

.venv/extras: .venv/ready
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[test,book,browser]"
	touch $@

clean:
	rm -rf .venv tests/artifacts .pytest_cache .ruff_cache .hypothesis dreamprm_lib.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find outputs -mindepth 1 -maxdepth 1 ! -name reference -exec rm -rf {} +
