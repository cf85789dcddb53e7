#!/usr/bin/env bash
# What `make bench` runs: the machine's limits and the matrix kernels, then whole models. With llama.cpp's
# llama-bench in LLAMA_BENCH, beside it.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build/release}

"$build"/bench/bench_matmul --quick --type Q8_0 --type Q4_0 --type Q4_1 --type Q5_0 --type Q4_K --type Q6_K
scripts/get_smollm2.sh || { echo "note: SmolLM2 is not installed; the model benchmark is left out"; exit 0; }
python3 bench/compare_llama.py models/downloaded/smollm2-135m-instruct.gguf \
  --reprise "$build"/reprise ${LLAMA_BENCH:+--llama-bench "$LLAMA_BENCH"}
