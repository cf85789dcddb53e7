// A model's files, whatever their form: a Hugging Face folder, or a GGUF file (whole or in parts).
// Loading, conversion, training and tokenizers ask here, so that none of them needs to know which
// it is. What the config's keys mean is told in model/load.h, which files make up a tokenizer in
// text/tokenizer/tokenizer_files.h.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json_fwd.h"
#include "formats/gguf.h"
#include "formats/hf_folder.h"

namespace reprise {

// Key of a GGUF file of ours: config.json as it was.
inline constexpr const char* kConfigKey = "reprise.config";
// Of a file with llama.cpp's names and keys: what config.json would have under "reprise" (scheme),
// a JSON object.
inline constexpr const char* kOwnKeysKey = "reprise.keys";

// Of any GGUF file: the stored plan, which config.json has as "plan" under "reprise"; in a file of
// ours both are there and say the same.
inline constexpr const char* kPlanKey = "reprise.plan";

class ModelSource {
 public:
  enum class Kind {
    None,      // a model that was made in memory
    Folder,    // Hugging Face
    OwnGguf,   // Hugging Face names, config.json inside
    OtherGguf  // llama.cpp's names and keys
  };

  ModelSource() = default;
  // Throws Error where nothing is at `path`, and what HfFolder::open and open_gguf throw. With
  // `noted` what is wrong with a folder is noted there, and what could be read is there.
  static ModelSource open(const std::filesystem::path& path, Problems* noted = nullptr);

  Kind kind() const { return kind_; }
  const std::filesystem::path& path() const { return path_; }  // as given
  std::string format() const;  // "Hugging Face", "GGUF v3", "GGUF v3, 2 parts"; for people

  // All tensors, those of a scheme's own files behind the others.
  const WeightFile& weights() const { return weights_; }
  // Throws Error when a name is there already.
  void add_tensors(std::vector<TensorView> tensors);
  // Whether the tensor may be one of those in a shard that could not be read (only with `noted`).
  bool may_be_unread(const std::string& name) const;

  // config.json of a folder (null where it could not be read) or of a GGUF file of ours; nullopt
  // where the config is in llama.cpp's keys. Throws Error naming the key for text that isn't JSON.
  std::optional<JsonValue> config_json() const;
  std::string config_where() const;  // for messages: "folder/config.json", "m.gguf: key '...'"

  // For those who read what only one of them has: null for the other.
  const HfFolder* folder() const { return folder_.get(); }
  const GgufFile* gguf() const { return gguf_.get(); }

 private:
  Kind kind_ = Kind::None;
  std::filesystem::path path_;
  std::shared_ptr<const HfFolder> folder_;
  std::shared_ptr<const GgufFile> gguf_;
  WeightFile weights_;
};

}  // namespace reprise
