#!/usr/bin/env bash
# Makes .venv with the PyTorch that the torch backend is built against. Without it everything but the
# torch backend and training builds and passes its tests, so a failure here is no error.
#
# Where the default wheel is the one with CUDA (several GB) and only the CPU is wanted, set
# TORCH_INDEX to the CPU index that PyTorch's installation page gives:
#   TORCH_INDEX=<index URL ending in /whl/cpu> make test
# REPRISE_NO_TORCH=1 leaves torch out altogether.
set -euo pipefail
cd "$(dirname "$0")/.."

version=2.13.0
[ -n "${REPRISE_NO_TORCH:-}" ] && { echo "torch backend left out (REPRISE_NO_TORCH is set)"; exit 0; }

has_torch() {
  # The version file is read instead of importing torch, which takes seconds.
  ls "$1"/lib/python3*/site-packages/torch/version.py > /dev/null 2>&1 &&
    grep -q "__version__ = '$version" "$1"/lib/python3*/site-packages/torch/version.py
}
has_torch .venv && exit 0

echo "Making .venv with torch==$version (once)"
python=$(command -v python3)
if ! { [ -x .venv/bin/python ] || "$python" -m venv .venv; }; then
  echo "note: no virtual environment could be made; the torch backend is left out" >&2
  rm -rf .venv
  exit 0
fi
if ! .venv/bin/pip install -q --disable-pip-version-check ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch==$version" numpy; then
  echo "note: torch==$version could not be installed; the torch backend and training are left out" >&2
fi
