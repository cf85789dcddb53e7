#include "api/completion_request.h"

#include <algorithm>

#include "base/base64.h"
#include "base/json.h"

namespace reprise {
namespace {

std::vector<std::string> known_keys(Endpoint endpoint) {
  std::vector<std::string> keys = {"model", "max_tokens", "temperature", "top_p", "seed",
                                   "stop",  "n",          "logprobs",    "exit",  "stream"};
  if (endpoint == Endpoint::Chat)
    keys.insert(keys.end(), {"messages", "max_completion_tokens", "top_logprobs"});
  else
    keys.emplace_back("prompt");
  std::sort(keys.begin(), keys.end());
  return keys;
}

// ---- Messages. What is wrong is thrown.

// data:image/png;base64,... The format is told by the bytes.
Picture read_data_url(const std::string& url, const std::string& name, const std::string& where) {
  constexpr std::string_view kData = "data:", kBase64 = ";base64";
  const std::string key = fmt::format("{}: key '{}'", where, name);
  if (!url.starts_with(kData))
    fail("{}: expected a data URL (data:image/png;base64,...), found '{}': nothing is fetched", key,
         url.substr(0, 40));
  const size_t comma = url.find(',');
  const std::string_view kind = std::string_view(url).substr(0, comma);
  if (comma == std::string::npos || !kind.ends_with(kBase64) ||
      !kind.substr(kData.size()).starts_with("image/"))
    fail("{}: expected data:image/...;base64,..., found '{}'", key, url.substr(0, 40));
  return {fmt::format("'{}'", name), decode_base64(std::string_view(url).substr(comma + 1), key)};
}

void read_part(const JsonObject& part, const std::string& name, ChatTurn& turn, bool& has_text) {
  const std::string type = part.get_string("type");
  if (type == "text") {
    part.allow_only({"type", "text"});
    if (has_text) turn.text += '\n';
    turn.text += part.get_string("text");
    has_text = true;
    return;
  }
  if (type != "image_url") part.fail_at("type", "expected text or image_url, found '" + type + "'");
  part.allow_only({"type", "image_url"});
  const JsonObject image = part.get_object("image_url");
  image.allow_only({"url", "detail"});
  const auto detail = image.find_string("detail");
  if (detail && *detail != "auto")
    image.fail_at("detail",
                  "expected auto: the model says how a picture is read, found '" + *detail + "'");
  turn.images.push_back(
      read_data_url(image.get_string("url"), name + "image_url.url", part.where()));
}

ChatTurn read_message(const JsonObject& message, const std::string& name) {
  message.allow_only({"role", "content"});
  ChatTurn turn;
  turn.role = message.get_string("role");
  if (turn.role != "system" && turn.role != "user" && turn.role != "assistant")
    message.fail_at("role", "expected system, user or assistant, found '" + turn.role + "'");
  if (!message.has("content") || !message.json()["content"].is_array()) {
    turn.text = message.get_string("content");
    return turn;
  }
  const Json& parts = message.json()["content"];
  if (parts.empty()) message.fail_at("content", "expected a string or parts, found no part");
  bool has_text = false;
  for (size_t i = 0; i < parts.size(); ++i) {
    const std::string prefix = fmt::format("{}content[{}].", name, i);
    read_part(JsonObject(parts[i], message.where(), prefix), prefix, turn, has_text);
  }
  if (!turn.images.empty() && turn.role != "user")
    message.fail_at("content", "only user messages may have pictures");
  return turn;
}

std::vector<ChatTurn> read_messages(const JsonObject& body, const std::string& prefix) {
  if (!body.has("messages")) body.fail_at("messages", "is missing, expected a list of messages");
  const Json& list = body.json()["messages"];
  if (!list.is_array() || list.empty())
    body.fail_at("messages",
                 "expected a list of messages, found " +
                     (list.is_array() ? "an empty one" : std::string(list.type_name())));
  std::vector<ChatTurn> turns;
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string name = fmt::format("{}messages[{}].", prefix, i);
    const JsonObject message(list[i], body.where(), name);
    turns.push_back(read_message(message, name));
    if (turns[i].role == "system" && i > 0)
      message.fail_at("role", "a system message is only possible as the first");
  }
  if (turns.back().role != "user")
    body.fail_at("messages",
                 "expected the last one to be the user's, found '" + turns.back().role + "'");
  return turns;
}

void read_prompt(const JsonObject& body, CompletionRequest& request) {
  if (!body.has("prompt"))
    body.fail_at("prompt", "is missing, expected a string or a list of token ids");
  const Json& prompt = body.json()["prompt"];
  if (prompt.is_string()) {
    request.text = prompt.get<std::string>();
    return;
  }
  if (!prompt.is_array())
    body.fail_at("prompt", fmt::format("expected a string or a list of token ids, found {}",
                                       prompt.type_name()));
  request.ids.emplace();
  for (const Json& id : prompt) {
    if (id.is_string() || id.is_array())
      body.fail_at("prompt", "expected one prompt, found a list: each is a request of its own");
    const bool fits = id.is_number_integer() && id >= 0 && id <= INT32_MAX;
    if (!fits)
      body.fail_at("prompt", fmt::format("expected token ids, found {}", id.dump().substr(0, 60)));
    request.ids->push_back(id.get<int32_t>());
  }
}

// ---- The rest. What is wrong is noted, so that all of it is said.

void read_lengths(const JsonObject& body, CompletionRequest& request) {
  for (const char* key : {"max_tokens", "max_completion_tokens"}) {
    if (!body.has(key)) continue;
    if (request.max_tokens) body.problem_at(key, "max_tokens says the same, expected one of them");
    request.max_tokens = body.get_int(key, 1, int64_t{1} << 40);
  }
  if (body.has("n")) request.choices = body.get_int("n", 1, kMostChoices);
  if (body.has("seed")) request.seed = static_cast<uint64_t>(body.get_int("seed", 0, INT64_MAX));
}

void read_sampling(const JsonObject& body, CompletionRequest& request) {
  const auto read = [&](const char* key, std::optional<float>& value,
                        float SamplerOptions::*option) {
    if (!body.has(key)) return;
    const size_t before = body.problems();
    value = static_cast<float>(body.get_number(key));
    if (body.problems() > before) return;
    SamplerOptions sampler;
    sampler.*option = *value;
    try {
      sampler.check();
    } catch (const Error& error) {  // "top-p: expected ..."
      const std::string message = error.what();
      body.problem_at(key, message.substr(message.find(": ") + 2));
    }
  };
  read("temperature", request.temperature, &SamplerOptions::temperature);
  read("top_p", request.top_p, &SamplerOptions::top_p);
}

void read_stop(const JsonObject& body, CompletionRequest& request) {
  if (!body.has("stop")) return;
  const Json& stop = body.json()["stop"];
  const Json list = stop.is_array() ? stop : Json::array({stop});
  if (list.size() > kMostStopTexts)
    return body.problem_at(
        "stop", fmt::format("expected at most {} texts, found {}", kMostStopTexts, list.size()));
  for (const Json& text : list) {
    if (!text.is_string() || text.get_ref<const std::string&>().empty())
      return body.problem_at("stop", "expected a text that isn't empty, or a list of them, found " +
                                         text.dump().substr(0, 60));
    request.stop.push_back(text.get<std::string>());
  }
}

void read_logprobs(const JsonObject& body, CompletionRequest& request) {
  if (request.endpoint == Endpoint::Completions) {
    if (!body.has("logprobs")) return;
    request.logprobs = true;
    request.top_logprobs = body.get_int("logprobs", 0, kMostTopLogprobs);
    return;
  }
  if (body.has("logprobs")) request.logprobs = body.get_bool("logprobs");
  if (!body.has("top_logprobs")) return;
  request.top_logprobs = body.get_int("top_logprobs", 0, kMostTopLogprobs);
  if (!request.logprobs) body.problem_at("top_logprobs", "needs logprobs: true");
}

AskedExit read_exit(const JsonObject& body, const std::string& prefix) {
  const Json& value = body.json()["exit"];
  const auto parsed = [&](const JsonObject& object, const char* key, const auto& parse) {
    const std::string text = object.get_string(key);
    try {
      return parse(text);
    } catch (const Error& error) {
      object.fail_at(key, error.what());
    }
  };
  if (value.is_string()) return {parsed(body, "exit", parse_exit), {}, {}};
  if (!value.is_object())
    body.fail_at("exit", fmt::format("expected a rule such as \"confidence:0.9\", or an object "
                                     "with rule, kv and mode, found {}",
                                     value.type_name()));
  const JsonObject object(value, body.where(), prefix + "exit.");
  object.allow_only({"rule", "kv", "mode"});
  AskedExit exit{parsed(object, "rule", parse_exit), {}, {}};
  for (const char* key : {"kv", "mode"})
    if (object.has(key) && !exit.rule.active())
      object.fail_at(key, "expected a rule to leave by, found none");
  if (object.has("kv")) exit.kv = parsed(object, "kv", parse_exit_kv);
  if (object.has("mode")) exit.mode = parsed(object, "mode", parse_exit_mode);
  return exit;
}

}  // namespace

std::string endpoint_url(Endpoint endpoint) {
  return endpoint == Endpoint::Chat ? "/v1/chat/completions" : "/v1/completions";
}

std::optional<Endpoint> find_endpoint(std::string_view url) {
  for (const Endpoint endpoint : {Endpoint::Chat, Endpoint::Completions})
    if (url == endpoint_url(endpoint)) return endpoint;
  return std::nullopt;
}

GenerationOptions CompletionRequest::options(const GenerationOptions& defaults, const Model& model,
                                             const PlanOptions& plan) const {
  GenerationOptions result = defaults;
  result.sampler.temperature = temperature.value_or(defaults.sampler.temperature);
  result.sampler.top_p = top_p.value_or(defaults.sampler.top_p);
  result.sampler.seed = seed.value_or(defaults.sampler.seed);
  result.max_tokens = max_tokens.value_or(defaults.max_tokens);
  if (!stop.empty()) result.stop = stop;
  if (exit) result.exit = exit->in(model, plan);
  return result;
}

CompletionRequest read_completion_request(Endpoint endpoint, const Json& json,
                                          const std::string& where, const std::string& prefix) {
  Problems problems;
  const JsonObject body(json, where, prefix, &problems);
  // Throws at what is wrong first, unlike `body`.
  const JsonObject strict(json, where, prefix);
  CompletionRequest request;
  request.endpoint = endpoint;
  body.allow_only(known_keys(endpoint));
  problems.attempt([&] {
    if (endpoint == Endpoint::Chat)
      request.turns = read_messages(strict, prefix);
    else
      read_prompt(strict, request);
  });
  if (body.has("model")) request.model = body.get_string("model");
  read_lengths(body, request);
  read_sampling(body, request);
  read_stop(body, request);
  read_logprobs(body, request);
  if (body.has("exit")) problems.attempt([&] { request.exit = read_exit(strict, prefix); });
  if (body.has("stream")) request.stream = body.get_bool("stream");
  problems.raise();
  return request;
}

}  // namespace reprise
