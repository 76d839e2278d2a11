# make demo | test | test-slow | lint: each makes and fills .venv by itself, again only when what it is made from changes.

PYTHON ?= python3
BIN := .venv/bin
PROJECTS := pyproject.toml $(sort $(wildcard plugins/*/pyproject.toml))
PACKAGES := $(patsubst %,-e ./%,$(patsubst %/,%,$(dir $(filter plugins/%,$(PROJECTS)))))

.PHONY: demo test test-slow lint

demo: .venv/stamp
	@echo "demo: distilling a tiny model on this machine"
	@$(BIN)/hf-distill demo

test: .venv/stamp
	@echo "test: the fast tests on all cores, then those that start several processes"
	@$(BIN)/pytest -q -n auto -m "not slow and not distributed"
	@$(BIN)/pytest -q -m "distributed and not slow"

test-slow: .venv/stamp
	@echo "test-slow: the tests that take minutes"
	@$(BIN)/pytest -q -m slow

lint: .venv/stamp
	@echo "lint: rules and format of the code (ruff), types (mypy)"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# torch alone and first, pinned: asked for together with the rest, pip may fetch another build of it, gigabytes larger.
.venv/stamp: $(PROJECTS) constraints.txt
	@echo "setup: filling .venv with what pyproject.toml and constraints.txt say (once; a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q $$(grep '^torch==' constraints.txt)
	@$(BIN)/python -m pip install -q -c constraints.txt -e ".[all,dev]" $(PACKAGES)
	@touch $@
