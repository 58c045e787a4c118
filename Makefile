# What a person types here is what CI runs. `make` alone says what there is.

# uv, the one on PATH or else one of our own inside .venv.
UV := $(or $(shell command -v uv 2>/dev/null),.venv/bin/uv)
RUN := $(UV) run --frozen
PYTHON ?= python3
PYTHON_CODE := schema lifecycle migrations tests

# Bytecode is kept, whatever the environment says: the tests start Python many times, and each time
# it would compile everything again.
export PYTHONDONTWRITEBYTECODE :=

WEB := schema/graphiql
WEB_INSTALLED := $(WEB)/node_modules/.package-lock.json
WEB_PAGE := schema/static/graphiql/index.html
WEB_SOURCES := $(wildcard $(addprefix $(WEB)/,*.html *.js *.jsx examples/*))

BENCH := .bench/mlflow-server/installed .bench/postgraphile/installed
# What is measured runs on the system's Python, where that is new enough: it was compiled with all
# optimisations, as Node.js was, which one that was compiled on this machine may not be.
BENCH_PYTHON ?= $(shell /usr/bin/python3 -c 'import sys; print(sys.executable) \
	if sys.version_info >= (3, 11) else sys.exit(1)' 2>/dev/null || echo $(PYTHON))
BENCH_RUN = UV_PROJECT_ENVIRONMENT=.bench/python $(UV) run --quiet --frozen --python $(BENCH_PYTHON)
NODE_IS_NEW := node -e 'process.exit(parseInt(process.versions.node) < 22)' 2>/dev/null

MLFLOW := $(patsubst tests/tracking/servers/mlflow-%.txt,.mlflow/%/installed,\
	$(wildcard tests/tracking/servers/mlflow-*.txt))

.DEFAULT_GOAL := help
.PHONY: help setup web serve demo test test-slow test-all check fix schema migrate migration wheel \
	clean browser mlflow bench bench-quick faults audit steady

help: ## This list
	@echo 'make TARGET [ARGS="…"], where ARGS go to the command behind it.'
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

setup: $(filter .venv/bin/uv,$(UV)) ## The Python environment in .venv, as locked
	@$(UV) sync --frozen --quiet

.venv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Python 3.11 or later is needed: make PYTHON=python3.13 …' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet uv

web: $(WEB_PAGE) ## GraphiQL, where its sources are newer (needs Node.js with npm)

$(WEB_PAGE): $(WEB_INSTALLED) $(WEB_SOURCES)
	cd $(WEB) && npm run --silent build
	@touch $@

$(WEB_INSTALLED): $(WEB)/package.json $(WEB)/package-lock.json
	@command -v npm >/dev/null || \
		{ echo 'To build GraphiQL, install Node.js 20.19 or later with npm.' >&2; exit 1; }
	cd $(WEB) && npm ci --no-audit --no-fund
	@touch $@

# Without Node.js the service shows the GraphiQL page that loads from the internet. The last line
# is one plain command, so that a signal to make reaches the server and not a shell around it.
serve: setup ## The service on 127.0.0.1:8000, with an embedded PostgreSQL
	@test -e $(WEB_PAGE) || ! command -v npm >/dev/null || $(MAKE) --no-print-directory web || \
		echo 'GraphiQL could not be built; the page will load it from the internet.' >&2
	@$(RUN) lifecycle serve $(ARGS)

demo: setup ## A model's life on real data, against a running service
	@$(RUN) --extra demo lifecycle demo $(ARGS)

test: setup web browser mlflow ## The tests, some minutes; on LIFECYCLE_TEST_DATABASE_URL, if set
	$(RUN) pytest $(ARGS)

# They wait more than they work, so three at a time.
test-slow: setup web browser mlflow ## Those that kill processes, fill queues, wait for MLflow
	$(RUN) pytest -m slow -n 3 $(ARGS)

test-all: setup web browser mlflow ## Both at once: the ones work while the others wait
	$(RUN) pytest -m '' -n 3 $(ARGS)

faults: setup ## A hundred thousand bad requests; tests/faults/README.md
	@$(RUN) python -m tests.faults $(ARGS)

steady: setup ## Ten minutes of mixed load: memory has to stay flat (STEADY_SECONDS=60 for less)
	STEADY_SECONDS=$(or $(STEADY_SECONDS),600) $(RUN) pytest -m slow -n 0 -s tests/operations/test_steady.py

mlflow: $(MLFLOW) ## The MLflow servers that the tests start, in environments of their own

# Compiled, because importing it otherwise takes longer than all else that a test does.
.mlflow/%/installed: tests/tracking/servers/mlflow-%.txt | $(filter .venv/bin/uv,$(UV))
	$(UV) venv --quiet --clear $(@D)
	$(UV) pip install --quiet --no-deps --compile-bytecode --python $(@D) -r $<
	@touch $@

bench: setup $(BENCH) ## What it is as fast as; tests/bench/README.md. ARGS="page tiny" picks cases
	@$(BENCH_RUN) python -m tests.bench $(ARGS)

bench-quick: setup $(BENCH) ## The same in less than five minutes, less exactly
	@$(BENCH_RUN) python -m tests.bench --quick $(ARGS)

# With a Node.js of its own where the one that is there is too old, or none is.
.bench/postgraphile/installed: $(wildcard $(addprefix tests/bench/postgraphile/,*.json *.mjs .npmrc))
	@command -v npm >/dev/null || { echo 'make bench needs npm, for PostGraphile.' >&2; exit 1; }
	rm -rf $(@D) && mkdir -p $(@D) && cp $^ $(@D)
	cd $(@D) && npm ci --silent --no-audit --no-fund
	@cd $(@D) && $(NODE_IS_NEW) || \
		(set -x; npm install --silent --no-audit --no-fund --no-save node@24)
	@touch $@

# With a way to PostgreSQL, which the MLflow of the tests does without.
.bench/mlflow-server/installed: tests/tracking/servers/mlflow-3.txt | $(filter .venv/bin/uv,$(UV))
	$(UV) venv --quiet --clear --python $(BENCH_PYTHON) $(@D)
	$(UV) pip install --quiet --no-deps --compile-bytecode --python $(@D) -r $<
	$(UV) pip install --quiet --python $(@D) psycopg2-binary==2.9.11
	@touch $@

browser:
	@for name in chromium chromium-browser google-chrome; do \
		command -v $$name >/dev/null && exit 0; \
	done; \
	if ! command -v apt-get >/dev/null; then sudo=none; \
	elif test "$$(id -u)" -eq 0; then sudo=; \
	elif command -v sudo >/dev/null; then sudo=sudo; \
	else sudo=none; fi; \
	test "$$sudo" != none || \
		{ echo 'The tests of GraphiQL need Chromium or Chrome; please install it.' >&2; exit 1; }; \
	set -x; \
	$$sudo apt-get update -qq && \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium

check: setup ## Everything but the tests: format, lint, types, imports, schema, migrations, compose
	$(RUN) ruff format --check
	$(RUN) ruff check
	$(RUN) mypy --strict $(PYTHON_CODE)
	$(RUN) lint-imports
	$(RUN) lifecycle sdl --check
	$(RUN) lifecycle migrate --check
	$(RUN) check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	@! docker compose version >/dev/null 2>&1 || (set -x; docker compose config --quiet)

fix: setup ## Format, and repair what ruff can
	$(RUN) ruff check --fix-only
	$(RUN) ruff format

schema: setup ## Write schema/schema.graphql
	$(RUN) lifecycle sdl --write

migrate: setup ## Bring the database up to date
	$(RUN) lifecycle migrate $(ARGS)

migration: setup ## A new migration: make migration m="add owners"
	@test -n "$(m)" || { echo 'Say what it does: make migration m="add owners"' >&2; exit 1; }
	$(RUN) alembic upgrade head
	$(RUN) alembic revision --autogenerate -m "$(m)"
	$(RUN) ruff check --quiet --fix-only migrations
	$(RUN) ruff format --quiet migrations

# Strict, because what nobody knows of would otherwise pass as good. Not in `make check`: it needs
# PyPI's word about each release, and what it finds was true yesterday, too.
audit: setup ## Whether anything that is locked has a known vulnerability (asks PyPI)
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
	$(UV) export --quiet --frozen --no-dev --all-extras --no-emit-project \
		--format requirements.txt --output-file "$$dir/requirements.txt" && \
	$(UV) run --quiet --frozen --isolated --only-group audit pip-audit --strict --disable-pip \
		--require-hashes --progress-spinner off --requirement "$$dir/requirements.txt" || \
	{ echo 'Something is vulnerable, or PyPI did not say; the line above says which.' >&2; exit 1; }

wheel: setup web ## A wheel in dist/, GraphiQL and migrations inside, and what it depends on (SBOM)
	$(UV) build --wheel
	$(UV) export --quiet --frozen --no-dev --all-extras --format cyclonedx1.5 \
		--preview-features sbom-export --output-file dist/ml_lifecycle.cdx.json

clean: ## Remove what make has built; data in .lifecycle stays
	rm -rf dist schema/static $(WEB)/node_modules .venv .mlflow .bench .mypy_cache .pytest_cache \
		.ruff_cache .hypothesis .import_linter_cache
	find $(PYTHON_CODE) -name __pycache__ -prune -exec rm -rf {} +
