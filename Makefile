# Two commands do everything on a fresh machine: `make demo` and `make test`.
# PYTHON: the interpreter that makes the environment (3.11 or newer).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready

.PHONY: demo demo-audio demo-speech demo-distributed test slow lint types docs clean help

help:
	@echo "make demo   train a language RNN with and without BPTT, table and pictures in demo-out/"
	@echo "make demo-audio   the same on sound: which tone came first?"
	@echo "make demo-speech   from sounds to text: which notes are these?"
	@echo "make demo-distributed   two processes on one sequence of 65,536 time steps, beside one"
	@echo "make test   ruff, mypy and the tests"
	@echo "make slow   the tests that take minutes"
	@echo "make docs   the documentation as pages in build/site/"

# torch goes first: with its CPU build present nothing pulls the multi-gigabyte CUDA one. The wheel of
# torchaudio is built for CUDA; hbll_seq/audio/backend.py imports it beside any torch.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

# The GPU kernels run in Triton's interpreter for the tests; a gigabyte that the demo does not need.
TESTS := $(VENV)/.ready-tests
$(TESTS): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,interpreter]'
	touch $(TESTS)

demo: $(STAMP)
	$(BIN)/python -m benchmarks.demo

demo-audio: $(STAMP)
	$(BIN)/python -m benchmarks.demo_audio

demo-speech: $(STAMP)
	$(BIN)/python -m benchmarks.demo_speech

demo-distributed: $(STAMP)
	$(BIN)/python -m benchmarks.demo_distributed

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# Threads that spin while they wait make the tests many times slower where other work runs beside them.
test slow: export OMP_WAIT_POLICY ?= passive

# One process a core, at most four: each compiles and holds kernels of its own.
test: lint types $(TESTS)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

slow: $(TESTS)
	$(BIN)/python -m pytest -m slow

# Pages are made in an environment of their own: they need nothing of the package but its source. The wheel of
# djangocms-katex holds KaTeX and its fonts; without dependencies, since no Django is wanted.
DOCS := build/docs-venv/.ready
$(DOCS): Makefile constraints.txt
	test -x build/docs-venv/bin/pip || $(PYTHON) -m venv build/docs-venv
	build/docs-venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt mkdocs mkdocs-material \
	'mkdocstrings[python]' ruff mini-racer
	build/docs-venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps djangocms-katex
	touch $(DOCS)

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 build/docs-venv/bin/mkdocs build --strict

clean:
	rm -rf $(VENV) demo-out build *.egg-info
