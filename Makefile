# make demo | make test: set up the environment and do the job. Everything lives in .venv and .venv-oldest.
#
#   make demo DATA=walk BACKBONE=facebook/dinov2-small     the demo on your photographs (walk/places.csv)
#   make demo DATA=... BACKBONE=... DEMO_ARGS="--queries dusk"

PYTHON ?= python3
DATA ?=
BACKBONE ?=
DEMO_ARGS ?=
PYTEST_ARGS ?=

BIN := .venv/bin
OLDEST := .venv-oldest/bin
RUNTIME_TYPE_CHECKS := --jaxtyping-packages=selavpr_peft,beartype.beartype

.PHONY: demo test test-fast test-oldest lint types contract check clean

demo: .venv/.demo-ready
	$(BIN)/selavpr demo $(if $(DATA),--data $(DATA)) $(if $(BACKBONE),--backbone $(BACKBONE)) $(DEMO_ARGS)

test: .venv/.ready
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest $(RUNTIME_TYPE_CHECKS) $(PYTEST_ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

test-fast: .venv/.ready
	$(BIN)/pytest $(RUNTIME_TYPE_CHECKS) -m "not slow and not real" $(PYTEST_ARGS)

test-oldest: .venv-oldest/.ready
	$(OLDEST)/pytest $(PYTEST_ARGS) tests/tuner tests/modeling tests/hub tests/data tests/evaluation tests/cli tests/training tests/test_losses.py

lint: .venv/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/typos

types: .venv/.ready
	$(BIN)/mypy

contract: .venv/.ready
	$(BIN)/lint-imports

check: lint types contract

# The demo needs no development tools; an environment made by `make test` serves it too.
.venv/.demo-ready: pyproject.toml .ci/install
	PYTHON="$(PYTHON)" bash .ci/install .venv ".[viz]"
	touch $@

.venv/.ready: pyproject.toml .ci/install
	PYTHON="$(PYTHON)" bash .ci/install .venv ".[dev]"
	touch $@ .venv/.demo-ready

.venv-oldest/.ready: pyproject.toml .ci/install .ci/oldest.txt
	PYTHON="$(PYTHON)" bash .ci/install .venv-oldest ".[test]" --constraint .ci/oldest.txt
	touch $@

clean:
	rm -rf .venv .venv-oldest .coverage .coverage.* demo
