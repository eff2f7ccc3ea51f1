# `make demo` and `make test` do everything on a fresh clone; both make the environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The client of CryoSPARC 4.7, which has the name of that of 5.0: a folder of its own, put first on the path.
CLIENT_4 := $(abspath $(VENV))/cryosparc4

.PHONY: demo test test-quick hint lint docs wheel environment clean

environment: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	@$(PYTHON) -c 'import shutil; free = shutil.disk_usage(".").free / 1e9; free < 12 and print(f"note: {free:.0f} GB are free here; PyTorch with its GPU libraries takes 7 GB, and up to 5 GB more while it is installed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-cache-dir --quiet --disable-pip-version-check --editable '.[dev,docs,simulate,cryosparc]'
	$(BIN)/python -m pip install --no-cache-dir --quiet --disable-pip-version-check --no-deps --only-binary :all: --upgrade --target $(CLIENT_4) 'cryosparc-tools==4.7.*' \
	    || echo 'note: there is no client of CryoSPARC 4.7 for this Python; its tests are skipped'
	@touch $@

demo: environment
	$(BIN)/cryosegnet demo --output demo

test: hint environment
	$(BIN)/python -m pytest -n 2 --dist loadfile
	PYTHONPATH=$(CLIENT_4) CRYOSPARC_CLIENT=4.7 $(BIN)/python -m pytest -n 2 --dist loadfile tests/cryosparc_job

hint:
	@echo 'Every test, which takes about 14 minutes where two cores are free; the quick ones alone take about 4: make test-quick'

test-quick: environment
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow and not browser and not relion and not cluster'

lint: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site is build/site/index.html; nothing but pip needs the network.
docs: environment
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The wheel, installed in an environment of its own, picks the sample with the network cut.
wheel: environment
	packaging/check_install.sh $(BIN)/python

clean:
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
