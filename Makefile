# make demo      the environment and the main job from nothing, on a CPU, two nodes at a time [JOBS=4]
#                (REPLACE=1, here and below: even where it replaces other results of hours)
# make test      the tests, in two processes [JOBS=4]
# make install   .venv with `semiseg` in it
# make check     format, lint, types
# make docs      what docs/methods.md and docs/methods/ take from the cards and docstrings of the methods
# make site      the documentation as a site: open site/index.html
# make fuzz      made-up files by the thousand through every reader [ROUNDS=5000]
# make bench     benchmarks: a table, and .bench/benchmarks.json
# make reproduce-table1 [PROFILE=shapes|small|paper DATA=DEVKIT WEIGHTS=FILE SBD=DIR CLASSES=a,b]
# make clean     removes .venv and caches; results below runs/ stay

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROFILE ?= shapes
ROUNDS ?= 5000
JOBS ?= 2
SETTINGS = $(if $(DATA),--set data=$(DATA)) $(if $(WEIGHTS),--set weights=$(WEIGHTS)) \
           $(if $(SBD),--set sbd=$(SBD)) $(if $(CLASSES),--set classes=$(CLASSES))
REPLACING = $(if $(REPLACE),--replace)

.PHONY: install demo test check docs site fuzz bench reproduce-table1 clean
.DEFAULT_GOAL := demo

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "semiseg needs Python 3.11 or newer, found " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev,docs,timm,onnx,clip,sam]'
	touch $@

demo: install
	$(BIN)/semiseg run demo --jobs $(JOBS) $(REPLACING)

reproduce-table1: install
	@echo "Table 1, profile $(PROFILE)$(if $(filter shapes,$(PROFILE)), (the embedded data set; PROFILE=small or paper DATA=DEVKIT for real images))"
	$(BIN)/semiseg run table1 --profile $(PROFILE) $(SETTINGS) $(REPLACING)

test: install
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile  # the tests of a file share what it trains

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: install  # what docs/methods.md and docs/methods/ take from the cards and the methods' docstrings
	$(BIN)/python -m docs.site.cards

site: install
	$(BIN)/python -m mkdocs build --strict --quiet

fuzz: install
	$(BIN)/python -m tests.fuzz --rounds $(ROUNDS)

bench: install
	$(BIN)/python -m tests.benchmarks

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis .bench build dist site
	find . -name __pycache__ -not -path './runs/*' -prune -exec rm -rf {} +
