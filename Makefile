# Quell. Each target sets up what it needs (deploy/setup.sh) and is quick the second time.
PYTHON := .venv/bin/python
# Three at a time on two cores: most tests wait for processes of their own.
TEST := $(PYTHON) -m pytest -n 3 --dist worksteal
CASES ?= tests/cases/rules
# Compiled once and kept: else each of the many processes compiles all of Quell anew, half a second every time.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run demo test check bench conformance docs screenshots clean lint setup-run setup-test

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: setup-run ## start Quell here, show a real incident being answered, stay up
	@exec $(PYTHON) -m quell demo --stay

demo: setup-run ## the same, but stop afterwards; exit 0 only if every step did what it should
	@exec $(PYTHON) -m quell demo

test: setup-test lint ## lint, types, import contracts and every test
	@$(TEST) tests

check: setup-test lint ## the same with unit tests and cases only: under a minute
	@$(TEST) -m "not slow and not root" $(wildcard tests/unit tests/cases)

bench: setup-test ## measure, each figure beside the floor of this machine
	@exec $(PYTHON) -m bench $(BENCH)

conformance: setup-run ## judge a folder of conformance cases: make conformance CASES=folder
	@exec $(PYTHON) -m quell.conformance $(CASES)

docs: setup-run ## write the parts of docs/ that come from the code
	@exec $(PYTHON) -m quell.cli.reference docs

screenshots: setup-test ## make the images of the console's guide anew, in docs/images/console
	@exec $(PYTHON) -m tests.console.guide_images $(IMAGES)

clean: ## remove the virtual environment, caches and local state
	rm -rf .venv .state build dist tests/system/oidc_provider/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

lint: setup-test
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

setup-run:
	@deploy/setup.sh run

setup-test:
	@deploy/setup.sh test
