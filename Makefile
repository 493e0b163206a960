# The tasks of this project. Works with GNU make 3.81 and any POSIX shell.
# PYTHON=/path/to/python3 chooses the interpreter that `make setup` builds the environment with.

PYTHON ?=
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.complete
LOCK_ENV := .cache/lock

.PHONY: help setup demo dev test soak bench screenshots lint format lock clean distclean
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 18

setup: $(STAMP) ## make the environment in .venv; what the other targets need and call first

$(STAMP): requirements.lock pyproject.toml $(wildcard scripts/*.sh)
	@PYTHON="$(PYTHON)" sh scripts/setup.sh $(VENV)
	@touch $@

# Its options stand in DEMO_ARGS: make demo DEMO_ARGS="--web-port 6067"; --help lists them.
demo: setup ## start Kafka, the Port emulator and a worker, and run the four example workflows; Ctrl-C ends it
	@exec $(PY) -m local.demo --follow-parent $(DEMO_ARGS)

# Its options stand in DEV_ARGS: make dev DEV_ARGS="-l debug"; --help lists them.
dev: setup ## run a worker with the settings of the environment and .env, anew when a handler file changes
	@exec $(PY) -m local.dev --follow-parent $(DEV_ARGS)

# Two at a time, since most wait for Kafka much of their time: make test TEST_ARGS="-n 0" runs one after the other.
TEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder

test: setup ## run all tests, those on a real Kafka included; pytest's options stand in TEST_ARGS
	@sh scripts/browser.sh
	@$(PY) -m pytest $(TEST_ARGS)

# Its options stand in BENCH_ARGS: make bench BENCH_ARGS="--runs 1 --burst 5000"; --help lists them.
bench: setup ## measure a worker beside two hand-written loops; half an hour, a quick look by options
	@exec $(PY) -m bench --follow-parent $(BENCH_ARGS)

SURVIVAL := $(patsubst %,tests/e2e/test_%.py,workers crashes mutants storm drain moves frozen outage backlog deferred)

soak: setup ## run the tests of survival in full size, which takes an hour or more; shows how far they are
	@PORT_RUNS_TEST_SCALE=full $(PY) -m pytest -v -s -o timeout=3600 $(SURVIVAL)

screenshots: setup ## write the pictures of the README to docs/images
	@sh scripts/browser.sh
	$(PY) -m tests.web.screenshots

lint: setup ## check format, code, types, shell scripts, Dockerfile, compose file and deploy/
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/shellcheck --external-sources .ci/run scripts/*.sh
	$(VENV)/bin/hadolint Dockerfile
	$(VENV)/bin/compose-lint --no-env docker-compose.yml
	$(PY) scripts/check_deploy.py deploy

format: setup ## format the code and repair what the linter can repair
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

lock: setup ## resolve the dependencies of pyproject.toml anew and write both lock files
	@sh scripts/lock.sh $(PY) $(LOCK_ENV)

clean: ## remove the data of the demo and of Kafka, and the caches of the tools
	rm -rf .data .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## remove the environment and the downloaded Kafka as well
	rm -rf $(VENV) .cache
