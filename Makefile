# make demo   fine-tunes on few and on many labelled images, with a table and figures at the end;
#             make demo-full has more recipes and three seeds
# make test   the test suite; WORKERS=4 runs it in four processes instead of two
# make lint   the linters and the type checker
# make docs   the documentation as a website, in build/website
PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo demo-full test lint docs clean

demo: $(VENV)/demo.installed
	$(BIN)/python tools/demo.py

demo-full: $(VENV)/demo.installed
	$(BIN)/python tools/demo.py --full

test: $(VENV)/test.installed
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: $(VENV)/test.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The notice that is switched off advertises what follows mkdocs-material.
docs: $(VENV)/docs.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# mmcv-lite has all of mmcv that PSPNet needs, without half an hour of compiling.
$(VENV)/%.installed: setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.exit("the pinned versions need \
	Python 3.11 or later: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --progress-bar on mmcv-lite -e '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
