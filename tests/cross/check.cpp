// Prints a hash of the result of every operation, for the instruction set named on the command
// line.
//
// Two sets with fma must print the same text, on whatever processor each of them runs: .ci/neon
// compiles this for aarch64, runs it under qemu and compares. Data come from Philox by way of the
// table itself, whose words are checked first against Random123's answers.
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "../../cpp/core/float_mode.hpp"
#include "../../cpp/core/parallel.hpp"
#include "../../cpp/kernels/dispatch.hpp"
#include "../../cpp/net/network.hpp"

namespace fanin {
namespace {

uint64_t hash_of(const void* data, size_t bytes) {  // FNV-1a
  uint64_t hash = 0xcbf29ce484222325;
  for (size_t i = 0; i < bytes; ++i) {
    hash = (hash ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3;
  }
  return hash;
}

template <class T>
void print(const std::string& what, const std::vector<T>& data) {
  std::printf("%-40s %016llx\n", what.c_str(),
              static_cast<unsigned long long>(hash_of(data.data(), data.size() * sizeof(T))));
}

void print(const std::string& what, double value) { print(what, std::vector<double>{value}); }

// Numbers in (-2, 2) of a stream of their own.
template <class T>
std::vector<T> numbers(uint64_t seed, int64_t count) {
  std::vector<uint64_t> words(static_cast<size_t>(count));
  table().random_words(Context{}, seed, 0, 0, 1, 0, count, words.data());
  std::vector<T> x;
  for (const uint64_t word : words) {
    x.push_back(T(double(word >> 11) * 0x1p-51 - 2));
  }
  return x;
}

bool philox_answers() {
  const uint32_t counter[4] = {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344};
  const uint32_t key[2] = {0xa4093822, 0x299f31d0};
  const uint32_t answer[4] = {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1};
  uint32_t words[4];
  table().philox(Context{}, counter, key, 1, words);
  return std::memcmp(words, answer, sizeof words) == 0;
}

template <class T>
void check_products(const Context& context, const std::string& type) {
  for (const int64_t m : {1, 5, 31, 65}) {
    for (const int64_t k : {1, 100, 513}) {
      for (const int64_t n : {1, 17, 50, 130}) {
        const std::vector<T> x = numbers<T>(1, m * k), w = numbers<T>(2, k * n);
        std::vector<T> out(size_t(m * n));
        const View<const T> plain_x = rows_of(x.data(), m, k, k);
        const View<const T> plain_w = rows_of(w.data(), k, n, n);
        const View<const T> turned_x = rows_of(x.data(), k, m, m).transposed();
        const View<const T> turned_w = rows_of(w.data(), n, k, k).transposed();
        const std::string size =
            std::to_string(m) + " " + std::to_string(k) + " " + std::to_string(n);
        for (int turned = 0; turned < 4; ++turned) {
          ops_of<T>(table()).gemm(context, turned & 1 ? turned_x : plain_x,
                                  turned & 2 ? turned_w : plain_w, rows_of(out.data(), m, n, n));
          print("gemm " + type + " " + size + " " + std::to_string(turned), out);
        }
      }
    }
  }
}

template <class T>
void check_functions(const Context& context, const std::string& type) {
  std::vector<T> x = numbers<T>(3, 4000), out(4000);
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] *= T(i % 7 == 0 ? 60 : i % 5 == 0 ? 1e-3 : 3);
  }
  for (int f = 0; f < function_count; ++f) {
    ops_of<T>(table()).function(context, Function(f), x.data(), out.data(), int64_t(x.size()));
    for (T& value : out) {
      value = value == value ? value : T(0);  // the bits of a NaN are not promised
    }
    print("function " + type + " " + std::to_string(f), out);
  }
}

template <class T>
void check_network(const Context& context, const std::string& type) {
  for (int kind = 0; kind < activation_count; ++kind) {
    const BatchNorm batch_norm = BatchNorm(kind % 3);
    const std::vector<LayerConfig> layers = {
        {23, 37, Activation(kind), 20000, batch_norm, 1e-4, 1e-3, kind % 4 == 1 ? 0.5 : unlimited},
        {37, 20, Activation(kind), 0, batch_norm, 0, 1e-3, unlimited},
        {20, 5, Activation::identity, 0, BatchNorm::none, 0, 0, unlimited}};
    int64_t count = 0;
    for (const LayerConfig& layer : layers) {
      count += layer.parameters();
    }
    std::vector<T> parameters = numbers<T>(4, count), gradients(static_cast<size_t>(count));
    for (T& parameter : parameters) {
      parameter *= T(0.2);
    }
    std::vector<T> mean(57, T(0)), var(57, T(1)), first(size_t(count), T(0)), second = first;
    const std::vector<T> x = numbers<T>(5, 150 * 23);
    std::vector<int64_t> labels, rows;
    for (int64_t r = 0; r < 150; ++r) {
      labels.push_back(r * 7 % 5);
      rows.push_back(r * 11 % 150);
    }
    const NetworkConfig config{
        Output::softmax, 9,
        false,           kind % 2 == 0 ? 0u : 6000u,
        kind % 4 == 2,   kind % 5 == 1 ? LossForm{0.5, 2, 0.1, 0.1, 1.5} : LossForm{}};
    Network<T> net(layers, config, parameters.data(), gradients.data(), mean.data(), var.data());
    const Dataset data{
        x.data(), sizeof(T) == 4 ? Source::float32 : Source::float64, 23, 1, 1.0, rows.data(), 150,
        70};
    Targets<T> targets;
    targets.labels = labels.data();
    OptimizerRule<T> rule{Rule::adam, 0.9, 0.999, 1e-8, 1e-2, false, first.data(), second.data()};
    if (kind % 3 == 0) {
      rule.clip_value = 0.01;
      rule.clip_norm = 0.05;
    }
    rule.eps_hat = kind % 4 == 3;
    const std::vector<double> lr(3, 1e-2);
    double loss = 0;
    for (int epoch = 0; epoch < 5; ++epoch) {
      const Progress done = net.train(context, data, targets, rule, lr.data(), 3 * epoch,
                                      uint64_t(3 * epoch), 10, 1e9);
      loss += done.loss;
    }
    const std::string name = type + " activation " + std::to_string(kind);
    print("network parameters " + name, parameters);
    print("network running var " + name, var);
    print("network loss " + name, loss);
    print("network stats " + name, net.stats(0).std);
  }
}

}  // namespace
}  // namespace fanin

int main(int count, char** arguments) {
  using namespace fanin;
  set_isa(count > 1 ? arguments[1] : available_isas().back());
  const FloatMode mode;
  Context context{};
  context.threads = 3;
  if (!philox_answers()) {
    std::puts("philox: not Random123's answers");
    return 1;
  }
  check_products<float>(context, "float32");
  check_products<double>(context, "float64");
  check_functions<float>(context, "float32");
  check_functions<double>(context, "float64");
  check_network<float>(context, "float32");
  check_network<double>(context, "float64");
  return 0;
}
