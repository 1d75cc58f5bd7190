// What an optimizer does with one number: the arithmetic of optimizer.cu and of the end of
// fused.cu.
#pragma once

#include <cfloat>

#include "launch.cuh"

namespace fanin::cuda {

template <class T>
__device__ __forceinline__ T flush(T moment) {
  constexpr T smallest = sizeof(T) == 4 ? T(FLT_MIN) : T(DBL_MIN);
  return fabs(moment) < smallest ? T(0) : moment;
}

// NaN stays NaN.
template <class T>
__device__ __forceinline__ T clip(T g, T limit) {
  return g > limit ? limit : g < -limit ? -limit : g;
}

__device__ __forceinline__ Rates rates_of(double lr, double correction, double step_size,
                                          double decay, const Rates* rates,
                                          const StepState* state) {
  return rates != nullptr ? rates[state->index] : Rates{lr, correction, step_size, decay};
}

// The numbers of an update as its rule sees them, rounded once.
template <class T>
struct Settings {
  T lr, correction, decay;
  T beta1, rest1, beta2, rest2, eps;
  T limit, scale;
  bool nesterov, decays;

  __device__ Settings(const Update<T>& update, const Rates& rates)
      : lr(T(rates.lr)),
        correction(T(rates.correction)),
        decay(T(rates.decay)),
        beta1(T(update.beta1)),
        rest1(T(1 - update.beta1)),
        beta2(T(update.beta2)),
        rest2(T(1 - update.beta2)),
        eps(T(update.eps)),
        limit(T(update.clip_value)),
        nesterov(update.nesterov),
        decays(rates.decay != 0) {
    double factor = update.gradient_scale;
    if (update.norm != nullptr && !(*update.norm <= update.clip_norm)) {
      factor *= update.clip_norm / *update.norm;  // 0 of an infinite norm, NaN of NaN
    }
    scale = T(factor);
  }
};

// Rules: p after a step; m and s are the first and the second moment.
struct Sgd {
  static constexpr bool first = false, second = false, decays = false;
  template <class T>
  __device__ static T step(const Settings<T>& of, T g, T p, bool, T&, T&) {
    return fma(-of.lr, g, p);
  }
};

struct Momentum {
  static constexpr bool first = true, second = false, decays = false;
  template <class T>
  __device__ static T step(const Settings<T>& of, T g, T p, bool, T& m, T&) {
    m = flush(fma(of.beta1, m, g));
    return fma(-of.lr, of.nesterov ? fma(of.beta1, m, g) : m, p);
  }
};

struct Rmsprop {
  static constexpr bool first = false, second = true, decays = false;
  template <class T>
  __device__ static T step(const Settings<T>& of, T g, T p, bool, T&, T& s) {
    s = flush(fma(of.beta2, s, of.rest2 * g * g));
    return p - of.lr * g / (sqrt(s) + of.eps);
  }
};

struct Adam {
  static constexpr bool first = true, second = true, decays = true;
  template <class T>
  __device__ static T step(const Settings<T>& of, T g, T p, bool decays, T& m, T& s) {
    m = flush(fma(of.rest1, g - m, m));
    s = flush(fma(of.beta2, s, of.rest2 * g * g));
    p = decays ? fma(-of.decay, p, p) : p;
    return p - of.lr * m / fma(sqrt(s), of.correction, of.eps);
  }
};

}  // namespace fanin::cuda
