# Each target does its own set-up. Nothing here needs root. What is missing is named with the package to install.
#   WESPER_NO_NATIVE=1   leave the native engine out, as on a machine without Rust
#   WESPER_IPSEC_MB=1    build the native engine with the ipsec-mb provider too (libipsec-mb-dev)
#   CHECKS="..."         for `make test`: only these checks (names: `make test CHECKS=--list`)
PYTHON ?= python3
SECONDS_EACH ?= 30

.DEFAULT_GOAL := help
.PHONY: help build dev demo test bench fuzz docs man format lock clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r target text; do \
		printf '  make %-8s %s\n' "$$target" "$$text"; done

build: python ## make .venv with wesper in it and a release build of the native engine
	@$(PYTHON) tools/build.py

dev: python ## the same, and all that tests, docs and lints need
	@$(PYTHON) tools/build.py --dev

demo: build ## run a tunnel past a router that watches, and leave a report in build/demo
	@.venv/bin/wesper demo -o build/demo

test: dev ## run every check and test; ends with "N passed, M failed"
	@.venv/bin/python tools/check.py $(CHECKS)

bench: build ## measure both engines against their anchors; plots in build/bench.html
	@.venv/bin/wesper bench --page build/bench.html
	@echo "with plots: build/bench.html"

fuzz: dev ## run each fuzz target for SECONDS_EACH (30) seconds
	@.venv/bin/python tools/fuzz.py --seconds $(SECONDS_EACH)

docs: dev ## build the documentation into build/docs
	@.venv/bin/python tools/check.py --verbose docs

man: build ## write the manual pages of all commands into build/man
	@.venv/bin/wesper man -o build/man

format: dev ## format Python and Rust sources
	@.venv/bin/ruff format . && .venv/bin/ruff check --fix . && cargo fmt --all

lock: dev ## pin the newest versions that pyproject.toml allows into requirements*.lock
	@.venv/bin/python tools/lock.py

clean: ## remove all that was built, .venv too
	rm -rf .venv build dist target fuzz/target fuzz/artifacts src/wesper/_native*.so
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache

.PHONY: python
python:
	@command -v $(PYTHON) >/dev/null || { echo 'Python is missing: apt-get install python3 python3-venv' >&2; exit 3; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'wesper needs Python 3.11 or newer, this is' "$$($(PYTHON) --version):" \
			'apt-get install python3 python3-venv, or make PYTHON=/path/to/python3 ...' >&2; exit 3; }
