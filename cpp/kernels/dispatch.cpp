#include "dispatch.hpp"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "../core/cpu.hpp"

namespace fanin {

#define FANIN_DECLARE(isa) extern const Table table_##isa;
FANIN_BUILT_ISAS(FANIN_DECLARE)

namespace {

#define FANIN_ADDRESS(isa) &table_##isa,
const Table* const built[] = {FANIN_BUILT_ISAS(FANIN_ADDRESS)};

std::atomic<const Table*> chosen{nullptr};

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) {
    text += (text.empty() ? "" : ", ") + name;
  }
  return text;
}

}  // namespace

std::vector<std::string> built_isas() {
  std::vector<std::string> names;
  for (const Table* one : built) {
    names.push_back(one->name);
  }
  return names;
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Table* one : built) {
    if (cpu_has(one->name)) {
      names.push_back(one->name);
    }
  }
  return names;
}

const Table& table() { return *chosen.load(std::memory_order_relaxed); }

const Table& find_table(const std::string& name) {
  for (const Table* one : built) {
    if (name == one->name && cpu_has(one->name)) {
      return *one;
    }
  }
  throw std::invalid_argument("isa: expected one of " + joined(available_isas()) +
                              " (what this machine has of " + joined(built_isas()) + "), got '" +
                              name + "'");
}

void set_isa(const std::string& name) { chosen = &find_table(name); }

void choose_isa() {
  const char* forced = std::getenv("FANIN_ISA");
  if (forced != nullptr && *forced != '\0') {
    try {
      set_isa(forced);
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument("FANIN_ISA: " + std::string(error.what()));
    }
  } else {
    set_isa(available_isas().back());
  }
}

}  // namespace fanin
