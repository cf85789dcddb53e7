// Options that several commands share, and small helpers for output.
#pragma once

#include <functional>
#include <string>

#include "base/json_fwd.h"
#include "engine/loaded_model.h"
#include "image/decode.h"
#include "tools/cli.h"

namespace reprise::tools {

// MODEL and how to compute with it.
struct ModelFlags {
  std::string model;
  std::string backend = "cpu";
  std::string device = "cpu";
  int threads = 0;
  std::string isa;
  std::string activations = "int8";
  std::string kv = "f32";
  std::string chat_template;
  SchemeOptions scheme;  // for loading

  void add(cli::App& app);
  cli::Option* add_chat_template(cli::App& app);
  LoadedModelOptions options() const;
};

// Upper end of options that are numbers of tokens, questions and the like.
constexpr int64_t kMostCount = int64_t{1} << 40;

// The options that schemes declare for one moment, each with those that have it: --passes, and
// --beside-passes with prefix "beside_". Whether the model's scheme has those given is checked
// where they are used.
void add_scheme_options(cli::App& app, SchemeOption::When when, SchemeOptions& options,
                        const std::string& prefix = "");
// How pictures are read: --exif, --alpha.
std::vector<cli::Option*> add_picture_options(cli::App& app, PictureOptions& options);
// A text that `parse` takes; what it throws says what is wrong with others.
cli::Check parsed_by(std::function<void(const std::string&)> parse);
// Those for requests: how deep to run. Also as --option NAME=VALUE, under their own names.
void add_plan_options(cli::App& app, PlanOptions& options);

// One line of JSON on stdout.
void print_json(const Json& json);

// "98.4 MB": decimal units, as disks and memory sizes of models are given.
std::string human_bytes(int64_t bytes);
// "134.5M" parameters.
std::string human_count(int64_t count);

// A line on stderr that is redrawn; nothing where stderr is not a terminal.
class Progress {
 public:
  explicit Progress(std::string label);
  ~Progress();
  void update(int64_t done, int64_t total, const std::string& note);
  // Takes the line away; also done at the end of its life.
  void clear();

 private:
  std::string label_;
  bool shown_;
  bool drawn_ = false;
};

}  // namespace reprise::tools
