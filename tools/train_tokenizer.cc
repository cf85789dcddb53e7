// `reprise train-tokenizer`: a tokenizer from text.
#include <fmt/format.h>

#include "base/error.h"
#include "base/file.h"
#include "base/thread_pool.h"
#include "text/tokenizer/sentencepiece_trainer.h"
#include "tools/commands.h"
#include "tools/options.h"

namespace reprise::tools {
namespace {

class TrainTokenizerCommand : public Command {
 public:
  void setup(cli::App& app) override {
    app.description("Makes a tokenizer from text, for models trained from scratch");
    app.footer(
        "Byte-pair encoding with byte fallback, in SentencePiece's format; a paragraph a line.\n"
        "Recipes of `reprise train` name the folder it lies in as their tokenizer.\n"
        "Example: reprise train-tokenizer train.txt --vocab 4096 --out model/tokenizer.model");
    app.add_option("texts", texts_, "Text files")->type_name("TEXT")->required();
    app.add_option("--vocab", training_.vocab, "Tokens in all")
        ->check(cli::Range(512, 1 << 20))
        ->capture_default_str();
    app.add_option("--out", out_, "What to write")->type_name("tokenizer.model")->required();
    app.add_flag("--force", force_, "Replace what is at --out");
  }

  int run() override {
    std::error_code ignored;
    for (const std::string& text : texts_)
      if (std::filesystem::equivalent(text, out_, ignored))
        fail("--out {}: is one of the texts; expected another file", out_);
    if (std::filesystem::exists(out_, ignored) && !force_)
      fail("--out {}: exists already (--force replaces it)", out_);
    check_output_path(out_, "--out");
    training_.texts.assign(texts_.begin(), texts_.end());
    training_.threads = ThreadPool::hardware_threads();
    const std::string model = train_sentencepiece(training_);
    write_file_atomically(out_, model);
    fmt::print("{}: {} tokens, {}\n", out_, training_.vocab,
               human_bytes(static_cast<int64_t>(model.size())));
    return 0;
  }

 private:
  SentencePieceTraining training_;
  std::vector<std::string> texts_;
  std::string out_;
  bool force_ = false;
};

}  // namespace

std::unique_ptr<Command> make_train_tokenizer_command() {
  return std::make_unique<TrainTokenizerCommand>();
}

}  // namespace reprise::tools
