// Makes backends by name and says what this machine has.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace reprise {

class TrainBackend;  // train_backend.h, which only those who train need

enum class Activations { F32, Int8 };  // int8: for matrices that are quantized; floats stay F32

struct BackendOptions {
  int threads = 0;  // 0: all this process may use
  Activations activations = Activations::Int8;
  // cpu: instruction set by name; empty: the environment variable REPRISE_ISA, else the best one.
  std::string isa;
  std::string device = "cpu";  // torch: "cpu" or "cuda"
};

std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options);

// Loads the torch plug-in. Throws Error that says how to get it where it wasn't built or can't be
// loaded.
std::unique_ptr<TrainBackend> make_torch_backend(const BackendOptions& options);
// Where the plug-in would be loaded from, when it is there.
std::optional<std::filesystem::path> torch_plugin_path();

// "cpu" or "torch"; anything else is an Error that lists both.
std::unique_ptr<Backend> make_backend(const std::string& name, const BackendOptions& options);

// One instruction set of the cpu backend.
struct IsaInfo {
  std::string name;       // "scalar", "avx2", "avx512-vnni", or with "-simde" behind it
  bool built = false;     // compiled into this program
  bool runs = false;      // this machine can run it
  bool emulated = false;  // through simde: for tests, never chosen by itself
};
std::vector<IsaInfo> cpu_instruction_sets();

}  // namespace reprise
