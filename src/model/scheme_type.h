// What is known of a scheme before there is a model of it: its name and options, the files and the
// config.json of its official releases, what training and traces need to know. Everything outside
// reuse/ asks here and names no scheme.
//
// A scheme's file fills in one SchemeType; what it leaves out it doesn't have.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "formats/tensor_view.h"
#include "model/config/config.h"
#include "model/scheme_options.h"
#include "model/tensor_table.h"

namespace reprise {

class Scheme;
struct Architecture;  // arch/architecture.h

// Files of its own that a scheme keeps in a model folder, beside the weights.
struct SchemeFiles {
  std::vector<std::string> names;    // of the files
  std::vector<std::string> tensors;  // of the model's tensors that they hold
  // Reads those tensors; options are those for loading. No tensors where config.text.layers is 0,
  // which is to say that not even the number of layers is known. Throws Error naming file and key.
  std::vector<TensorView> (*read)(const ModelConfig& config, const std::filesystem::path& folder,
                                  const SchemeOptions& options) = nullptr;
  // Writes the files from these tensors, in the order of `tensors`. Throws Error naming the path.
  void (*write)(const ModelConfig& config, const std::vector<TensorView>& tensors,
                const std::filesystem::path& folder) = nullptr;
};

// The config.json of a scheme's official releases, which knows nothing of "reprise.scheme".
struct SchemeRelease {
  std::string architecture = {};  // its name in "architectures"
  // Null: by the name alone where `decoder` is given; none otherwise.
  bool (*recognises)(const Json& config) = nullptr;
  // Reads decoder, vision tower, image and placeholder; the keys of every model are read for it.
  // Null: where `decoder` is given, it is read, and the config is the scheme's own too.
  void (*read)(const JsonObject& json, ModelConfig& config) = nullptr;
  // Of one that is recognised: whether the decoder in it is one that `read` can read. Null: where
  // decoder_part(config) names a decoder of model/arch (vision_language.h), or `decoder` is given.
  bool (*knows_decoder)(const Json& config) = nullptr;
  // Of a release that is a decoder by itself: its keys and tensors, in folders and GGUF files. Its
  // name is `architecture`.
  const Architecture* (*decoder)() = nullptr;
  // Releases keep their prompts in code: names of chat formats (text/chat) by the decoder's
  // "model_type".
  std::map<std::string, std::string> chat_formats = {};
};

// How training builds a new model of the scheme around an ordinary decoder and a vision tower: with
// a config.json as the release's. Its options are those of SchemeOption::When::Assembly.
struct SchemeAssembly {
  bool possible = false;
  // First values of a tensor of its own; nullopt: as any new tensor's.
  std::optional<std::vector<float>> (*initial_values)(const TensorSlot& slot,
                                                      const SchemeOptions& options) = nullptr;
};

// The shape of a decoder whose layers are looped: `first` layers, the looped blocks `loops` times,
// `last` layers.
struct LoopShape {
  int loops = 1;
  int first = 0, last = 0;
  std::map<std::string, int64_t> ranks =
      {};  // of adapters by matrix ("q"); one that is 0 or absent: none
};

// How an ordinary decoder is converted into one of the scheme, its layers looped (convert/looped).
struct SchemeLooping {
  // The scheme's own section of config.json; null: no conversion makes such a model.
  Json (*section)(const LoopShape& shape) = nullptr;
  // Name of a looped layer's adapter without ".A" and ".B"; layer_prefix: as in TensorNames.
  std::string (*adapter)(const std::string& layer_prefix, int loop,
                         const std::string& matrix) = nullptr;
};

// What a trace shows of a scheme's work, in words for people. The numbers are the trace's own.
struct SchemeMeasure {
  enum class Source {
    MixWeight,   // of every Mix step, by token: what is observed as "<stem>.mix_w" [rows, 1]
    MixEffect,   // how far the Mix moved a token's state
    HeadGate,    // by token and head: what is observed as "<stem>.gate_w" [rows, heads]
    HeadEffect,  // how far the gate moved attention's result from "<stem>.o1" towards "<stem>.o2"
  };
  Source source = Source::MixWeight;
  std::string key;        // in JSON
  std::string name;       // short
  std::string question;   // what it answers
  std::string about;      // a paragraph: what it is, and what no value means
  bool bounded = false;   // in 0..1; else positive, spread over orders of magnitude
  std::string low, high;  // what the two ends of the scale mean
};

struct SchemeType {
  std::string name;     // "reprise.scheme" of config.json
  std::string summary;  // a line of help
  std::unique_ptr<Scheme> (*make)(const ModelConfig& config) = nullptr;
  std::vector<SchemeOption> options = {};
  bool stored_plan = false;  // a plan kept in a model's config may take the plain depth's place
  SchemeFiles files = {};
  SchemeRelease release = {};
  SchemeAssembly assembly = {};
  SchemeLooping looping = {};
  std::vector<SchemeMeasure> measures = {};

  // Null where it has none of that name.
  const SchemeOption* option(const std::string& name, SchemeOption::When when) const;
};

// All of them (reuse/schemes.h). The first is the ordinary decoder, which reuses nothing: the
// scheme of a model that names none.
const std::vector<const SchemeType*>& scheme_types();
const SchemeType& default_scheme();
// The one that conversions loop an ordinary decoder's layers with (SchemeLooping).
const SchemeType& looping_scheme();
// Null for a name that this program doesn't know.
const SchemeType* find_scheme(const std::string& name);
// Names of those for which `holds`, for messages: "a, b and c".
std::string scheme_list(bool (*holds)(const SchemeType&), const char* last = "and");
// Of those whose releases wrap a decoder.
std::string release_list();
// Decoders: those of model/arch and the releases that are one. By llama.cpp's general.architecture,
// null where it is unknown; for messages: "LlamaForCausalLM, ...", "llama, ...".
const Architecture* find_gguf_decoder(const std::string& name);
std::string decoder_names();
std::string gguf_decoder_names();

// An option and the schemes that declare it: those of one name are of one type.
struct DeclaredOption {
  std::vector<const SchemeType*> schemes;
  std::vector<const SchemeOption*> declared;  // by each of them
  const SchemeOption& option() const { return *declared.front(); }
};
std::vector<DeclaredOption> declared_options(SchemeOption::When when);

// Throws Error naming the option, the scheme and which schemes have it, where `scheme` doesn't; or
// what was expected of its value. A scheme that isn't known is somebody else's error.
void check_options(const std::string& scheme, SchemeOption::When when,
                   const SchemeOptions& options);

// Throws Error that begins with `where` where the config's scheme has a plan of its own, so that no
// other can take its place.
void check_own_plan(const ModelConfig& config, const std::string& where);
// The same unless a model with this config can keep this plan: it has the blocks too.
void check_stored_plan(const ModelConfig& config, const std::string& plan,
                       const std::string& where);

// The scheme whose release this config.json is; null: no release's.
const SchemeType* recognise_release(const Json& config);
// The name of the chat format that an official release keeps in its code, by its config.json:
// "architectures" or "model_type" name the release, "model_type" of "llm_config" or of the whole
// the decoder. Empty for other models.
std::string release_chat_format(const Json& config);

}  // namespace reprise
