// `reprise tokenize`: text to token ids, as JSON. Nothing is added to the text.
#include <fmt/format.h>

#include <iostream>
#include <sstream>

#include "base/file.h"
#include "base/json.h"
#include "text/tokenizer/tokenizer_files.h"
#include "tools/commands.h"
#include "tools/options.h"

namespace reprise::tools {
namespace {

class TokenizeCommand : public Command {
 public:
  void setup(cli::App& app) override {
    app.description("Turns text into token ids");
    app.footer(
        "Special tokens written out in the text are recognised unless --plain is given; nothing\n"
        "is added. Without --text, --file and --lines the text is read from stdin.\n"
        "Examples:\n"
        "  reprise tokenize model.gguf --text \"Hello\"        {\"ids\":[19556]}\n"
        "  reprise tokenize model.gguf --lines texts.jsonl   one object for each JSON string");
    // The options about computing are accepted on every command; nothing is computed here.
    flags_.add(app);
    auto* group = app.add_option_group("input");
    text_option_ = group->add_option("--text", text_, "The text")->type_name("TEXT");
    group->add_option("--file", file_, "A file that is the text")->type_name("FILE");
    group->add_option("--lines", lines_, "A file with a JSON string on each line")
        ->type_name("FILE");
    group->require_option(0, 1);
    app.add_flag("--plain", plain_, "Special tokens in the text are text like any other");
  }

  int run() override {
    // Only the tokenizer of a model: a folder needs no weights for it.
    const auto tokenizer = tokenizer_from_model(flags_.model);
    const EncodeOptions options{.parse_special = !plain_};
    const auto ids = [&](const std::string& text) {
      return Json{{"ids", tokenizer->encode(text, options)}};
    };
    if (lines_.empty()) {
      if (!file_.empty()) {
        text_ = read_file(file_);
      } else if (text_option_->count() == 0) {
        text_.assign(std::istreambuf_iterator<char>(std::cin), {});
      }
      print_json(ids(text_));
      return 0;
    }
    std::istringstream lines(read_file(lines_));
    int64_t number = 0;
    for (std::string line; std::getline(lines, line);) {
      ++number;
      if (line.empty() || line == "\r") continue;
      const Json json = parse_json(line, fmt::format("{}:{}", lines_, number));
      if (!json.is_string()) {
        fail("{}:{}: expected a JSON string, found {}", lines_, number, json.type_name());
      }
      print_json(ids(json.get<std::string>()));
    }
    return 0;
  }

 private:
  ModelFlags flags_;
  cli::Option* text_option_ = nullptr;
  std::string text_, file_, lines_;
  bool plain_ = false;
};

}  // namespace

std::unique_ptr<Command> make_tokenize_command() { return std::make_unique<TokenizeCommand>(); }

}  // namespace reprise::tools
