# The few commands a developer needs. Everything is installed into $(VENV) and nothing outside it.
#
#   make venv   install trtpipe with all that its tests need
#   make demo   build the digits example: from PyTorch to verified int8 engines
#   make test   run the tests
#   make lint   run the linter, the formatter's check and the type checker
#   make dist   build the wheel and the source archive; equal sources give equal bytes
#   make clean  remove build results and caches; the environment stays
#
# `make PYTHON=python3.12 venv` chooses the interpreter (3.10 or newer), `make VENV=folder ...` the environment's place.

PYTHON ?= python3
VENV ?= .venv
STAMP = $(VENV)/.installed

.PHONY: venv demo test lint dist clean

venv: $(STAMP)

# The stamp is as new as the last complete install, so that nothing is asked of pip until the requirements change.
# tensorrt-rtx comes as a source archive, and pip 25.3 is the first to unpack those safely (CVE-2025-8869).
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo '$(PYTHON) is missing or older than 3.10: choose another with make PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo '$(PYTHON) cannot make environments: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --upgrade 'pip>=25.3'
	$(VENV)/bin/python -m pip install -c constraints.txt -e '.[torch,rtx,images,hdf5,plots,trust,pkcs11,examples,dev]'
	@touch $@

demo: $(STAMP)
	$(VENV)/bin/trtpipe build examples/digits/model.py:digits_cnn --int8 --profile profiles/digits.toml --calib calib/digits.toml -o build/digits

test: $(STAMP)
	$(VENV)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

dist: $(STAMP)
	$(VENV)/bin/python tools/make_dist.py dist

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
