# make demo | make test: set up the environment and do the job. Everything lives in .venv and .venv-oldest.
# make install: set up the environment and leave the job to you (.venv/bin/selavpr).
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
# A process for every core, each with one thread; the tests of a file share what they prepared, and tests/conftest.py
# puts long files first.
test test-fast test-oldest: export OMP_NUM_THREADS ?= 1
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder
RUNTIME_TYPE_CHECKS := -p tests.runtime_types

.PHONY: install demo test test-fast test-oldest benchmarks docs lint types contract check clean

install: .venv/.demo-ready

demo: .venv/.demo-ready
	$(BIN)/selavpr demo $(if $(DATA),--data $(DATA)) $(if $(BACKBONE),--backbone $(BACKBONE)) $(DEMO_ARGS)

test: .venv/.ready
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest $(PARALLEL) $(RUNTIME_TYPE_CHECKS) $(PYTEST_ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

test-fast: .venv/.ready
	$(BIN)/python -m pytest $(PARALLEL) $(RUNTIME_TYPE_CHECKS) -m "not slow and not real" $(PYTEST_ARGS)

test-oldest: .venv-oldest/.ready
	$(OLDEST)/pytest $(PARALLEL) $(PYTEST_ARGS) tests/tuner tests/modeling tests/matching tests/hub tests/data tests/evaluation tests/retrieval \
		tests/visualization tests/training tests/serving tests/cli tests/test_losses.py

lint: .venv/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/typos

types: .venv/.ready
	$(BIN)/mypy

contract: .venv/.ready
	$(BIN)/lint-imports

check: lint types contract

docs: .venv/.ready
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env docs docs/_build

# Some hours on two cores that do nothing else; DATA and BACKBONE as for the demo. matching_gpu.py is left out: it needs
# an NVIDIA GPU. real_photos.py trains the adapter that others describe with, and search.py reads what crops.py measured.
RESULTS := benchmarks/results
FRAMES := --train-frames 0-99 --query-frames 103-139 --database-frames 0-139
TRAINED = --data $(DATA) --backbone $(BACKBONE) --adapter benchmarks/adapters/seed-1
benchmarks: .venv/.ready
	$(BIN)/python benchmarks/matching.py --json $(RESULTS)/matching.json
	$(BIN)/python benchmarks/extraction.py --json $(RESULTS)/extraction.json
	$(BIN)/python benchmarks/adapter_switching.py --backbone $(BACKBONE) --json $(RESULTS)/adapter_switching.json
	$(BIN)/python benchmarks/training_cost.py --backbone $(BACKBONE) --json $(RESULTS)/training_cost.json
	$(BIN)/python benchmarks/real_photos.py --data $(DATA) --backbone $(BACKBONE) $(FRAMES) --seeds 1,2,3 \
		--save benchmarks/adapters --json $(RESULTS)/real_photos.json
	$(BIN)/python benchmarks/ablation.py --data $(DATA) --backbone $(BACKBONE) $(FRAMES) --json $(RESULTS)/ablation.json
	$(BIN)/python benchmarks/quantised_recall.py $(TRAINED) --query-frames 103-139 \
		--json $(RESULTS)/quantised_recall.json
	$(BIN)/python benchmarks/compact_features.py $(TRAINED) --query-frames 103-139 \
		--json $(RESULTS)/compact_features.json
	$(BIN)/python benchmarks/adaptive_reranking.py $(TRAINED) --json $(RESULTS)/adaptive_reranking.json
	$(BIN)/python benchmarks/crops.py $(TRAINED) --json $(RESULTS)/crops.json --figure docs/images/crop-descriptors.png
	$(BIN)/python benchmarks/search.py --json $(RESULTS)/search.json
	$(BIN)/python benchmarks/tables.py

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
