# What a new user needs: `make bench` and `make test`. Everything else is called by them.

VENV ?= .venv
KERNEL ?= auto
# `make bench CLOCK=instructions` counts instructions instead of time.
CLOCK ?=
TOPOLOGY ?= topologies/$(if $(filter instructions,$(CLOCK)),instructions,quickstart).yaml
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tests run beside each other, in as many processes as there are processors, up to some.
WORKERS ?= logical
PYTEST := $(BIN)/pytest --numprocesses $(WORKERS) --maxprocesses 4

.PHONY: bench gate test lint validate benchmarks tools clean

bench: $(STAMP) tools
	$(BIN)/testbed run $(TOPOLOGY) --kernel $(KERNEL) $(if $(CLOCK),--clock $(CLOCK))

# Whether a connection costs in every mode what the committed baseline says; `make test` asks it, too.
gate: $(STAMP) tools
	$(BIN)/testbed gate --junit build/gate.xml --comment build/gate.md $(GATE_ARGS)

test: lint tools
	$(PYTEST) $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Longer than what every change has to wait for.
validate: $(STAMP) tools
	$(PYTEST) -m "validate or not validate" $(PYTEST_ARGS)

benchmarks: $(STAMP) tools
	$(BIN)/pytest tests/benchmarks --benchmark-enable --benchmark-only -s $(PYTEST_ARGS)

tools:
	tools/install

$(STAMP): pyproject.toml tools/venv
	tools/venv $(VENV)
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
