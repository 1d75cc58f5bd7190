#include "step.hpp"

#include <algorithm>

#include "../core/sum.hpp"
#include "../kernels/dispatch.hpp"
#include "breakdown.hpp"

namespace fanin {
namespace {

const Context alone{};  // an operation inside a task runs on its thread

int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

// n things cut into parts of whole units, as equal as can be.
struct Cut {
  int64_t n, unit, parts;

  Cut(int64_t n, int64_t unit, int64_t wanted)
      : n(n), unit(unit), parts(std::clamp<int64_t>(wanted, 1, divide_up(n, unit))) {}
  int64_t begin(int64_t i) const { return std::min(n, divide_up(n, unit) * i / parts * unit); }
  int64_t end(int64_t i) const { return begin(i + 1); }
};

// Dropout masks are made for 16 rows by 16 columns at once; statistics for whole row blocks.
constexpr int64_t col_unit = 16;
constexpr int64_t row_unit(bool monitored) { return monitored ? row_block : 16; }

}  // namespace

template <class T>
TrainingStep<T>::TrainingStep(Network<T>& net, int64_t rows, int threads, bool monitored)
    : rows(rows), threads(threads), monitored(monitored), net_(net), flow_(threads) {
  layers_are_small() ? add_rows() : add_layers();
  add_limits();
}

// Whether a thread should rather read all weights for its rows than wait for others at each layer.
// Products in bfloat16 copy what they read, and want many rows for each copy.
template <class T>
bool TrainingStep<T>::layers_are_small() const {
  constexpr int64_t small_bytes = 512 << 10;  // half of a core's second cache
  return !net_.config_.bfloat16 &&
         std::all_of(net_.layers_.begin(), net_.layers_.end(), [](const LayerConfig& layer) {
           return !layer.normalised() && layer.weights() * int64_t(sizeof(T)) <= small_bytes;
         });
}

template <class T>
void TrainingStep<T>::await(Flow::Stage stage) const {
  const Timed timed(Work::waiting);
  flow_.await(stage);
}

template <class T>
void TrainingStep<T>::await(Flow::Stage stage, int64_t group) const {
  const Timed timed(Work::waiting);
  flow_.await(stage, group);
}

template <class T>
void TrainingStep<T>::gather(int64_t r0, int64_t r1) {
  const Timed timed(Work::gather);
  net_.gather(alone, *data_, chosen_, r0, r1);
  net_.drop_inputs(alone, r0, r1);
  net_.fetch_next(*data_, chosen_, r0, r1);
}

template <class T>
void TrainingStep<T>::add_rows() {
  const size_t layers = net_.layers_.size();
  const Cut cut(rows, row_unit(monitored), threads * divide_up(rows, 128 * threads));
  const Flow::Stage through = flow_.add(cut.parts, 1, [=, this](int64_t i, void*) {
    const int64_t r0 = cut.begin(i), r1 = cut.end(i);
    gather(r0, r1);
    for (size_t l = 0; l < layers; ++l) {
      const Block block{r0, r1, 0, net_.layers_[l].fan_out};
      const Timed timed(Work::forward);
      net_.product(alone, l, block, net_.input_of(l).row_range(r0, r1),
                   net_.a_of(l).row_range(r0, r1), {true, monitored, true});
    }
    {
      const Timed timed(Work::loss);
      net_.loss(alone, r0, r1);
    }
    const Timed timed(Work::backward);
    for (size_t l = layers; l-- > 1;) {
      net_.product_backward(alone, l, {r0, r1, 0, net_.layers_[l].fan_in});
    }
  });
  for (size_t l = layers; l-- > 0;) {
    add_weights(l, through, through);
  }
}

template <class T>
void TrainingStep<T>::add_layers() {
  const size_t layers = net_.layers_.size();
  const Cut by_rows(rows, row_unit(monitored), divide_up(rows, 256));
  // A stage whose groups are the parts of `by_rows`, each of some tasks by columns.
  const auto add_blocks = [&](int64_t cols, auto body) {
    const int64_t wanted = divide_up(cols, net_.config_.bfloat16 ? 512 : 96);
    const Cut by_cols(cols, col_unit, divide_up(wanted, threads) * threads);
    return flow_.add(by_rows.parts, by_cols.parts, [=](int64_t task, void*) {
      const int64_t i = task / by_cols.parts, j = task % by_cols.parts;
      body(i, Block{by_rows.begin(i), by_rows.end(i), by_cols.begin(j), by_cols.end(j)});
    });
  };
  // A stage whose tasks are all rows of some columns.
  const auto add_columns = [&](int64_t cols, auto body) {
    const Cut by_cols(cols, col_unit, divide_up(cols, 64));
    return flow_.add(1, by_cols.parts, [=, this](int64_t j, void*) {
      body(Block{0, rows, by_cols.begin(j), by_cols.end(j)});
    });
  };
  const typename Network<T>::Forward training{true, monitored, true};

  // The stage that made what comes next reads, and whether its groups are parts of the rows.
  Flow::Stage made = add_blocks(1, [this](int64_t, Block block) { gather(block.r0, block.r1); });
  bool by_groups = true;
  const auto await_rows = [this](Flow::Stage stage, bool by_groups, int64_t i) {
    by_groups ? await(stage, i) : await(stage);
  };
  for (size_t l = 0; l < layers; ++l) {
    const LayerConfig& layer = net_.layers_[l];
    made = add_blocks(layer.fan_out, [=, this](int64_t i, Block block) {
      await_rows(made, by_groups, i);
      const Timed timed(Work::forward);
      net_.product(alone, l, block, net_.input_of(l).row_range(block.r0, block.r1),
                   net_.a_of(l).block(block), training);
    });
    if (layer.normalised()) {
      made = add_columns(layer.fan_out, [=, this](Block block) {
        await(made);
        const Timed timed(Work::forward);
        net_.normalise(alone, l, block, net_.a_of(l).block(block), training);
      });
    }
    by_groups = !layer.normalised();
  }
  made = add_blocks(1, [=, this](int64_t i, Block block) {
    await_rows(made, by_groups, i);
    const Timed timed(Work::loss);
    net_.loss(alone, block.r0, block.r1);
  });
  by_groups = true;
  for (size_t l = layers; l-- > 1;) {
    const LayerConfig& below = net_.layers_[l - 1];
    const Flow::Stage dz = made;
    made = add_blocks(below.fan_out, [=, this](int64_t i, Block block) {
      await_rows(dz, by_groups, i);
      const Timed timed(Work::backward);
      net_.product_backward(alone, l, block);
    });
    add_weights(l, dz, made);
    if (below.normalised()) {
      made = add_columns(below.fan_out, [=, this](Block block) {
        await(made);
        const Timed timed(Work::backward);
        net_.normalise_backward(alone, l - 1, block);
      });
    }
    by_groups = !below.normalised();
  }
  add_weights(0, made, made);
}

// The stage that makes dw of a layer, once all of dz is there, and updates w, once `readers` have
// read it.
template <class T>
void TrainingStep<T>::add_weights(size_t l, Flow::Stage dz, Flow::Stage readers) {
  const LayerConfig& layer = net_.layers_[l];
  const Cut by_cols(layer.fan_out, penalty_cols, layer.fan_out);
  const int64_t tall = threads == 1 ? 64 : std::clamp<int64_t>(layer.fan_in / 64 * 16, 16, 64);
  static_assert(64 * penalty_cols * sizeof(double) <= task_scratch_bytes);
  const Cut by_rows(layer.fan_in, 8, divide_up(divide_up(layer.fan_in, tall), threads) * threads);
  const auto body = [=, this](int64_t task, void* scratch) {
    const int64_t i = task / by_cols.parts, j = task % by_cols.parts;
    const Block block{by_rows.begin(i), by_rows.end(i), by_cols.begin(j), by_cols.end(j)};
    const int64_t cols = block.c1 - block.c0;
    const View<T> dw = rows_of(static_cast<T*>(scratch), block.r1 - block.r0, cols, cols);
    await(dz);
    const Upcoming upcoming = upcoming_update(l, block);
    Context fetching = alone;
    fetching.upcoming = &upcoming;
    fetching.whole_vectors = true;
    {
      const Timed timed(Work::weights);
      net_.weight_gradients(fetching, l, block, dw);
      if (task == 0) {
        net_.bias_gradients(alone, l);
      }
    }
    await(readers);
    update(l, block, dw);
  };
  updates_.emplace_back(l, flow_.add(by_rows.parts, by_cols.parts, body));
}

// Stages that limit the norms of columns of w, which take all of its rows. They come last, when
// nobody has to wait for the updates any more.
template <class T>
void TrainingStep<T>::add_limits() {
  for (const auto& [layer, updated] : updates_) {
    const LayerConfig& config = net_.layers_[layer];
    if (config.max_norm == unlimited) {
      continue;
    }
    const Cut by_cols(config.fan_out, col_unit, divide_up(config.fan_out, 64));
    flow_.add(1, by_cols.parts, [=, this, l = layer, stage = updated](int64_t j, void*) {
      await(stage);
      const Timed timed(Work::update);
      net_.limit_norms(alone, l, by_cols.begin(j), by_cols.end(j));
    });
  }
}

// The weights and moments that `update` of this block will change.
template <class T>
Upcoming TrainingStep<T>::upcoming_update(size_t l, Block block) const {
  const int64_t size = sizeof(T);
  Upcoming upcoming{
      {}, block.r1 - block.r0, (block.c1 - block.c0) * size, net_.layers_[l].fan_out * size};
  int count = 0;
  for (T* vector : {net_.parameters_, rule_->first, rule_->second}) {
    if (vector != nullptr) {
      upcoming.data[count++] = net_.weight_of(l, vector).at(block.r0, block.c0);
    }
  }
  return upcoming;
}

// The optimizer's step on a block of w; with the first one, on bias, or gamma and beta.
template <class T>
void TrainingStep<T>::update(size_t l, Block block, View<const T> dw) {
  const Timed timed(Work::update);
  net_.update_weights(alone, *rule_, update_, l, block, dw, monitored);
  net_.shrink(alone, *rule_, update_, l, block);
  if (block.r0 == 0 && block.c0 == 0) {
    const int64_t other = net_.places_[l].other;
    apply(ops_of<T>(table()), alone, *rule_, without_decay(update_), net_.parameters_,
          net_.gradients_ + other, other, net_.layers_[l].others());
  }
}

template <class T>
double TrainingStep<T>::run(const Dataset& data, const int64_t* chosen,
                            const OptimizerRule<T>& rule, const Update<T>& update) {
  data_ = &data;
  chosen_ = chosen;
  rule_ = &rule;
  update_ = update;
  flow_.run();
  return sum_of(net_.row_loss_.data(), rows) / net_.divisor_ + net_.penalty();
}

template class TrainingStep<float>;
template class TrainingStep<double>;

}  // namespace fanin
