// What the tests hold the compiled code to, in plain C: the product in the canonical order, the
// exact values of functions, and the processor's floating-point mode. oracle.py compiles and calls
// it; -ffp-contract=off, so that only fma() fuses.
#include <float.h>
#include <math.h>
#include <stdint.h>

// out (m, n) = x (m, k) @ w (k, n): chains of multiply-adds over blocks of 512 k, added in order.
#define PRODUCT(name, T, multiply_add)                                                           \
  void name(int64_t m, int64_t k, int64_t n, const T* x, int64_t x_row, int64_t x_col,           \
            const T* w, int64_t w_row, int64_t w_col, T* out) {                                  \
    for (int64_t i = 0; i < m; ++i) {                                                            \
      for (int64_t j = 0; j < n; ++j) {                                                          \
        T total = 0;                                                                             \
        for (int64_t start = 0; start < k; start += 512) {                                       \
          T sum = 0;                                                                             \
          for (int64_t l = start; l < k && l < start + 512; ++l) {                               \
            sum = multiply_add(x[i * x_row + l * x_col], w[l * w_row + j * w_col], sum);         \
          }                                                                                      \
          total = start == 0 ? sum : total + sum;                                                \
        }                                                                                        \
        out[i * n + j] = total;                                                                  \
      }                                                                                          \
    }                                                                                            \
  }
#define TWO_ROUNDINGS(a, b, c) ((a) * (b) + (c))

PRODUCT(product_float32_fused, float, fmaf)
PRODUCT(product_float64_fused, double, fma)
PRODUCT(product_float32_plain, float, TWO_ROUNDINGS)
PRODUCT(product_float64_plain, double, TWO_ROUNDINGS)

// Functions in a wider type: for float32 in double, for float64 in long double (64 bits on x86, 113
// on aarch64). Both are wrong by about an ulp of the wider type: 2^-29 and 2^-11 of the narrow one.
enum { EXP, LOG, TANH, SIGMOID, ERF, SOFTPLUS, NORMAL_CDF };

static double exact64(int function, double x) {
  switch (function) {
    case EXP: return exp(x);
    case LOG: return log(x);
    case TANH: return tanh(x);
    case SIGMOID: return 1 / (1 + exp(-x));
    case ERF: return erf(x);
    case SOFTPLUS: return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
    default: return 0.5 * erfc(x * -0.70710678118654752440);
  }
}

// erfc(t) / 2 at t = -x / sqrt(2). erfc magnifies the rounding of t by 2 t^2, more than 1000 in the
// left tail, so what t lacks is made up for to first order.
static long double normal_cdf(long double x) {
  const long double root = 0.70710678118654752440084436210484903928L;
  const long double lacking = LDBL_MANT_DIG == 64 ? 1.895032558893257079655062e-20L : 0.0L;
  const long double t = -x * root;
  if (isnan(t) || t < 1 || isinf(t)) return 0.5L * erfcl(t);
  const long double rest = fmal(-x, root, -t) - x * lacking;
  return 0.5L * erfcl(t) - rest * expl(-t * t) * 0.56418958354775628694807945156077258584L;
}

static long double exact80(int function, long double x) {
  switch (function) {
    case EXP: return expl(x);
    case LOG: return logl(x);
    case TANH: return tanhl(x);
    case SIGMOID: return 1 / (1 + expl(-x));
    case ERF: return erfl(x);
    case SOFTPLUS: return x > 0 ? x + log1pl(expl(-x)) : log1pl(expl(x));
    default: return normal_cdf(x);
  }
}

void exact_float32(int function, int64_t count, const float* x, double* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = exact64(function, x[i]);
}

void exact_float64(int function, int64_t count, const double* x, long double* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = exact80(function, x[i]);
}

// The largest |got - exact| in units of the last place of `exact`, and where it is. What overflows
// counts as 2^128 (2^1024), the number that would come next. NaN agrees with NaN only.
double ulps_float32(int64_t count, const double* exact, const float* got, int64_t* where) {
  double worst = -1;
  for (int64_t start = 0; start < count; start += 256) {
    const int n = count - start < 256 ? (int)(count - start) : 256;
    double errors[256];
    for (int i = 0; i < n; ++i) {  // no branches, for the vectoriser
      double a = exact[start + i], b = got[start + i];
      a = a > 0x1p128 ? 0x1p128 : a;
      a = a < -0x1p128 ? -0x1p128 : a;
      b = b > 0x1p128 ? 0x1p128 : b;
      b = b < -0x1p128 ? -0x1p128 : b;
      union { double value; uint64_t bits; } size = {a}, per_ulp;
      int64_t exponent = (int64_t)(size.bits >> 52 & 0x7ff) - 1023;
      exponent = exponent < -126 ? -126 : exponent;
      exponent = exponent > 127 ? 127 : exponent;
      per_ulp.bits = (uint64_t)(1023 + 23 - exponent) << 52;
      const double error = fabs(a - b) * per_ulp.value;
      errors[i] = a == a && b == b ? error : (a == a) == (b == b) ? 0 : INFINITY;
    }
    for (int i = 0; i < n; ++i) {
      if (errors[i] > worst) {
        worst = errors[i];
        *where = start + i;
      }
    }
  }
  return worst;
}

double ulps_float64(int64_t count, const long double* exact, const double* got, int64_t* where) {
  const long double limit = ldexpl(1, 1024);
  double worst = -1;
  for (int64_t i = 0; i < count; ++i) {
    const long double a = fminl(fmaxl(exact[i], -limit), limit);
    const long double b = fminl(fmaxl(got[i], -limit), limit);
    const int exponent = a == 0 || ilogbl(a) < -1022 ? -1022 : ilogbl(a) > 1023 ? 1023 : ilogbl(a);
    double error = (double)ldexpl(fabsl(a - b), 52 - exponent);
    if (isnan(exact[i]) || isnan(got[i])) {
      error = isnan(exact[i]) && isnan(got[i]) ? 0 : INFINITY;
    }
    if (error > worst) {
      worst = error;
      *where = i;
    }
  }
  return worst;
}

// The rounding and denormal mode of the calling thread.
#if defined(__x86_64__)
#include <xmmintrin.h>
uint64_t float_mode(void) { return _mm_getcsr() & 0xffc0; }  // without the sticky flags
void set_float_mode(uint64_t mode) { _mm_setcsr((unsigned)mode); }
uint64_t usual_mode(void) { return 0x1f80; }
uint64_t denormals_off(void) { return 0x1f80 | 0x8040; }  // flush to zero, denormals are zero
uint64_t round_up(void) { return 0x1f80 | 0x4000; }
#elif defined(__aarch64__)
uint64_t float_mode(void) {
  uint64_t mode;
  __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
}
void set_float_mode(uint64_t mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
uint64_t usual_mode(void) { return 0; }
uint64_t denormals_off(void) { return 1u << 24; }
uint64_t round_up(void) { return 1u << 22; }
#endif
