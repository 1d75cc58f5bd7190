// What a network is made of, wherever it computes: its layers, its output, how far a call got.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <vector>

#include "../core/ops.hpp"

namespace fanin {

constexpr double batch_norm_momentum = 0.1, batch_norm_eps = 1e-5;
constexpr int no_stats = -1;  // in place of the number of bins of a histogram, 0 for none

enum class Output : int { identity, sigmoid, softmax };
enum class BatchNorm : int { none, before, after };  // the activation

struct LayerConfig {
  int64_t fan_in, fan_out;
  Activation activation;
  uint32_t dropout_threshold;  // of 65536
  BatchNorm batch_norm;
  double l1, l2;
  double max_norm;  // of a column of w; unlimited: none

  bool normalised() const { return batch_norm != BatchNorm::none; }
  bool has_bias() const { return batch_norm != BatchNorm::before; }
  int64_t weights() const { return fan_in * fan_out; }
  int64_t parameters() const { return weights() + others(); }
  // Bias, gamma and beta.
  int64_t others() const { return (int64_t(has_bias()) + 2 * int64_t(normalised())) * fan_out; }
  bool penalised() const { return l1 > 0 || l2 > 0; }
  // Squares of w are summed over pieces: so many rows, or parts of a long one.
  int64_t piece_rows() const { return fan_out <= penalty_cols ? 8 : 1; }
  int64_t pieces() const {
    return (fan_in + piece_rows() - 1) / piece_rows() * penalty_pieces(fan_out);
  }
};

struct Progress {
  int64_t rows = 0, steps = 0;
  double loss = 0;  // sum over steps of loss * rows
};

// The edges of a histogram of values in [low, high], the ends as histogram_range of
// fanin.reference.stats sets them.
inline std::vector<double> histogram_edges(double low, double high, int bins) {
  low = std::max(low, -8e307);
  high = std::min(high, 8e307);
  const double finest =
      4 * bins * std::max(DBL_EPSILON * std::max(std::abs(low), std::abs(high)), DBL_MIN);
  if (high - low <= finest) {
    const double margin = std::max(0.5, finest);
    low -= margin;
    high += margin;
  }
  std::vector<double> edges;
  for (int i = 0; i < bins; ++i) {
    edges.push_back(low + i * ((high - low) / bins));
  }
  edges.push_back(high);
  return edges;
}

}  // namespace fanin
