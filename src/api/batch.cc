#include "api/batch.h"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <numeric>
#include <utility>

#include "base/clock.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/rng.h"

namespace reprise {
namespace {

constexpr int64_t kMostWaiting = 1000;                     // requests beside those that run
constexpr int64_t kMostWaitingBytes = int64_t{256} << 20;  // of their prompts, pictures mostly
constexpr int64_t kEncodedBytes = int64_t{256} << 20;  // of pictures that may be asked for again
constexpr size_t kMostPending = 4;                  // requests whose pictures are not encoded yet
constexpr uint64_t kChoiceStream = 0x63686f696365;  // keeps seeds apart from other draws

int64_t bytes_of(const TokenPrompt& prompt) {
  int64_t bytes = prompt.size() * static_cast<int64_t>(sizeof(int32_t));
  if (prompt.image_rows)
    bytes +=
        prompt.image_rows.dim(0) * prompt.image_rows.dim(1) * static_cast<int64_t>(sizeof(float));
  return bytes;
}

// Of all that an answer depends on beside its request. Of the weights a few rows of the embedding,
// which training changes too.
uint64_t hash_settings(LoadedModel& loaded, const BatchOptions& options) {
  constexpr int64_t kRows = 16;
  Model& model = loaded.model();
  std::vector<int32_t> ids(static_cast<size_t>(std::min(kRows, model.config().text.vocab)));
  std::iota(ids.begin(), ids.end(), 0);
  const GenerationOptions& asked = options.defaults;
  const SamplerOptions& sampler = asked.sampler;
  const LoadedModelOptions& load = loaded.options();
  const Json settings = {
      {"config", *model.config().source},
      {"prefill", plan_to_json(options.plans->prefill)},
      {"decode", plan_to_json(options.plans->decode)},
      {"sampler",
       {sampler.temperature, sampler.top_k, sampler.top_p, sampler.min_p, sampler.seed,
        asked.repetition_penalty}},
      {"tokens", {asked.max_tokens, asked.context_tokens}},
      {"exit",
       {exit_kind_name(asked.exit.kind), asked.exit.threshold, exit_kv_name(asked.exit.kv),
        exit_mode_name(asked.exit.mode)}},
      {"picture", {options.picture.apply_exif, static_cast<int>(options.picture.alpha)}},
      {"chat_template", load.chat_template},
      {"activations", static_cast<int>(load.compute.activations)},
      {"kv", std::string(dtype_name(load.load.kv_type))}};
  return hash_floats(model.backend().to_host(model.embed(ids)), hash_bytes(settings.dump()));
}

}  // namespace

uint64_t seed_of_request(uint64_t seed, const std::string& custom_id) {
  const uint64_t start =
      hash_word(static_cast<uint32_t>(seed >> 32), hash_word(static_cast<uint32_t>(seed)));
  return hash_bytes(custom_id, start);
}

uint64_t seed_of_choice(uint64_t seed, int64_t choice) {
  if (choice == 0) return seed;
  const Philox random(seed, kChoiceStream);
  const auto i = 2 * static_cast<uint64_t>(choice);
  return uint64_t{random.bits(i)} << 32 | random.bits(i + 1);
}

double BatchFigures::token_rate() const {
  return seconds > 0 ? static_cast<double>(generated_tokens) / seconds : 0;
}

double BatchFigures::mean_depth() const {
  int64_t tokens = 0, loops = 0;
  for (size_t i = 0; i < exits.size(); ++i) {
    tokens += exits[i];
    loops += exits[i] * static_cast<int64_t>(i + 1);
  }
  return tokens > 0 ? static_cast<double>(loops) / static_cast<double>(tokens)
                    : static_cast<double>(exits.size());
}

BatchJob::BatchJob(LoadedModel& loaded, BatchOptions options, const std::filesystem::path& in,
                   const std::filesystem::path& out)
    : loaded_(loaded),
      options_(std::move(options)),
      settings_(hash_settings(loaded, options_)),
      builder_(loaded),
      picture_builder_(loaded, kEncodedBytes),
      in_(in),
      out_(out),
      scheduler_(loaded.model(), options_.scheduler),
      maker_(
          [this](const CompletionRequest& request) { return build(picture_builder_, request); }) {
  // Read when first asked for: not by two threads.
  loaded_.tokenizer();
  loaded_.chat_format();
  figures_.exits.resize(static_cast<size_t>(options_.plans->decode.loops()));
  check_input();
}

// Counts the requests and looks whether those that have an answer are those the output names.
void BatchJob::check_input() {
  auto answer = out_.answered().begin();
  const auto end = out_.answered().end();
  const auto other = [&](int64_t number, const std::string& found) {
    fail(
        "{}: answers the request '{}' of line {}, where {} has {}: expected the answers of this "
        "input, or a new file",
        out_.path().string(), answer->second.custom_id, number, in_.path().string(), found);
  };
  while (const auto line = in_.next()) {
    const bool answered = answer != end && answer->first == line->number;
    if (line->blank()) {
      if (answered) other(line->number, "none");
      continue;
    }
    ++figures_.requests;
    if (!answered) continue;
    const std::string id = line->too_long ? "" : read_custom_id(line->text);
    if (id != answer->second.custom_id) other(line->number, "'" + id + "'");
    const std::string& made_from = answer->second.made_from;
    const MadeFrom now{hash_bytes(line->text), settings_};
    if (made_from != now.to_string()) {
      const bool same_text = made_from.starts_with(MadeFrom{now.text, 0}.to_string().substr(0, 17));
      fail(
          "{}: line {} of {} was answered {}: expected {}, or a new file", out_.path().string(),
          line->number, in_.path().string(),
          same_text ? "by another model or with other options" : "when another request stood there",
          same_text ? "the same command" : "the same input");
    }
    if (!id.empty()) seen_.emplace(id, line->number);
    ++figures_.resumed;
    ++answer;
  }
  if (answer != end) other(answer->first, "no line");
  in_.rewind();
}

void BatchJob::run(const std::atomic<bool>& cancel,
                   const std::function<void(const BatchFigures&)>& progress) {
  const auto start = Clock::now();
  bool more = true;
  while (!cancel) {
    take_made(false);
    while (more && !cancel && may_submit()) more = take_line();
    if (!more && items_.empty() && maker_.pending() == 0) break;
    if (cancel) break;
    const bool busy = scheduler_.sweep();
    REPRISE_CHECK(busy || items_.empty() || !ended_.empty(), "requests that nothing is done for");
    if (!busy && ended_.empty()) take_made(true);
    for (const int64_t line : std::exchange(ended_, {})) {
      finish(*items_.at(line));
      items_.erase(line);
    }
    figures_.seconds = seconds_since(start);
    figures_.scheduler = scheduler_.stats();
    if (progress) progress(figures_);
  }
  figures_.seconds = seconds_since(start);
}

bool BatchJob::may_submit() const {
  const int64_t running = options_.scheduler.admission.most_running;
  return open_ < running + std::min(running, kMostWaiting) && waiting_bytes_ < kMostWaitingBytes &&
         maker_.pending() < kMostPending;
}

bool BatchJob::take_line() {
  while (auto line = in_.next()) {
    if (line->blank() || out_.answered().contains(line->number)) continue;
    const std::string made_from = MadeFrom{hash_bytes(line->text), settings_}.to_string();
    if (line->too_long) {
      write_error({line->number, "", std::nullopt, {}, made_from},
                  {400, "invalid_request",
                   fmt::format("line {}: expected at most {} bytes", line->number,
                               LineReader::kMostBytes)});
      return true;
    }
    BatchLine request = read_batch_line(line->number, line->text);
    request.made_from = made_from;
    int64_t& first = seen_.try_emplace(request.custom_id, line->number).first->second;
    const bool again = !request.custom_id.empty() && first < line->number;
    first = std::min(first, line->number);
    if (again && request.request) {
      write_error(request, {400, "duplicate_custom_id",
                            fmt::format("line {}: key 'custom_id': '{}' is that of line {} too",
                                        line->number, request.custom_id, first)});
    } else if (!request.request) {
      write_error(request, request.error);
    } else if (std::ranges::any_of(request.request->turns,
                                   [](const ChatTurn& turn) { return !turn.images.empty(); })) {
      maker_.add(std::move(request));
    } else {
      submit(std::move(request),
             [&](const CompletionRequest& asked) { return build(builder_, asked); });
    }
    return true;
  }
  return false;
}

Prompt BatchJob::build(PromptBuilder& builder, const CompletionRequest& request) {
  if (request.endpoint == Endpoint::Chat) {
    if (loaded_.chat_format() == nullptr)
      fail("{}: the model has no chat format: expected {}, or a format's name (--chat-template)",
           loaded_.config().where, endpoint_url(Endpoint::Completions));
    return builder.chat(request.turns, options_.picture);
  }
  if (!request.ids) return builder.raw(request.text, {});
  Prompt prompt;
  prompt.tokens.ids = *request.ids;
  const int64_t vocab = loaded_.config().text.vocab;
  for (const int32_t id : prompt.tokens.ids)
    if (id >= vocab) fail("key 'body.prompt': expected token ids below {}, found {}", vocab, id);
  mark_placeholders(loaded_.config(), prompt.tokens, loaded_.config().where);
  return prompt;
}

// Whether answers to one request can: the likeliest tokens are the same for every seed, but where
// initial states are drawn with it.
bool BatchJob::differ(const GenerationOptions& options) const {
  const Plans& plans = *options_.plans;
  return options.sampler.temperature > 0 || plans.prefill.initial() || plans.decode.initial();
}

void BatchJob::take_made(bool wait) {
  while (auto made = maker_.take(std::exchange(wait, false)))
    submit(std::move(made->line), [&](const CompletionRequest&) {
      if (made->error) std::rethrow_exception(made->error);
      return std::move(made->prompt);
    });
}

void BatchJob::submit(BatchLine line, const MakePrompt& make_prompt) {
  CompletionRequest& request = *line.request;
  auto item = std::make_unique<Item>();
  std::string code = "invalid_request";
  try {
    GenerationOptions defaults = options_.defaults;
    defaults.sampler.seed = seed_of_request(defaults.sampler.seed, line.custom_id);
    const GenerationOptions options = request.options(defaults, loaded_.model(), options_.plan);
    const Prompt prompt = make_prompt(request);
    request.turns.clear();  // the pictures' bytes
    request.text.clear();
    request.ids.reset();
    code = "context_length_exceeded";
    check_context(loaded_, prompt, options);
    code = "invalid_request";
    item->exit = options.exit;
    item->prompt_tokens = prompt.tokens.size();
    item->bytes = bytes_of(prompt.tokens);
    const AnswerRules rules = answer_rules(loaded_, prompt, options);
    const int64_t choices = differ(options) ? request.choices : 1;
    for (int64_t i = 0; i < choices; ++i)
      item->choices.emplace_back(request, loaded_.tokenizer(), rules.vocab);
    for (int64_t i = 0; i < choices; ++i) {
      ServeRequest asked;
      asked.prompt = prompt.tokens;
      asked.rules = rules;
      asked.rules.sampler.seed = seed_of_choice(options.sampler.seed, i);
      asked.exit = options.exit;
      asked.plans = options_.plans;
      asked.on_event = [this, owner = item.get(), i](const ServeEvent& event) {
        on_event(*owner, static_cast<size_t>(i), event);
      };
      item->ids.push_back(scheduler_.submit(std::move(asked)));
      ++item->open;
    }
  } catch (const Error& error) {
    const std::string start = fmt::format("line {}: ", line.number);
    const std::string what = error.what();
    item->error = {400, code, what.starts_with(start) ? what : start + what};
    for (const RequestId id : item->ids) scheduler_.cancel(id);
  }
  if (item->open == 0) return write_error(line, *item->error);
  open_ += item->open;
  waiting_bytes_ += item->bytes;
  figures_.prompt_tokens += item->prompt_tokens;
  const int64_t number = line.number;
  item->line = std::move(line);
  items_.emplace(number, std::move(item));
}

void BatchJob::on_event(Item& item, size_t choice, const ServeEvent& event) {
  const auto begin = [&] {
    if (!std::exchange(item.begun, true)) waiting_bytes_ -= item.bytes;
  };
  if (event.kind == ServeEvent::Kind::Error) {
    if (!item.error)
      item.error = {500, "server_error", fmt::format("line {}: {}", item.line.number, event.error)};
    for (const RequestId id : item.ids)
      if (id != event.id) scheduler_.cancel(id);
  } else {
    item.choices[choice].add(event);
  }
  if (event.kind == ServeEvent::Kind::Token) {
    begin();
    ++figures_.generated_tokens;
    // The first one is the prompt's: none was run for it.
    if (item.choices[choice].tokens() > 1 && !figures_.exits.empty())
      ++figures_.exits[static_cast<size_t>(event.loop)];
    return;
  }
  begin();
  --open_;
  if (--item.open == 0) ended_.push_back(item.line.number);
}

void BatchJob::finish(Item& item) {
  if (item.error) return write_error(item.line, *item.error);
  const CompletionRequest& request = *item.line.request;
  item.choices.resize(static_cast<size_t>(request.choices),
                      item.choices[0]);  // where all are equal
  CompletionFacts facts;
  facts.id = (request.endpoint == Endpoint::Chat ? "chatcmpl-" : "cmpl-") + batch_key(item.line);
  facts.model = options_.model_name;
  facts.created = static_cast<int64_t>(std::time(nullptr));
  facts.prompt_tokens = item.prompt_tokens;
  facts.exit = item.exit;
  facts.loops = options_.plans->decode.loops();
  out_.write(batch_answer(item.line, completion_json(request, facts, item.choices)));
  ++figures_.answered;
}

void BatchJob::write_error(const BatchLine& line, const ApiError& error) {
  out_.write(batch_error(line, error));
  ++figures_.answered;
  ++figures_.failed;
}

}  // namespace reprise
