# The first line that fits a new user: make demo. Everything that is installed goes into .venv.

PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
BIN := .venv/bin
SOURCES := src tests $(wildcard examples benchmarks)
COVERAGE ?=

.PHONY: demo test test-slow test-claims test-python lint types docs wheel-check clean

demo: .venv/run  ## clean the digits and leave a page in out/digits
	$(BIN)/bilevel clean digits --out out/digits
	@echo "open out/digits/report.html"

test: .venv/test  ## tests, README code, doctests
	$(BIN)/pytest -n 2 $(COVERAGE)
	$(BIN)/pytest -n 2 --doctest-modules src

test-slow: .venv/test  ## tests that take longer than ten seconds each
	$(BIN)/pytest -n 2 -m slow

test-claims: .venv/test  ## every claim of the papers, half an hour
	$(BIN)/pytest -n 2 -m claim

# make test-python PYTHON=python3.13 JAX=newest: the tests on another Python, with the oldest or the newest
# packages that pyproject.toml allows, in an environment of its own.
JAX ?= newest
MATRIX := .venv-$(notdir $(PYTHON))-$(JAX)
test-python:
	test -x $(MATRIX)/bin/pip || $(PYTHON) -m venv $(MATRIX)
	$(MATRIX)/bin/pip install --quiet --upgrade pip
	$(MATRIX)/bin/pip install --quiet $(if $(filter oldest,$(JAX)),--constraint requirements/oldest.txt) \
		--editable '.[all]' --group test
	$(MATRIX)/bin/pytest -n 2

lint: .venv/lint  ## style
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: .venv/lint .venv/test
	$(BIN)/pyright

docs: .venv/docs  ## the site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

wheel-check: .venv/run  ## the wheel alone, in a fresh environment, does the main job
	rm -rf dist build/wheel
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/pip install --quiet --constraint requirements/run.txt "$$(ls dist/*.whl)[clean]"
	folder=$$(mktemp -d) && cd $$folder && \
		env -u BILEVEL_DATA $(CURDIR)/build/wheel/bin/bilevel clean --rows 300 --model linear && rm -r $$folder

clean:
	rm -rf .venv .venv-* .cache build dist site out

# One stamp for each set of packages; `-e` after the pins, so that it changes none of them.
.venv/run: requirements/run.txt pyproject.toml
ifeq ($(PYTHON),)
	$(error Python 3.11 or newer is needed and was not found; install it, or say where: make PYTHON=/path/to/python3)
endif
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -r requirements/run.txt
	$(BIN)/pip install --quiet --no-deps -e .
	touch $@

.venv/test .venv/lint .venv/docs: .venv/%: requirements/%.txt .venv/run
	$(BIN)/pip install --quiet -r $<
	touch $@
