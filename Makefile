# `make demo` and `make test` work on a fresh machine: each makes a virtual environment in .venv,
# installs the exact versions in constraints/ there, and runs. Nothing is installed outside of it.
# Variables:
#   make PYTHON=/path/to/python3.12 VENV=.venv312 test    another interpreter, another environment
#   make DATA=folder VOCAB=vocab.txt bench               where CLUENER and the vocabulary are
#   make PYTEST_ARGS='-k tokenizer -x' test               more arguments for pytest

VENV = .venv
PYTHON =
JOBS = 3
PYTEST_ARGS =
DATA = data/cluener
VOCAB = $(DATA)/vocab.txt

# PYTHON if it is given, otherwise the first of these that runs and is new enough.
CANDIDATES = $(or $(PYTHON),python3 python3.12 python3.13 python3.11)
BIN = $(VENV)/bin
# worksteal keeps most tests of a file, and the fixtures they share, in one process.
PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

.NOTPARALLEL:
.PHONY: help demo test test-slow test-all bench lint types docs format install-dev clean

help:
	@echo 'make demo         train, evaluate and predict on synthetic data: about a minute'
	@echo 'make test         the tests, without the slow ones: about ten minutes on two cores'
	@echo 'make test-slow    the slow tests only'
	@echo 'make test-all     every test'
	@echo 'make bench        compare with PyTorch: half an hour; DATA=folder of CLUENER, VOCAB=vocab.txt'
	@echo 'make lint         ruff: rules and formatting'
	@echo 'make types        mypy'
	@echo 'make docs         the documentation with the API reference, into site/'
	@echo 'make format       let ruff fix what it can'
	@echo 'make install-dev  all tools in $(VENV), without running any'
	@echo 'make clean        remove caches and build output; keeps $(VENV) and runs/'

# Delete the work directory first: train.py would resume the finished run and have nothing to do.
demo: $(VENV)/.installed-run
	rm -rf runs/demo
	$(BIN)/python train.py --config configs/demo.py --workdir runs/demo

test: $(VENV)/.installed-test
	$(PYTEST) -m 'not slow' $(PYTEST_ARGS)

# pytest's exit status 5 is "no test selected": nothing is marked slow.
test-slow: $(VENV)/.installed-test
	$(PYTEST) -m slow $(PYTEST_ARGS) || [ $$? -eq 5 ]

test-all: $(VENV)/.installed-test
	$(PYTEST) $(PYTEST_ARGS)

# The printed tables are copied into benchmarks/RESULTS.md by hand.
bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/training.py '$(DATA)' '$(VOCAB)'
	$(BIN)/python benchmarks/inference.py '$(DATA)' '$(VOCAB)'
	$(BIN)/python benchmarks/scoring.py '$(DATA)'
	$(BIN)/python benchmarks/data.py '$(DATA)' '$(VOCAB)'
	$(BIN)/python benchmarks/rows.py '$(DATA)' '$(VOCAB)'
	$(BIN)/python benchmarks/start.py '$(DATA)' '$(VOCAB)'
	$(BIN)/python benchmarks/convert.py '$(VOCAB)' --rounds 3

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

# A broken link is an error. The variable turns off Material's notice about its successor.
docs: $(VENV)/.installed-docs
	$(BIN)/python docs/diagram.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install-dev: $(VENV)/.installed-dev

clean:
	rm -rf build dist site flax_ner.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path './.venv*' -prune -o -name __pycache__ -prune -exec rm -rf {} +

# One stamp file per set of packages, so that they are reinstalled only when one of these files changes.
REQUIREMENTS = pyproject.toml requirements.txt constraints/py311.txt constraints/py312.txt

$(VENV)/.installed-run: WHAT = .
$(VENV)/.installed-test: WHAT = '.[test]'
$(VENV)/.installed-dev: WHAT = '.[dev]'
$(VENV)/.installed-docs: WHAT = '.[docs]'
$(VENV)/.installed-bench: WHAT = '.[bench]'

$(VENV)/.installed-run $(VENV)/.installed-test $(VENV)/.installed-dev $(VENV)/.installed-docs $(VENV)/.installed-bench: $(REQUIREMENTS) | $(BIN)/pip
	@constraints=$$($(BIN)/python -c \
	    'import sys; print("constraints/py3%d.txt" % min(sys.version_info[1], 12))') && \
	echo "installing $(WHAT) into $(VENV) with $$constraints: about a minute" && \
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c "$$constraints" -e $(WHAT)
	@touch $@

# bin/pip rather than bin/python: venv creates it last, so it marks a complete environment.
$(BIN)/pip:
	@for python in $(CANDIDATES); do \
	    if "$$python" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	        >/dev/null 2>&1; then \
	        echo "making $(VENV) with $$("$$python" --version) ($$python)"; \
	        exec "$$python" -m venv $(VENV); \
	    fi; \
	done; \
	echo "error: need Python 3.11 or newer with its venv module; tried: $(CANDIDATES)." \
	    "Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; \
	exit 1
