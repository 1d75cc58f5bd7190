// PRELIMINARY, by the lead, so that others can build: replace this file wholly.
#pragma once
#include "../core/ops.hpp"
#include "math.hpp"
namespace fanin { namespace {
template <Activation K, class T> FANIN_INLINE Vec<T> activate(Vec<T> z) {
  if constexpr (K==Activation::relu) return select(z <= zero<T>(), zero<T>(), z);
  else if constexpr (K==Activation::tanh) return tanh(z);
  else if constexpr (K==Activation::sigmoid) return sigmoid(z);
  else return z; }
template <Activation K, class T> FANIN_INLINE Vec<T> derivative(Vec<T> a) {
  const Vec<T> one=broadcast(T(1));
  if constexpr (K==Activation::relu) return select(a > zero<T>(), one, zero<T>());
  else if constexpr (K==Activation::tanh) return (one-a)*(one+a);
  else if constexpr (K==Activation::sigmoid) return a*(one-a);
  else return one; }
template <class F> void visit(Activation k, F&& f) {
 switch(k){
#define C(x) case Activation::x: f.template operator()<Activation::x>(); break;
C(identity) C(relu) C(leaky_relu) C(elu) C(selu) C(tanh) C(sigmoid) C(gelu) C(gelu_tanh) C(silu) C(softplus)
 } }
}}
