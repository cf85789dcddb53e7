#include "convert/looped/lapack.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>

#include "base/error.h"

namespace reprise::lapack {
namespace {

constexpr const char* kLibrary = "libopenblas.so.0";

// Values of the enumerations of CBLAS.
constexpr int kRowMajor = 101, kPlain = 111, kTransposed = 112, kUpper = 121, kLower = 122,
              kNonUnit = 131, kRight = 142;

template <typename T>
using Gemm = void(int, int, int, int, int, int, T, const T*, int, const T*, int, T, T*, int);
using Syrk = void(int, int, int, int, int, double, const double*, int, double, double*, int);
using Triangular = void(int, int, int, int, int, int, int, double, const double*, int, double*,
                        int);

// Of LAPACK the Fortran interface: column-major, everything by address, and behind the arguments
// the lengths of those that are characters.
using Potrf = void(const char*, const int*, double*, const int*, int*, size_t);
using Posv = void(const char*, const int*, const int*, double*, const int*, double*, const int*,
                  int*, size_t);
using Syevr = void(const char*, const char*, const char*, const int*, double*, const int*,
                   const double*, const double*, const int*, const int*, const double*, int*,
                   double*, double*, const int*, int*, double*, const int*, int*, const int*, int*,
                   size_t, size_t, size_t);
using Gesdd = void(const char*, const int*, const int*, double*, const int*, double*, double*,
                   const int*, double*, const int*, double*, const int*, int*, int*, size_t);
using Geqrf = void(const int*, const int*, double*, const int*, double*, double*, const int*, int*);
using Orgqr = void(const int*, const int*, const int*, double*, const int*, const double*, double*,
                   const int*, int*);

class Library {
 public:
  Library() {
    choose_kernels();
    handle_ = ::dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
    if (!handle_)
      fail(
          "decompositions of matrices need OpenBLAS, and it can't be loaded: {}; on Debian it is "
          "in the package libopenblas0-pthread",
          ::dlerror());
    dgemm = find<Gemm<double>>("cblas_dgemm");
    sgemm = find<Gemm<float>>("cblas_sgemm");
    dsyrk = find<Syrk>("cblas_dsyrk");
    dtrmm = find<Triangular>("cblas_dtrmm");
    dtrsm = find<Triangular>("cblas_dtrsm");
    dpotrf = find<Potrf>("dpotrf_");
    dposv = find<Posv>("dposv_");
    dsyevr = find<Syevr>("dsyevr_");
    dgesdd = find<Gesdd>("dgesdd_");
    dgeqrf = find<Geqrf>("dgeqrf_");
    dorgqr = find<Orgqr>("dorgqr_");
    // Callers have threads of their own, one matrix each.
    find<void(int)>("openblas_set_num_threads")(1);
  }

  Gemm<double>* dgemm;
  Gemm<float>* sgemm;
  Syrk* dsyrk;
  Triangular *dtrmm, *dtrsm;
  Potrf* dpotrf;
  Posv* dposv;
  Syevr* dsyevr;
  Gesdd* dgesdd;
  Geqrf* dgeqrf;
  Orgqr* dorgqr;

 private:
  template <typename F>
  F* find(const char* name) {
    auto* function = reinterpret_cast<F*>(::dlsym(handle_, name));
    if (!function) fail("{} has no function {}: it isn't OpenBLAS with LAPACK", kLibrary, name);
    return function;
  }

  // OpenBLAS goes by the processor's model number, and takes kernels for SSE3 where it doesn't know
  // it: Debian 12's release does that on Xeons of 2023.
  static void choose_kernels() {
    const char* kernels = nullptr;
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
      kernels = "SkylakeX";
    else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
      kernels = "Haswell";
    if (kernels) ::setenv("OPENBLAS_CORETYPE", kernels, /*overwrite=*/0);
  }

  void* handle_;
};

const Library& library() {
  static const Library loaded;
  return loaded;
}

int as_int(int64_t n) { return static_cast<int>(n); }

template <typename T>
void gemm_by(Gemm<T>* call, int64_t m, int64_t n, int64_t k, T alpha, Operand<T> a, Operand<T> b,
             T beta, T* c, int64_t ldc) {
  const auto op = [](Op o) { return o == Op::None ? kPlain : kTransposed; };
  call(kRowMajor, op(a.op), op(b.op), as_int(m), as_int(n), as_int(k), alpha, a.data, as_int(a.ld),
       b.data, as_int(b.ld), beta, c, as_int(ldc));
}

void check(int info, const char* routine, int64_t rows, int64_t columns) {
  if (info == 0) return;
  fail("the decomposition of a matrix of {} x {} failed ({}: {})", rows, columns, routine, info);
}

// The length of the work space a routine asks for: its first element after a query.
int work_length(double first) { return std::max(1, static_cast<int>(first)); }

}  // namespace

void gemm(int64_t m, int64_t n, int64_t k, double alpha, Operand<double> a, Operand<double> b,
          double beta, double* c, int64_t ldc) {
  gemm_by(library().dgemm, m, n, k, alpha, a, b, beta, c, ldc);
}

void gemm(int64_t m, int64_t n, int64_t k, float alpha, Operand<float> a, Operand<float> b,
          float beta, float* c, int64_t ldc) {
  gemm_by(library().sgemm, m, n, k, alpha, a, b, beta, c, ldc);
}

void gram(int64_t out, int64_t in, const double* m, double* upper) {
  library().dsyrk(kRowMajor, kUpper, kTransposed, as_int(in), as_int(out), 1, m, as_int(in), 0,
                  upper, as_int(in));
}

void times_lower(int64_t rows, int64_t n, const double* s, double* m) {
  library().dtrmm(kRowMajor, kRight, kLower, kPlain, kNonUnit, as_int(rows), as_int(n), 1, s,
                  as_int(n), m, as_int(n));
}

void over_lower(int64_t rows, int64_t n, const double* s, double* m) {
  library().dtrsm(kRowMajor, kRight, kLower, kPlain, kNonUnit, as_int(rows), as_int(n), 1, s,
                  as_int(n), m, as_int(n));
}

bool cholesky(int64_t n, double* c) {
  // Row-major lower is column-major upper.
  const int size = as_int(n);
  int info = 0;
  library().dpotrf("U", &size, c, &size, &info, 1);
  return info == 0;
}

bool over_positive(int64_t rows, int64_t n, double* c, double* m) {
  // The rows of m are right-hand sides in column-major order.
  const int size = as_int(n), sides = as_int(rows);
  int info = 0;
  library().dposv("L", &size, &sides, c, &size, m, &size, &info, 1);
  return info == 0;
}

Eigenvalues largest_eigenvalues(int64_t n, int64_t count, double* g) {
  Eigenvalues e;
  if (count == 0) return e;
  e.values.resize(static_cast<size_t>(n));
  e.vectors.resize(static_cast<size_t>(count * n));
  std::vector<int> support(static_cast<size_t>(2 * count));
  const int size = as_int(n), first = as_int(n - count + 1);
  const double unused = 0;
  std::vector<double> work(1);
  std::vector<int> int_work(1);
  int length = -1, int_length = -1, found = 0, info = 0;
  const auto call = [&] {
    // Row-major upper is column-major lower.
    library().dsyevr("V", "I", "L", &size, g, &size, &unused, &unused, &first, &size, &unused,
                     &found, e.values.data(), e.vectors.data(), &size, support.data(), work.data(),
                     &length, int_work.data(), &int_length, &info, 1, 1, 1);
  };
  call();  // asks for the sizes
  if (info == 0) {
    work.resize(static_cast<size_t>(length = work_length(work[0])));
    int_work.resize(static_cast<size_t>(int_length = std::max(1, int_work[0])));
    call();
  }
  if (info != 0 || found != count)
    fail("the eigenvalues of a matrix of {} x {} could not be found (dsyevr: {})", n, n, info);
  e.values.resize(static_cast<size_t>(count));
  return e;
}

Svd svd(int64_t rows, int64_t columns, double* m) {
  // Row-major m is, column by column, its transpose: m^T = v^T diag(s) u^T.
  const int64_t n = std::min(rows, columns);
  Svd d;
  d.u.resize(static_cast<size_t>(rows * n));
  d.s.resize(static_cast<size_t>(n));
  d.v.resize(static_cast<size_t>(n * columns));
  const int height = as_int(columns), width = as_int(rows), values = as_int(n);
  std::vector<int> int_work(static_cast<size_t>(8 * n));
  std::vector<double> work(1);
  int length = -1, info = 0;
  const auto call = [&] {
    library().dgesdd("S", &height, &width, m, &height, d.s.data(), d.v.data(), &height, d.u.data(),
                     &values, work.data(), &length, int_work.data(), &info, 1);
  };
  call();
  check(info, "dgesdd", rows, columns);
  work.resize(static_cast<size_t>(length = work_length(work[0])));
  call();
  check(info, "dgesdd", rows, columns);
  return d;
}

void orthonormalize_rows(int64_t count, int64_t n, double* m) {
  const int height = as_int(n), width = as_int(count);
  std::vector<double> tau(static_cast<size_t>(count)), work(1);
  int length = -1, info = 0;
  const auto factor = [&] {
    library().dgeqrf(&height, &width, m, &height, tau.data(), work.data(), &length, &info);
    check(info, "dgeqrf", count, n);
  };
  const auto build = [&] {
    library().dorgqr(&height, &width, &width, m, &height, tau.data(), work.data(), &length, &info);
    check(info, "dorgqr", count, n);
  };
  factor();
  work.resize(static_cast<size_t>(length = work_length(work[0])));
  factor();
  length = -1;
  build();
  work.resize(static_cast<size_t>(length = work_length(work[0])));
  build();
}

}  // namespace reprise::lapack
