# The few commands a developer needs. Everything is installed into $(VENV) and nothing outside it.
#
#   make venv   install trtpipe with all that its tests need
#   make demo   build the digits example: from PyTorch to verified int8 engines
#   make farm-demo  build a matrix on Ray over an S3 server, both started here, and kill a worker in the middle
#   make test   run the tests
#   make lint   run the linter, the formatter's check, the type checker, and the linter of the Dockerfile
#   make site   build the documentation as a site, strictly, into build/site
#   make dist   build the wheel, the source archive and the SBOM; equal sources give equal bytes
#   make lock   write the hashed locks in requirements/ anew, after a change of constraints.txt
#   make audit  look the locked packages up among known vulnerabilities
#   make clean  remove build results and caches; the environment stays
#
# `make PYTHON=python3.12 venv` chooses the interpreter (3.10 or newer), `make VENV=folder ...` the environment's place.

PYTHON ?= python3
VENV ?= .venv
TOOLS ?= $(VENV)-tools
STAMP = $(VENV)/.installed
TOOLS_STAMP = $(TOOLS)/.installed
INSTALL = -m pip install --require-hashes -r

.PHONY: venv demo farm-demo test lint site dist lock audit clean

venv: $(STAMP)

# The stamp is as new as the last complete install, so that nothing is asked of pip until the requirements change.
# Every file that is installed has a hash in requirements/, and nothing is built with what has none; pip refuses an
# editable install under --require-hashes, so trtpipe itself comes last, alone. A CPU wheel of PyTorch comes first where
# there is one, because pip prefers files whose hashes an index tells it.
$(STAMP): pyproject.toml requirements/build.txt requirements/lock.txt requirements/torch-cuda.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo '$(PYTHON) is missing or older than 3.10: choose another with make PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo '$(PYTHON) cannot make environments: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python $(INSTALL) requirements/build.txt
	@$(VENV)/bin/python $(INSTALL) requirements/torch-cpu.txt --no-deps --no-index --quiet 2>/dev/null || \
		echo 'There is no CPU wheel of PyTorch in a folder that pip knows (PIP_FIND_LINKS): the index has to give one.'
	$(VENV)/bin/python $(INSTALL) requirements/lock.txt -c requirements/torch-cuda.txt --no-build-isolation
	$(VENV)/bin/python -m pip install --no-deps --no-build-isolation -e .
	@touch $@

$(TOOLS_STAMP): requirements/build.txt requirements/tools.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python $(INSTALL) requirements/build.txt
	$(TOOLS)/bin/python $(INSTALL) requirements/tools.txt
	@touch $@

demo: $(STAMP)
	$(VENV)/bin/trtpipe build examples/digits/model.py:digits_cnn --int8 --profile profiles/digits.toml --calib calib/digits.toml -o build/digits

farm-demo: $(STAMP)
	$(VENV)/bin/python examples/farm/demo.py

test: $(STAMP)
	$(VENV)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: $(STAMP) $(TOOLS_STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(TOOLS)/bin/hadolint Dockerfile

site: $(STAMP)
	$(VENV)/bin/python tools/make_site.py

dist: $(STAMP) $(TOOLS_STAMP)
	$(VENV)/bin/python tools/make_dist.py dist
	$(TOOLS)/bin/python tools/make_sbom.py "$$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" dist

lock: $(TOOLS_STAMP)
	$(TOOLS)/bin/python tools/make_lock.py

audit: $(TOOLS_STAMP)
	$(TOOLS)/bin/python tools/audit.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -not -path './$(TOOLS)/*' -prune -exec rm -rf {} +
