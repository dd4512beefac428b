# Everything below works on a machine with git, make and Python 3.11 or newer; the rest is installed here.
PYTHON ?= python3
UV := .tools/bin/uv
RUN := .venv/bin/

.DEFAULT_GOAL := help
.PHONY: help setup demo collector test test-fast test-zones test-matrix chaos audit check format bench lock prices clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.tools/bin/uv: requirements/uv.lock
	$(PYTHON) -m venv .tools
	.tools/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.lock
	@touch $@

.venv/.ready: .tools/bin/uv requirements/dev.lock pyproject.toml
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	$(UV) pip sync --quiet --python .venv --require-hashes requirements/dev.lock
	$(UV) pip install --quiet --python .venv --no-deps --editable .
	@touch $@

setup: .venv/.ready ## Install the tools and the locked dependencies

demo: setup ## An unmodified application's calls become priced rows: see where the money went
	$(RUN)spanledger demo

# The OpenTelemetry Collector's own builder, of the release of the components.
.tools/go/builder: collector-config/builder-config.yaml
	@command -v go >/dev/null || { echo "the Collector is built with Go 1.26 or newer: install it (https://go.dev/dl)"; exit 2; }
	GOBIN=$(CURDIR)/.tools/go go install go.opentelemetry.io/collector/cmd/builder@v0.159.0
	@touch $@

.collector/otelcol-spanledger: .tools/go/builder collector-config/builder-config.yaml
	@mkdir -p .collector
	cd collector-config && ../.tools/go/builder --config builder-config.yaml
	@mv .collector/build/otelcol-spanledger $@

collector: .collector/otelcol-spanledger ## Build the OpenTelemetry Collector that collector-config/ is for (minutes, the first time)

# As many workers as there are cores and two more: many tests wait for processes that they start.
WORKERS ?= $(shell expr $$(nproc 2>/dev/null || echo 2) + 2)

test: setup collector ## All tests, with branch coverage
	$(RUN)pytest -n $(WORKERS) --dist worksteal --cov --cov-report=term:skip-covered

test-fast: setup ## Tests that start no services and no programs: minutes
	$(RUN)pytest -n $(WORKERS) --dist worksteal -m "not services"

test-zones: setup ## What depends on the time, on hosts whose clock is not on UTC
	for zone in Europe/Berlin America/New_York Asia/Kolkata Pacific/Kiritimati; do echo "TZ=$$zone"; TZ=$$zone $(RUN)pytest -q -n $(WORKERS) --dist worksteal -m clock || exit 1; done

test-matrix: setup ## Old generations of the SDKs, frameworks, servers, pip and Python releases, other instrumentors, each in an environment of its own
	$(RUN)pytest -n 2 --dist loadfile -o python_files='matrix_*.py' tests/matrix

chaos: setup collector ## Ten minutes of kills, full disks, jumping clocks, broken networks and hostile tenants: sold = rows?
	PYTHONPATH=examples $(RUN)python tests/chaos.py $(CHAOS)

audit: .tools/bin/uv ## Known vulnerabilities of the locked versions (asks api.osv.dev, the advisory database)
	$(UV) tool run pip-audit --disable-pip --require-hashes --vulnerability-service osv --requirement requirements/dev.lock

check: setup ## Lint, format, types, import contracts
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)pyright
	$(RUN)lint-imports
	$(RUN)python tools/sdk_endpoints.py --check

format: setup ## Fix what the linter and the formatter can
	$(RUN)ruff check --fix .
	$(RUN)ruff format .

bench: setup ## What Spanledger costs: figures and ratios, never a pass or a fail
	@failed=; for file in benchmarks/bench_*.py; do echo "== $$file"; $(RUN)python $$file || failed="$$failed $$file"; done; \
		test -z "$$failed" || { echo "these did not finish:$$failed"; exit 1; }

lock: .tools/bin/uv ## Renew the locked versions (names and hashes only: they hold for any index or mirror)
	$(UV) pip compile --quiet --upgrade pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-annotate --no-header --no-emit-index-url --output-file requirements/dev.lock
	echo uv | $(UV) pip compile --quiet --upgrade - --universal --python-version 3.11 --generate-hashes \
		--no-annotate --no-header --no-emit-index-url --output-file requirements/uv.lock

prices: setup ## Renew the bundled prices from a litellm wheel: make prices VERSION=1.109.1
	@test -n "$(VERSION)" || { echo "say which release: make prices VERSION=1.109.1"; exit 2; }
	$(RUN)python tools/build_prices.py --download $(VERSION)

clean: ## Remove what the targets made
	rm -rf .collector .venv .tools .demo .bench .matrix dist .coverage* .pytest_cache .ruff_cache .hypothesis
