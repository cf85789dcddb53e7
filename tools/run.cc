// `reprise run`: answers one prompt, or chats.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <iterator>

#include "base/json.h"
#include "engine/conversation.h"
#include "engine/generator.h"
#include "text/tokenizer/stream_decoder.h"
#include "tools/beam_options.h"
#include "tools/commands.h"
#include "tools/exit_options.h"
#include "tools/interrupt.h"
#include "tools/line_editor.h"
#include "tools/options.h"
#include "trace/page/trace_page.h"

namespace reprise::tools {
namespace {

class RunCommand : public Command {
 public:
  void setup(cli::App& app) override {
    app.description("Answers a prompt, or chats where no prompt is given");
    app.footer(
        "Without --prompt, text piped to stdin is the prompt; on a terminal a chat begins, in\n"
        "which /image FILE shows a picture with the next question and /help lists more.\n"
        "A conversation file (--chat) is a JSON list of messages, the last of them the question:\n"
        "  [{\"role\": \"user\", \"content\": \"What is this?\", \"images\": [\"a.png\"]}, ...]\n"
        "Examples:\n"
        "  reprise run model.gguf --prompt \"Why is the sky blue?\" --max-tokens 100\n"
        "  reprise run tiny-trol.gguf --image photo.png --prompt \"What colour is the shape?\"\n"
        "  reprise run tiny-trol.gguf --image photo.png --prompt \"What colour?\" --trace t.html\n"
        "  reprise run model.gguf --plan 0-14,10-14@0.1,15-23 --temperature 0.8 --top-p 0.95 --seed 1\n"
        "  reprise run model.gguf --image photo.png --prompt \"What is this?\" --beams 5\n"
        "  reprise run looped-model --prompt \"Why is the sky blue?\" --exit confidence:0.9\n"
        "  echo \"Once upon a time\" | reprise run model.gguf --raw");
    flags_.add(app);
    flags_.add_chat_template(app);
    add_plan_options(app, generator_.plan);
    SamplerOptions& sampler = generation_.sampler;
    prompt_option_ = app.add_option("--prompt", prompt_, "The prompt")->type_name("TEXT");
    cli::Option* image_option =
        app.add_option("--image", images_,
                       "A picture (PNG, JPEG, WebP, GIF, BMP, TIFF) to show; may be repeated")
            ->type_name("FILE")
            ->repeatable();
    cli::Option* system_option =
        app.add_option("--system", system_, "System message")->type_name("TEXT");
    cli::Option* raw_option =
        app.add_flag("--raw", raw_, "Plain completion instead of the model's chat format");
    app.add_option("--chat", conversation_, "Answer the conversation in a JSON file")
        ->type_name("FILE")
        ->excludes(prompt_option_)
        ->excludes(image_option)
        ->excludes(system_option)
        ->excludes(raw_option);
    app.add_option("--max-tokens", generation_.max_tokens,
                   "Most tokens to generate; 0: until the model stops")
        ->check(cli::Range(int64_t{0}, kMostCount))
        ->capture_default_str();
    app.add_option("--temperature", sampler.temperature, "0: always the most likely token")
        ->capture_default_str();
    app.add_option("--top-k", sampler.top_k, "Choose among the K most likely tokens; 0: all")
        ->capture_default_str();
    app.add_option("--top-p", sampler.top_p, "Choose among the fewest tokens that reach P")
        ->capture_default_str();
    app.add_option("--min-p", sampler.min_p,
                   "Leave out tokens below this fraction of the most likely one")
        ->capture_default_str();
    app.add_option("--repetition-penalty", generation_.repetition_penalty,
                   "Makes tokens seen before less likely; 1: off")
        ->capture_default_str();
    add_beam_options(app, generation_.beam);
    exit_.add(app, kRunDefaults);
    app.add_option("--seed", sampler.seed, "Seed of the random choice")
        ->capture_default_str()
        ->check(cli::NonNegativeNumber());
    app.add_option("--stop", generation_.stop, "Text that ends the answer; may be repeated")
        ->type_name("TEXT")
        ->repeatable();
    app.add_option("--chunk", generator_.chunk, "Prompt tokens of one forward call")
        ->check(cli::Range(1, 1 << 30))
        ->capture_default_str();
    add_picture_options(app, picture_);
    app.add_option("--trace", trace_,
                   "Also write a page that shows, for every token and layer, where the model looks "
                   "twice: weights, gates, updates. OUT.html for a browser, OUT.json for programs")
        ->type_name("OUT");
    app.add_flag("--color-exits", color_exits_,
                 "Colour each token by the loops it ran before it left (needs an exit rule); the "
                 "answer is shown once it is whole");
    app.add_flag("--json", json_, "One JSON object with answer and figures instead of a stream");
    app.add_flag("--quiet", quiet_, "No figures on stderr after the answer");
  }

  int run() override {
    generation_.check();
    for (const std::string& stop : generation_.stop) {
      if (stop.empty()) fail("--stop: the text is empty");
    }
    std::vector<ChatTurn> turns;
    if (!conversation_.empty()) turns = load_conversation(conversation_);
    for (const ChatTurn& turn : turns)  // what the answer's trace shows
      pictures_.insert(pictures_.end(), turn.images.begin(), turn.images.end());
    for (const std::filesystem::path& path : images_) pictures_.push_back(Picture::read(path));
    const bool asked = prompt_option_->count() > 0 || !turns.empty();
    const bool chat = !asked && isatty(STDIN_FILENO);
    if (!asked && !chat) {
      prompt_.assign(std::istreambuf_iterator<char>(std::cin), {});
      // The newline that ends the last line, as a file's text and echo have it; others are meant.
      if (prompt_.ends_with('\n')) {
        prompt_.pop_back();
        if (prompt_.ends_with('\r')) prompt_.pop_back();
      }
    }
    if (chat && json_) fail("--json: a chat on the terminal has no JSON output; give --prompt");
    if (chat && !trace_.empty()) fail("--trace: a page shows one prompt; give --prompt");
    if (!trace_.empty()) check_trace_path(trace_);

    loaded_ = LoadedModel::load(flags_.options());
    LoadedModel& loaded = *loaded_;
    const bool plain = raw_ || loaded.chat_format() == nullptr;
    if (plain && !system_.empty()) {
      fail("--system: plain completion has no system message{}",
           raw_ ? "" : "; the model has no chat format");
    }
    generator_.reuse_prefix = chat;
    Generator generator(loaded, generator_);
    generation_.exit = exit_.resolve(loaded.model(), generator.plans().decode, generator_.plan);
    check_color_exits(chat);
    PromptBuilder builder(loaded);
    if (chat) return converse(generator, builder, plain);

    Prompt prompt;
    if (!turns.empty()) {
      prompt = builder.chat(turns, picture_);  // Error where the model has no chat format
    } else if (plain) {
      prompt = builder.raw(prompt_, pictures_, picture_);
    } else {
      prompt = builder.chat(Conversation(system_, pictures_).ask(prompt_), picture_);
    }
    const Generation result = generate(generator, prompt);
    if (json_) {
      Json json = report(generator, prompt, result);
      if (!result.beams.empty()) json["beams"] = beams_of(result);
      print_json(json);
    } else {
      if (color_exits_) print_colored(result);
      fmt::print("\n");
      print_beams(result);
      print_figures(generator, prompt, result);
    }
    if (terminated_exit() != 0) return terminated_exit();
    if (!trace_.empty()) write_trace_of(prompt, result);
    return 0;
  }

 private:
  // Runs prompt and answer again, observed (see trace/page/trace_page.h).
  void write_trace_of(const Prompt& prompt, const Generation& result) {
    if (result.tokens.empty()) fail("--trace {}: interrupted before there was an answer", trace_);
    TraceRequest request;
    request.plan = generator_.plan;
    request.chunk = generator_.chunk;
    request.exit = generation_.exit;
    request.pictures = pictures_;
    request.picture = picture_;
    TracePage page = collect_trace(*loaded_, prompt.tokens, result.tokens, request);
    page.program = "reprise " REPRISE_VERSION;
    page.answer = result.text;  // without the stop text
    write_trace(trace_, page);
    if (!quiet_ && !json_) fmt::print(stderr, "[trace written to {}]\n", trace_);
  }

  Generation generate(Generator& generator, const Prompt& prompt) {
    const InterruptScope interrupt;
    GenerationOptions options = generation_;
    options.cancel = &interrupt.flag();
    return generator.generate(prompt, options, [&](std::string_view text) {
      if (json_ || color_exits_) return;
      std::fwrite(text.data(), 1, text.size(), stdout);
      std::fflush(stdout);
    });
  }

  void check_color_exits(bool chat) const {
    if (!color_exits_) return;
    if (json_) fail("--color-exits: --json has the loops of each token as exit_loops");
    if (chat) fail("--color-exits: expected one prompt (--prompt), not a chat");
    if (generation_.beam.beams > 1) fail("--color-exits: the tokens of beams have no loops shown");
    if (!generation_.exit.active())
      fail("--color-exits: no token of {} can leave early; give a rule (--exit)", flags_.model);
  }

  // The answer with each token in the colour of its depth, and what the colours mean.
  void print_colored(const Generation& result) const {
    const auto color = [&](int loop) {  // green, yellow, ..., the last loop plain
      constexpr int kColors[] = {32, 33, 36, 35, 34};
      const auto at = std::min(static_cast<size_t>(loop), std::size(kColors) - 1);
      return loop + 1 == result.loops ? 0 : kColors[at];
    };
    StreamDecoder decoder(loaded_->tokenizer(), /*skip_special=*/true);
    size_t left = result.text.size();  // a stop text and what follows it aren't shown
    const auto show = [&](int number, const std::string& piece) {
      const size_t size = std::min(piece.size(), left);
      left -= size;
      if (size > 0) fmt::print("\x1b[{}m{}\x1b[0m", number, piece.substr(0, size));
    };
    for (size_t i = 0; i < result.tokens.size(); ++i)
      show(color(result.exit_loops[i]), decoder.push(result.tokens[i]));
    show(0, decoder.flush());
    std::fflush(stdout);
    if (quiet_) return;
    fmt::print(stderr, "\n\n[");
    for (int loop = 0; loop < result.loops; ++loop)
      fmt::print(stderr, "{}\x1b[{}mafter loop {}\x1b[0m: {}", loop ? ", " : "", color(loop),
                 loop + 1, std::count(result.exit_loops.begin(), result.exit_loops.end(), loop));
    fmt::print(stderr, " tokens]");
  }

  // Turn by turn; each turn is a prompt again that holds the whole conversation.
  int converse(Generator& generator, PromptBuilder& builder, bool plain) {
    LineEditor editor(plain ? "text> " : "> ");
    Conversation conversation(system_, pictures_);
    fmt::print(stderr, "{}. Ctrl-C ends an answer, Ctrl-D the chat; /help lists commands.\n",
               flags_.model);
    while (const auto line = editor.read()) {
      try {
        const Conversation::Line entered = conversation.enter(*line);
        if (!entered.answer.empty()) fmt::print(stderr, "{}\n", entered.answer);
        if (!entered.question) continue;
        const Prompt prompt = plain ? builder.raw(*line, conversation.pending_images(), picture_)
                                    : builder.chat(conversation.ask(*line), picture_);
        const Generation result = generate(generator, prompt);
        fmt::print("\n");
        print_beams(result);
        print_figures(generator, prompt, result);
        if (terminated_exit() != 0) return terminated_exit();  // not a Ctrl-C: the chat too
        if (!plain) conversation.answered(*line, result.text);
      } catch (const Error& error) {  // the conversation goes on without this turn
        fmt::print(stderr, "reprise: error: {}\n", error.what());
      }
    }
    fmt::print("\n");
    return 0;
  }

  void print_figures(const Generator& generator, const Prompt& prompt, const Generation& result) {
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
      fail("standard output can't be written");  // before figures of an answer that nobody got
    if (quiet_) return;
    const Plan& prefill = generator.plans().prefill;
    const Plan& decode = generator.plans().decode;
    const BackendStats stats = loaded_->backend().stats();
    std::string line =
        fmt::format("\n[depth {} of {} blocks", prefill.visits(), loaded_->config().text.layers);
    if (decode.visits() != prefill.visits()) line += fmt::format(", decode {}", decode.visits());
    if (result.loops > 0)
      line += fmt::format(", mean {:.2f} of {} loops", result.mean_depth, result.loops);
    line += fmt::format(" | prompt {} tokens", result.prompt_tokens);
    if (result.reused_tokens > 0) line += fmt::format(" ({} reused)", result.reused_tokens);
    line += fmt::format(" {:.1f} tokens/s | answer {} tokens {:.1f} tokens/s",
                        result.prefill_rate(), result.tokens.size(), result.decode_rate());
    if (prompt.vision_seconds > 0) {
      line +=
          fmt::format(" | picture {} tiles {:.0f} ms", prompt.tiles, prompt.vision_seconds * 1e3);
    }
    line += fmt::format(" | first token {:.0f} ms | weights {} KV {} peak {} | {}]",
                        result.first_token_seconds * 1e3, human_bytes(stats.weight_bytes),
                        human_bytes(result.kv_bytes), human_bytes(peak_rss()),
                        stop_reason_name(result.stop));
    fmt::print(stderr, "{}\n", line);
  }

  // The other answers of a beam search, where they were asked for.
  void print_beams(const Generation& result) const {
    for (size_t i = 1; i < result.beams.size(); ++i) {
      fmt::print("\n[beam {}, score {:.4f}]\n{}\n", i + 1, result.beams[i].score,
                 result.beams[i].text);
    }
  }

  static Json beams_of(const Generation& result) {
    Json beams = Json::array();
    for (const BeamAnswer& beam : result.beams) {
      beams.push_back({{"text", beam.text}, {"tokens", beam.tokens}, {"score", beam.score}});
    }
    return beams;
  }

  Json report(const Generator& generator, const Prompt& prompt, const Generation& result) {
    const BackendStats stats = loaded_->backend().stats();
    const Plan& prefill = generator.plans().prefill;
    const Plan& decode = generator.plans().decode;
    Json json = {{"text", result.text},
                 {"stop", stop_reason_name(result.stop)},
                 {"tokens", result.tokens},
                 {"prompt_tokens", result.prompt_tokens},
                 {"generated_tokens", result.tokens.size()},
                 {"prompt_ids", prompt.tokens.ids},
                 {"tiles", prompt.tiles},
                 {"depth",
                  {{"blocks", loaded_->config().text.layers},
                   {"prefill_visits", prefill.visits()},
                   {"decode_visits", decode.visits()},
                   {"plan", plan_summary(prefill)}}},
                 {"seconds",
                  {{"load", loaded_->load_seconds()},
                   {"vision", prompt.vision_seconds},
                   {"prefill", result.prefill_seconds},
                   {"first_token", result.first_token_seconds},
                   {"decode", result.decode_seconds}}},
                 {"prefill_tokens_per_second", result.prefill_rate()},
                 {"decode_tokens_per_second", result.decode_rate()},
                 {"memory",
                  {{"weight_bytes", stats.weight_bytes},
                   {"kv_bytes", result.kv_bytes},
                   {"workspace_peak", stats.workspace_peak},
                   {"peak_rss", peak_rss()}}},
                 {"backend", loaded_->backend().description()}};
    if (result.loops > 0) {
      json["exit"] = {{"rule", exit_text(generation_.exit)},
                      {"kv", exit_kv_name(generation_.exit.kv)},
                      {"mode", exit_mode_name(generation_.exit.mode)},
                      {"loops", result.loops}};
      json["mean_depth"] = result.mean_depth;
      if (result.beams.empty()) json["exit_loops"] = result.exit_loops;
    }
    return json;
  }

  ModelFlags flags_;
  GeneratorOptions generator_;
  GenerationOptions generation_;
  ExitFlags exit_;
  cli::Option* prompt_option_ = nullptr;
  std::string prompt_;
  std::string system_;
  std::filesystem::path conversation_;
  std::vector<std::filesystem::path> images_;
  std::vector<Picture> pictures_;  // of the question, or of the whole conversation file
  std::string trace_;
  bool raw_ = false;
  PictureOptions picture_;
  bool color_exits_ = false, json_ = false;
  bool quiet_ = false;
  std::unique_ptr<LoadedModel> loaded_;
};

}  // namespace

std::unique_ptr<Command> make_run_command() { return std::make_unique<RunCommand>(); }

}  // namespace reprise::tools
