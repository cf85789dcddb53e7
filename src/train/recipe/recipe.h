// A training recipe: one YAML file that says everything about a run. Strict: an unknown key, one of
// the wrong type or a contradiction is an Error that names file, line and key.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json_fwd.h"
#include "model/scheme_options.h"

namespace reprise {

struct ObjectiveOptions;

// Where examples come from. Exactly one of file and generator is set.
struct DataSource {
  std::filesystem::path file;    // JSON lines {"question", "answer"[, "image"][, "rejected"]}
  std::filesystem::path images;  // folder the "image" names lie in
  std::string generator;         // "easy-vqa": pictures drawn on the fly
  std::string wrong_answers;     // "easy-vqa": its rule answers where the data has no "rejected"
  double weight = 1;             // share of the pictures of a batch
  bool flips = false;            // mirrored pictures
  bool quarter_turns = false;    // turned by 0, 90, 180 or 270 degrees
};

// Texts for language modelling, every token of which is predicted; see data/token_source.h.
struct TextSource {
  enum class Kind {
    Text,       // documents with an empty line between them
    JsonLines,  // a document a line
    Tokens      // safetensors with "tokens" [rows, context + 1]
  };
  Kind kind = Kind::Text;
  std::filesystem::path file;
  std::string key;  // JsonLines: of the text
};

struct OptimizerRecipe {
  double lr = 1e-3;          // at the end of warm-up
  bool constant = false;     // lr after the warm-up; else a cosine
  double min_lr = 0;         // at the end of the cosine
  int64_t warmup_steps = 0;  // linear from 0
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;  // on matrices and tables; 0 on norms, biases and other vectors
  double clip = 1.0;          // gradient norm; 0: never
};

// A model of a scheme around an existing language model; see assemble.h.
struct Assembly {
  std::filesystem::path backbone;     // folder or GGUF; empty: nothing is assembled
  std::string scheme;                 // one that can be assembled (SchemeAssembly)
  std::filesystem::path vision_from;  // a model whose vision tower is taken, with its image keys
  std::filesystem::path vision;       // or: JSON with "vision_config", "downsample_ratio" and
                                      // "reprise.image" of a new tower
  std::string image_token = "<image>";
  SchemeOptions options;  // the scheme's, for assembly: keys of their names
};

// Low-rank adapters on frozen matrices; see adapters.h.
struct LoraRecipe {
  int64_t rank = 0;
  double alpha = 0;  // the adapter counts alpha / rank
  double dropout = 0;
  std::vector<std::string> targets;  // patterns of matrices' names
  std::filesystem::path from;        // adapters.safetensors of another run to begin with
  bool merged = true;  // export: into the weights; else beside them, in adapters.safetensors
};

// Frozen matrices in few bits.
struct QuantizeRecipe {
  std::string type;                  // "nf4" or "int8"
  bool double_quantization = false;  // of NF4's scales
  std::vector<std::string> targets;
};

struct Recipe {
  std::filesystem::path path;  // of the recipe; other paths are relative to its folder

  // Model: from scratch by a config.json and a tokenizer.json, from a model file, or assembled.
  std::filesystem::path config;
  std::filesystem::path tokenizer;
  std::filesystem::path from;
  Assembly assembly;  // or around a language model
  std::string chat_format;
  double init_std = 0.02;  // of matrices and tables

  // Either sources of questions and conversations, or texts.
  std::vector<DataSource> train;
  std::vector<TextSource> texts;
  std::vector<TextSource> validation_texts;  // may be empty
  bool shuffle = true;                       // rows of texts, in another order each epoch
  int64_t context = 0;                       // tokens of a row of texts; 0: the token files' own
  std::filesystem::path validation;          // JSON lines as above; may be empty
  std::filesystem::path validation_images;
  int64_t validation_every = 500;  // steps
  int64_t validation_limit = 200;  // pictures, conversations or rows used for it

  int64_t steps = 0;
  // 0: none. Else the run ends after so many minutes of training (over all resumes), and the cosine
  // follows the clock where it is ahead of the steps: such a run isn't reproducible to the bit.
  double minutes = 0;
  int64_t batch = 32;               // pictures, conversations or rows of text per forward call
  int64_t accumulate = 1;           // forward calls per optimizer step
  int64_t questions_per_image = 8;  // at most, per picture and step
  OptimizerRecipe optimizer;
  std::string loss = "sft";  // the objective's name, see objectives/objective.h
  std::shared_ptr<const ObjectiveOptions> loss_options;  // its own keys; null: defaults
  std::optional<LoraRecipe> lora;
  std::optional<QuantizeRecipe> quantize;
  double adapter_dropout = 0;           // in front of the model's own adapters (TroL on InternLM2)
  bool gradient_checkpointing = false;  // blocks are computed twice, their activations not kept
  bool bf16 = false;                    // autocast; master weights stay F32
  uint64_t seed = 1;
  std::vector<std::string> freeze;      // patterns of tensor names, '*' matches anything
  std::vector<std::string> train_only;  // if not empty: everything else is frozen
  int64_t checkpoint_every = 500;       // steps
  int64_t log_every = 10;               // steps
};

Recipe load_recipe(const std::filesystem::path& path);

// The assembly's options that the new model's config keeps, under "reprise.<scheme>": an object.
Json kept_options(const Assembly& assembly);

// What must stay the same where a run is resumed, as a JSON object by key. Not in it: lengths
// (steps, minutes), how often things are written, what matters at the start only, and what changes
// no result.
std::string identity_text(const Recipe& recipe);
// Throws Error that lists the keys which differ; `identity` is an identity_text, or empty.
void check_same_recipe(const Recipe& recipe, const std::string& identity,
                       const std::filesystem::path& checkpoint);

}  // namespace reprise
