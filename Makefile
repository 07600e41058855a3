# One word each; every target sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
INSTALLED := $(VENV)/.installed
C := $(wildcard $(addsuffix /native/*,hdvkit devices/hdvkit_virtiofs plugins/hdvkit_vfio_user))

.PHONY: demo demo-vm vm e2e e2e-long e2e-bench windows test native install model fuzz bench lint coverage format clean

demo: $(READY)
	$(BIN)/hdvkit demo

test: RUN ?= python
test: $(READY)
	$(BIN)/$(RUN) -m pytest --numprocesses auto --dist worksteal -m "not install and not e2e"

# What C answers, by C; nothing is skipped for lack of it.
native: export HDVKIT_NATIVE := 1
native: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -m "not install and not e2e" \
		tests/test_native*.py tests/test_virtio_split.py tests/test_virtio_packed.py tests/test_virtiofs*.py \
		tests/test_passthrough.py tests/test_hostile*.py tests/test_host.py tests/vfio_user

# A third-party plugin, installed into a fresh environment as a stranger would.
install: $(READY)
	$(BIN)/python -m pytest -m install

# QEMU, kernels and guest programs in a cache folder; see tools/hdvkit_vm.
vm: $(READY)
	PYTHONPATH=tools $(BIN)/python -m hdvkit_vm prepare

# Stock kernels in QEMU in front of our devices.
e2e: vm
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -o faulthandler_timeout=600 tests/e2e

# The same, everything as often and as long as it can; and the race against a host process that swaps links.
e2e-long: export HDVKIT_E2E := long
e2e-long: export HDVKIT_SEMANTICS := full
e2e-long: vm
	$(BIN)/python -m pytest -o faulthandler_timeout=0 tests/test_hostile_fuse.py -k f7
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -o faulthandler_timeout=0 tests/e2e

# The tests that belong on Windows, in Wine, with a double of what Hyper-V is there; see tools/hdvkit_wine.
windows: $(READY)
	PYTHONPATH=tools $(BIN)/python -m hdvkit_wine test

# The same work in guests before hdvkit and before virtiofsd, into docs/performance.md.
e2e-bench: vm
	PYTHONPATH=tools $(BIN)/python -m benchmarks.in_guest --output docs

# A shell in a virtual machine that shares DIRECTORY with us; SCRIPT runs instead of the shell.
demo-vm: export SCRIPT := $(SCRIPT)
demo-vm: export DIRECTORY := $(DIRECTORY)
demo-vm: vm
	PYTHONPATH=tools $(BIN)/python -m hdvkit_vm demo $${SCRIPT:+--script "$$SCRIPT"} "$${DIRECTORY:-.}"

# The long form of the model test: 300 examples of up to 200 operations.
model: $(READY)
	HDVKIT_MODEL=full $(BIN)/python -m pytest -o faulthandler_timeout=0 tests/test_virtiofs_model.py

# The C of the data path against drivers and guests that send anything, with sanitizers.
fuzz: FUZZ_SECONDS ?= 30
fuzz:
	tests/fuzz/run $(FUZZ_SECONDS)

# Operations a second and processor time, beside virtiofsd and system calls, into docs/performance.md.
bench: $(READY)
	PYTHONPATH=tools $(BIN)/python -m benchmarks --output docs

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# make test with everything in Python, and how much of that it runs.
coverage: export HDVKIT_NATIVE := 0
coverage: $(READY)
	$(BIN)/coverage erase
	$(MAKE) test RUN="coverage run"
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=90
	$(BIN)/coverage report --include='hdvkit/pci/*,hdvkit/virtio/*,*/hdvkit_virtiofs/fuse/*' --fail-under=95

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist

# The C that was changed since, where there is a compiler.
$(READY): $(INSTALLED) $(filter %.c %.h %/build.py,$(C))
	$(BIN)/python hatch_build.py
	touch $(READY)

# pip's own notices are of no use to somebody who typed "make demo".
$(INSTALLED): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hdvkit needs Python 3.11 or newer; this is " + sys.version.split()[0] + ": try make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(INSTALLED) $(READY)
