#include "model/arch/architecture.h"

// The registry: one line an architecture, NAME() in its file being the function that describes it.
// clang-format off
#define REPRISE_ARCHITECTURES(entry) \
  entry(llama)                       \
  entry(mistral)                     \
  entry(smollm3)                     \
  entry(qwen2)                       \
  entry(qwen3)                       \
  entry(phi3)                        \
  entry(gemma)                       \
  entry(gemma3)                      \
  entry(internlm2)                   \
  entry(gpt_neox)
// clang-format on

namespace reprise {

namespace arch {
#define REPRISE_DECLARE(name) Architecture name();
REPRISE_ARCHITECTURES(REPRISE_DECLARE)
#undef REPRISE_DECLARE
}  // namespace arch

const std::vector<Architecture>& architectures() {
#define REPRISE_CALL(name) arch::name(),
  static const std::vector<Architecture> known = {REPRISE_ARCHITECTURES(REPRISE_CALL)};
#undef REPRISE_CALL
  return known;
}

const Architecture* find_architecture(const std::string& name) {
  for (const Architecture& known : architectures())
    if (name == known.name) return &known;
  return nullptr;
}

const Architecture* find_gguf_architecture(const std::string& name) {
  for (const Architecture& known : architectures())
    if (known.gguf.name && name == known.gguf.name) return &known;
  return nullptr;
}

std::string architecture_names() {
  std::string names;
  for (const Architecture& known : architectures())
    names += (names.empty() ? "" : ", ") + std::string(known.name);
  return names;
}

std::string gguf_architecture_names() {
  std::string names;
  for (const Architecture& known : architectures())
    if (known.gguf.name) names += (names.empty() ? "" : ", ") + std::string(known.gguf.name);
  return names;
}

}  // namespace reprise
