# `make demo` and `make test` are all that a newcomer needs; `make quick` is for in between. Each
# makes .venv where it is missing, and installs only when what it installs has changed.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo lint quick test

demo: $(VENV)/installed-demo
	$(RUN) tools/demo.py

test: lint
	$(RUN) -m pytest --numprocesses 2 --dist worksteal

quick: lint
	$(RUN) -m pytest --numprocesses 2 --dist worksteal -m "not slow and not slow_suite"

lint: $(VENV)/installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-logo
	$(RUN) -m mypy

$(VENV)/installed-%: pyproject.toml setup.py constraints.txt tools/install_detectron2.py
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit( \
	    "error: Python %d.%d; expected 3.10 or later: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check --constraint constraints.txt pip
	$(RUN) -m pip install --constraint constraints.txt --editable '.[$*]'
	$(RUN) tools/install_detectron2.py --constraint constraints.txt
	@touch $@
