# Each target runs one command; `make` alone lists them. Overrides of the configuration go into ARGS:
#     make train EXPERIMENT=gooaq_bert_tiny ARGS="runtime=rtx3090 seed=13"
# A command's own exit status (2 refused, 75 interrupted with the work saved, 1 a bug) is in make's last line;
# make itself then exits 2. A scheduler that requeues on 75 should call `.venv/bin/python scripts/train.py …` instead.

PYTHON ?= python3
EXPERIMENT ?= quickstart
ARGS ?=
# For `make reproduce`; only from the command line, since the environment may have a MODEL of its own.
STAGE :=
MODEL :=
# Address of an index that serves torch's CPU build, such as the one torch's own installation page names.
TORCH_INDEX ?=

VARIABLES := ARGS EXPERIMENT PYTHON TORCH_INDEX STAGE MODEL Q P
# `make train data=local` would set a make variable that nothing reads. What an outer make passes down is left alone.
UNKNOWN := $(if $(filter 0,$(MAKELEVEL)),$(firstword $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(filter-out $(VARIABLES) SHELL MAKEFLAGS,$(name))))))
$(if $(UNKNOWN),$(error $(UNKNOWN) is not a variable of this Makefile ($(VARIABLES)). Keys go into ARGS: ARGS="$(UNKNOWN)='$(value $(UNKNOWN))'"))

VENV := .venv
RUN := $(VENV)/bin/python
EXTRAS := quickstart,dev
# Named after the contents it vouches for (and the folder, since the installation is editable), and written last: an
# interrupted set-up has no stamp and is run again.
STAMP := $(VENV)/.complete-$(shell { pwd; cat pyproject.toml conf/constraints.txt; } | cksum | cut -d ' ' -f 1)
# `make smoke` runs the smoke experiment; with an EXPERIMENT it runs that recipe, cut by conf/size/tiny.yaml.
SMOKE := $(if $(filter file,$(origin EXPERIMENT)),experiment=smoke,experiment=$(EXPERIMENT) size=tiny)

# No file-name expansion in recipes: ARGS="training.eval_sets=[validation]" must arrive as it was typed.
.SHELLFLAGS := -fc
.DEFAULT_GOAL := help
.PHONY: help setup train quickstart bert-tiny modernbert-large mine evaluate card predict sweep smoke \
        check reproduce verify rerun faults push benchmark profile test test-slow lint format typecheck clean

help: ## List the commands
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F '|' '{ printf "  make %-18s %s\n", $$1, $$2 }'

setup: $(STAMP) ## Create .venv with every pinned version (TORCH_INDEX=<address> takes torch from an index of CPU builds)

train: $(STAMP) ## Everything: mine, train, evaluate, card (EXPERIMENT=quickstart, ARGS="key=value …")
	@$(RUN) scripts/train.py experiment=$(EXPERIMENT) $(ARGS)

quickstart: $(STAMP) ## The built-in demonstration: docstrings, MiniLM, no hub
	@$(RUN) scripts/train.py experiment=quickstart $(ARGS)

bert-tiny: $(STAMP) ## The published bert-tiny recipe (hub, GPU)
	@$(RUN) scripts/train.py experiment=gooaq_bert_tiny $(ARGS)

modernbert-large: $(STAMP) ## The published ModernBERT-large recipe (hub, GPU)
	@$(RUN) scripts/train.py experiment=gooaq_modernbert_large $(ARGS)

mine: $(STAMP) ## Mine negatives and candidates only
	@$(RUN) scripts/mine.py experiment=$(EXPERIMENT) $(ARGS)

evaluate: $(STAMP) ## Everything up to the evaluation
	@$(RUN) scripts/evaluate.py experiment=$(EXPERIMENT) $(ARGS)

card: $(STAMP) ## Everything up to the model card
	@$(RUN) scripts/card.py experiment=$(EXPERIMENT) $(ARGS)

sweep: $(STAMP) ## Several runs: ARGS="seed=1,2,3"
	@$(RUN) scripts/train.py -m experiment=$(EXPERIMENT) $(ARGS)

check: $(STAMP) ## Hub, device, disk, memory and expected time, before spending hours (EXPERIMENT=…)
	@$(RUN) scripts/check.py experiment=$(EXPERIMENT) $(ARGS)

reproduce: $(STAMP) ## Compare with the published figures: ARGS="run=<folder>", STAGE=first or MODEL=<hub id or folder>
	@$(RUN) scripts/reproduce.py experiment=$(EXPERIMENT) $(if $(STAGE),stage=$(STAGE)) $(if $(MODEL),weights=$(MODEL)) $(ARGS)

verify: $(STAMP) ## Check a run's files, figures and last stretch of training: ARGS="run=<folder>" (default: the newest)
	@$(RUN) scripts/verify.py $(ARGS)

rerun: $(STAMP) ## Repeat exactly the run of a manifest: ARGS="manifest=outputs/runs/<run>/model"
	@$(RUN) scripts/rerun.py $(ARGS)

benchmark: $(STAMP) ## Compare with sentence-transformers on the same work: ARGS="case=train_bert_tiny"
	@$(RUN) scripts/benchmark.py $(ARGS)

profile: $(STAMP) ## Where a training step's time goes: a trace and a table (EXPERIMENT=…, ARGS="steps=5")
	@$(RUN) scripts/profiling.py experiment=$(EXPERIMENT) $(ARGS)

faults: $(STAMP) ## Kill runs and damage files on purpose, count what is lost: ARGS="kills=20 seed=1"
	@$(RUN) scripts/faults.py $(ARGS)

push: $(STAMP) ## Upload a finished run: ARGS="repo=<owner/name> run=<folder>"
	@$(RUN) scripts/push.py $(ARGS)

smoke: $(STAMP) ## A whole run in a minute; EXPERIMENT=<recipe> runs that recipe on a tiny subset
	@$(RUN) scripts/train.py $(SMOKE) $(ARGS)

# Q and P are passed through the environment with their values unexpanded, so that $, quotes and spaces stay text.
unexport Q P
predict: export QUESTION := $(value Q)
predict: export PASSAGE := $(value P)
predict: $(STAMP) ## Score a passage: Q='question' P='passage' (ARGS="run=<folder>", by default the newest run)
	@$(RUN) scripts/predict.py "q=$$QUESTION" "p=$$PASSAGE" $(ARGS)

# One process per core, each with one thread: torch processes that share cores wait for each other.
test: $(STAMP) ## The fast tests: no network, no GPU
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --dist loadfile $(ARGS)

test-slow: $(STAMP) ## The tests that take minutes
	@$(RUN) -m pytest -m slow $(ARGS)

lint: $(STAMP) ## Style: ruff's rules and its formatting
	@$(RUN) -m ruff check . && $(RUN) -m ruff format --check .

format: $(STAMP) ## Rewrite the code to ruff's formatting
	@$(RUN) -m ruff check --fix . && $(RUN) -m ruff format .

typecheck: $(STAMP) ## mypy, strict, over pipeline/
	@$(RUN) -m mypy pipeline

clean: ## Remove caches; never outputs/, never .venv
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build reranker_pipeline.egg-info
	@find conf pipeline scripts tests -name __pycache__ -prune -exec rm -rf {} +

# pip compiles modules one after another, which takes as long as the rest; compileall uses every processor. Libraries
# contain a few files that do not compile (templates), which is no error.
$(STAMP):
	@$(RUN) -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "error: Python must be 3.11 or newer, got $$($(PYTHON) --version 2>&1 | head -n 1)." \
	      "Install one and name it: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12" >&2; exit 2; }; \
	  $(PYTHON) -m venv --clear $(VENV) || { \
	    echo "error: $(PYTHON) must be able to create environments, got the message above." \
	      "Install its venv module (Debian: apt install python3-venv)." >&2; exit 2; }; }
	@echo "Setting up .venv: about 0.5 GB to download with a CPU build of torch, about 3 GB with the CUDA build" \
	  "that the default index serves on Linux (choose: make setup TORCH_INDEX=<address of CPU builds>)."
	@test -t 1 || quiet=--quiet; set -e; \
	  install() { $(RUN) -m pip install --no-compile $$quiet --disable-pip-version-check --constraint conf/constraints.txt "$$@"; }; \
	  install setuptools; \
	  $(if $(TORCH_INDEX),install --no-deps --index-url '$(TORCH_INDEX)' torch;) \
	  install --no-build-isolation --editable '.[$(EXTRAS)]'; \
	  $(RUN) -m compileall -qq -j 0 $(VENV)/lib || :
	@find $(VENV) -maxdepth 1 -name '.complete-*' -delete; touch $@
