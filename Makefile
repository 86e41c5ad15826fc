# Two commands set everything up from a bare machine with Python 3.11 and make:
#   make demo TASK="…"    generates an adapter for a task and tries it on three texts
#   make test             runs the test suite
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TASK ?= Tell what a guest of a hotel asks the front desk for.
LABELS ?= towels or bedding,checking out,the wireless network
TEXTS ?= "Could somebody bring up two more pillows?" "Until what time may we keep the room on Sunday?" "My laptop does not find the internet here."
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test check format clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "loragen needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,plot]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/loragen generate "$(TASK)" --out out/demo --force
	$(BIN)/loragen classify out/demo $(TEXTS) --labels "$(LABELS)"

test: $(VENV)/.installed
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) out build dist
