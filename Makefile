# Every target but gpu-report creates .venv with what it needs, if it is missing.
PYTHON ?= python3
BIN := .venv/bin
# Without an NVIDIA driver: the CPU build of torch where the package index has it, else the usual build; and Triton, which comes with
# the usual build alone, to test the kernels without a GPU. torch-fidelity, with which metrics are cross-checked, without torchvision.
TORCH ?= 2.13.0
TRITON ?= 3.8.0
RUN ?= runs/demo
export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: demo test check lint bench sanitize kernels-report gpu-report clean

.venv/ready: pyproject.toml constraints.txt setup.py CMakeLists.txt $(wildcard csrc/*)
	$(PYTHON) -m venv .venv
	if command -v nvidia-smi >/dev/null; then $(BIN)/pip install --quiet "torch==$(TORCH)"; \
	else $(BIN)/pip install --quiet "torch==$(TORCH)+cpu" 2>/dev/null || $(BIN)/pip install --quiet "torch==$(TORCH)"; \
	$(BIN)/python -c "import triton" 2>/dev/null || $(BIN)/pip install --quiet "triton==$(TRITON)"; fi
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/pip install --quiet --no-deps "torch-fidelity==0.4.0"
	touch $@

demo: .venv/ready  ## train on handwritten digits, then draw new ones
	rm -rf $(RUN)
	$(BIN)/ddgan train --preset demo --out $(RUN)
	$(BIN)/ddgan sample --model $(RUN) --num-images 64 --format grid --out $(RUN)/demo.png
	@echo "Look at $(RUN)/demo.png"

test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2

check: .venv/ready  ## the tests that take minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 -m slow

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: .venv/ready
	$(BIN)/python -m benchmarks.sample
	$(BIN)/python -m benchmarks.tables

sanitize: .venv/ready  ## the CPU part of the extension with ASan and UBSan, under the tests of its ops
	@bash tests/csrc/sanitize.sh $(BIN)/python

kernels-report: .venv/ready  ## every Triton kernel compiled for every architecture, no GPU needed: registers, spills, shared memory
	$(BIN)/python -m benchmarks.kernels_report

gpu-report:  ## on a machine with a GPU, whatever else is there: GPU tests, calibration, benchmarks; ONLY="fir residual" runs these parts
	@bash benchmarks/gpu_report.sh

clean:
	rm -rf .venv build dist *.egg-info
