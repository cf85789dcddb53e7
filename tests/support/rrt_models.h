// Recursive models of golden/rrt as Hugging Face folders, put together from the dense models and
// what the golden files store of the conversion.
#pragma once

#include <filesystem>
#include <string>

#include "support/golden.h"

namespace reprise::test {

struct RrtCase {
  std::string model;  // folder below golden/rrt
  int blocks = 0, loops = 0;
  std::string init;  // "stepwise-0", "average-4"
  std::string name() const { return fmt::format("{}_{}x{}_{}", model, blocks, loops, init); }
  std::filesystem::path root() const { return golden_root() / "rrt" / model; }
  std::string shape() const { return fmt::format("{}x{}", blocks, loops); }
};

// Writes the converted model into `folder`. Blocks of stepwise-0 are copies of dense layers, those
// of average-4 the means of the tied ones. Its factors come from train-init (2x3, then all other
// weights too), or from the stored products of 3x2, taken apart here: any factors of the same
// product are the same function.
void write_rrt_model(const RrtCase& c, const std::filesystem::path& folder);
// The folder's name of a tensor of train-init ("block.0.q", "lora.2.1.v.A", "embed").
std::string rrt_tensor_name(const std::string& name);

}  // namespace reprise::test
