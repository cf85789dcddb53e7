#!/usr/bin/env bash
# PyTorch 2.13.0 (wheel): libtorch_cpu.so carries a BLAS of its own (MKL), but exports its Fortran
# names and calls them through the dynamic linker. A program that has any other BLAS among its
# libraries, as a C++ program linked with OpenBLAS has, gets its matrix products from that one, with
# no message. torch.__config__ goes on naming MKL. (In our case the other BLAS had chosen kernels for
# SSE3, and training ran five times slower, results equal.)
#
# Guess before running: a library that is linked into the wheel is used by the wheel.
# Seen: one product of 64 x 64 calls the sgemm_ of a preloaded library of 10 lines, whose result is
# the one torch.mm returns.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check torch==2.13.0 numpy==2.3.5

cat > other_blas.c <<'C'
#include <stdio.h>
/* Answers every product with sevens, so that whoever uses it shows. */
void sgemm_(const char *ta, const char *tb, const int *m, const int *n, const int *k,
            const float *alpha, const float *a, const int *lda, const float *b, const int *ldb,
            const float *beta, float *c, const int *ldc) {
  for (int j = 0; j < *n; ++j)
    for (int i = 0; i < *m; ++i) c[i + (long)j * *ldc] = 7;
}
C
gcc -shared -fPIC -o libother_blas.so other_blas.c

cat > product.py <<'P'
import torch
a = torch.ones(64, 64)
print(torch.__version__.split("+")[0], "mkl" if "MKL" in torch.__config__.show() else "no mkl", int(torch.mm(a, a)[0, 0]))
P
alone=$(venv/bin/python product.py)
beside=$(LD_PRELOAD="$folder/libother_blas.so" venv/bin/python product.py)
echo "alone:               $alone"
echo "beside another BLAS: $beside"
[ "$alone" = "2.13.0 mkl 64" ] && [ "$beside" = "2.13.0 mkl 7" ] || { echo "changed"; exit 1; }
echo "as described"
