PYTHON ?= python3
BIN := .venv/bin
# Processes that run tests; each of them and of what it starts computes on one CPU.
WORKERS ?= 2

.PHONY: help setup setup-test demo demo-short test lint types test-fast test-slow test-pythons docs docs-site clean

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup:  ## .venv with everything the demo needs (llama-cpp-python is compiled once)
	@$(PYTHON) scripts/setup.py

setup-test:  ## the same, with what the tests need
	@$(PYTHON) scripts/setup.py --test

demo: setup  ## the whole job on SmolLM2-135M: train, export, benchmark, evaluate
	$(BIN)/lowvram-ft demo

demo-short: setup-test  ## the same on the real model in a few steps
	rm -rf runs/demo-short
	$(BIN)/lowvram-ft demo --allow-unsandboxed --out runs/demo-short --set train.max_steps=2 --set data.max_read=24 \
		--set eval.max_tasks=4 --set bench.max_prompts=2 --set export.verify_rows=6 \
		--set export.require_stop=false --set eval.max_new_tokens=96 --set bench.max_new_tokens=96

test: setup-test lint types test-fast demo-short  ## every check

lint: setup-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

types: setup-test
	$(BIN)/mypy

# files in their own order: by number of tests, the long ones with few tests would come last, on one process
test-fast: setup-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: setup-test  ## what takes over a minute each
	$(BIN)/python -m pytest -m slow

test-pythons: setup  ## what needs no torch, on the other versions of Python that are here
	$(PYTHON) scripts/other_pythons.py $(foreach v,3.12 3.13,$(shell command -v python$(v)))

docs: setup-test  ## write the generated parts of the docs anew, draw the pictures
	$(BIN)/python docs/pictures.py
	$(BIN)/python docs/generate.py

docs-site: setup-test  ## the docs as a site, in build/site; a warning fails
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
