# Two commands set everything up from a bare machine with Python 3.11 and make:
#   make demo    generates an adapter for an example task and counts what it gets right (your own: TASK="…")
#   make test    runs the test suite; make fuzz runs more of it: 10,000 mutated inputs, hundreds of kills
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXAMPLE := examples/tenant_messages
TASK ?= What does a tenant write to the landlord about?
LABELS ?= something is broken,rent and charges,trouble with neighbours,moving out
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test fuzz check format api clean

$(VENV)/.installed: pyproject.toml hatch_build.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "loragen needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,plot]'
	touch $@

ifeq ($(origin TASK),file)
demo: $(VENV)/.installed
	$(BIN)/loragen generate "$(TASK)" --labels "$(LABELS)" --out out/demo --force
	$(BIN)/loragen classify out/demo "The heating in the bedroom has been cold since Sunday." "Could I pay in two instalments?"
	$(BIN)/loragen classify out/demo --data $(EXAMPLE).test.jsonl --out out/demo.csv
	@echo && echo "The same with 24 labelled examples:" && echo
	$(BIN)/loragen generate "$(TASK)" --labels "$(LABELS)" --examples $(EXAMPLE).train.jsonl --fit --out out/demo-fitted --force
	$(BIN)/loragen classify out/demo-fitted --data $(EXAMPLE).test.jsonl --out out/demo-fitted.csv
else
demo: $(VENV)/.installed
	$(BIN)/loragen generate "$(TASK)" --out out/demo --force
	$(if $(TEXTS),$(BIN)/loragen classify out/demo $(TEXTS) --labels "$(LABELS)")
endif

test: $(VENV)/.installed
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

fuzz: $(VENV)/.installed
	LORAGEN_FUZZ=$(or $(EXAMPLES),long) $(BIN)/python -m pytest tests/fuzz tests/kills --numprocesses auto

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

api: $(VENV)/.installed
	$(BIN)/python docs/make_api.py

clean:
	rm -rf $(VENV) out build dist
