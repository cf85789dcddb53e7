// Golden data for the parity tests: cases of one request each, and the comparison of everything a
// trace shows with everything a case holds.
#pragma once

#include <filesystem>
#include <map>
#include <ostream>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "backend/train_backend.h"
#include "trace/trace.h"

namespace reprise::test {

struct Tolerances {
  double logits = 2e-4;
  double hidden = 5e-4;
};

// One request of a case file, without the batch dimension.
struct GoldenCase {
  std::string name;  // "trol/phi3-vit/case-text" or ".../case-batch2 row 1"
  TokenInputs inputs;
  std::map<std::string, TensorView> expected;  // F32 and I64 tensors to compare
};

std::filesystem::path golden_root();

// A one-row file gives one case. A batch gives one case a row: the row without its padding, judged
// by the `alone.<row>.*` tensors, which is what a server should give.
std::vector<GoldenCase> load_golden_cases(const std::filesystem::path& file);

// Compares every expected tensor with the traced one; each mismatch or missing counterpart becomes
// a line. `not_compared` names tensors (by their last parts) that have no counterpart, with reasons
// in the caller. largest: filled with the largest distance of logits and of everything else.
struct Distances {
  double logits = 0;
  double hidden = 0;
};
std::vector<std::string> compare(const GoldenCase& golden, const std::vector<TensorView>& traced,
                                 const Tolerances& tolerances, Distances* largest);

// One way to run a model: backend and instruction set.
struct Machine {
  std::string backend;
  std::string isa;
  std::string name() const;  // fit for a test's name
};
inline void PrintTo(const Machine& machine, std::ostream* out) { *out << machine.name(); }
// All instruction sets that run here (natively or through simde), and torch where it was built.
std::vector<Machine> machines();
// The cpu backend's instruction sets only.
std::vector<Machine> cpu_machines();
std::unique_ptr<Backend> make_backend_of(const Machine& machine, int threads = 2,
                                         Activations activations = Activations::F32);
// The torch backend with recording on, or null where it wasn't built.
std::unique_ptr<TrainBackend> recording_torch();

std::unique_ptr<LoadedModel> load_model(const std::filesystem::path& model, const Machine& machine);

// Largest |a - b|; infinite where sizes differ or a value isn't finite.
double distance(std::span<const float> a, std::span<const float> b);

}  // namespace reprise::test
