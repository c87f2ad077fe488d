# Every target sets up what it needs by itself. See docs/development.md.
#
#   make demo     the demonstration: analyse Python's standard library in parallel, no server needed
#   make test     formatting, types and all tests
#   make bench    the benchmarks against other task queues (BENCH="--short" and the like are passed on)
#   make faults   tens of thousands of tasks under kill -9, restarts and broken connections

PY := .venv/bin/python
CELERY_PY := .celery-venv/bin/python

.PHONY: demo test lint types tests bench faults servers clean

demo: .venv/.core
	@$(PY) examples/stdlib_analysis/demo.py

test: lint types tests

lint: .venv/.dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: .venv/.dev
	.venv/bin/mypy

# Tests marked "serial" measure time or want the processors for themselves: they run alone, afterwards.
tests: export CELERIAC_CELERY_PYTHON := $(CURDIR)/$(CELERY_PY)
tests: export CELERIAC_FLEET := $(CURDIR)/.fleet
tests: .venv/.dev .celery-venv/.ready .fleet/.ready servers
	$(PY) -m pytest -q -n 3 --dist loadfile -m "not serial"
	$(PY) -m pytest -q -m serial

bench: .venv/.core .bench-venv/.ready servers
	$(PY) -m bench $(BENCH)

faults: .venv/.dev servers
	$(PY) -m tests.faults.run $(FAULTS)

servers:
	@scripts/need-redis
	@scripts/need-postgres
	@scripts/need-pgbouncer
	@scripts/need-rabbitmq

clean:
	rm -rf .venv .celery-venv .fleet .bench-venv .mypy_cache .ruff_cache .pytest_cache .hypothesis

# -- environments: made again only when what they are made from has changed -------------------------

.venv/.core: pyproject.toml scripts/make-venv
	@scripts/make-venv .venv -e .
	@touch $@

.venv/.dev: pyproject.toml scripts/make-venv
	@scripts/make-venv .venv -e '.[dev]'
	@touch .venv/.core $@

# A real Celery, for the tests of working together with it.
.celery-venv/.ready: Makefile scripts/make-venv
	@scripts/make-venv .celery-venv 'celery[redis,auth,solar]==5.7.0'
	@touch $@

# Older ones and Flower, for the tests of mixed fleets.
.fleet/.ready: $(wildcard tests/fleet/requirements/*.txt) scripts/make-fleet scripts/make-venv
	@scripts/make-fleet .fleet
	@touch $@

.bench-venv/.ready: bench/requirements.txt scripts/make-venv
	@scripts/make-venv .bench-venv -r bench/requirements.txt
	@touch $@
