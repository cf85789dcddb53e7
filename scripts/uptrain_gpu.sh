#!/usr/bin/env bash
# Uptrains a looped SmolLM2-135M (15 layers twice, adapters of rank 128, a fitted start, its dense model as teacher) on
# a machine with a CUDA PyTorch, in runs of at most ten minutes each that go on where the last one stopped.
#
#   scripts/uptrain_gpu.sh pack PARTS [DENSE.gguf [TRAIN.txt [VALIDATION.txt]]]   # here: what the other machine needs
#   scripts/uptrain_gpu.sh run PARTS OUT [SECONDS]                                # there, as often as wanted
#   scripts/uptrain_gpu.sh unpack OUT RUN                                         # here again: the run's folder
#
# PARTS and OUT hold files of at most 60 MB (parts of larger ones), so that they pass where larger ones don't.
# `pack` makes the start (docs/convert.md). `run` first builds the program against that PyTorch (tools and libraries as for
# `make`), and counts this into SECONDS (540).
# Without CUDA it says so and ends with 3 before it builds anything. UPTRAIN_DEVICE=cpu tries it without a GPU;
# UPTRAIN_PYTHON names the Python that has PyTorch, REPRISE a program that is built already.
set -euo pipefail
begin=$SECONDS
top=$(cd "$(dirname "$0")/.." && pwd)
part_bytes=60000000
inputs="dense.gguf looped.gguf train.txt validation.txt"

usage() {
  sed -n '5,7p' "$0" | cut -c3- >&2
  exit 2
}
need_file() {
  [ -f "$1" ] || { echo "error: $1: there is no such file" >&2; exit 1; }
}

# cut FILE FOLDER NAME: as FOLDER/NAME.part-000, ...; the sum is kept beside them.
cut_file() {
  split -b "$part_bytes" -d -a 3 "$1" "$2/$3.part-"
  sha256sum < "$1" | cut -d' ' -f1 > "$2/$3.sha256"
}
join_file() { # FOLDER NAME FILE
  cat "$1/$2".part-* > "$3.partial"
  if [ "$(sha256sum < "$3.partial" | cut -d' ' -f1)" != "$(cat "$1/$2.sha256")" ]; then
    rm -f "$3.partial"
    echo "error: $1/$2.part-*: not what was packed (the sum differs); a part is missing or broken" >&2
    exit 1
  fi
  mv "$3.partial" "$3"
}

pack() {
  local parts=$1 dense=${2:-$top/models/downloaded/smollm2-135m-instruct.gguf}
  local train=${3:-$top/recipes/small-lm/corpus/train.txt} validation=${4:-$top/recipes/small-lm/corpus/validation.txt}
  for file in "$dense" "$train" "$validation"; do need_file "$file"; done
  mkdir -p "$parts"
  "${REPRISE:-$top/build/release/reprise}" convert "$dense" "$parts/looped.gguf" --recursive --loops 2 --init fitted --rank 128 \
    --calibrate "$train" --force
  cut_file "$parts/looped.gguf" "$parts" looped.gguf
  rm "$parts/looped.gguf"
  cut_file "$dense" "$parts" dense.gguf
  cut_file "$train" "$parts" train.txt
  cut_file "$validation" "$parts" validation.txt
  echo "$parts: $(ls "$parts" | wc -l) files, $(du -sh "$parts" | cut -f1)"
}

run() {
  local parts=$1 out=$2 limit=${3:-540} device=${UPTRAIN_DEVICE:-cuda} python=${UPTRAIN_PYTHON:-python3}
  for name in $inputs; do need_file "$parts/$name.sha256"; done
  if [ "$device" = cuda ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2> /dev/null; then
    echo "note: $python has no PyTorch with a CUDA device here: nothing is trained" >&2
    exit 3
  fi
  local program=${REPRISE:-}
  if [ -z "$program" ]; then
    program=$top/build/gpu/reprise
    cmake --preset release -S "$top" -B "$top/build/gpu" -Wno-dev -DREPRISE_TORCH_PYTHON="$(command -v "$python")" > /dev/null
    cmake --build "$top/build/gpu" -j "$(nproc)" --target program > /dev/null
  fi
  local work=$top/runs/uptrain-gpu
  mkdir -p "$work/run" "$out"
  for name in $inputs; do
    [ -f "$work/$name" ] || join_file "$parts" "$name" "$work/$name"
  done
  local resume=()
  if [ -f "$out/checkpoint.safetensors.sha256" ]; then
    join_file "$out" checkpoint.safetensors "$work/run/checkpoint.safetensors"
    cp "$out/log.jsonl" "$work/run/"
    resume=(--resume)
  fi
  cat > "$work/recipe.yaml" << RECIPE
model: {from: looped.gguf}
data:
  train: [{text: train.txt}]
  validation: [{text: validation.txt}]
  validation_every: 100
  validation_limit: 16
  context: 512
loss: lm
distill: {teacher: dense.gguf, divergence: forward_kl, weight: 1}
optimizer: {lr: 2.0e-4, warmup_steps: 100, clip: 1.0}
run: {steps: ${UPTRAIN_STEPS:-20000}, batch: ${UPTRAIN_BATCH:-16}, precision: ${UPTRAIN_PRECISION:-bf16}, checkpoint_every: 1000000, log_every: 10}
RECIPE
  # TERM stops after a step and leaves a checkpoint; a minute is left for that and for cutting it.
  local left=$((limit - 60 - (SECONDS - begin))) status=0
  [ "$left" -gt 0 ] || { echo "error: building and converting took all of $limit seconds" >&2; exit 1; }
  timeout --signal=TERM "$left" "$program" train "$work/recipe.yaml" --out "$work/run" --device "$device" "${resume[@]}" || status=$?
  case $status in
    0 | 124 | 143) ;;
    *) exit "$status" ;;
  esac
  rm -f "$out"/*.part-* "$out"/*.sha256
  cut_file "$work/run/checkpoint.safetensors" "$out" checkpoint.safetensors
  cp "$work/run/log.jsonl" "$out/"
  [ "$status" != 0 ] || cut_file "$work/run/model.gguf" "$out" model.gguf
  tail -n 1 "$work/run/log.jsonl"
}

unpack() {
  mkdir -p "$2"
  need_file "$1/log.jsonl"
  cp "$1/log.jsonl" "$2/"
  for name in checkpoint.safetensors model.gguf; do
    [ ! -f "$1/$name.sha256" ] || join_file "$1" "$name" "$2/$name"
  done
  ls -l "$2"
}

case ${1:-} in
  pack) [ $# -ge 2 ] && [ $# -le 5 ] || usage ;;
  run) [ $# -ge 3 ] && [ $# -le 4 ] || usage ;;
  unpack) [ $# -eq 3 ] || usage ;;
  *) usage ;;
esac
"$@"
