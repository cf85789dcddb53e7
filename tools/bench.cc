// `reprise bench`: speed and memory of a model, or of two side by side.
//
// Token ids are random, so that a model without a tokenizer can be measured. With two subjects
// every single measurement alternates between them (decode: token by token), and each pair gives a
// ratio: on a machine that others use as well, ratios are worth more than times.
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <deque>
#include <fstream>
#include <numeric>
#include <random>

#include "base/json.h"
#include "engine/images.h"
#include "engine/serve/prefix_tree.h"
#include "tools/commands.h"
#include "tools/exit_options.h"
#include "tools/options.h"

namespace reprise::tools {
namespace {

// Now, in seconds; of this process's processor time where so asked.
double now(bool processor_time) {
  timespec t{};
  clock_gettime(processor_time ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

struct Summary {
  double median = 0, min = 0, max = 0;
};
Summary summarize(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return {(values[(n - 1) / 2] + values[n / 2]) / 2, values.front(), values.back()};
}
Json to_json(const Summary& s) { return {{"median", s.median}, {"min", s.min}, {"max", s.max}}; }

std::string processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown processor";
}

// A field of /proc/self/status in bytes: "VmHWM", "VmRSS", "RssAnon", "RssFile"; 0 where unknown.
int64_t status_bytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(field + ":")) return std::stoll(line.substr(field.size() + 1)) * 1024;
  return 0;
}

// What is measured: a model with a choice of plans.
struct Subject {
  std::string name;
  std::shared_ptr<LoadedModel> loaded;
  std::shared_ptr<const Plans> plans;
  ExitConfig exit = {};  // of decode
};

// One thing that was timed, for every subject: the seconds of each repetition.
struct Measurement {
  std::string name;
  int64_t tokens = 0;  // run in a repetition; 0: no rate
  std::vector<std::vector<double>> seconds;
};

class BenchCommand : public Command {
 public:
  void setup(cli::App& app) override {
    app.description("Measures a model's speed and memory, or two models' side by side");
    app.footer(
        "Prompts are random token ids. With --beside or another --beside- option, repetitions\n"
        "alternate between the two and every pair gives a ratio (first by second). The\n"
        "second one has the --beside- options alone; without --beside it is the same model.\n"
        "Examples:\n"
        "  reprise bench model.gguf --prefill 512 --decode 512 --decode 2000\n"
        "  reprise bench model.gguf --plan 0-14,10-14@0.1,15-23 --beside model.gguf\n"
        "  reprise bench model.gguf --beside dense.gguf --decode 512 --json\n"
        "  reprise bench looped-model --decode 512 --exit depth:1 --beside looped-model");
    flags_.add(app);
    add_plan_options(app, plan_);
    exit_.add(app, {});
    beside_ = app.add_option("--beside", beside_model_, "A second model to alternate with")
                  ->type_name("MODEL");
    add_scheme_options(app, SchemeOption::When::Request, beside_plan_, "beside_");
    add_scheme_options(app, SchemeOption::When::Load, beside_load_, "beside_");
    const auto list = [&](const char* name, std::vector<int64_t>& values, const char* text) {
      app.add_option(name, values, text)
          ->check(cli::Range(int64_t{1}, int64_t{1} << 24))
          ->repeatable();
    };
    list("--prefill", prefill_,
         "A prompt of N tokens up to its first answer token; may be repeated");
    list("--decode", decode_, "Decode behind N tokens of context; may be repeated");
    app.add_option("--tokens", tokens_, "Tokens of one --decode repetition")
        ->check(cli::Range(1, 1 << 20))
        ->capture_default_str();
    app.add_option("--question", tiles_,
                   "A picture of N tiles, a question and an answer, from pixels to the last token")
        ->check(cli::Range(1, 64));
    app.add_option("--question-tokens", question_tokens_, "Text tokens of the question")
        ->check(cli::Range(1, 1 << 20))
        ->capture_default_str();
    app.add_option("--answer", answer_tokens_, "Tokens of the answer")
        ->check(cli::Range(1, 1 << 20))
        ->capture_default_str();
    app.add_option("--repeat", repeat_, "Repetitions of everything")
        ->check(cli::Range(1, 1000))
        ->capture_default_str();
    app.add_option("--chunk", chunk_, "Prompt tokens of one forward call")
        ->check(cli::Range(1, 1 << 30))
        ->capture_default_str();
    app.add_option("--seed", seed_, "Seed of the token ids and pixels")
        ->capture_default_str()
        ->check(cli::NonNegativeNumber());
    app.add_flag("--processor-time", processor_time_,
                 "Processor time instead of elapsed time: with --threads 1, for busy machines");
    app.add_flag("--json", json_, "One line of JSON instead of tables");
  }

  int run() override {
    if (prefill_.empty() && decode_.empty() && tiles_ == 0) prefill_ = decode_ = {512};
    load();
    for (const int64_t n : prefill_) measure_prefill(n);
    for (const int64_t n : decode_) measure_decode(n);
    if (tiles_ > 0) measure_question();
    const Json facts = report();
    if (json_) {
      print_json(facts);
    } else {
      print_tables(facts);
    }
    return 0;
  }

 private:
  double seconds_of(const std::function<void()>& work) const {
    const double start = now(processor_time_);
    work();
    return now(processor_time_) - start;
  }

  void load() {
    LoadedModelOptions options = flags_.options();
    const auto add = [&](std::shared_ptr<LoadedModel> loaded, const PlanOptions& plan) {
      std::string name = loaded->options().model.filename().string() + plan.command_line();
      const auto plans = make_plans(loaded->model(), plan);
      subjects_.push_back({std::move(name), std::move(loaded), plans});
    };
    add(LoadedModel::load(options), plan_);
    Subject& first = subjects_[0];
    first.exit = exit_.resolve(first.loaded->model(), first.plans->decode, plan_);
    if (first.exit.active())
      first.name += fmt::format(" --exit {} --exit-kv {}", exit_text(first.exit),
                                exit_kv_name(first.exit.kv));
    rss_after_load_ = status_bytes("VmHWM");
    if (beside_->count() == 0 && beside_plan_.empty() && beside_load_.empty()) return;
    if (beside_->count() == 0 && beside_load_.empty())
      return add(subjects_[0].loaded, beside_plan_);
    if (beside_->count() > 0) options.model = beside_model_;
    options.load.scheme = beside_load_;
    add(LoadedModel::load(options), beside_plan_);
  }

  // Ids that any vocabulary of the subjects has, the picture's placeholder left out.
  std::vector<int32_t> random_ids(int64_t count) {
    int64_t vocab = int64_t{1} << 31;
    for (const Subject& s : subjects_) vocab = std::min(vocab, s.loaded->config().text.vocab);
    std::vector<int32_t> ids(static_cast<size_t>(count));
    std::mt19937_64 random(seed_);
    for (int32_t& id : ids) {
      do {
        id = static_cast<int32_t>(random() % static_cast<uint64_t>(vocab));
      } while (std::any_of(subjects_.begin(), subjects_.end(),
                           [&](const Subject& s) { return id == s.loaded->config().image_token; }));
    }
    return ids;
  }

  Measurement& add_measurement(std::string name, int64_t tokens) {
    measurements_.push_back({std::move(name), tokens, {}});
    measurements_.back().seconds.resize(subjects_.size());
    return measurements_.back();
  }

  void measure_prefill(int64_t n) {
    const TokenPrompt prompt = {random_ids(n), {}, {}, {}};
    Measurement& m = add_measurement(fmt::format("prefill {}", n), n);
    for (int r = 0; r < repeat_; ++r)
      for (size_t i = 0; i < subjects_.size(); ++i) {
        Session session(subjects_[i].loaded->model(), subjects_[i].plans, chunk_);
        m.seconds[i].push_back(seconds_of([&] { session.prefill(prompt); }));
      }
  }

  void measure_decode(int64_t context) {
    const TokenPrompt prompt = {random_ids(context), {}, {}, {}};
    const std::vector<int32_t> next = random_ids(tokens_);
    Measurement& m = add_measurement(fmt::format("decode at {}", context), 1);
    std::deque<PrefixTree> prefixes;
    for (const Subject& s : subjects_)
      prefixes.emplace_back(s.loaded->model(),
                            PrefixOptions{.bytes = kMostCount, .least_tokens = 1});
    for (int r = 0; r < repeat_; ++r) {
      std::deque<Session> sessions;  // they stay where they are made
      for (size_t i = 0; i < subjects_.size(); ++i) {
        sessions.emplace_back(subjects_[i].loaded->model(), subjects_[i].plans, chunk_,
                              subjects_[i].exit);
        sessions.back().prefill(prompt, &prefixes[i]);
      }
      for (const int32_t id : next)
        for (size_t i = 0; i < subjects_.size(); ++i)
          m.seconds[i].push_back(seconds_of([&] { sessions[i].decode(id); }));
    }
  }

  // Of the weights that every decode step reads, as stored.
  static int64_t decode_weight_bytes(Model& model) {
    int64_t bytes = 0;
    model.visit_tensors([&](const TensorSlot& slot) {
      const bool skipped = slot.role == Role::Vision || slot.role == Role::Projector ||
                           (slot.role == Role::Embedding && !model.config().text.tied_head);
      if (!skipped) bytes += tensor_bytes(slot.tensor->dtype(), slot.tensor->shape());
    });
    return bytes;
  }

  // Of a request in decode with so many tokens, those that a decode step reads.
  static int64_t kv_bytes(const Subject& s, int64_t tokens) {
    return tokens * s.plans->decode.visits() * s.loaded->model().kv_spec().bytes_per_token();
  }

  void measure_question() {
    std::vector<std::vector<double>> vision(subjects_.size()), prefill = vision, decode = vision,
                                                               all = vision;
    const std::vector<int32_t> text = random_ids(question_tokens_ + answer_tokens_);
    int64_t prompt_tokens = 0;
    for (int r = 0; r < repeat_; ++r)
      for (size_t i = 0; i < subjects_.size(); ++i) {
        Model& model = subjects_[i].loaded->model();
        if (!model.vision())
          fail("--question: {} takes text only", subjects_[i].loaded->options().model.string());
        PixelTiles pixels;
        pixels.tiles = tiles_;
        const int64_t size = model.vision()->config().image_size;
        pixels.values.resize(static_cast<size_t>(tiles_ * 3 * size * size));
        std::mt19937 random(static_cast<uint32_t>(seed_));
        std::uniform_real_distribution<float> values(-2, 2);
        for (float& v : pixels.values) v = values(random);

        TokenPrompt prompt;
        vision[i].push_back(seconds_of([&] { prompt.image_rows = encode_pixels(model, pixels); }));
        prompt.ids.assign(text.begin(), text.begin() + 1);
        prompt.ids.insert(prompt.ids.end(), static_cast<size_t>(prompt.image_rows.dim(0)),
                          static_cast<int32_t>(model.config().image_token));
        prompt.ids.insert(prompt.ids.end(), text.begin() + 1, text.begin() + question_tokens_);
        mark_placeholders(model.config(), prompt, model.config().where);
        prompt_tokens = prompt.size();
        Session session(model, subjects_[i].plans, chunk_);
        prefill[i].push_back(seconds_of([&] { session.prefill(prompt); }));
        decode[i].push_back(seconds_of([&] {
          for (int64_t t = 1; t < answer_tokens_; ++t)
            session.decode(text[static_cast<size_t>(question_tokens_ + t)]);
        }));
        all[i].push_back(vision[i].back() + prefill[i].back() + decode[i].back());
      }
    add_measurement(fmt::format("question: {} tiles", tiles_), 0).seconds = vision;
    add_measurement("question: prefill", prompt_tokens).seconds = prefill;
    add_measurement("question: decode", answer_tokens_ - 1).seconds = decode;
    add_measurement("question: all", 0).seconds = all;
  }

  static std::vector<double> ratios(const Measurement& m) {
    std::vector<double> list;
    for (size_t r = 0; r < m.seconds[0].size(); ++r)
      list.push_back(m.seconds[0][r] / m.seconds[1][r]);
    return list;
  }

  Json report() const {
    Json facts;
    facts["machine"] = {{"processor", processor()},
                        {"backend", subjects_[0].loaded->backend().description()},
                        {"clock", processor_time_ ? "processor time" : "elapsed time"}};
    facts["subjects"] = Json::array();
    for (const Subject& s : subjects_) {
      Model& model = s.loaded->model();
      const BackendStats stats = s.loaded->backend().stats();
      facts["subjects"].push_back({{"name", s.name},
                                   {"parameters", model.parameters()},
                                   {"prefill_visits", s.plans->prefill.visits()},
                                   {"decode_visits", s.plans->decode.visits()},
                                   {"weight_bytes", stats.weight_bytes},
                                   {"decode_weight_bytes", decode_weight_bytes(model)},
                                   {"workspace_peak", stats.workspace_peak},
                                   {"kv_bytes_per_token", kv_bytes(s, 1)},
                                   {"load_seconds", s.loaded->load_seconds()}});
    }
    facts["measurements"] = Json::array();
    for (const Measurement& m : measurements_) {
      Json entry = {{"name", m.name}, {"tokens", m.tokens}, {"repetitions", m.seconds[0].size()}};
      for (const auto& seconds : m.seconds) entry["seconds"].push_back(to_json(summarize(seconds)));
      if (m.seconds.size() == 2) entry["ratio"] = to_json(summarize(ratios(m)));
      facts["measurements"].push_back(entry);
    }
    facts["memory"] = {{"peak_rss_after_load", rss_after_load_},
                       {"peak_rss", status_bytes("VmHWM")},
                       {"rss", status_bytes("VmRSS")},
                       {"rss_anonymous", status_bytes("RssAnon")},
                       {"rss_mapped", status_bytes("RssFile")}};
    return facts;
  }

  void print_tables(const Json& facts) const {
    fmt::print("machine      {}; {}; {}\n", facts["machine"]["processor"].get<std::string>(),
               facts["machine"]["backend"].get<std::string>(),
               facts["machine"]["clock"].get<std::string>());
    for (const Json& s : facts["subjects"])
      fmt::print(
          "model        {}: {} parameters, {} visits in a prompt, {} in decode; weights {}, "
          "KV {} a token; loaded in {:.1f} s\n",
          s["name"].get<std::string>(), human_count(s["parameters"].get<int64_t>()),
          s["prefill_visits"].get<int>(), s["decode_visits"].get<int>(),
          human_bytes(s["weight_bytes"].get<int64_t>()),
          human_bytes(s["kv_bytes_per_token"].get<int64_t>()), s["load_seconds"].get<double>());
    const auto bytes = [&](const char* key) {
      return human_bytes(facts["memory"][key].get<int64_t>());
    };
    fmt::print("memory       peak {} ({} after loading); now {} of its own, {} mapped\n\n",
               bytes("peak_rss"), bytes("peak_rss_after_load"), bytes("rss_anonymous"),
               bytes("rss_mapped"));
    fmt::print("{:<22} {:<24} {:>11} {:>11} {:>11} {:>11}\n", "median (min to max)", "", "ms",
               "min", "max", "tokens/s");
    for (const Json& m : facts["measurements"]) {
      for (size_t i = 0; i < subjects_.size(); ++i) {
        const Json& s = m["seconds"][i];
        const double median = s["median"].get<double>();
        const auto tokens = m["tokens"].get<double>();
        fmt::print("{:<22} {:<24} {:>11.3f} {:>11.3f} {:>11.3f} {:>11}\n",
                   i == 0 ? m["name"].get<std::string>() : "", subjects_[i].name, median * 1e3,
                   s["min"].get<double>() * 1e3, s["max"].get<double>() * 1e3,
                   tokens > 0 ? fmt::format("{:.1f}", tokens / median) : "");
      }
      if (m.contains("ratio"))
        fmt::print("{:<22} {:<24} {:>11.3f} {:>11.3f} {:>11.3f}\n", "", "ratio",
                   m["ratio"]["median"].get<double>(), m["ratio"]["min"].get<double>(),
                   m["ratio"]["max"].get<double>());
    }
  }

  ModelFlags flags_;
  PlanOptions plan_;
  ExitFlags exit_;  // of decode
  cli::Option* beside_ = nullptr;
  std::string beside_model_;
  SchemeOptions beside_plan_, beside_load_;
  std::vector<int64_t> prefill_, decode_;
  int64_t tokens_ = 32;
  int64_t tiles_ = 0;
  int64_t question_tokens_ = 32;
  int64_t answer_tokens_ = 32;
  int repeat_ = 5;
  int64_t chunk_ = 512;
  uint64_t seed_ = 1;
  bool processor_time_ = false;
  bool json_ = false;

  std::vector<Subject> subjects_;
  std::vector<Measurement> measurements_;
  int64_t rss_after_load_ = 0;
};

}  // namespace

std::unique_ptr<Command> make_bench_command() { return std::make_unique<BenchCommand>(); }

}  // namespace reprise::tools
