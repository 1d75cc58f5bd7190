// Which instruction set's table is in use. Built for the oldest CPU the platform allows.
#pragma once

#include <string>
#include <vector>

#include "../core/ops.hpp"

namespace fanin {

// Names of the sets in this build, slowest first, and of those among them this machine has.
std::vector<std::string> built_isas();
std::vector<std::string> available_isas();

// The table in use: the fastest available, or the one FANIN_ISA names.
const Table& table();

// The named set's table. Throws std::invalid_argument when it is unknown, not built or not on this
// machine.
const Table& find_table(const std::string& name);

// Uses the named set from now on; throws as find_table.
void set_isa(const std::string& name);

// The same choice by FANIN_ISA, when that is set; called once when the module is loaded.
void choose_isa();

}  // namespace fanin
