# The two commands are `make demo` and `make test`. `make help` lists the rest.
VENV    ?= .venv
WORKERS ?= 2
KEEP    ?=
PYTEST_ARGS ?=
export PYTHON

BIN   = $(VENV)/bin
CODE  = $(wildcard src tools tests examples bench)
# Three stamps: the demo needs no type checker, the tests need no peers. tools/venv.sh makes the environment, with uv or without.
RUN   = $(VENV)/.installed-run
DEV   = $(VENV)/.installed-dev
BENCH = $(VENV)/.installed-bench

.DEFAULT_GOAL := help
.PHONY: help demo test check fix generate bench lock clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do \
		printf 'make %-9s %s\n' "$$name" "$$text"; done

demo: $(RUN) ## everything once, for real, with kill -9 (KEEP=1 leaves the server up)
	@$(BIN)/python -m tools.demo $(if $(KEEP),--keep)

test: check ## the checks, then the whole suite (WORKERS=2, PYTEST_ARGS=...)
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

check: $(DEV) ## lint, format, types, generated files fresh
	@$(BIN)/python tools/unasync.py --check  # first: a stale file fails the others with riddles
	@$(BIN)/python tools/sql_reference.py --check
	@$(BIN)/ruff check --quiet $(CODE)
	@$(BIN)/ruff format --quiet --check $(CODE) || { echo "not formatted: make fix" >&2; exit 1; }
	@$(BIN)/mypy $(CODE)

fix: $(DEV) ## let ruff repair what it can
	@$(BIN)/ruff check --quiet --fix $(CODE)
	@$(BIN)/ruff format --quiet $(CODE)

generate: $(DEV) ## x.py from every x_async.py, docs/sql.md from the SQL
	@$(BIN)/python tools/unasync.py
	@$(BIN)/python tools/sql_reference.py

bench: $(BENCH) ## the benchmarks, with their peers beside them
	@$(BIN)/python -m bench

lock: ## requirements/lock.txt anew from pyproject.toml (needs uv)
	@uv pip compile --quiet --universal --upgrade --python-version 3.11 --all-extras --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --output-file requirements/lock.txt pyproject.toml

clean: ## remove the environment and what the tools left behind
	@rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist

$(DEV): pyproject.toml requirements/lock.txt tools/venv.sh
	@tools/venv.sh $(VENV) all,examples,dev
	@touch $(DEV) $(RUN)

$(BENCH): pyproject.toml requirements/lock.txt tools/venv.sh
	@tools/venv.sh $(VENV) all,examples,dev,bench
	@touch $(BENCH) $(DEV) $(RUN)

$(RUN): pyproject.toml requirements/lock.txt tools/venv.sh
	@tools/venv.sh $(VENV) embedded,serve,examples
	@touch $(RUN)
