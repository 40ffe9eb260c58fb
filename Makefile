# The two commands are `make demo` and `make test`. `make help` lists all of them.
VENV    ?= .venv
WORKERS ?= 4
KEEP    ?=
PYTEST_ARGS ?=
export PYTHON
# The suite and the demo start hundreds of processes. Without compiled files each of them compiles what it imports.
unexport PYTHONDONTWRITEBYTECODE

BIN   = $(VENV)/bin
CODE  = $(wildcard src tools tests examples bench)
# Three stamps: the demo needs no type checker, and the tests need none of the libraries to compare with. tools/venv.sh creates the
# environment, with uv or without.
RUN   = $(VENV)/.installed-run
DEV   = $(VENV)/.installed-dev
BENCH = $(VENV)/.installed-bench

.DEFAULT_GOAL := help
.PHONY: help demo console test check lint fix generate docs bench dist lock clean

help: ## print this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do \
		printf 'make %-9s %s\n' "$$name" "$$text"; done

demo: $(RUN) ## demonstrate the three guarantees while processes are killed (KEEP=1 keeps the server running)
	@$(BIN)/python -m tools.demo $(if $(KEEP),--keep)

console: $(RUN) ## the console over a shop at work, in an embedded database (PORT=8000)
	@$(BIN)/python -m tools.console $(if $(PORT),--port $(PORT))

test: lint ## run the checks and the whole suite (WORKERS=2, PYTEST_ARGS=...)
	@# The types beside the tests, because mypy uses one core for a minute; what it says comes at the end. In a new clone the
	@# tests are collected once before: otherwise each worker compiles all of them, and the libraries, in 22 s of CPU time.
	@said=$$(mktemp); $(BIN)/mypy $(CODE) >"$$said" 2>&1 & types=$$!; \
	[ -d tests/__pycache__ ] || $(BIN)/python -m pytest -q --collect-only >/dev/null; \
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(PYTEST_ARGS); result=$$?; \
	wait $$types || result=1; cat "$$said"; rm "$$said"; exit $$result

check: lint ## check lint, format, types, and that generated files are up to date
	@$(BIN)/mypy $(CODE)

lint: $(DEV)
	@$(BIN)/python tools/unasync.py --check  # first: a stale file makes the others fail with errors that do not name it
	@$(BIN)/python -m tools.references --check
	@$(BIN)/ruff check --quiet $(CODE)
	@$(BIN)/ruff format --quiet --check $(CODE) || { echo "not formatted: make fix" >&2; exit 1; }

fix: $(DEV) ## repair what ruff can repair
	@$(BIN)/ruff check --quiet --fix $(CODE)
	@$(BIN)/ruff format --quiet $(CODE)

generate: $(DEV) ## write what is generated: x.py from x_async.py, the references in docs/, the TypeScript types
	@$(BIN)/python tools/unasync.py
	@$(BIN)/python -m tools.references

docs: ## build the documentation site into build/site; a broken link is an error
	@tools/venv.sh .cache/docs docs
	@.cache/docs/bin/python tools/docs_site.py build/pages
	@sed 's#"build/#"#' zensical.toml > build/zensical.toml  # there, because --clean removes the folder .cache beside it
	@cd build && ../.cache/docs/bin/zensical build --strict --clean

bench: $(BENCH) ## run the benchmarks, next to those of comparable libraries
	@$(BIN)/python -m bench

dist: ## dist/: wheel, sdist and SBOM, checked; the README's quickstart runs with the wheel
	@tools/dist.sh

lock: ## requirements/*.txt anew from pyproject.toml (UPGRADE=1 for newer versions)
	@tools/lock.sh $(if $(UPGRADE),--upgrade)

clean: ## remove the environment and the caches of the tools
	@rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist

$(DEV): pyproject.toml requirements/dev.txt tools/venv.sh
	@tools/venv.sh $(VENV) dev
	@touch $(DEV) $(RUN)

$(BENCH): pyproject.toml requirements/lock.txt tools/venv.sh
	@tools/venv.sh $(VENV) lock
	@touch $(BENCH) $(DEV) $(RUN)

$(RUN): pyproject.toml requirements/run.txt tools/venv.sh
	@tools/venv.sh $(VENV) run
	@touch $(RUN)
