# growdarts: the environment, the book, the tests, the batch of runs. `make` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help env book pdf test unit avx2 plain nbval outputs picture batch benchmark gpu clean distclean

# The first of these that starts and can make environments.
PYTHON ?= $(or $(shell for python in python3.11 python3.12 python3.13; do \
  if $$python -c "import ensurepip" 2>/dev/null; then echo $$python; break; fi; done),python3)
TIER   ?= reduced
CORES  ?= 2

# The tools come from .venv; one thread each, so that numbers do not depend on the number of cores.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export OMP_NUM_THREADS := 1
# Notebooks run side by side: their kernels use no TCP ports (growdarts_study/kernels.py).
export JUPYTER_DEFAULT_PROVISIONER_NAME := growdarts-sockets

# The book is built from a staged copy, in which the notebooks are the freshly executed ones.
SITE      := _build/site
HTML      := $(SITE)/_build/html
ENV       := .venv/.installed
NOTEBOOKS := $(wildcard notebooks/[0-9]*.ipynb)
EXECUTED  := $(NOTEBOOKS:%=$(SITE)/%)
SLOW      := $(filter %/03_penn_treebank.ipynb %/05_ablations.ipynb,$(EXECUTED))
# Method shows Search.run.
PAGES     := _config.yml _toc.yml lib/growdarts/search.py $(shell find book -type f -not -name '.*' -not -name '*.pyc')
STAGED    := $(PAGES:%=$(SITE)/%)
LIBRARY   := $(shell find lib -name '*.py' -o -name 'player.*')
EMBEDDED  := $(wildcard data/registry.txt data/embedded/*)
RECORDS   := $(wildcard notebooks/*.yml) $(shell find data/results 2>/dev/null)

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(ENV)  ## make .venv with the pinned packages and growdarts itself (editable)

$(ENV): requirements.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; v = sys.version.split()[0]; (3, 11) <= sys.version_info[:2] <= (3, 13) or sys.exit(f"growdarts needs Python 3.11, 3.12 or 3.13 and found {v} at {sys.executable}: install one, or name it: make PYTHON=/path/to/python3.13")'
	@echo "Installing the packages of requirements.lock into .venv: a few minutes the first time."
	test -x .venv/bin/pip || "$(PYTHON)" -m venv .venv
	.venv/bin/python -m pip install --quiet --requirement requirements.lock
	.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

book: $(ENV)  ## run the notebooks (smoke tier), build the book, print the page to open
	@$(MAKE) --no-print-directory -j $(CORES) $(HTML)/.complete
	@echo "Open $(CURDIR)/$(HTML)/index.html"

# Sphinx does not repeat the warnings of pages it need not read again: after a failure start afresh.
$(HTML)/.complete: $(SLOW) $(EXECUTED) $(STAGED) CITATION.cff
	jupyter-book build -W -n --keep-going $(SITE) || { rm -rf $(SITE)/_build/.doctrees; exit 1; }
	touch $@

# To compile takes longer than it saves runs of this size: they go without numba.
$(EXECUTED) nbval: export GROWDARTS_PLAIN := 1

# A run that fails leaves what it has in _build/run, to look at. Pages that quote the notebook ({glue}) have to be read again with it.
$(EXECUTED): $(SITE)/%: % $(LIBRARY) $(EMBEDDED) $(ENV)
	@mkdir -p $(@D) _build/run
	@python notebooks/execute.py $< $@ _build/run/$(@F) $(if $(filter-out $<,$?),,--same)
	@for page in $$(grep -rlF '$(@F)' book --include='*.md'); do mkdir -p $(SITE)/book && cp --parents $$page $(SITE); done

# The first shows no records.
$(filter-out %/01_morphisms.ipynb,$(EXECUTED)): $(RECORDS)

$(STAGED): $(SITE)/%: %
	@mkdir -p $(@D)
	@cp $< $@

pdf: book  ## print the book into _build/book.pdf with Chromium, and check that every chapter is in it
	@command -v chromium chromium-browser google-chrome > /dev/null || { echo "No PDF: it is printed by Chromium, which is not here (apt-get install chromium)."; exit 0; }; \
	  python book/pdf.py $(HTML) _build/book.pdf

test: unit avx2 plain nbval book  ## everything that CI runs: unit tests, notebooks, strict build, built pages
	@command -v chromium chromium-browser google-chrome > /dev/null || echo "The tests in a browser are skipped: no Chromium (apt-get install chromium)."
	BOOK_HTML=$(HTML) pytest tests/test_book.py tests/test_browser.py

# A worker that dies ends the run, which names the test.
PYTEST := pytest -n 2 --dist loadfile --max-worker-restart=0

unit: $(ENV)  ## the unit tests
	$(PYTEST)

# What torch and numba compute with depends on the processor: these tests are run once more as on one without AVX-512.
avx2: export ONEDNN_MAX_CPU_ISA := AVX2
avx2: export ATEN_CPU_CAPABILITY := avx2
avx2: export NUMBA_CPU_NAME := haswell
avx2: export NUMBA_CPU_FEATURES := +sse4.2,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+popcnt,+movbe
avx2: $(ENV)  ## the tests of convolutions, precision and kernels with the instruction sets of AVX2 only
	@if grep -q avx512f /proc/cpuinfo; then $(PYTEST) $(AVX2:%=tests/test_%.py); \
	  else echo "This processor has no AVX-512: the unit tests have tried it."; fi

AVX2 := darts_conv fast_conv image_task language_model memory_safety mixed_scan products two_input_scan vocabulary_loss

# Of the method only: what the study's own tests compute goes through the same functions.
plain: export WITHOUT_FAST := 1
plain: $(ENV)  ## the tests of the method without the fast package
	$(PYTEST) $(PLAIN:%=tests/test_%.py)

PLAIN := bilevel criteria_and_pruning darts_conv darts_recurrent darts_genotypes grow_operation grow_operation_conv \
  grow_operation_recurrent language_model morphisms operation_growth own_space readme resampling search splitting \
  tracing training two_input

nbval: $(ENV)  ## run the notebooks and compare with their stored outputs
	$(PYTEST) --nbval notebooks

# Without papermill's and the kernel's notes of the time and the place of the run.
outputs: $(EXECUTED)  ## store the outputs of the executed notebooks in notebooks/, for committing
	for name in $(NOTEBOOKS); do cp $(SITE)/$$name $$name; done
	nbstripout --keep-output --keep-count --keep-id \
	  --extra-keys 'metadata.papermill cell.metadata.papermill cell.metadata.execution' $(NOTEBOOKS)
	touch $(EXECUTED)

# Of the README; a test compares it with the records.
picture: $(ENV)  ## draw the growing cell anew from the records
	python -c 'from growdarts import drawing; from growdarts_study import grids, records; \
	  print(drawing.growth(records.longest_search(grids.load_records("time_series", "reduced"), "grow")))' \
	  > book/_static/growing_cell.svg

# On GPUs one job each, if CORES are at least as many.
batch: $(ENV)  ## missing runs of a tier: make batch TIER=reduced EXPERIMENT=searches TASK=bilinear CORES=2 DEVICE=cpu (no experiment or task: all)
	@python -m growdarts_study
	snakemake --cores $(CORES) --config "tier=$(TIER)" $(if $(EXPERIMENT),"experiment=$(EXPERIMENT)") $(if $(TASK),"task=$(TASK)") \
	  $(if $(DEVICE),"device=$(DEVICE)") --resources gpu=$$(nvidia-smi --list-gpus 2>/dev/null | wc -l)

# On two threads, and on a machine with nothing else to do: the record says how busy it was.
benchmark: export OMP_NUM_THREADS := 2
benchmark: $(ENV)  ## seconds and memory of a step, into data/results/benchmarks (QUICK=1: toy sizes, into _build)
	pytest benchmarks $(if $(QUICK),--quick) --benchmark-columns=median,min,max,rounds --benchmark-sort=fullname

# With `make gpu PYTHON=python3` by a Python that has torch and the study's packages; nothing is installed or downloaded.
gpu: $(if $(filter file,$(origin PYTHON)),$(ENV))  ## on a machine with a GPU: its tests, search steps, a search on Penn Treebank; ten minutes
	PYTHONPATH=lib:tests:. $(if $(filter file,$(origin PYTHON)),python,"$(PYTHON)") -m benchmarks.gpu

clean:  ## remove the built book (checkpoints and executed batch runs stay in _build)
	rm -rf _build/site _build/run _build/html _build/.doctrees _build/jupyter_execute

distclean:  ## remove all of _build and the environment
	rm -rf _build .venv
