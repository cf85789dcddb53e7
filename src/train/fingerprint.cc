#include "train/fingerprint.h"

#include <fmt/format.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"

namespace reprise {
namespace {

std::string hex(uint64_t hash) { return fmt::format("{:016x}", hash); }

uint64_t config_hash(const ModelConfig& config) {
  Json json = *config.source;
  if (json.is_object() && json.contains("reprise") && json["reprise"].is_object())
    json["reprise"].erase("exit");
  return hash_bytes(json.dump(-1, ' ', false, Json::error_handler_t::replace));
}

}  // namespace

uint64_t tensor_fingerprint(const std::string& name, std::span<const float> values) {
  return hash_floats(values, hash_bytes(name));
}

std::string config_fingerprint(const ModelConfig& config) { return hex(config_hash(config)); }

std::string model_fingerprint(const Model& model) {
  uint64_t hash = config_hash(model.config());
  model.read_tensors([&](const TensorSlot& slot, const Tensor& bound) {
    hash ^= tensor_fingerprint(slot.name, model.backend().to_host(bound));
  });
  return hex(hash);
}

std::string file_fingerprint(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  const std::span<const std::byte> bytes = file->bytes();
  const uint64_t hash = hash_bytes({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  file->release(bytes);
  return hex(hash);
}

}  // namespace reprise
