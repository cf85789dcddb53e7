// A model with everything needed to use it: backend, weights, tokenizer, chat format.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "backend/factory.h"
#include "model/model.h"
#include "text/chat/chat.h"
#include "text/tokenizer/tokenizer.h"

namespace reprise {

struct LoadedModelOptions {
  std::filesystem::path model;  // Hugging Face folder or GGUF file
  std::string backend = "cpu";  // or "torch"
  BackendOptions compute;
  LoadOptions load;
  std::string chat_template;  // a format's name; empty: the model's own, recognised
};

class LoadedModel {
 public:
  // Throws Error as Model::load does. The tokenizer and the chat format are read at first use: a
  // model without them can still be traced and inspected.
  static std::unique_ptr<LoadedModel> load(const LoadedModelOptions& options);

  Model& model() { return *model_; }
  const ModelConfig& config() const { return model_->config(); }
  Backend& backend() { return *backend_; }
  const LoadedModelOptions& options() const { return options_; }
  double load_seconds() const { return load_seconds_; }

  // Throws Error naming the model when it has no tokenizer, or one that isn't supported.
  const Tokenizer& tokenizer();
  // Null where the model has no chat format and none was asked for. Throws Error that names
  // --chat-template where the model has a template that isn't known.
  const ChatFormat* chat_format();

  // Tokens that end an answer: those of the config and of the tokenizer.
  std::vector<int32_t> end_tokens();
  // The beginning-of-text token where the model adds one in front of a text.
  std::optional<int32_t> added_bos();
  // Of a whole file, as llama.cpp's perplexity tool reads it: without the line feed at its end, with
  // a beginning-of-text token where the model adds one.
  std::vector<int32_t> text_tokens(std::string_view text);

  // Whether activations are quantized anywhere: int8 asked for, and a matrix that is quantized.
  bool quantizes_activations();
  // Most tokens a request may have, prompt and answer together; 0: no limit.
  int64_t context_limit() const;

 private:
  LoadedModel() = default;
  void find_image_token();

  LoadedModelOptions options_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  bool chat_read_ = false;
  std::optional<ChatFormat> chat_;
  double load_seconds_ = 0;
};

// The same options with F32 activations: what int8 ones are compared with.
LoadedModelOptions exact_activations(LoadedModelOptions options);

// Highest resident memory of this process so far in bytes (VmHWM); 0 where the system doesn't say.
int64_t peak_rss();

}  // namespace reprise
