# precap: `make help` lists what there is. Each target creates the virtual environment when it is missing.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# `make features` and `make train` work on the demo's pictures unless DATA says otherwise.
ifeq ($(origin DATA),undefined)
DATA     := demo/data
OUT      ?= demo/features
FEATURES ?= grid:resnet18,clip
WEIGHTS  ?= random:0
SCENES   := demo/data/dataset.json
else
OUT      ?= features
FEATURES ?= clip,grid
endif
STORES   ?= $(OUT)
RUN      ?= $(if $(SCENES),demo/runs/make,runs/$(or $(HEAD),$(subst $(comma),-,$(FEATURES))))
SPLIT    ?= test
comma    := ,

.DEFAULT_GOAL := help
.PHONY: help install demo features train evaluate test lint format types torture bench bench-all detectron2 clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

install: $(STAMP) ## create .venv and install precap with its development tools

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(STAMP) ## pictures -> features -> training -> scores -> an HTML report, in a few minutes
	$(BIN)/precap demo --out demo

demo/data/dataset.json: | $(STAMP)
	$(BIN)/precap demo --out demo --only-data

features: $(STAMP) $(SCENES) ## extract features: DATA=folder FEATURES=clip,grid OUT=features [WEIGHTS=...]
	$(BIN)/precap extract $(FEATURES) --data $(DATA) --out $(OUT) $(if $(WEIGHTS),--weights $(WEIGHTS))

train: $(STAMP) $(SCENES) ## train a head: DATA=folder FEATURES=vinvl,clip [HEAD=hin] [RUN=runs/x]
	$(BIN)/precap train --features $(FEATURES) --data $(DATA) --stores $(STORES) --out $(RUN) $(if $(HEAD),--head $(HEAD))

evaluate: $(STAMP) $(SCENES) ## score a run and write its report: RUN=runs/x [SPLIT=test]
	$(BIN)/precap evaluate $(RUN) --split $(SPLIT) --data $(DATA) --stores $(STORES)

test: $(STAMP) ## all tests
	$(BIN)/pytest

lint: $(STAMP) ## ruff: lint and format check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## ruff: mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

torture: $(STAMP) ## 1,000 random kills and other long randomised runs
	$(BIN)/pytest -m torture

bench: $(STAMP) ## the quick benchmarks, under 15 minutes
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m bench quick

bench-all: $(STAMP) ## every benchmark
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m bench all

detectron2: $(STAMP) ## build detectron2 at a pinned commit for the region extractor's adapter
	$(BIN)/pip install --quiet 'setuptools<81' wheel ninja
	$(BIN)/pip install --no-build-isolation \
	  'git+https://github.com/facebookresearch/detectron2.git@02b5c4e295e990042a714712c21dc79b731e8833'

clean: ## remove caches and the demo's output (keeps .venv, data, features and runs)
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
