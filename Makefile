# Everything a fresh machine needs is Python >= 3.11 and make. `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help
SHELL := /bin/sh
PYTHON ?= python3
UV_VERSION := 0.13.9
BIN := .venv/bin
SYNCED := .venv/.synced

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

# --- environment -----------------------------------------------------------------------------------------------------

$(SYNCED): pyproject.toml generated/pyproject.toml uv.lock
	@test -x $(BIN)/uv || { $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet uv==$(UV_VERSION); }
	@UV_PROJECT_ENVIRONMENT=.venv $(BIN)/uv sync --frozen --inexact --quiet
	@touch $@

# --- contract --------------------------------------------------------------------------------------------------------

PROTOS = $(shell find protos/gatelodge -name '*.proto' | sort)
STUBS := generated
# What callers were promised: the descriptors of the last `make proto`. Also what Envoy transcodes by.
CONTRACT := generated/gatelodge/descriptors.binpb

.PHONY: proto proto-check
proto: $(SYNCED) ## Write the stubs and descriptors in generated/; refuses a change that breaks callers
	@test -n "$(BREAKING)" || $(BIN)/buf breaking --against $(CONTRACT) \
	  || { echo 'callers of the API would break; before a release, say make proto BREAKING=yes' >&2; exit 1; }
	@rm -rf $(STUBS)/gatelodge $(STUBS)/buf
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos \
	  --python_out=$(STUBS) --mypy_out=quiet:$(STUBS) --grpc_python_out=$(STUBS) --mypy_grpc_out=quiet:$(STUBS) $(PROTOS)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos \
	  --python_out=$(STUBS) --mypy_out=quiet:$(STUBS) protos/buf/validate/validate.proto
	@touch $(STUBS)/gatelodge/py.typed $(STUBS)/buf/py.typed
	@$(BIN)/buf build --exclude-source-info -o $(STUBS)/gatelodge/descriptors.binpb

proto-check: $(SYNCED) ## Lint the protos, refuse breaking changes, and fail when generated/ is not what they give
	@$(BIN)/buf lint
	@fresh=$$(mktemp -d) && $(MAKE) --no-print-directory proto STUBS=$$fresh \
	  && diff -r -x __pycache__ -x pyproject.toml -x '*.egg-info' generated $$fresh \
	  && rm -r $$fresh || { echo 'generated/ is not what the protos give: run make proto and commit' >&2; exit 1; }

# --- daily use -------------------------------------------------------------------------------------------------------

.PHONY: run migrate test test-faults check lint types imports sql-proof sql-snapshot docs docs-check lock-check format
run: $(SYNCED) ## Start the service with an embedded PostgreSQL under var/
	@$(BIN)/gatelodge serve

migrate: $(SYNCED) ## Bring the database's schema up to date
	@$(BIN)/gatelodge migrate

test: $(SYNCED) ## Run the whole test suite, N=4 tests at a time: many of them wait
	@$(BIN)/pytest -n $(or $(N),4) --dist worksteal

test-faults: $(SYNCED) ## Run the longer tests: processes restarted, replaced and killed under load; releases side by side; the image
	@$(BIN)/pytest -n $(or $(N),2) --dist worksteal -m faults

format: $(SYNCED) ## Format the code
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .

# --- what must hold before a merge -----------------------------------------------------------------------------------

check: lock-check lint types imports proto-check migrations-lint sql-proof docs-check deploy-check ## Lint, types, import rules, protos, migrations, SQL proof, pages, deployment
	@echo 'all checks passed'

lock-check: $(SYNCED)
	@$(BIN)/uv lock --check --quiet

lint: $(SYNCED)
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --check --quiet .

types: $(SYNCED)
	@$(BIN)/mypy

imports: $(SYNCED)
	@$(BIN)/lint-imports --no-cache > .import-linter.log || { cat .import-linter.log; exit 1; }; rm -f .import-linter.log

sql-proof: $(SYNCED) ## Prove every SQL statement against the migrated schema
	@$(BIN)/python -m service.db.proof --check && $(BIN)/python -m service.db.proof

sql-snapshot: $(SYNCED) ## Prove the SQL and write what PostgreSQL said to migrations/proof.json
	@$(BIN)/python -m service.db.proof --write

docs: $(SYNCED) ## Write the pages made from code: errors, configuration
	@$(BIN)/python -m service.rpc.errors_page && $(BIN)/python -m service.settings.page

docs-check: $(SYNCED)
	@$(BIN)/python -m service.rpc.errors_page --check && $(BIN)/python -m service.settings.page --check

# --- replicas and releases -------------------------------------------------------------------------------------------

.PHONY: migrations-lint test-envoy soak-rolling rehearse-upgrade
migrations-lint: $(SYNCED) ## Refuse migrations that would stop others or break the release before, unless marked
	@$(BIN)/python -m tools.migration_lint

test-envoy: $(SYNCED) ## Run only the tests that start a real Envoy
	@$(BIN)/pytest tests/app/test_envoy.py tests/app/test_envoy_retries.py tests/app/test_rolling.py tests/app/test_upgrade.py

soak-rolling: $(SYNCED) ## Restart two replicas behind Envoy by turns under 200 calls/s for 30 s: no call may fail
	@$(BIN)/python -m bench.soak_rolling

rehearse-upgrade: $(SYNCED) ## Go from release OLD (the last tag, else HEAD) to the working tree and back, under load
	@$(BIN)/python -m bench.rehearse_upgrade $(OLD)

# --- numbers ---------------------------------------------------------------------------------------------------------

.PHONY: bench bench-quick profile bench-timing bench-bad-input bench-users bench-sessions bench-start bench-argon2 soak-events soak-reload
bench bench-quick profile: $(SYNCED)
	@UV_PROJECT_ENVIRONMENT=.venv $(BIN)/uv sync --frozen --inexact --quiet --group bench
	@$(BIN)/python bench/$(if $(filter profile,$@),profile.py,speed.py $(if $(filter bench-quick,$@),--quick))

bench: ## Show how fast the service is beside floors and peers of the same run; a quarter of an hour
bench-quick: ## The same with fewer rows and rounds, in two minutes
profile: ## Leave a flame graph of the hot path in bench/results/profile.svg

bench-users: $(SYNCED) ## Show what user operations cost with a million users, compared with ten thousand
	@$(BIN)/python bench/users.py

bench-sessions: $(SYNCED) ## Show what verifying a token costs, how soon revocations are known, and refreshes a second
	@$(BIN)/python bench/sessions.py

soak-events: $(SYNCED) ## Show that watchers killed at random see every event, in the order of commits
	@$(BIN)/python bench/soak_events.py

soak-reload: $(SYNCED) ## Show that no call fails while workers are replaced under load
	@$(BIN)/python -m bench.soak_reload

bench-start: $(SYNCED) ## Show how long a start takes and what an idle worker holds
	@$(BIN)/python -m bench.start

bench-argon2: $(SYNCED) ## Show how long a hash takes with the wheel's argon2 and with the image's own build
	@$(BIN)/python bench/argon2_bindings.py

bench-bad-input: $(SYNCED) ## Show how soon bad input gets its clear status
	@$(BIN)/python bench/bad_input.py

bench-timing: $(SYNCED) ## Show that Login and Register take the same time whoever has an account
	@$(BIN)/python bench/login_timing.py

# --- showing ---------------------------------------------------------------------------------------------------------

.PHONY: demo
demo: $(SYNCED) ## Tour the API against the service that `make run` started
	@$(BIN)/python demo/tour.py

# --- deploying -------------------------------------------------------------------------------------------------------

# Debian's and Ubuntu's package `prometheus` has it; no registry of Python's does.
PROMTOOL := $(shell command -v promtool)
RULE_TESTS := $(wildcard deploy/prometheus/tests/*.test.yml)

.PHONY: deploy-check deploy-files rules-check image image-test audit sbom dashboard-picture
deploy-check: $(SYNCED) rules-check ## Check the Dockerfile, manifests, Compose file, alerts, dashboard and workflow
	@$(BIN)/hadolint Dockerfile
	@$(BIN)/python deploy/kubernetes/prometheus_rule.py --check
	@$(BIN)/python deploy/check.py
	@said=$$($(BIN)/zizmor --quiet --offline --no-progress .github/workflows) || { echo "$$said"; exit 1; }

rules-check:
ifneq ($(PROMTOOL),)
	@said=$$({ $(PROMTOOL) check config deploy/prometheus/prometheus.yml && $(PROMTOOL) test rules $(RULE_TESTS); } 2>&1) \
	  || { echo "$$said"; exit 1; }
else
	@echo 'skipped: the alert rules and their tests, for want of promtool (apt-get install prometheus)' >&2
	@test -z '$(PROMTOOL_REQUIRED)'
endif

deploy-files: $(SYNCED) ## Write the alert rules for the Prometheus operator
	@$(BIN)/python deploy/kubernetes/prometheus_rule.py

image: ## Build the image gatelodge:latest; needs Docker
	@DOCKER_BUILDKIT=1 docker build --build-arg COMMIT=$$(git rev-parse HEAD) --tag gatelodge:latest .

image-test: $(SYNCED) ## Build what the image holds, without Docker, and run it read-only and without privileges
	@$(BIN)/pytest tests/deploy/test_image.py tests/deploy/test_image_argon2.py -m faults -s -q

audit: $(SYNCED) ## Look for known vulnerabilities in what uv.lock has; asks the OSV database
	@$(BIN)/uv audit --frozen --preview-features audit

sbom: $(SYNCED) ## Write the bill of materials of what the image holds to dist/sbom.cdx.json (CycloneDX)
	@mkdir -p dist && $(BIN)/uv export --quiet --frozen --no-dev --preview-features sbom-export --format cyclonedx1.5 -o dist/sbom.cdx.json > /dev/null

dashboard-picture: $(SYNCED) ## Draw the dashboard from a running Prometheus: PROMETHEUS=http://127.0.0.1:9090 MINUTES=15
	@$(BIN)/uv run --frozen --group pictures deploy/grafana/picture.py $(or $(PROMETHEUS),http://127.0.0.1:9090) \
	  docs/images/dashboard.png --minutes $(or $(MINUTES),15)
