# Everything a user needs, in two commands: `make demo` and `make test`. Both install what is missing
# first (apt packages; `make test` also a .venv with PyTorch) and skip that fast where it is there.
SHELL := /bin/bash
BUILD ?= build/release
JOBS ?= $(shell nproc)

.PHONY: all build $(BUILD)/reprise demo test bench format deps deps-torch test-asan test-tsan test-asan-quick test-asan-serve test-tsan-serve clean help

all: build

deps:
	@scripts/setup_packages.sh
deps-torch: deps
	@scripts/setup_torch.sh

# The program; with PyTorch there, its plug-in too.
build: deps
	@cmake --preset release -Wno-dev > /dev/null
	@cmake --build $(BUILD) -j $(JOBS) --target program

# The program alone.
$(BUILD)/reprise: deps
	@cmake --preset release -Wno-dev > /dev/null
	@cmake --build $(BUILD) -j $(JOBS) --target reprise
# Answers questions about a picture with the embedded model. Needs neither PyTorch nor a network.
demo: $(BUILD)/reprise
	@scripts/demo.sh $(BUILD)/reprise

test: deps-torch
	@scripts/get_smollm2.sh || echo "note: SmolLM2 could not be installed; its tests will be skipped"
	@cmake --preset release -Wno-dev
	@cmake --build $(BUILD) -j $(JOBS)
	@ctest --preset release -j $(JOBS)

# The same tests under address + undefined-behaviour sanitizers (no torch), or the thread sanitizer.
# FILTER limits them: make test-asan FILTER='-L fast'
test-asan test-tsan: test-%: deps
	@cmake --preset $* -Wno-dev > /dev/null
	@cmake --build build/$* -j $(JOBS)
	@ctest --preset $* -j $(JOBS) $(FILTER)

# What CI affords: everything that reads files or text, the model and the engine, without simde.
ASAN_QUICK := base formats text image model engine eval trace
test-asan-quick: deps
	@cmake --preset asan -Wno-dev -DREPRISE_SIMDE=OFF > /dev/null
	@cmake --build build/asan -j $(JOBS) --target $(ASAN_QUICK:%=test_%)
	@ctest --preset asan -j $(JOBS) -L '^(fast|model|engine)$$' -E '^(layering|add_subdirectory|simulate_depthwise)$$'

# The scheduler's alone: minutes instead of an hour. REPRISE_SCHEDULES=N runs more random schedules.
test-asan-serve test-tsan-serve: test-%-serve: deps
	@cmake --preset $* -Wno-dev -DREPRISE_SIMDE=OFF > /dev/null
	@cmake --build build/$* -j $(JOBS) --target test_serve
	@ctest --preset $* -j $(JOBS) -L '^serve$$'

bench: build
	@cmake --build $(BUILD) -j $(JOBS) --target bench_matmul bench_attention
	@scripts/bench.sh $(BUILD)

format:
	@git ls-files '*.h' '*.cc' '*.inc' | xargs clang-format -i

clean:
	@rm -rf build

help:
	@echo "make         build $(BUILD)/reprise (and, where PyTorch is, its plug-in)"
	@echo "make demo    answer questions about a picture with the embedded model"
	@echo "make test    build everything and run all tests"
	@echo "make bench   run the benchmarks (bench/)"
	@echo "make format  clang-format all sources"
	@echo "make test-asan, make test-tsan   tests under sanitizers; FILTER='-L fast' limits them"
	@echo "make test-asan-serve, make test-tsan-serve   the scheduler's alone"
