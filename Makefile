.PHONY: help setup demo test check docs clean

PYTHON ?= python3
PIP_OPTIONS ?=
BIN := .venv/bin
READY := .venv/.ready
# A file's tests stay on one worker, with what they share; tests/conftest.py orders the files. Four
# workers keep two cores busy: the longest files wait for the processes of a federation.
TESTS := $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder
# The tests start dozens of processes, and without bytecode each would compile all sources again.
unexport PYTHONDONTWRITEBYTECODE
# The workers and the processes that they start share the cores: more threads only wait.
test check: export OMP_NUM_THREADS = 1

help:  ## what each target does
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/'

setup: $(READY)  ## create .venv and install Sotto with everything

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Sotto needs Python 3.11 to 3.13; this is %d.%d: name another with make PYTHON=..." % sys.version_info[:2] if not (3, 11) <= sys.version_info[:2] < (3, 14) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(PIP_OPTIONS) --editable '.[dev]'
	@touch $@

demo: $(READY)  ## train over 4 organisations at ε = 8 on the embedded data, into runs/demo
	@rm -rf runs/demo
	$(BIN)/sotto-lab simulate --config simulations/recipes/demo.toml --out runs/demo

test: $(READY)  ## the tests
	$(TESTS)

check: $(READY)  ## everything: lint, format, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(TESTS)

docs: $(READY)  ## the documentation as a site, into build/docs; broken links are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:  ## remove what make made
	rm -rf .venv runs build *.egg-info
