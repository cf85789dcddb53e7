// Files of their own that schemes keep in a model folder beside the weights (trol_gating.pt), for
// export: Scheme::extra_files reads them, this writes them. A registry as that of the schemes.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "formats/tensor_view.h"
#include "model/config/config.h"

namespace reprise {

struct SchemeFiles {
  std::vector<std::string> tensors;  // names of the tensors that such files hold
  // Writes the files from these tensors, in the order of the names. Throws Error naming the path.
  void (*write)(const ModelConfig& config, const std::vector<TensorView>& tensors,
                const std::filesystem::path& folder);
};

// nullptr for schemes without such files.
const SchemeFiles* scheme_files(const std::string& scheme);

// TroL's gate (reuse/trol.cc).
void write_trol_gate(const ModelConfig& config, const std::vector<TensorView>& tensors,
                     const std::filesystem::path& folder);

}  // namespace reprise
