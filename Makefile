# Every target does its own set-up: a fresh Linux machine with Python 3.11+ and make is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXAMPLE := examples/cifar10

.PHONY: install demo test test-services programs chaos bench-certificates bench-control-plane check lint types format clean

install: $(STAMP)

# Exact versions with hashes; --no-deps, since the file lists everything there is to install.
$(STAMP): requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@echo 'Installing the packages of requirements.txt into $(VENV), 6 GB: this takes some minutes'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: install
	$(BIN)/patchcert run --config $(EXAMPLE)/demo-masks.yaml $(ARGS)
	$(BIN)/patchcert run --config $(EXAMPLE)/demo.yaml $(ARGS)

test: install
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# Kills, whole jobs on Ray and the commands of the documents; then tests against servers that they
# start themselves (S3, PostgreSQL, MLflow, a Ray head with its job server) and a browser. Two
# processes, since one can join one cluster.
test-services: install programs
	$(BIN)/python -m pytest -m services --ignore tests/services
	$(BIN)/python -m pytest -m services tests/services

# What the service tests start and Python's packages do not bring; only root can install it.
programs:
	@missing=; \
	command -v chromium >/dev/null || missing=" chromium"; \
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$$missing postgresql"; \
	test -z "$$missing" && exit 0; \
	test "$$(id -u)" = 0 || { echo "the service tests need: apt-get install$$missing" >&2; exit 1; }; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends $$missing >/dev/null

# Kill something of a running job N times, resume, compare; SEED is the first seed.
N ?= 50
SEED ?= 0
chaos: install
	$(BIN)/python -m tests.faults.chaos $(N) $(SEED)

# Cost of certifying stored votes, and of a job besides pixels and network; see docs/performance.md
# and docs/scale.md.
bench-certificates: install
	$(BIN)/python -m tests.benchmarks.certificates $(ARGS)

bench-control-plane: install
	$(BIN)/python -m tests.benchmarks.control_plane $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install
	$(BIN)/mypy

check: lint types test

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .import_linter_cache .ruff_cache .hypothesis
