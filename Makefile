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

.PHONY: proto proto-check
proto: $(SYNCED) ## Write the stubs in generated/ and the pages made from the protos
	@rm -rf $(STUBS)/gatelodge $(STUBS)/buf
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos \
	  --python_out=$(STUBS) --mypy_out=quiet:$(STUBS) --grpc_python_out=$(STUBS) --mypy_grpc_out=quiet:$(STUBS) $(PROTOS)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos \
	  --python_out=$(STUBS) --mypy_out=quiet:$(STUBS) protos/buf/validate/validate.proto
	@touch $(STUBS)/gatelodge/py.typed $(STUBS)/buf/py.typed

proto-check: $(SYNCED) ## Lint the protos, refuse breaking changes, and fail when generated/ is not what they give
	@$(BIN)/buf lint
	@fresh=$$(mktemp -d) && $(MAKE) --no-print-directory proto STUBS=$$fresh \
	  && diff -r -x __pycache__ -x pyproject.toml -x '*.egg-info' generated $$fresh \
	  && rm -r $$fresh || { echo 'generated/ differs from the protos: run make proto and commit' >&2; exit 1; }
